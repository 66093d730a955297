//! The DNS listener, which answers the names of services.

use std::net::SocketAddr;

use crate::Listen;

/// The DNS listener. A reload moves it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// Where it answers, by UDP and by TCP; a loopback address, or both. Absent, the default: there is none. `127.0.0.1:8653` is the
    /// customary address.
    pub listen: Option<Listen>,
    /// What the name of a service stands for. Default `loopback`.
    pub answer: DnsAnswer,
    /// The servers that get the questions about names of other domains, in the order in which they are tried. Empty, the default: such
    /// a question is refused.
    pub forward: Vec<SocketAddr>,
    /// Consul's DNS, which gets the questions in forms that are not answered here (`.node.`, `.query.`, …). Absent, the default: such a
    /// question is refused.
    pub consul: Option<SocketAddr>,
    /// Whether the outbound listener carries what a browser sends to the name of a service. Default `refuse`. Without effect
    /// unless `answer` is `loopback`.
    pub browsers: DnsBrowsers,
}

impl Dns {
    /// Whether the names of services stand for this machine, and pages of a browser are to be kept from them.
    pub fn guards_browsers(&self) -> bool {
        self.listen.is_some() && self.answer == DnsAnswer::Loopback && self.browsers == DnsBrowsers::Refuse
    }
}

/// What the name of a service stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsAnswer {
    /// The outbound listener, which carries the requests: 127.0.0.1, ::1, and its port.
    #[default]
    Loopback,
    /// The usable instances of the service, as in Consul's DNS.
    Instances,
}

/// What the outbound listener does with a browser's request for the name of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsBrowsers {
    /// It is refused, unless `outbound.allow_origins` allows it.
    #[default]
    Refuse,
    /// It is judged as without the DNS listener.
    Allow,
}
