//! Head with changes → outbox; chunks.

use std::ops::Range;

use crate::{
    framing::{Framing, content_length, is_chunked},
    head::{Head, Length, StartLine},
    name::{Name, NameSet},
    outbox::Outbox,
};

/// What of a head is written differently from how it was received.
///
/// Hop-by-hop fields never pass. `Content-Length` passes where the framing is a length or where there is no body (a response to
/// HEAD, a 304), and is written once, as one number; never in 1xx and 204, nor beside `Transfer-Encoding`. `Transfer-Encoding` is
/// written anew: from the framing, and where a response to HEAD or a 304 announces it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Edits<'a> {
    /// A request's target in place of the one received.
    pub target: Option<&'a [u8]>,
    /// A request's `Host` in place of the one received, at its place; or added in front when there was none.
    pub host: Option<&'a [u8]>,
    /// Names that do not pass, beside the hop-by-hop ones.
    pub drop: NameSet,
    /// Other names that do not pass, in lower case.
    pub remove: &'a [Box<[u8]>],
    /// Lines that are added at the end, each with its CRLF.
    pub add: &'a [u8],
    /// The minor version to write.
    pub minor: Option<u8>,
}

/// Writes a head: kept lines are copied in runs, in their order, byte by byte as received.
pub fn write_head(head: &Head, edits: &Edits<'_>, framing: Framing, outbox: &mut Outbox) {
    // Twice, because few heads lose names that are not known, and each field would be asked.
    if edits.remove.is_empty() {
        write_changed::<false>(head, edits, framing, outbox);
    } else {
        write_without(head, edits, framing, outbox);
    }
}

/// As [`write_head`], where `edits.remove` names fields.
#[cold]
fn write_without(head: &Head, edits: &Edits<'_>, framing: Framing, outbox: &mut Outbox) {
    write_changed::<true>(head, edits, framing, outbox);
}

#[inline]
fn write_changed<const REMOVES: bool>(head: &Head, edits: &Edits<'_>, framing: Framing, outbox: &mut Outbox) {
    let minor = edits.minor.unwrap_or_else(|| head.minor());
    let start_end = head.parts.start_end as usize;
    // Lines follow each other without a gap; from here on they are not written yet.
    let mut from = 0;
    if !head.parts.is_clean_start || edits.target.is_some() || minor != head.minor() {
        write_start_line(head, edits.target, minor, outbox);
        from = start_end;
    }
    let mut host = edits.host;
    if !head.has(Name::Host)
        && let Some(value) = host.take()
    {
        copy(head, from..start_end, outbox);
        from = start_end;
        write_field(b"Host", value, outbox);
    }
    let mut looked_at = edits.drop.with(Name::ContentLength);
    if edits.host.is_some() {
        looked_at = looked_at.with(Name::Host);
    }
    let mut has_length = false;
    let mut end = start_end;
    for field in head.fields() {
        let line = field.line.range();
        end = line.end;
        let is_removed = REMOVES && is_one_of(head.name(field), edits.remove);
        if field.is_clean && !field.is_hop_by_hop && !is_removed && !looked_at.contains(field.known) {
            continue;
        }
        let change = match field.known {
            known if field.is_hop_by_hop || is_removed || edits.drop.contains(known) => Change::Dropped,
            Name::Host if edits.host.is_some() => host.take().map_or(Change::Dropped, Change::Host),
            Name::ContentLength => length_change(head, framing, &mut has_length),
            _ => Change::None,
        };
        if field.is_clean && matches!(change, Change::None) {
            continue;
        }
        copy(head, from..line.start, outbox);
        from = line.end;
        let name = head.name(field);
        match change {
            Change::Dropped => {}
            Change::None => write_field(name, head.value(field), outbox),
            Change::Host(value) => write_field(name, value, outbox),
            Change::Length(length) => write_length(name, length, outbox),
        }
    }
    copy(head, from..end, outbox);
    match framing {
        Framing::Chunked => outbox.push(CHUNKED),
        Framing::None if announces_chunks(head) && minor > 0 => outbox.push(CHUNKED),
        Framing::Length(length) if !has_length => write_length(b"Content-Length", length, outbox),
        _ => {}
    }
    outbox.push(edits.add);
    outbox.push(b"\r\n");
}

fn is_one_of(name: &[u8], names: &[Box<[u8]>]) -> bool {
    names.iter().any(|one| name.eq_ignore_ascii_case(one))
}

const CHUNKED: &[u8] = b"Transfer-Encoding: chunked\r\n";

/// How a field line is written differently.
enum Change<'a> {
    None,
    Dropped,
    Host(&'a [u8]),
    Length(u64),
}

/// One `Content-Length` line passes, where it holds, with one number.
#[expect(clippy::inline_always, reason = "each request and each response has one")]
#[inline(always)]
fn length_change<'a>(head: &Head, framing: Framing, has_length: &mut bool) -> Change<'a> {
    if *has_length {
        return Change::Dropped;
    }
    let length = match framing {
        Framing::Length(length) => length,
        Framing::None if has_no_length(head) => return Change::Dropped,
        Framing::None => match content_length(head, true) {
            Ok(Some(length)) if head.status() > 0 || length == 0 => length,
            _ => return Change::Dropped,
        },
        Framing::Chunked | Framing::UntilClose | Framing::Tunnel => return Change::Dropped,
    };
    *has_length = true;
    match head.parts.length {
        Length::Agreed(agreed) if agreed == length => Change::None,
        _ => Change::Length(length),
    }
}

/// Whether a message without a body may not have a length at all: 1xx and 204 (RFC 9110 §8.6), or beside
/// `Transfer-Encoding` (RFC 9112 §6.1).
fn has_no_length(head: &Head) -> bool {
    matches!(head.status(), 100..=199 | 204) || head.has(Name::TransferEncoding)
}

/// Whether a response without a body, to HEAD or 304, says that its body would be chunked (RFC 9112 §6.1).
fn announces_chunks(head: &Head) -> bool {
    let may_announce = head.has(Name::TransferEncoding) && !matches!(head.status(), 0..=199 | 204);
    may_announce && head.minor() > 0 && is_chunked(head)
}

fn write_start_line(head: &Head, target: Option<&[u8]>, minor: u8, outbox: &mut Outbox) {
    let version: &[u8] = if minor == 0 { b"HTTP/1.0" } else { b"HTTP/1.1" };
    match head.start_line() {
        StartLine::Request { .. } => {
            outbox.push(head.method());
            outbox.push(b" ");
            outbox.push(target.unwrap_or_else(|| head.target()));
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

fn write_field(name: &[u8], value: &[u8], outbox: &mut Outbox) {
    outbox.push(name);
    outbox.push(b": ");
    outbox.push(value);
    outbox.push(b"\r\n");
}

fn write_length(name: &[u8], length: u64, outbox: &mut Outbox) {
    let mut digits = [0; 20];
    let (mut at, mut left) = (digits.len(), length);
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    write_field(name, &digits[at..], outbox);
}

fn copy(head: &Head, run: Range<usize>, outbox: &mut Outbox) {
    if !run.is_empty() {
        outbox.push(head.bytes.get(head.base + run.start..head.base + run.end).unwrap_or_default());
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
