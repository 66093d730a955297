//! One message → its answer: at once from memory, or after a wait that is bounded.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hickory_proto::{op::ResponseCode, rr::RecordType};
use outrigger_discovery::Discovery;
use outrigger_registry::{
    Query,
    name::{DnsForm, parse_dns_name},
};

use crate::{
    forward::Forwarder,
    metrics::{Dropped, Metrics, PassedResult, PassedTo, Transport},
    names::{Found, Names},
    question::{Question, Unanswerable},
    reply::{MAX_MESSAGE, Reply},
    settings::DnsSettings,
    zone,
};

/// Answers questions.
#[derive(Debug)]
pub(crate) struct Resolver {
    pub(crate) settings: ArcSwap<DnsSettings>,
    pub(crate) names: Names,
    pub(crate) metrics: Arc<Metrics>,
    forwarder: Forwarder,
}

/// What follows a message.
#[derive(Debug)]
pub(crate) enum Step {
    /// It is not answered.
    Nothing,
    /// This is sent.
    Send(Vec<u8>),
    /// The answer takes a wait ([`Resolver::finish`]).
    Later(Box<PendingQuestion>),
}

/// A question that another party has to answer first.
#[derive(Debug)]
pub(crate) struct PendingQuestion {
    question: Question,
    transport: Transport,
    settings: Arc<DnsSettings>,
    awaits: Awaits,
}

#[derive(Debug)]
enum Awaits {
    /// The registry's first answer about a service.
    Registry(Query),
    /// Another server.
    Server(PassedTo),
}

/// What the settings and the memory say to a question.
enum Answer {
    Now(Reply),
    Later(Awaits),
}

impl Resolver {
    pub(crate) fn new(settings: DnsSettings, discovery: Arc<Discovery>, metrics: Arc<Metrics>) -> Self {
        let (settings, names) = (ArcSwap::from_pointee(settings), Names::new(discovery));
        Self { settings, names, metrics, forwarder: Forwarder::default() }
    }

    /// Answers a message, or says what to wait for.
    pub(crate) fn step(&self, message: &[u8], transport: Transport) -> Step {
        let question = match Question::read(message) {
            Ok(question) => question,
            Err(Unanswerable::Ignored) => {
                self.metrics.count_dropped(Dropped::NoQuestion);
                return Step::Nothing;
            }
            Err(Unanswerable::Header(reply)) => {
                self.metrics.count_answer(transport, reply.code);
                return Step::Send(reply.to_bytes());
            }
        };
        let settings = self.settings.load();
        match self.answer(&settings, &question) {
            Answer::Now(reply) => Step::Send(self.encode(&settings, &question, transport, &reply)),
            Answer::Later(awaits) => {
                let settings = settings.clone();
                Step::Later(Box::new(PendingQuestion { question, transport, settings, awaits }))
            }
        }
    }

    /// Waits for what a question waits for, and answers it: after `discovery.first_answer` at most, and one that is passed on
    /// after 4 s.
    pub(crate) async fn finish(&self, pending: PendingQuestion) -> Vec<u8> {
        let PendingQuestion { question, transport, settings, awaits } = pending;
        let reply = match awaits {
            Awaits::Registry(query) => match self.names.wait(&query, &settings.discovery).await {
                Some(snapshot) => match own_form(&settings, &question) {
                    Some(DnsForm::Service { name, is_srv }) => {
                        zone::service_reply(&settings, &question, &name, is_srv, &snapshot)
                    }
                    _ => Reply::code(ResponseCode::ServFail),
                },
                None => Reply::code(ResponseCode::ServFail),
            },
            Awaits::Server(to) => {
                let servers = match to {
                    PassedTo::Forward => &*settings.forward,
                    PassedTo::Consul => settings.consul.as_slice(),
                };
                match self.forwarder.ask(servers, &question).await {
                    Ok(answer) => {
                        self.metrics.count_passed(to, PassedResult::Answered);
                        self.metrics.count_answer(transport, answer.code());
                        return answer.for_client(&question, limit(&question, transport));
                    }
                    Err(result) => {
                        self.metrics.count_passed(to, result);
                        Reply::code(ResponseCode::ServFail)
                    }
                }
            }
        };
        self.encode(&settings, &question, transport, &reply)
    }

    /// The answer where as many questions wait as may: the client may ask again.
    pub(crate) fn give_up(&self, pending: PendingQuestion) -> Vec<u8> {
        let PendingQuestion { question, transport, settings, .. } = pending;
        self.encode(&settings, &question, transport, &Reply::code(ResponseCode::ServFail))
    }

    fn encode(
        &self,
        settings: &DnsSettings,
        question: &Question,
        transport: Transport,
        reply: &Reply,
    ) -> Vec<u8> {
        self.metrics.count_answer(transport, reply.code);
        reply.to_bytes(question, !settings.forward.is_empty(), limit(question, transport))
    }

    fn answer(&self, settings: &DnsSettings, question: &Question) -> Answer {
        if !question.has_known_version() {
            return Answer::Now(Reply::code(ResponseCode::BADVERS));
        }
        let is_transfer = matches!(question.query.query_type, RecordType::AXFR | RecordType::IXFR);
        if !question.is_internet() || is_transfer {
            return Answer::Now(Reply::code(ResponseCode::Refused));
        }
        let pass_on = |to, is_possible| match is_possible {
            true => Answer::Later(Awaits::Server(to)),
            // Never an unknown name: whether it exists is not known here.
            false => Answer::Now(Reply::code(ResponseCode::Refused)),
        };
        let Some(form) = own_form(settings, question) else {
            return pass_on(PassedTo::Forward, !settings.forward.is_empty());
        };
        match form {
            DnsForm::Service { name, is_srv } => {
                let query = settings.query_of(&name);
                match self.names.find(&query, &settings.discovery) {
                    Found::Known(snapshot) => {
                        Answer::Now(zone::service_reply(settings, question, &name, is_srv, &snapshot))
                    }
                    Found::Pending(_) | Found::Full => Answer::Later(Awaits::Registry(query)),
                }
            }
            DnsForm::Address(ip) => Answer::Now(zone::address_reply(settings, question, ip)),
            DnsForm::NotOffered(_) => pass_on(PassedTo::Consul, settings.consul.is_some()),
            DnsForm::Parent if settings.zone == question.query.name => {
                Answer::Now(zone::apex_reply(settings, question))
            }
            DnsForm::Parent => Answer::Now(zone::no_data(settings)),
            DnsForm::Other => Answer::Now(zone::no_name(settings)),
        }
    }
}

/// What the name of a question is. `None`: it is of another domain.
fn own_form<'a>(settings: &DnsSettings, question: &'a Question) -> Option<DnsForm<'a>> {
    let Some(host) = &question.host else {
        return settings.zone.zone_of(&question.query.name).then_some(DnsForm::Other);
    };
    Some(match settings.below_domain(host)? {
        "" => DnsForm::Parent,
        inner => parse_dns_name(inner, |name| settings.is_declared(name)),
    })
}

/// Most bytes of an answer.
fn limit(question: &Question, transport: Transport) -> usize {
    match transport {
        Transport::Udp => question.max_datagram(),
        Transport::Tcp => MAX_MESSAGE,
    }
}

#[cfg(test)]
pub(crate) mod tests;
