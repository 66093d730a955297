//! Metrics of the DNS listener.

use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use prometheus::{
    IntCounterVec, IntGauge, IntGaugeVec, register_int_counter_vec_with_registry,
    register_int_gauge_vec_with_registry,
};

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Why a message, or a connection, was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Its sender is not on this machine.
    Peer,
    /// It is no question.
    NoQuestion,
    /// The system could not take the answer.
    Send,
    /// As many connections are open as may be.
    Connections,
}

impl Dropped {
    const ALL: [Self; 4] = [Self::Peer, Self::NoQuestion, Self::Send, Self::Connections];

    fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::NoQuestion => "no_question",
            Self::Send => "send",
            Self::Connections => "connections",
        }
    }
}

/// Where a question was passed on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PassedTo {
    /// `dns.forward`
    Forward,
    /// `dns.consul`
    Consul,
}

impl PassedTo {
    fn label(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Consul => "consul",
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PassedResult {
    Answered,
    /// No server answered.
    Failed,
    /// As many questions are on their way as may be.
    Limited,
}

impl PassedResult {
    const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::Limited];

    fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Limited => "limited",
        }
    }
}

/// Codes with a series of their own, in the order of their numbers.
const CODES: [(ResponseCode, &str); 7] = [
    (ResponseCode::NoError, "NOERROR"),
    (ResponseCode::FormErr, "FORMERR"),
    (ResponseCode::ServFail, "SERVFAIL"),
    (ResponseCode::NXDomain, "NXDOMAIN"),
    (ResponseCode::NotImp, "NOTIMP"),
    (ResponseCode::Refused, "REFUSED"),
    (ResponseCode::BADVERS, "BADVERS"),
];

/// The metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    answers: IntCounterVec,
    dropped: IntCounterVec,
    passed: IntCounterVec,
    names: IntGaugeVec,
    connections: IntGaugeVec,
}

impl Metrics {
    /// The families, which have no series before [`Metrics::show_zeros`]: most sidecars have no such listener.
    pub(crate) fn register(registry: &prometheus::Registry) -> Result<Arc<Self>, prometheus::Error> {
        let metrics = Self {
            answers: register_int_counter_vec_with_registry!(
                "outrigger_dns_answers_total",
                "Questions of DNS that were answered, by transport and code.",
                &["transport", "code"],
                registry
            )?,
            dropped: register_int_counter_vec_with_registry!(
                "outrigger_dns_dropped_total",
                "Messages and connections of DNS that were not answered, by reason.",
                &["reason"],
                registry
            )?,
            passed: register_int_counter_vec_with_registry!(
                "outrigger_dns_passed_on_total",
                "Questions of DNS that were passed on to another server, by result.",
                &["to", "result"],
                registry
            )?,
            names: register_int_gauge_vec_with_registry!(
                "outrigger_dns_names",
                "Services that are followed because DNS was asked for them.",
                &["kind"],
                registry
            )?,
            connections: register_int_gauge_vec_with_registry!(
                "outrigger_dns_connections",
                "Open TCP connections of the DNS listener.",
                &[],
                registry
            )?,
        };
        Ok(Arc::new(metrics))
    }

    /// Makes every series, so that 0 is shown.
    pub(crate) fn show_zeros(&self) {
        for transport in [Transport::Udp, Transport::Tcp] {
            for (_, code) in CODES {
                self.answers.with_label_values(&[transport.label(), code]);
            }
        }
        for reason in Dropped::ALL {
            self.dropped.with_label_values(&[reason.label()]);
        }
        for to in [PassedTo::Forward, PassedTo::Consul] {
            for result in PassedResult::ALL {
                self.passed.with_label_values(&[to.label(), result.label()]);
            }
        }
        self.connections();
        self.set_names((0, 0));
    }

    pub(crate) fn count_answer(&self, transport: Transport, code: ResponseCode) {
        let known = CODES.iter().find(|(one, _)| *one == code);
        let code = known.map_or("other", |(_, label)| label);
        self.answers.with_label_values(&[transport.label(), code]).inc();
    }

    pub(crate) fn count_dropped(&self, reason: Dropped) {
        self.dropped.with_label_values(&[reason.label()]).inc();
    }

    pub(crate) fn count_passed(&self, to: PassedTo, result: PassedResult) {
        self.passed.with_label_values(&[to.label(), result.label()]).inc();
    }

    pub(crate) fn connections(&self) -> IntGauge {
        self.connections.with_label_values::<&str>(&[])
    }

    pub(crate) fn set_names(&self, (known, unknown): (usize, usize)) {
        for (kind, count) in [("known", known), ("unknown", unknown)] {
            self.names.with_label_values(&[kind]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
