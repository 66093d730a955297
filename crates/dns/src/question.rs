//! A message of a client → the one question that it asks, or why it is not answered. Pure.

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name},
};

/// Bytes of a header (RFC 1035 §4.1.1).
const HEADER: usize = 12;
/// Most records beside the question: a question has an OPT record, and perhaps a signature.
const MAX_ADDITIONALS: u16 = 8;

/// One question.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) id: u16,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    /// Its name keeps the case in which the client wrote it.
    pub(crate) query: Query,
    /// What the client says of itself (RFC 6891).
    pub(crate) edns: Option<Edns>,
    /// The name in lower case, without the dot at its end. `None`: a label has a byte that no name of a service or a host has.
    pub(crate) host: Option<String>,
}

/// Why a message is not answered as a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswerable {
    /// It is no question, or has no header: an answer could make two servers answer each other for ever.
    Ignored,
    /// An answer without records and without the question.
    Header(HeaderReply),
}

/// What an answer of nothing but a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeaderReply {
    id: u16,
    op_code: u8,
    recursion_desired: bool,
    pub(crate) code: ResponseCode,
}

impl HeaderReply {
    /// Its bytes.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        if let [first, second, flags, code, ..] = bytes.as_mut_slice() {
            [*first, *second] = self.id.to_be_bytes();
            *flags = 0x80 | self.op_code << 3 | u8::from(self.recursion_desired);
            *code = self.code.low();
        }
        bytes
    }
}

impl Question {
    /// Reads a message.
    ///
    /// # Errors
    /// When it is no question of today's DNS: several questions, another operation, records where a question has none.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Unanswerable> {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Err(Unanswerable::Ignored) };
        let word = |at: usize| {
            let both = header.get(at..at + 2).and_then(|two| two.try_into().ok());
            both.map_or(0, u16::from_be_bytes)
        };
        let (id, flags) = (word(0), word(2));
        if flags & 0x8000 != 0 {
            return Err(Unanswerable::Ignored);
        }
        let op_code = (flags >> 11 & 0xf) as u8;
        let recursion_desired = flags & 0x100 != 0;
        let reply = |code| Unanswerable::Header(HeaderReply { id, op_code, recursion_desired, code });
        if OpCode::from_u8(op_code) != OpCode::Query {
            return Err(reply(ResponseCode::NotImp));
        }
        // Before the records are read, so that no count makes this process read or reserve more than a question has.
        if word(4) != 1 || word(6) != 0 || word(8) != 0 || word(10) > MAX_ADDITIONALS {
            return Err(reply(ResponseCode::FormErr));
        }
        let Ok(Message { metadata, mut queries, edns, .. }) = Message::from_vec(bytes) else {
            return Err(reply(ResponseCode::FormErr));
        };
        let Some(query) = queries.pop() else { return Err(reply(ResponseCode::FormErr)) };
        let host = host_of(&query.name);
        let checking_disabled = metadata.checking_disabled;
        Ok(Self { id, recursion_desired, checking_disabled, query, edns, host })
    }

    /// Whether the question is about the class that names of hosts have. `ANY` stands for each class (RFC 1035 §3.2.5).
    pub(crate) fn is_internet(&self) -> bool {
        matches!(self.query.query_class, DNSClass::IN | DNSClass::ANY)
    }

    /// Whether the version of EDNS is one that is spoken here: 0 alone (RFC 6891 §6.1.3).
    pub(crate) fn has_known_version(&self) -> bool {
        self.edns.as_ref().is_none_or(|edns| edns.version() == 0)
    }

    /// Most bytes of an answer by UDP: 512 without EDNS (RFC 1035 §4.2.1), and never so many that a network splits the datagram.
    pub(crate) fn max_datagram(&self) -> usize {
        self.edns.as_ref().map_or(512, |edns| edns.max_payload().clamp(512, MAX_DATAGRAM)).into()
    }
}

/// Most bytes of a datagram, in either direction ("DNS Flag Day 2020").
pub(crate) const MAX_DATAGRAM: u16 = 1232;

/// The text of a name, in lower case.
pub(crate) fn host_of(name: &Name) -> Option<String> {
    let mut host = String::with_capacity(name.len());
    for label in name.iter() {
        if !host.is_empty() {
            host.push('.');
        }
        for byte in label {
            if !byte.is_ascii_graphic() || *byte == b'.' {
                return None;
            }
            host.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    Some(host)
}

#[cfg(test)]
pub(crate) mod tests {
    use hickory_proto::rr::RecordType;
    use proptest::prelude::*;

    use super::*;

    /// The bytes of a question.
    pub(crate) fn asked(name: &str, record_type: RecordType) -> Vec<u8> {
        let mut message = Message::new(7, hickory_proto::op::MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
        message.to_vec().unwrap()
    }

    fn code(bytes: &[u8]) -> Option<ResponseCode> {
        match Question::read(bytes).unwrap_err() {
            Unanswerable::Ignored => None,
            Unanswerable::Header(reply) => Some(reply.code),
        }
    }

    #[test]
    fn a_question_keeps_the_case_of_its_name() {
        let question = Question::read(&asked("oRders.Service.consul.", RecordType::A)).unwrap();
        assert_eq!(question.host.as_deref(), Some("orders.service.consul"));
        assert_eq!(question.query.name.to_ascii(), "oRders.Service.consul.");
        assert!(question.recursion_desired && question.is_internet());
        assert_eq!(question.max_datagram(), 512);
    }

    #[test]
    fn what_is_no_question_is_not_answered_as_one() {
        let good = asked("orders.service.consul.", RecordType::A);
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            bytes
        };
        assert_eq!(code(&good[..11]), None, "no header");
        assert_eq!(code(&changed(2, 0x80)), None, "an answer");
        for op_code in [1_u8, 2, 4, 5, 15] {
            assert_eq!(code(&changed(2, op_code << 3)), Some(ResponseCode::NotImp), "{op_code}");
        }
        for (at, to, what) in [
            (5, 0, "no question"),
            (5, 2, "two questions"),
            (7, 1, "an answer beside it"),
            (9, 1, "an authority beside it"),
            (11, 200, "many records beside it"),
            (11, 1, "a record that is not there"),
            (12, 0xc0, "a pointer to itself"),
            (12, 63, "a label beyond the end"),
        ] {
            assert_eq!(code(&changed(at, to)), Some(ResponseCode::FormErr), "{what}");
        }
        assert_eq!(code(&good[..20]), Some(ResponseCode::FormErr), "cut");
    }

    #[test]
    fn an_answer_of_a_header_alone_has_the_id_the_operation_and_the_code() {
        let mut bytes = asked("a.", RecordType::A);
        bytes[2] = 4 << 3 | 1;
        let Err(Unanswerable::Header(reply)) = Question::read(&bytes) else { panic!() };
        assert_eq!(reply.to_bytes(), [0, 7, 0x80 | 4 << 3 | 1, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_size_of_a_datagram_is_that_of_the_client_within_bounds() {
        for (asked_size, expected) in [(0, 512), (511, 512), (600, 600), (1232, 1232), (4096, 1232)] {
            let mut message = Message::from_vec(&asked("orders.service.consul.", RecordType::A)).unwrap();
            let mut edns = Edns::new();
            edns.set_max_payload(asked_size);
            message.set_edns(edns);
            let question = Question::read(&message.to_vec().unwrap()).unwrap();
            assert_eq!(question.max_datagram(), expected, "{asked_size}");
        }
    }

    #[test]
    fn a_label_with_a_dot_or_a_byte_of_no_host_has_no_text() {
        for label in [&b"a.b"[..], b"a b", b"\xff", b"\0"] {
            let name = Name::from_labels([label, b"service", b"consul"]).unwrap();
            assert_eq!(host_of(&name), None, "{label:?}");
        }
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Question::read(&bytes);
        }

        #[test]
        fn no_change_of_a_question_panics(at in 0_usize..40, to: u8) {
            let mut bytes = asked("orders.service.consul.", RecordType::SRV);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            let _ = Question::read(&bytes);
        }
    }
}
