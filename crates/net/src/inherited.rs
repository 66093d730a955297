//! Listening sockets that another process opened: an earlier run that hands them over, or a process manager.
//!
//! Such a socket never stops listening, so that no connection is refused while one process follows another: the
//! kernel queues what comes meanwhile. `SO_REUSEPORT` would be no replacement: each socket has a queue of its own then,
//! of which a close loses the connections, and a port that another program has taken is no error.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::{
        SocketType,
        sockopt::{set_tcp_nodelay, socket_acceptconn, socket_type},
    },
};

use crate::bind::{BindError, BoundSocket, bind};

/// A listening socket of this process, for another one to inherit.
#[derive(Debug)]
pub struct ListeningSocket {
    /// The setting that it is of: `outbound.listen`, `upstreams.orders.listen`.
    pub key: String,
    /// The address of that setting; with port 0 the system chose the port.
    pub configured_addr: SocketAddr,
    /// The socket.
    pub socket: OwnedFd,
}

/// A listening socket that another process opened; or a socket of datagrams that is bound.
#[derive(Debug)]
pub struct InheritedSocket {
    socket: InheritedKind,
    addr: SocketAddr,
    opened_for: Option<OpenedFor>,
}

#[derive(Debug)]
enum InheritedKind {
    Stream(TcpListener),
    Datagrams(UdpSocket),
}

/// What the socket was opened for, where its opener tells: finds the socket of a port that the system chose.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OpenedFor {
    key: String,
    configured_addr: SocketAddr,
}

impl InheritedSocket {
    /// The socket `fd`, non-blocking and closed when this process executes another program.
    ///
    /// # Errors
    /// When it is neither a TCP socket that listens nor a UDP socket.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let refused = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
        match socket_type(&fd)? {
            SocketType::STREAM if socket_acceptconn(&fd)? => {}
            SocketType::DGRAM => return Self::datagrams(fd),
            _ => return refused("it is no stream socket that listens"),
        }
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        let socket = TcpListener::from(fd);
        // An error for a socket of another family.
        let addr = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        // Accepted connections inherit it.
        set_tcp_nodelay(&socket, true)?;
        Ok(Self { socket: InheritedKind::Stream(socket), addr, opened_for: None })
    }

    fn datagrams(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        let socket = UdpSocket::from(fd);
        // An error for a socket of another family.
        let addr = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: InheritedKind::Datagrams(socket), addr, opened_for: None })
    }

    /// The same; its opener had opened it for the setting `key`, of which `configured_addr` is an address.
    #[must_use]
    pub fn opened_for(mut self, key: &str, configured_addr: SocketAddr) -> Self {
        self.opened_for = Some(OpenedFor { key: key.to_owned(), configured_addr });
        self
    }

    /// Whether the setting `key` means this socket by `addr`. Where the system is to choose the port, that is one that it chose for
    /// the same setting.
    fn is_meant_by(&self, key: &str, addr: SocketAddr) -> bool {
        if addr.port() != 0 {
            return self.addr == addr;
        }
        self.opened_for
            .as_ref()
            .is_some_and(|opened_for| opened_for.key == key && opened_for.configured_addr == addr)
    }
}

/// The sockets that were inherited and that no listener has taken yet. Dropping it closes them in this process.
#[derive(Debug, Default)]
pub struct Inherited(Mutex<Vec<InheritedSocket>>);

impl Inherited {
    /// These sockets.
    pub fn new(sockets: Vec<InheritedSocket>) -> Self {
        Self(Mutex::new(sockets))
    }

    /// The inherited socket that listens on `addr`, else a new one ([`bind`]). `key` is the setting that names the address.
    ///
    /// # Errors
    /// When there is none and the address cannot be listened on.
    pub fn take_or_bind(&self, key: &str, addr: SocketAddr) -> Result<BoundSocket, BindError> {
        let mut sockets = self.lock();
        let is_meant = |one: &InheritedSocket| {
            matches!(one.socket, InheritedKind::Stream(_)) && one.is_meant_by(key, addr)
        };
        match sockets.iter().position(is_meant).map(|at| sockets.swap_remove(at)) {
            Some(InheritedSocket { socket: InheritedKind::Stream(socket), addr, .. }) => {
                Ok(BoundSocket { socket, addr })
            }
            Some(InheritedSocket { socket: InheritedKind::Datagrams(_), .. }) | None => bind(addr),
        }
    }

    /// The inherited socket of datagrams that is bound to `addr`, if there is one. `key` is the setting that names the address.
    pub fn take_datagrams(&self, key: &str, addr: SocketAddr) -> Option<UdpSocket> {
        let mut sockets = self.lock();
        let is_meant = |one: &InheritedSocket| {
            matches!(one.socket, InheritedKind::Datagrams(_)) && one.is_meant_by(key, addr)
        };
        let at = sockets.iter().position(is_meant)?;
        match sockets.swap_remove(at).socket {
            InheritedKind::Datagrams(socket) => Some(socket),
            InheritedKind::Stream(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<InheritedSocket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of the sockets that are left.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.lock().iter().map(|one| one.addr).collect()
    }

    /// Closes the sockets that are left in this process, and gives their addresses.
    pub fn close(&self) -> Vec<SocketAddr> {
        self.lock().drain(..).map(|one| one.addr).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use outrigger_config::Listen;

    use super::*;
    use crate::bind_listen;

    fn opened(addr: &str) -> InheritedSocket {
        let fd = OwnedFd::from(TcpListener::bind(addr).unwrap());
        InheritedSocket::new(fd).unwrap()
    }

    #[test]
    fn a_socket_is_taken_by_its_address_and_others_are_bound() {
        let (one, other) = (opened("127.0.0.1:0"), opened("127.0.0.1:0"));
        let (addr, left) = (one.addr, other.addr);
        let waiting = TcpStream::connect(addr).unwrap();
        let inherited = Inherited::new(vec![other, one]);
        let taken = inherited.take_or_bind("outbound.listen", addr).unwrap();
        assert_eq!(taken.addr, addr);
        // What was queued before is not lost, and what is accepted sends without delay.
        let (accepted, peer) = crate::accept_queued(&taken.socket).unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());
        assert!(accepted.nodelay().unwrap());
        let bound = inherited.take_or_bind("outbound.listen", (addr.ip(), 0).into()).unwrap();
        assert_ne!(bound.addr, left, "another port of another setting is not taken");
        assert_eq!(inherited.addrs(), [left]);
        assert!(inherited.take_or_bind("outbound.listen", addr).is_err(), "taken once");
    }

    #[test]
    fn a_port_that_the_system_chose_is_found_by_its_setting() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let sockets =
            ["outbound.listen", "admin.listen"].map(|key| opened("127.0.0.1:0").opened_for(key, any));
        let addr = sockets[1].addr;
        let inherited = Inherited::new(sockets.into());
        assert_eq!(inherited.take_or_bind("admin.listen", any).unwrap().addr, addr);
        assert_eq!(inherited.addrs().len(), 1);
    }

    #[test]
    fn both_addresses_of_localhost_are_taken() {
        let bound =
            bind_listen(&Listen::localhost(0), |_, addr| bind(addr).map(|bound| (bound.socket, bound.addr)));
        let sockets: Vec<_> =
            bound.unwrap().into_iter().map(|socket| InheritedSocket::new(socket.into()).unwrap()).collect();
        let addrs: Vec<_> = sockets.iter().map(|one| one.addr).collect();
        let inherited = Inherited::new(sockets);
        let taken = bind_listen(&Listen::localhost(addrs[0].port()), |_, addr| {
            inherited.take_or_bind("outbound.listen", addr).map(|bound| (bound.addr, bound.addr))
        });
        assert_eq!(taken.unwrap(), addrs);
        assert!(inherited.addrs().is_empty());
    }

    #[test]
    fn a_socket_of_datagrams_is_taken_beside_a_listening_one_at_the_same_address() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let stream = opened("127.0.0.1:0").opened_for("dns.listen", any);
        let addr = stream.addr;
        let datagrams = std::net::UdpSocket::bind(addr).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"early", addr).unwrap();
        let datagrams = InheritedSocket::new(datagrams.into()).unwrap().opened_for("dns.listen", any);
        let inherited = Inherited::new(vec![datagrams, stream]);
        assert_eq!(inherited.take_or_bind("dns.listen", any).unwrap().addr, addr);
        let taken = inherited.take_datagrams("dns.listen", any).unwrap();
        assert_eq!(taken.local_addr().unwrap(), addr);
        let mut buffer = [0; 8];
        assert_eq!(taken.recv(&mut buffer).unwrap(), 5, "what was queued before is not lost");
        assert!(inherited.take_datagrams("dns.listen", any).is_none(), "taken once");
    }

    #[test]
    fn what_is_no_listening_tcp_socket_is_refused() {
        let connected = TcpStream::connect(opened("127.0.0.1:0").addr).unwrap();
        let (pair, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let other_family = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let all: [OwnedFd; 4] = [connected.into(), pair.into(), other_family.into(), file.into()];
        for fd in all {
            assert!(InheritedSocket::new(fd).is_err());
        }
    }
}
