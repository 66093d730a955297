//! Where instances come from: the registry, how it is reached, and which services are watched.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// Where instances come from.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum Registry {
    /// A Consul agent. The default.
    Consul(ConsulSettings),
    /// Static instances in a YAML file, re-read when the file changes. Nothing is registered.
    File(PathBuf),
}

impl Registry {
    /// The domain of the long names of services (`orders.service.consul`), in lower case and without a dot at its end.
    pub fn domain(&self) -> &str {
        match self {
            Self::Consul(consul) => &consul.domain,
            Self::File(_) => ConsulSettings::DOMAIN,
        }
    }
}

/// How to reach the Consul agent.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsulSettings {
    /// `http://` or `https://` and host and port. Default `CONSUL_HTTP_ADDR`, else
    /// `http://127.0.0.1:8500`.
    pub address: ConsulAddress,
    /// Datacenter asked for by default. Absent: the agent's own.
    pub datacenter: Option<String>,
    /// The agent's `domain`, with which the long names of services end in a Host. Default `consul`. In lower case, without a
    /// dot at its end.
    pub domain: String,
    /// Where the ACL token comes from. Absent: no token is sent.
    pub token: Option<Token>,
    /// TLS to the agent; used when the address is `https`.
    pub tls: Tls,
    /// Longest time one blocking query waits. Default 45s, range 1s–10m.
    pub wait: Duration,
    /// Most connections held by watches. Default 96, range 1–180: with the five for agent calls and two
    /// for each registration, half of what an agent allows per address (it closes the 201st without a response).
    pub max_connections: usize,
}

impl ConsulSettings {
    /// The default of `domain`, as of Consul's own setting.
    const DOMAIN: &str = "consul";
}

impl Default for ConsulSettings {
    fn default() -> Self {
        Self {
            address: ConsulAddress { tls: false, host: "127.0.0.1".into(), port: 8500 },
            datacenter: None,
            domain: Self::DOMAIN.into(),
            token: None,
            tls: Tls::default(),
            wait: Duration::from_secs(45),
            max_connections: 96,
        }
    }
}

/// The parts of the agent's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulAddress {
    /// The scheme is `https`.
    pub tls: bool,
    /// Host name or IP address (no brackets; IPv6 perhaps with a zone, `fe80::1%eth0`).
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for ConsulAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Where a token comes from. Never printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// Given in the environment or as a `${VARIABLE}` of the file.
    Value(Secret),
    /// Read from this file, and read again when the file changes.
    File(PathBuf),
}

/// A string that no log, page or `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the code that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// TLS to a server: to the agent, or to the instances of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// PEM file of the authorities to trust. Absent: the Mozilla roots built in.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate chain. Absent: none is sent. Needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the certificate's key. Needs `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Name expected in the server's certificate. Absent: the address's host. Of instances it is always set, to
    /// `SERVICE.service.DOMAIN` by default: an address of the registry says where an instance is, and not which service it is.
    pub server_name: Option<String>,
    /// Alternative names, of which the server's certificate must have one in place of `server_name`: a host name in lower case, an
    /// address or a URI. Empty: it must have `server_name`. Only of instances.
    pub sans: Vec<String>,
    /// What is checked of the server's certificate. Default `ca`. Only of instances.
    pub verify: TlsVerify,
}

/// What is checked of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVerify {
    /// That a trusted authority has signed it, its time, and its names.
    #[default]
    Ca,
    /// Nothing: the connection is encrypted, and anyone may be at its other end.
    None,
}

impl TlsVerify {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ca, Self::None];

    /// Its name in a settings file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::None => "none",
        }
    }
}

/// Which services are watched, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoverySettings {
    /// Longest wait of a first request for the registry's first answer. Default 1s, range
    /// 1ms–1m.
    pub first_answer: Duration,
    /// An undeclared service is dropped after this long without requests. Default 10m, range 1s–24h.
    pub idle: Duration,
    /// Most services watched at once. Default 256, range 1–10000; not below the declared ones. The next one takes the place of
    /// one that is not declared: first of one that never had an instance, then of the one not called for the longest time.
    pub max_services: usize,
    /// Most names that are not declared and not watched yet, per second, so that made-up names do not ask the registry at the
    /// rate of their requests. 256 of them, or `max_services` if that is more, may come at once. Default 10, range 1–10000. The
    /// others wait for half of [`DiscoverySettings::first_answer`] at most; then they get 503.
    pub max_new_per_second: usize,
    /// Most names watched that never had an instance. Default 64, range 1–10000. The next one takes the oldest's place.
    pub max_unknown: usize,
    /// How long such a name is kept. Default 30s, range 1s–1h.
    pub unknown_ttl: Duration,
    /// What happens when an answer lists far fewer instances than the last one. Absent (`mass_loss: off`):
    /// every answer is applied at once.
    pub mass_loss: Option<MassLoss>,
}

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self {
            first_answer: Duration::from_secs(1),
            idle: Duration::from_secs(600),
            max_services: 256,
            max_new_per_second: 10,
            max_unknown: 64,
            unknown_ttl: Duration::from_secs(30),
            mass_loss: Some(MassLoss::default()),
        }
    }
}

/// How long instances that a suspect answer no longer lists are kept while they accept connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MassLoss {
    /// The instances are removed when consistent answers, with an index above that of their last listing,
    /// have confirmed the loss for longer than this, if other instances are left. Default 1s, range 0s–1m;
    /// not above `hold_for`.
    pub confirm_for: Duration,
    /// The instances are removed after this time in any case; the time starts again after an outage of the
    /// registry. Default 10s, range 0s–10m.
    pub hold_for: Duration,
    /// Longest wait for an instance to accept a connection. Default 300ms, range 10ms–5s.
    pub probe_timeout: Duration,
}

impl Default for MassLoss {
    fn default() -> Self {
        Self {
            confirm_for: Duration::from_secs(1),
            hold_for: Duration::from_secs(10),
            probe_timeout: Duration::from_millis(300),
        }
    }
}
