//! The addresses that this sidecar listens on, which are no instances of any service.
//!
//! A registration that names one of them (a wrong port, a service that is registered where its callers' sidecar listens) would
//! make the sidecar call itself: each request would become another one, until connections or the time-out end it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use outrigger_net::has_address;

/// Every address that this sidecar listens on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OwnListeners(Arc<[SocketAddr]>);

impl FromIterator<SocketAddr> for OwnListeners {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(addrs: I) -> Self {
        Self(addrs.into_iter().collect())
    }
}

impl OwnListeners {
    /// Whether a connection to `addr` reaches one of the listeners.
    pub(crate) fn are_reached_at(&self, addr: SocketAddr) -> bool {
        let ip = connected_ip(addr.ip());
        self.0.iter().any(|own| own.port() == addr.port() && accepts(own.ip().to_canonical(), ip))
    }
}

/// The address that a connection to `ip` is made to: that to the unspecified address goes to this machine's loopback address.
fn connected_ip(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// Whether a listener on `listener` accepts connections to `ip`. One on the unspecified address of IPv6 accepts IPv4 too
/// ([`outrigger_net::bind`]).
fn accepts(listener: IpAddr, ip: IpAddr) -> bool {
    if !listener.is_unspecified() {
        return listener == ip;
    }
    (listener.is_ipv6() || ip.is_ipv4()) && (ip.is_loopback() || has_address(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_reached_at_every_address_that_it_accepts_connections_for() {
        for (listener, addr, is_own) in [
            ("127.0.0.1:7070", "127.0.0.1:7070", true),
            ("127.0.0.1:7070", "[::ffff:127.0.0.1]:7070", true),
            ("127.0.0.1:7070", "0.0.0.0:7070", true),
            ("127.0.0.1:7070", "127.0.0.1:7071", false),
            ("127.0.0.1:7070", "127.0.0.2:7070", false),
            ("127.0.0.1:7070", "[::1]:7070", false),
            ("[::1]:7070", "[::1]:7070", true),
            ("[::1]:7070", "[::]:7070", true),
            ("[::1]:7070", "127.0.0.1:7070", false),
            ("0.0.0.0:7070", "127.0.0.1:7070", true),
            ("0.0.0.0:7070", "127.9.9.9:7070", true),
            ("0.0.0.0:7070", "0.0.0.0:7070", true),
            ("0.0.0.0:7070", "[::ffff:127.0.0.1]:7070", true),
            ("0.0.0.0:7070", "[::1]:7070", false),
            ("0.0.0.0:7070", "192.0.2.7:7070", false),
            ("0.0.0.0:7070", "127.0.0.1:7071", false),
            ("[::]:7070", "127.0.0.3:7070", true),
            ("[::]:7070", "[::1]:7070", true),
            ("[::]:7070", "[2001:db8::7]:7070", false),
            ("192.0.2.7:7070", "192.0.2.7:7070", true),
            ("192.0.2.7:7070", "127.0.0.1:7070", false),
        ] {
            let own = OwnListeners::from_iter([listener.parse().unwrap()]);
            assert_eq!(own.are_reached_at(addr.parse().unwrap()), is_own, "{addr} at {listener}");
        }
    }
}
