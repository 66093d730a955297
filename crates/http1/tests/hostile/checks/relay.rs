//! A proxy without sockets: reads messages in small parts, and writes what goes to the other side.

use outrigger_http1::{
    BodyDecoder, Edits, Framing, Head, HeadKind, HeadLimits, HeadParser, Inbox, Name, Outbox, Piece, Refusal,
    request_framing, response_framing, writer,
};

/// A message as a receiver sees it. Fields are without those that frame the body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Message {
    /// Method and target, or status.
    pub(crate) start: Vec<u8>,
    pub(crate) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<u8>,
}

/// What a proxy makes of an input.
#[derive(Debug, Default)]
pub(crate) struct Relayed {
    /// Complete messages.
    pub(crate) messages: Vec<Message>,
    /// What is written to the other side.
    pub(crate) out: Vec<u8>,
    pub(crate) refusal: Option<Refusal>,
    /// A body is not complete, but its head is written.
    pub(crate) is_cut: bool,
}

enum Phase {
    Head(HeadParser),
    Body(Message, BodyDecoder, Framing),
    Tunnel,
}

/// Relays `input`, read in parts of `step`. `is_head`: responses answer HEAD.
pub(crate) fn relay(kind: HeadKind, limits: HeadLimits, step: usize, input: &[u8], is_head: bool) -> Relayed {
    let mut relayed = Relayed::default();
    let mut inbox = Inbox::new();
    let mut phase = Phase::Head(HeadParser::new(kind, limits, Vec::new()));
    for part in input.chunks(step) {
        feed(&mut inbox, part);
        match advance(kind, limits, is_head, &mut inbox, phase, &mut relayed) {
            Ok(next) => phase = next,
            Err(refusal) => {
                relayed.refusal = Some(refusal);
                return relayed;
            }
        }
    }
    if let Phase::Body(message, mut decoder, framing) = phase {
        // The sender closes its side.
        match decoder.close() {
            Ok(()) => finish(message, &decoder, framing, &mut relayed),
            Err(_) => relayed.is_cut = true,
        }
    }
    relayed
}

fn advance(
    kind: HeadKind,
    limits: HeadLimits,
    is_head: bool,
    inbox: &mut Inbox,
    mut phase: Phase,
    relayed: &mut Relayed,
) -> Result<Phase, Refusal> {
    loop {
        match &mut phase {
            Phase::Tunnel => return Ok(phase),
            Phase::Head(parser) => {
                let Some(head) = parser.parse(inbox, Vec::new)? else { return Ok(phase) };
                let framing = match kind {
                    HeadKind::Request => request_framing(&head)?,
                    HeadKind::Response => response_framing(&head, is_head)?.framing,
                };
                if framing == Framing::Tunnel {
                    phase = Phase::Tunnel;
                    continue;
                }
                let written = if framing == Framing::UntilClose { Framing::Chunked } else { framing };
                let mut outbox = Outbox::new();
                writer::write_head(
                    &head,
                    &Edits { minor: Some(1), ..Edits::default() },
                    written,
                    &mut outbox,
                );
                relayed.out.extend_from_slice(outbox.pending());
                let decoder = BodyDecoder::behind(&head, framing);
                phase = Phase::Body(message(&head), decoder, written);
            }
            Phase::Body(message, decoder, framing) => match decoder.decode(inbox) {
                Ok(Piece::NeedMore) => return Ok(phase),
                Ok(Piece::Data(n)) => {
                    message.body.extend_from_slice(&inbox.data()[..n]);
                    let mut outbox = Outbox::new();
                    if *framing == Framing::Chunked {
                        writer::write_chunk_start(n, &mut outbox);
                        outbox.push(&inbox.data()[..n]);
                        writer::write_chunk_end(&mut outbox);
                    } else {
                        outbox.push(&inbox.data()[..n]);
                    }
                    relayed.out.extend_from_slice(outbox.pending());
                    decoder.consume(inbox, n);
                }
                Ok(Piece::End) => {
                    finish(std::mem::take(message), decoder, *framing, relayed);
                    phase = Phase::Head(HeadParser::new(kind, limits, Vec::new()));
                }
                Err(refusal) => {
                    relayed.is_cut = true;
                    return Err(refusal);
                }
            },
        }
    }
}

fn finish(mut message: Message, decoder: &BodyDecoder, framing: Framing, relayed: &mut Relayed) {
    if framing == Framing::Chunked {
        let mut outbox = Outbox::new();
        writer::write_last_chunk(decoder.trailers(), &mut outbox);
        relayed.out.extend_from_slice(outbox.pending());
    }
    message.trailers = decoder.trailers().to_vec();
    relayed.messages.push(message);
}

fn message(head: &Head) -> Message {
    let start = match head.status() {
        0 => [head.method(), b" ", head.target()].concat(),
        status => status.to_string().into_bytes(),
    };
    let passing =
        |field: &&outrigger_http1::Field| !field.is_hop_by_hop && field.known != Name::ContentLength;
    let fields = head
        .fields()
        .iter()
        .filter(passing)
        .map(|field| (head.name(field).to_vec(), head.value(field).to_vec()))
        .collect();
    Message { start, fields, ..Message::default() }
}

/// Puts what was read into the inbox, in a larger buffer where it has no room.
pub(crate) fn feed(inbox: &mut Inbox, part: &[u8]) {
    if inbox.space().len() < part.len() {
        inbox.give_buffer(vec![0; inbox.len() + part.len() + 64]);
    }
    inbox.space()[..part.len()].copy_from_slice(part);
    inbox.advance(part.len());
}
