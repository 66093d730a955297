//! Listening sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket},
};

use outrigger_config::{Listen, ListenHost};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tracing::debug;

use crate::address::zone_index;

/// Connections that the kernel queues between two accepts.
pub const BACKLOG: i32 = 1024;

/// Attempts to find a port that is free on both loopback addresses, where the system chooses it.
const PORT_ATTEMPTS: usize = 20;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {addr}: {}", advice(source))]
pub struct BindError {
    /// The address.
    pub addr: SocketAddr,
    /// The error of the operating system.
    #[source]
    pub source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the address is taken, perhaps by another sidecar; choose another port or end its owner"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose a higher port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; choose another address",
        _ => "choose another address",
    }
}

/// A socket that listens and is not accepted from yet: the kernel queues connections.
#[derive(Debug)]
pub struct BoundSocket {
    /// The socket, non-blocking.
    pub socket: TcpListener,
    /// Its address; the port is the real one, also where the system chose it.
    pub addr: SocketAddr,
}

/// Binds one address. Port 0: the system chooses. `[::]` accepts IPv4 connections too; every other IPv6 address does not.
///
/// # Errors
/// When the address cannot be listened on.
pub fn bind(addr: SocketAddr) -> Result<BoundSocket, BindError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        socket.set_nonblocking(true)?;
        // Accepted connections inherit it.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let socket: TcpListener = socket.into();
        let addr = socket.local_addr()?;
        Ok(BoundSocket { socket, addr })
    };
    open().map_err(|source| BindError { addr, source })
}

/// Binds a socket of datagrams to one address, non-blocking.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind_datagrams(addr: SocketAddr) -> Result<UdpSocket, BindError> {
    let open = || {
        let socket = UdpSocket::bind(addr)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    open().map_err(|source| BindError { addr, source })
}

/// Whether this machine has the address `ip`. True where that cannot be found out.
pub fn has_address(ip: IpAddr) -> bool {
    // A datagram socket, because the ports of TCP may be used up.
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => true,
        Err(error) => {
            error.kind() != io::ErrorKind::AddrNotAvailable
                && error.raw_os_error() != Some(Errno::AFNOSUPPORT.raw_os_error())
        }
    }
}

/// Binds every address that `listen` stands for. `localhost` is both loopback addresses with one port;
/// where the machine has no IPv6 loopback, it is 127.0.0.1 alone.
///
/// `bind_one` gets the address as it is configured and the address to bind, which differ in the port
/// where the system chooses it. It returns what holds the address (a new socket, or one that is open
/// already) and where that listens.
///
/// # Errors
/// When an address cannot be listened on: each one that is taken.
pub fn bind_listen<T>(
    listen: &Listen,
    mut bind_one: impl FnMut(SocketAddr, SocketAddr) -> Result<(T, SocketAddr), BindError>,
) -> Result<Vec<T>, Vec<BindError>> {
    let port = listen.port;
    let mut bind_alone = |addr| match bind_one(addr, addr) {
        Ok((bound, _)) => Ok(vec![bound]),
        Err(error) => Err(vec![error]),
    };
    let v4 = match &listen.host {
        ListenHost::Ip(ip) => return bind_alone(SocketAddr::new(*ip, port)),
        ListenHost::LinkLocal { ip, zone } => match zone_index(Some(zone)) {
            Ok(index) => return bind_alone(SocketAddrV6::new(*ip, port, 0, index).into()),
            Err(error) => {
                let source = io::Error::new(io::ErrorKind::AddrNotAvailable, error);
                return Err(vec![BindError { addr: SocketAddr::new((*ip).into(), port), source }]);
            }
        },
        ListenHost::Localhost => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
    };
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let mut attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        let (first, bound) = match bind_one(v4, v4) {
            Ok(bound) => bound,
            Err(error) => {
                let is_taken = |error: &BindError| error.source.kind() == io::ErrorKind::AddrInUse;
                let also = if is_taken(&error) && port != 0 { bind_one(v6, v6).err() } else { None };
                return Err([Some(error), also.filter(is_taken)].into_iter().flatten().collect());
            }
        };
        attempts -= 1;
        match bind_one(v6, SocketAddr::new(v6.ip(), bound.port())) {
            Ok((second, _)) => return Ok(vec![first, second]),
            Err(error) if error.source.kind() != io::ErrorKind::AddrInUse => {
                debug!(%error, "no IPv6 loopback address, listening on 127.0.0.1 alone");
                return Ok(vec![first]);
            }
            Err(error) if attempts == 0 => return Err(vec![error]),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `listen` binds on a machine where `error` says which addresses cannot be bound. The result is
    /// the addresses that were asked for; a port that the system chooses is 4001, then 4002 and so on.
    fn bind_with(
        listen: Listen,
        mut error: impl FnMut(SocketAddr) -> Option<io::ErrorKind>,
    ) -> Result<Vec<SocketAddr>, Vec<BindError>> {
        let mut chosen = 4000;
        bind_listen(&listen, |_, addr| {
            if let Some(kind) = error(addr) {
                return Err(BindError { addr, source: kind.into() });
            }
            chosen += 1;
            Ok((addr, SocketAddr::new(addr.ip(), if addr.port() == 0 { chosen } else { addr.port() })))
        })
    }

    fn addrs<const N: usize>(texts: [&str; N]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn localhost_is_each_loopback_address_with_one_port() {
        let bound = bind_listen(&Listen::localhost(0), |_, addr| {
            bind(addr).map(|bound| (bound.socket.local_addr().unwrap(), bound.addr))
        });
        let bound = bound.unwrap();
        assert!(bound[0].is_ipv4());
        assert!(bound.iter().all(|addr| addr.ip().is_loopback() && addr.port() == bound[0].port()));
        assert_eq!(bind_with(Listen::localhost(0), |_| None).unwrap(), addrs(["127.0.0.1:0", "[::1]:4001"]));
    }

    #[test]
    fn an_address_of_another_machine_is_none_of_ours() {
        for (ip, expected) in [("127.0.0.1", true), ("127.9.9.9", true), ("192.0.2.1", false)] {
            assert_eq!(has_address(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn the_ipv6_wildcard_address_accepts_ipv4_too() {
        // A machine without IPv6 cannot bind the address.
        let Ok(bound) = bind((Ipv6Addr::UNSPECIFIED, 0).into()) else { return };
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, bound.addr.port())).unwrap();
    }

    #[test]
    fn one_address_is_bound_alone() {
        let listen = Listen::from(addrs(["[::1]:80"])[0]);
        assert_eq!(bind_with(listen, |_| None).unwrap(), addrs(["[::1]:80"]));
    }

    #[test]
    fn a_link_local_address_keeps_its_zone() {
        let at = |zone: &str| Listen {
            host: ListenHost::LinkLocal { ip: "fe80::1".parse().unwrap(), zone: zone.to_owned() },
            port: 80,
        };
        // The loopback interface is the first one of each network namespace.
        for zone in ["lo", "1"] {
            assert_eq!(bind_with(at(zone), |_| None).unwrap(), addrs(["[fe80::1%1]:80"]), "{zone}");
        }
        assert_eq!(bind_with(at("7"), |_| None).unwrap(), addrs(["[fe80::1%7]:80"]));
        let errors = bind_with(at("nosuch0"), |_| None).unwrap_err();
        let cause = errors[0].source.to_string();
        assert!(errors.len() == 1 && cause.contains("no network interface \"nosuch0\""), "{errors:?}");
    }

    #[test]
    fn bind_one_gets_the_configured_address_and_the_address_to_bind() {
        let mut calls = Vec::new();
        bind_listen(&Listen::localhost(0), |configured, addr| {
            calls.push((configured.to_string(), addr.to_string()));
            Ok(((), SocketAddr::new(addr.ip(), 4000)))
        })
        .unwrap();
        let expected = [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:4000")];
        assert_eq!(calls, expected.map(|(configured, addr)| (configured.to_owned(), addr.to_owned())));
    }

    #[test]
    fn another_port_is_tried_up_to_20_times_where_the_chosen_one_is_taken_on_ipv6() {
        for (taken, ok) in [(3, true), (19, true), (20, false)] {
            let mut left = taken;
            let bound = bind_with(Listen::localhost(0), |addr| {
                let refuse = addr.is_ipv6() && left > 0;
                left -= usize::from(refuse);
                refuse.then_some(io::ErrorKind::AddrInUse)
            });
            assert_eq!(bound.as_ref().is_ok_and(|bound| bound.len() == 2), ok, "{taken}: {bound:?}");
        }
    }

    #[test]
    fn a_configured_port_that_is_taken_on_ipv6_is_an_error() {
        let bound =
            bind_with(Listen::localhost(80), |addr| addr.is_ipv6().then_some(io::ErrorKind::AddrInUse));
        assert_eq!(failed(bound), addrs(["[::1]:80"]));
    }

    fn failed(bound: Result<Vec<SocketAddr>, Vec<BindError>>) -> Vec<SocketAddr> {
        bound.unwrap_err().into_iter().map(|error| error.addr).collect()
    }

    #[test]
    fn a_configured_port_that_is_taken_on_both_is_named_with_both() {
        let error = |kind| bind_with(Listen::localhost(80), move |_| Some(kind));
        assert_eq!(failed(error(io::ErrorKind::AddrInUse)), addrs(["127.0.0.1:80", "[::1]:80"]));
        // Each address would say the same.
        assert_eq!(failed(error(io::ErrorKind::PermissionDenied)), addrs(["127.0.0.1:80"]));
        let mixed = |addr: SocketAddr| {
            Some(if addr.is_ipv6() { io::ErrorKind::AddrNotAvailable } else { io::ErrorKind::AddrInUse })
        };
        assert_eq!(failed(bind_with(Listen::localhost(80), mixed)), addrs(["127.0.0.1:80"]));
    }

    #[test]
    fn without_an_ipv6_loopback_address_localhost_is_ipv4() {
        let no_ipv6 = |addr: SocketAddr| addr.is_ipv6().then_some(io::ErrorKind::AddrNotAvailable);
        assert_eq!(bind_with(Listen::localhost(80), no_ipv6).unwrap(), addrs(["127.0.0.1:80"]));
    }

    #[test]
    fn an_error_names_the_address_and_says_what_to_do() {
        let held = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let text = bind(held.addr).unwrap_err().to_string();
        assert!(text.contains(&held.addr.to_string()) && text.contains("choose another port"), "{text}");
    }
}
