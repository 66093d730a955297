//! A service that the file declares.

use std::time::Duration;

use super::{Listen, Policy, Tls, TrafficRules, protocol::Protocol};

/// The connections of an upstream with [`Protocol::Tcp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSettings {
    /// A connection without a byte in either direction is closed after this. Default 1h, range 1s–168h.
    pub idle: Duration,
    /// Most connections at once, range 1–1000000. Absent (the default, or `off`): only `outbound.limits.max_connections` and the
    /// pool of each instance limit them.
    pub max_connections: Option<usize>,
    /// How long connections to an instance that was deregistered or ejected stay open. Range 0s–24h. Absent (the default, or
    /// `off`): until one of their sides closes them.
    pub grace: Option<Duration>,
    /// What an instance is told of the app's connection. Default `off`.
    pub proxy_protocol: ProxyProtocol,
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(3600),
            max_connections: None,
            grace: None,
            proxy_protocol: ProxyProtocol::Off,
        }
    }
}

/// A line before the bytes of a connection that names the addresses of the app's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProxyProtocol {
    /// None.
    #[default]
    Off,
    /// Version 1, which is text.
    V1,
    /// Version 2, which is binary.
    V2,
}

impl ProxyProtocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Off, Self::V1, Self::V2];

    /// Its name in a settings file and on a page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// A service declared in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Its name in the registry. Required.
    pub service: String,
    /// A listener of its own. Absent: reached by name only.
    pub listen: Option<Listen>,
    /// How it is carried. Default `auto`. `tcp` needs [`Upstream::listen`].
    pub protocol: Protocol,
    /// How instances are called with TLS; it holds for every form of the service. Absent: without TLS.
    pub tls: Option<Tls>,
    /// The connections of `protocol: tcp`.
    pub tcp: TcpSettings,
    /// Hosts under which browsers reach that listener on its own port, in lower case and without a port. Requests for them are
    /// carried without a check of where they come from. Default none: on its own port only the addresses of this machine and
    /// names of services are carried for a browser.
    pub hosts: Vec<String>,
    /// Only instances with all these tags. Default: every instance.
    pub tags: Vec<String>,
    /// Datacenter asked for. Absent: `registry.consul.datacenter`, else the agent's own.
    pub datacenter: Option<String>,
    /// The policy: the defaults, overridden by the upstream's own settings.
    pub policy: Policy,
    /// Which instances a request may go to. Default: every one.
    pub traffic: TrafficRules,
}

impl Upstream {
    /// Whether it has neither tags nor a datacenter: it is the service that others name.
    pub fn is_whole_service(&self) -> bool {
        self.tags.is_empty() && self.datacenter.is_none()
    }
}
