//! What is answered → the bytes of the message. Pure.

use hickory_proto::{
    op::{Edns, Message, OpCode, ResponseCode},
    rr::{Name, RData, Record, rdata::SOA},
};

use crate::question::{MAX_DATAGRAM, Question};

/// Seconds for which a client may keep that a name or a record does not exist (RFC 2308 §5).
pub(crate) const NEGATIVE_TTL: u32 = 5;

/// The answer to one question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) code: ResponseCode,
    /// The name is one of the domain that is answered here.
    pub(crate) is_own: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

impl Reply {
    /// These records of a name of the domain.
    pub(crate) fn records(answers: Vec<Record>) -> Self {
        Self { is_own: true, answers, ..Self::code(ResponseCode::NoError) }
    }

    /// No such name in `domain` (RFC 8020), or, for [`ResponseCode::NoError`], no record of that type (RFC 2308 §2.2).
    pub(crate) fn negative(code: ResponseCode, domain: &Name) -> Self {
        Self { is_own: true, authorities: vec![soa(domain)], ..Self::code(code) }
    }

    /// No record.
    pub(crate) fn code(code: ResponseCode) -> Self {
        let (answers, authorities, additionals) = (Vec::new(), Vec::new(), Vec::new());
        Self { code, is_own: false, answers, authorities, additionals }
    }

    /// The bytes of the answer to `question`, at most `limit`. Where not all records fit, the additional ones go first, and then the
    /// answer is marked as cut (RFC 2181 §9): the client asks again by TCP. `offers_recursion`: names of other domains are answered.
    pub(crate) fn to_bytes(&self, question: &Question, offers_recursion: bool, limit: usize) -> Vec<u8> {
        let mut message = self.message(question, offers_recursion);
        let bytes = encode(&message);
        if bytes.len() <= limit {
            return bytes;
        }
        message.additionals.clear();
        let bytes = encode(&message);
        if bytes.len() <= limit {
            return bytes;
        }
        message.metadata.truncation = true;
        message.authorities.clear();
        // As many as fit, by halves: the codec compresses the first names of a message alone, so that the records differ in size.
        let all = std::mem::take(&mut message.answers);
        let (mut fitting, mut too_many, mut best) = (0, all.len(), encode(&message));
        while too_many - fitting > 1 {
            let middle = fitting.midpoint(too_many);
            message.answers = all.iter().take(middle).cloned().collect();
            let bytes = encode(&message);
            if bytes.len() <= limit {
                (fitting, best) = (middle, bytes);
            } else {
                too_many = middle;
            }
        }
        best
    }

    fn message(&self, question: &Question, offers_recursion: bool) -> Message {
        let mut message = Message::response(question.id, OpCode::Query);
        let metadata = &mut message.metadata;
        metadata.authoritative = self.is_own;
        metadata.recursion_desired = question.recursion_desired;
        metadata.recursion_available = offers_recursion;
        metadata.checking_disabled = question.checking_disabled;
        metadata.response_code = self.code;
        message.add_query(question.query.clone());
        message.answers.clone_from(&self.answers);
        message.authorities.clone_from(&self.authorities);
        message.additionals.clone_from(&self.additionals);
        if let Some(asked) = &question.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_DATAGRAM).set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        message
    }
}

/// Longest message by TCP (RFC 1035 §4.2.2).
pub(crate) const MAX_MESSAGE: usize = u16::MAX as usize;

fn encode(message: &Message) -> Vec<u8> {
    // Every name comes from a message or from settings that were checked, so that nothing can fail here.
    message.to_vec().unwrap_or_default()
}

/// The start of authority of the domain: by it a client knows for how long an absence holds.
pub(crate) fn soa(domain: &Name) -> Record {
    let below = |label: &str| domain.prepend_label(label.as_bytes()).unwrap_or_else(|_| domain.clone());
    // The serial number is for copies of a zone, of which there is none. The times are Consul's.
    let soa = SOA::new(below("ns"), below("hostmaster"), 1, 3600, 600, 86400, NEGATIVE_TTL);
    Record::from_rdata(domain.clone(), NEGATIVE_TTL, RData::SOA(soa))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::rr::{RecordType, rdata::A};

    use super::*;
    use crate::question::tests::asked;

    fn reply(count: u32) -> Reply {
        let name = Name::from_ascii("orders.service.consul.").unwrap();
        let record = |n| Record::from_rdata(name.clone(), 0, RData::A(A(Ipv4Addr::from_bits(n))));
        Reply { additionals: vec![record(9)], ..Reply::records((0..count).map(record).collect()) }
    }

    fn question(size: Option<u16>) -> Question {
        let mut message = Message::from_vec(&asked("orders.service.consul.", RecordType::A)).unwrap();
        if let Some(size) = size {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            message.set_edns(edns);
        }
        Question::read(&message.to_vec().unwrap()).unwrap()
    }

    #[test]
    fn an_answer_that_does_not_fit_is_cut_and_says_so() {
        for (count, size, answers, additionals, is_cut) in [
            (1, None, 1, 1, false),
            (28, None, 28, 1, false),
            // The additional record alone goes without a mark.
            (29, None, 29, 0, false),
            (30, None, 29, 0, true),
            (200, None, 29, 0, true),
            (200, Some(512), 28, 0, true),
            (73, Some(1232), 73, 0, false),
            (200, Some(1232), 73, 0, true),
            (200, Some(4096), 73, 0, true),
        ] {
            let question = question(size);
            let limit = question.max_datagram();
            let bytes = reply(count).to_bytes(&question, false, limit);
            assert!(bytes.len() <= limit, "{} of {limit}", bytes.len());
            let message = Message::from_vec(&bytes).unwrap();
            let found = (message.answers.len(), message.additionals.len(), message.metadata.truncation);
            assert_eq!(found, (answers, additionals, is_cut), "{count} {size:?}");
            assert_eq!(message.edns.is_some(), size.is_some());
        }
        let all = reply(1000).to_bytes(&question(None), false, MAX_MESSAGE);
        assert_eq!(Message::from_vec(&all).unwrap().answers.len(), 1000);
    }

    #[test]
    fn an_answer_repeats_the_question_and_says_what_is_offered() {
        let mut question = question(Some(1232));
        question.edns.as_mut().unwrap().set_dnssec_ok(true);
        for offers_recursion in [false, true] {
            let bytes = reply(1).to_bytes(&question, offers_recursion, 512);
            let message = Message::from_vec(&bytes).unwrap();
            assert_eq!((message.metadata.id, &message.queries[0]), (7, &question.query));
            assert!(message.metadata.authoritative && message.metadata.recursion_desired);
            assert_eq!(message.metadata.recursion_available, offers_recursion);
            let edns = message.edns.unwrap();
            assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, 1232, true));
        }
        let refused = Reply::code(ResponseCode::Refused).to_bytes(&question, false, 512);
        let message = Message::from_vec(&refused).unwrap();
        assert!(!message.metadata.authoritative);
        assert_eq!(message.metadata.response_code, ResponseCode::Refused);
    }

    #[test]
    fn an_unknown_version_of_edns_has_an_extended_code() {
        let mut question = question(Some(1232));
        question.edns.as_mut().unwrap().set_version(1);
        assert!(!question.has_known_version());
        let bytes = Reply::code(ResponseCode::BADVERS).to_bytes(&question, false, 512);
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(u16::from(message.metadata.response_code), 16);
        assert_eq!(message.edns.unwrap().version(), 0);
    }

    #[test]
    fn an_absence_names_the_domain_and_holds_for_five_seconds() {
        let domain = Name::from_ascii("consul.").unwrap();
        let reply = Reply::negative(ResponseCode::NXDomain, &domain);
        let [record] = reply.authorities.as_slice() else { panic!("{reply:?}") };
        let RData::SOA(soa) = &record.data else { panic!("{record:?}") };
        assert_eq!((record.ttl, soa.minimum, soa.mname.to_ascii().as_str()), (5, 5, "ns.consul."));
    }
}
