//! Head with changes → outbox; chunks.

use crate::{
    framing::Framing,
    head::{Field, Head, StartLine},
    name::Name,
    outbox::Outbox,
};

/// What of a head is written differently from how it was received.
///
/// Hop-by-hop fields never pass. `Content-Length` passes where the framing is a length or where there is no body (a response to
/// HEAD, a 304), and is written once; `Transfer-Encoding` is written anew from the framing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Edits<'a> {
    /// A request's target in place of the one received.
    pub target: Option<&'a [u8]>,
    /// A request's `Host` in place of the one received, at its place; or added in front when there was none.
    pub host: Option<&'a [u8]>,
    /// Names that do not pass, beside the hop-by-hop ones.
    pub drop: &'a [Name],
    /// Lines that are added at the end, each with its CRLF.
    pub add: &'a [u8],
    /// The minor version to write.
    pub minor: Option<u8>,
}

/// Writes a head: kept lines are copied in runs, in their order, byte by byte as received.
pub fn write_head(head: &Head, edits: &Edits<'_>, framing: Framing, outbox: &mut Outbox) {
    write_start_line(head, edits, outbox);
    let mut host = edits.host;
    if host.is_some() && head.first(Name::Host).is_none() {
        write_host(host.take(), outbox);
    }
    let mut has_length = false;
    // Clean lines that follow each other are one run, and one copy.
    let mut run: Option<std::ops::Range<usize>> = None;
    for field in head.fields() {
        let is_length = field.known == Name::ContentLength;
        let passes = !field.is_hop_by_hop
            && !edits.drop.contains(&field.known)
            && !(is_length && (has_length || !keeps_length(framing)));
        has_length |= is_length && passes;
        let is_replaced = field.known == Name::Host && edits.host.is_some();
        if passes && field.is_clean && !is_replaced {
            let line = field.line.range();
            match &mut run {
                Some(run) if run.end == line.start => run.end = line.end,
                _ => {
                    flush(head, &mut run, outbox);
                    run = Some(line);
                }
            }
            continue;
        }
        flush(head, &mut run, outbox);
        if !passes {
            continue;
        }
        if is_replaced {
            write_host(host.take(), outbox);
        } else {
            write_field(head, field, outbox);
        }
    }
    flush(head, &mut run, outbox);
    match framing {
        Framing::Chunked => outbox.push(b"Transfer-Encoding: chunked\r\n"),
        Framing::Length(length) if !has_length => {
            outbox.push(b"Content-Length: ");
            outbox.push(length.to_string().as_bytes());
            outbox.push(b"\r\n");
        }
        _ => {}
    }
    outbox.push(edits.add);
    outbox.push(b"\r\n");
}

fn keeps_length(framing: Framing) -> bool {
    matches!(framing, Framing::Length(_) | Framing::None)
}

fn write_start_line(head: &Head, edits: &Edits<'_>, outbox: &mut Outbox) {
    let minor = edits.minor.unwrap_or_else(|| head.minor());
    let version: &[u8] = if minor == 0 { b"HTTP/1.0" } else { b"HTTP/1.1" };
    match head.start_line() {
        StartLine::Request { .. } => {
            outbox.push(head.method());
            outbox.push(b" ");
            outbox.push(edits.target.unwrap_or_else(|| head.target()));
            outbox.push(b" ");
            outbox.push(version);
        }
        StartLine::Response { status, .. } => {
            outbox.push(version);
            let digit = |at: u16| b'0' + u8::try_from(status / at % 10).unwrap_or(0);
            outbox.push(&[b' ', digit(100), digit(10), digit(1), b' ']);
            outbox.push(head.reason());
        }
    }
    outbox.push(b"\r\n");
}

fn write_host(host: Option<&[u8]>, outbox: &mut Outbox) {
    if let Some(host) = host {
        outbox.push(b"Host: ");
        outbox.push(host);
        outbox.push(b"\r\n");
    }
}

fn write_field(head: &Head, field: &Field, outbox: &mut Outbox) {
    outbox.push(head.name(field));
    outbox.push(b": ");
    outbox.push(head.value(field));
    outbox.push(b"\r\n");
}

fn flush(head: &Head, run: &mut Option<std::ops::Range<usize>>, outbox: &mut Outbox) {
    if let Some(range) = run.take() {
        outbox.push(head.slice(crate::head::Span::new(range)));
    }
}

/// Writes the line before a chunk of `len` bytes. Nothing for 0, which would end the body.
pub fn write_chunk_start(len: usize, outbox: &mut Outbox) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if len == 0 {
        return;
    }
    let mut text = [0; 18];
    let mut at = 16;
    let mut left = len;
    while left > 0 {
        at -= 1;
        text[at] = DIGITS[left & 15];
        left >>= 4;
    }
    text[16..].copy_from_slice(b"\r\n");
    outbox.push(&text[at..]);
}

/// Writes the line end after a chunk's data.
pub fn write_chunk_end(outbox: &mut Outbox) {
    outbox.push(b"\r\n");
}

/// Writes the last chunk. `trailers`: lines that end in CRLF ([`crate::BodyDecoder::trailers`]); empty for none.
pub fn write_last_chunk(trailers: &[u8], outbox: &mut Outbox) {
    outbox.push(b"0\r\n");
    outbox.push(trailers);
    outbox.push(b"\r\n");
}
