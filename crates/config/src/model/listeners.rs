//! The addresses that the sidecar listens on, and the limits of the outbound listener.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use super::AllowedOrigin;

/// An address to listen on: `localhost` stands for 127.0.0.1 and ::1 with one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Loopback of both families, or one address.
    pub host: ListenHost,
    /// Port; 0 lets the system choose (tests).
    pub port: u16,
}

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Self {
        let host = match addr {
            SocketAddr::V6(addr) if addr.ip().is_unicast_link_local() => {
                ListenHost::LinkLocal { ip: *addr.ip(), zone: addr.scope_id().to_string() }
            }
            _ => ListenHost::Ip(addr.ip()),
        };
        Self { host, port: addr.port() }
    }
}

impl Listen {
    /// Both loopback addresses with this port.
    pub const fn localhost(port: u16) -> Self {
        Self { host: ListenHost::Localhost, port }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ListenHost::Localhost => write!(f, "localhost:{}", self.port),
            ListenHost::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            ListenHost::LinkLocal { ip, zone } => write!(f, "[{ip}%{zone}]:{}", self.port),
        }
    }
}

/// The host part of a [`Listen`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenHost {
    /// 127.0.0.1, and ::1 where the machine has IPv6.
    Localhost,
    /// One address.
    Ip(IpAddr),
    /// An IPv6 address that each network interface may have (`fe80::/10`; RFC 4007).
    LinkLocal {
        /// The address.
        ip: Ipv6Addr,
        /// The interface: its name or its number.
        zone: String,
    },
}

/// The listener that the app sends its requests to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outbound {
    /// Where it listens. Default `localhost:7070`.
    pub listen: Listen,
    /// Further hosts that mean this listener, as `localhost` does: names and IP addresses in lower case, without brackets and
    /// ports. With such a Host the path names the service (`http://sidecar:7070/svc/NAME/…`). The admin side takes it too. Default
    /// none.
    pub names: Vec<String>,
    /// Carry `CONNECT orders:80` as bytes to an instance of the service. Default on.
    pub connect: bool,
    /// Add `X-Forwarded-For`, `-Proto` and `-Host`. Default false.
    pub x_forwarded: bool,
    /// Add `Via`. Default false.
    pub via: bool,
    /// Add `x-outrigger-via` with a random id of this process, and end a request that has it already with 508. Default
    /// off.
    pub loop_guard: bool,
    /// In the path form (`/svc/NAME/…`), `Path` of an instance's cookies gets the prefix in front. Default true; false: the
    /// cookies are passed on as they are.
    pub rewrite_cookie_path: bool,
    /// Pages of these origins may make a browser send requests. Default none: only pages that this listener served.
    pub allow_origins: Vec<AllowedOrigin>,
    /// Limits towards the app.
    pub limits: Limits,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            listen: Listen::localhost(7070),
            names: Vec::new(),
            connect: true,
            x_forwarded: false,
            via: false,
            loop_guard: false,
            rewrite_cookie_path: true,
            allow_origins: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// Limits of the connections of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of the head of a request or response. Default 64KiB, range 8KiB–1MiB.
    pub max_header_bytes: usize,
    /// Most header fields of a request's head; a response may have at least 1000. Default 100, range 10–5000.
    pub max_headers: usize,
    /// Longest time from a head's first byte to its last. Default 10s, range 100ms–10m. Then 408.
    pub head_timeout: Duration,
    /// How long an idle app connection is kept. Default 1h, range 1s–24h.
    pub idle: Duration,
    /// Most app connections at once, over all listeners. Default 10000, range 1–1000000. Then 503
    /// and a close.
    pub max_connections: usize,
    /// A tunnel without a byte in either direction is closed after this. Default 1h, range 1s–168h.
    pub tunnel_idle: Duration,
    /// How long a tunnel to an instance that was deregistered or ejected stays open. Default 30s, range 0s–24h. Absent (`off`): until
    /// one of its sides closes it.
    pub tunnel_grace: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 64 * 1024,
            max_headers: 100,
            head_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(3600),
            max_connections: 10_000,
            tunnel_idle: Duration::from_secs(3600),
            tunnel_grace: Some(Duration::from_secs(30)),
        }
    }
}

/// The admin side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where everything is served. Default `localhost:7079`.
    pub listen: Listen,
    /// A second listener, which serves only metrics and health, for the network. Absent: none.
    pub metrics_listen: Option<Listen>,
}
