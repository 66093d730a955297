//! Server-sent events: from bytes to messages, as <https://html.spec.whatwg.org/multipage/server-sent-events.html> §9.2.6 says.

/// Longest line, and longest data of a message, bytes. More is not a sidecar's: it is dropped.
const MAX_TEXT: usize = 64 * 1024;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Message {
    /// The field `event`; empty without it.
    pub(super) kind: String,
    /// The fields `data`, a line each.
    pub(super) data: String,
}

/// Reads a stream in pieces of any length.
#[derive(Debug, Default)]
pub(super) struct EventParser {
    line: Vec<u8>,
    ends_with_cr: bool,
    message: Message,
    has_data: bool,
    /// The field `id` of the block that is being read, and of the last whole block.
    id: String,
    last_id: String,
}

impl EventParser {
    /// The id of the last whole block, with or without a message.
    pub(super) fn last_id(&self) -> &str {
        &self.last_id
    }

    /// The messages that end in `bytes`.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        for &byte in bytes {
            // A line ends with CR, LF or both.
            let follows_cr = std::mem::replace(&mut self.ends_with_cr, byte == b'\r');
            match byte {
                b'\n' if follows_cr => {}
                b'\r' | b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    messages.extend(self.end_line(&String::from_utf8_lossy(&line)));
                }
                _ if self.line.len() < MAX_TEXT => self.line.push(byte),
                _ => {}
            }
        }
        messages
    }

    fn end_line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            self.last_id.clone_from(&self.id);
            let message = std::mem::take(&mut self.message);
            return std::mem::take(&mut self.has_data).then_some(message);
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => self.message.kind = value.to_owned(),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.message.data.push('\n');
                }
                if self.message.data.len() + value.len() <= MAX_TEXT {
                    self.message.data.push_str(value);
                }
            }
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, data: &str) -> Message {
        Message { kind: kind.into(), data: data.into() }
    }

    const STREAM: &str = "retry: 1000\n\n:\n\nid: a-1\ndata: {\"x\":1}\n\nevent: lost\r\ndata:one\rdata: two\n\nid: a-9\n\nid: a-10\ndata: cut";

    #[test]
    fn messages_are_read_from_pieces_of_any_length() {
        for length in 1..STREAM.len() {
            let mut parser = EventParser::default();
            let read: Vec<_> =
                STREAM.as_bytes().chunks(length).flat_map(|piece| parser.feed(piece)).collect();
            assert_eq!(read, [message("", "{\"x\":1}"), message("lost", "one\ntwo")], "{length}");
            // Also that of a block without a message; not that of a block that is cut.
            assert_eq!(parser.last_id(), "a-9", "{length}");
        }
    }

    #[test]
    fn what_is_too_long_takes_no_memory() {
        let mut parser = EventParser::default();
        for _ in 0..100 {
            parser.feed(&[b'x'; MAX_TEXT]);
        }
        assert_eq!(parser.line.len(), MAX_TEXT);
        let line = format!("data: {}\n", "y".repeat(1000));
        let mut parser = EventParser::default();
        for _ in 0..1000 {
            parser.feed(line.as_bytes());
        }
        assert!(parser.message.data.len() < MAX_TEXT + 1000);
    }
}
