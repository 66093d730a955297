//! Parses, decodes and writes in one call each.

use outrigger_http1::{
    BodyDecoder, Edits, Framing, Head, HeadKind, HeadLimits, HeadParser, Inbox, Outbox, Piece, Refusal,
    writer,
};

pub(crate) const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 20, target: 2048 };
/// Limits that short inputs meet.
pub(crate) const SMALL: HeadLimits = HeadLimits { bytes: 64, fields: 3, target: 8 };

/// Parses `input` in reads that end at `cuts`; the head and what is left in the inbox.
pub(crate) fn parse_in(
    kind: HeadKind,
    input: &[u8],
    cuts: &[usize],
) -> Result<Option<(Head, Vec<u8>)>, Refusal> {
    parse_within(LIMITS, kind, input, cuts)
}

pub(crate) fn parse_within(
    limits: HeadLimits,
    kind: HeadKind,
    input: &[u8],
    cuts: &[usize],
) -> Result<Option<(Head, Vec<u8>)>, Refusal> {
    let mut inbox = Inbox::new();
    inbox.give_buffer(vec![0; 8192]);
    let mut parser = HeadParser::new(kind, limits, Vec::new());
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    let mut from = 0;
    let mut parsed = None;
    for cut in cuts {
        let part = &input[from..cut];
        if inbox.capacity() == 0 {
            inbox.give_buffer(vec![0; 8192]);
        }
        inbox.space()[..part.len()].copy_from_slice(part);
        inbox.advance(part.len());
        from = cut;
        if parsed.is_none() {
            parsed = parser.parse(&mut inbox, || vec![0; 8192])?;
        }
    }
    Ok(parsed.map(|head| (head, inbox.data().to_vec())))
}

pub(crate) fn request(input: &[u8]) -> Result<Head, Refusal> {
    Ok(parse_in(HeadKind::Request, input, &[])?.expect("a whole head").0)
}

pub(crate) fn response(input: &[u8]) -> Result<Head, Refusal> {
    Ok(parse_in(HeadKind::Response, input, &[])?.expect("a whole head").0)
}

pub(crate) fn lines(head: &Head) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    head.fields().iter().map(|field| (text(head.name(field)), text(head.value(field)))).collect()
}

pub(crate) fn written(head: &Head, edits: &Edits<'_>, framing: Framing) -> String {
    let mut outbox = Outbox::new();
    writer::write_head(head, edits, framing, &mut outbox);
    outbox.pending().escape_ascii().to_string().replace("\\r\\n", "\n")
}

/// Data, trailers, and what follows a body.
pub(crate) type Decoded = (Vec<u8>, Vec<u8>, Vec<u8>);

/// Decodes a whole body in reads that end at `cuts`: data, trailers, and what follows.
pub(crate) fn decode_in(framing: Framing, input: &[u8], cuts: &[usize]) -> Result<Option<Decoded>, Refusal> {
    let mut inbox = Inbox::new();
    inbox.give_buffer(vec![0; input.len().max(1)]);
    let mut decoder = BodyDecoder::new(framing);
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    let (mut from, mut data, mut ended) = (0, Vec::new(), false);
    for cut in cuts {
        let part = &input[from..cut];
        inbox.space()[..part.len()].copy_from_slice(part);
        inbox.advance(part.len());
        from = cut;
        while !ended {
            match decoder.decode(&mut inbox)? {
                Piece::Data(n) => {
                    data.extend_from_slice(&inbox.data()[..n]);
                    decoder.consume(&mut inbox, n);
                }
                Piece::NeedMore => break,
                Piece::End => ended = true,
            }
        }
    }
    if !ended && decoder.close().is_err() {
        return Ok(None);
    }
    Ok(Some((data, decoder.trailers().to_vec(), inbox.data().to_vec())))
}
