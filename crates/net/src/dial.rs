//! Connections to a peer.

use std::{io, net::SocketAddr, time::Duration};

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::{Instant, timeout},
};

use crate::{
    address::format_host_port,
    fault::{self, Fault, RECENT_CONNECTS},
    files::is_held_back,
};

/// A silent peer is probed after this time, then every [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Sent bytes that stay unacknowledged for this time end the connection: the host is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("connect to {peer}")]
pub struct DialError {
    /// The peer's address, or its host name and port.
    pub peer: String,
    /// What failed.
    pub stage: DialStage,
    /// What the failure is about.
    pub fault: Fault,
    /// The error of the operating system.
    #[source]
    pub source: io::Error,
}

impl DialError {
    /// What to do about it on this machine; `None`: it is the peer's or the network's.
    pub fn cure(&self) -> Option<&'static str> {
        fault::cure(&self.source)
    }
}

/// The part of connecting that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialStage {
    /// The peer did not accept in the time allowed.
    TimedOut,
    /// The system or the peer refused the connection.
    Connect,
    /// The peer accepted; the socket's options could not be set on this side.
    Configure,
}

/// Why an instance is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// For requests: the files that are held back ([`crate::hold_back_files`]) are left to others.
    Traffic,
    /// To find out whether it accepts connections.
    Probe,
}

/// Connects to `addr` in at most `within`, and sets what a long-lived connection needs: no delay of
/// small writes, TCP keep-alive, and an end after 30 s of unacknowledged bytes.
///
/// # Errors
/// When there is no connection.
pub async fn connect(addr: SocketAddr, within: Duration) -> Result<TcpStream, DialError> {
    let dialled = bounded(within, dial(addr, true)).await;
    dialled.map_err(|failed| failed.at(addr.to_string(), Fault::of))
}

/// As [`connect`], to an instance of a service. Its failures are compared with the connections to other instances ([`Fault`]).
/// `reaches_another`: whether the caller can use another instance in its place. It is asked when this machine has no way to this
/// one, and has not connected to another one lately.
///
/// # Errors
/// When there is no connection; EMFILE also where a request finds only files that are held back.
pub async fn connect_to_instance(
    addr: SocketAddr,
    within: Duration,
    purpose: Purpose,
    reaches_another: impl FnOnce() -> bool,
) -> Result<TcpStream, DialError> {
    let dialled = bounded(within, dial(addr, purpose == Purpose::Probe)).await;
    let now = Instant::now();
    if let Ok(stream) = &dialled {
        RECENT_CONNECTS.record_connected(addr, stream.local_addr().ok().map(|own| own.ip()), now);
    }
    dialled.map_err(|failed| {
        failed.at(addr.to_string(), |source| RECENT_CONNECTS.judge(addr, source, now, reaches_another))
    })
}

/// As [`connect`], to a host name or an IP address as text. The addresses of a name are tried in turn.
///
/// # Errors
/// When the name has no address, or none of its addresses can be connected to.
pub async fn connect_host(host: &str, port: u16, within: Duration) -> Result<TcpStream, DialError> {
    let dialled = bounded(within, dial_host(host, port)).await;
    dialled.map_err(|failed| failed.at(format_host_port(host, port), Fault::of))
}

/// What [`DialError`] says, without the peer.
struct Failed {
    stage: DialStage,
    source: io::Error,
}

impl Failed {
    fn at(self, peer: String, judge: impl FnOnce(&io::Error) -> Fault) -> DialError {
        let Self { stage, source } = self;
        let fault = match stage {
            DialStage::TimedOut => Fault::Peer,
            DialStage::Connect => judge(&source),
            DialStage::Configure => Fault::OwnShortage,
        };
        DialError { peer, stage, fault, source }
    }
}

async fn bounded(
    within: Duration,
    dialled: impl Future<Output = Result<TcpStream, Failed>>,
) -> Result<TcpStream, Failed> {
    timeout(within, dialled).await.unwrap_or_else(|_| {
        let source = io::Error::new(io::ErrorKind::TimedOut, format!("not within {within:?}"));
        Err(Failed { stage: DialStage::TimedOut, source })
    })
}

async fn dial_host(host: &str, port: u16) -> Result<TcpStream, Failed> {
    let failed = |source| Failed { stage: DialStage::Connect, source };
    let mut last = None;
    for addr in lookup_host((host, port)).await.map_err(failed)? {
        match dial(addr, true).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    let no_address = || failed(io::Error::new(io::ErrorKind::InvalidInput, "the name has no address"));
    Err(last.unwrap_or_else(no_address))
}

async fn dial(addr: SocketAddr, may_use_held_back: bool) -> Result<TcpStream, Failed> {
    let connected = match open(addr, may_use_held_back) {
        Ok(socket) => socket.connect(addr).await,
        Err(error) => Err(error),
    };
    let stream = connected.map_err(|source| Failed { stage: DialStage::Connect, source })?;
    if is_own_peer(&stream) {
        // Reset, because a port in the state TIME-WAIT would be kept from the program that it belongs to.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return Err(Failed { stage: DialStage::Connect, source: Errno::CONNREFUSED.into() });
    }
    configure(&stream).map_err(|source| Failed { stage: DialStage::Configure, source })?;
    Ok(stream)
}

fn open(addr: SocketAddr, may_use_held_back: bool) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if !may_use_held_back && is_held_back(&socket) {
        return Err(Errno::MFILE.into());
    }
    Ok(socket)
}

/// Whether the socket is connected to itself. That happens on this machine where nothing listens on the peer's port and the system
/// gives the same port to the socket: two sides that connect to each other at the same time (RFC 9293 §3.5) are here one.
fn is_own_peer(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(own), Ok(peer)) if own == peer)
}

fn configure(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL).with_retries(3);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_refused_connection_is_an_error_of_the_connect_stage_that_names_the_peer() {
        let free = crate::bind("127.0.0.1:0".parse().unwrap()).unwrap().addr;
        let error = connect(free, LONG).await.unwrap_err();
        assert_eq!(
            (error.stage, error.source.kind()),
            (DialStage::Connect, io::ErrorKind::ConnectionRefused)
        );
        assert_eq!(error.to_string(), format!("connect to {free}"));
    }

    #[tokio::test]
    async fn a_socket_that_is_connected_to_itself_is_recognised() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let own = socket.local_addr().unwrap();
        assert!(is_own_peer(&socket.connect(own).await.unwrap()));
        let bound = crate::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(!is_own_peer(&connect(bound.addr, LONG).await.unwrap()));
    }

    #[tokio::test]
    async fn a_host_name_is_resolved() {
        let bound = crate::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let stream = connect_host("localhost", bound.addr.port(), LONG).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), bound.addr);
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_accept_is_an_error_of_the_timed_out_stage() {
        // A paused clock ends the time allowed before the handshake is seen.
        let bound = crate::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = connect(bound.addr, Duration::ZERO).await.unwrap_err();
        assert_eq!((error.stage, error.source.kind()), (DialStage::TimedOut, io::ErrorKind::TimedOut));
        assert_eq!(error.source.to_string(), "not within 0ns");
    }
}
