//! Connections to a peer.

use std::{io, net::SocketAddr, time::Duration};

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    fault::{self, Fault, RECENT_CONNECTS},
    files::is_held_back,
};

/// A silent peer is probed after this time, then every [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Sent bytes that stay unacknowledged for this time end the connection: the host is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// An address that is still silent after this time is not waited for before the next one is tried.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(300);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("connect to {peer}")]
pub struct DialError {
    /// The peer's address.
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
    connect_to_any(addr, &[], within, purpose, reaches_another).await
}

/// As [`connect_to_instance`], to an instance that has the addresses `others` as well, for a host that answers at one of them
/// only. Each has `within` of its own; see [`first_connected`].
///
/// # Errors
/// The error of `addr`, when there is no connection.
pub async fn connect_to_any(
    addr: SocketAddr,
    others: &[SocketAddr],
    within: Duration,
    purpose: Purpose,
    reaches_another: impl FnOnce() -> bool,
) -> Result<TcpStream, DialError> {
    let dialled = match others {
        [] => dial_instance(addr, within, purpose).await,
        others => first_connected(addr, others, |addr| dial_instance(addr, within, purpose)).await,
    };
    let now = Instant::now();
    dialled.map_err(|failed| {
        failed.at(addr.to_string(), |source| RECENT_CONNECTS.judge(addr, source, now, reaches_another))
    })
}

async fn dial_instance(addr: SocketAddr, within: Duration, purpose: Purpose) -> Result<TcpStream, Failed> {
    let stream = bounded(within, dial(addr, purpose == Purpose::Probe)).await?;
    let own = stream.local_addr().ok().map(|own| own.ip());
    RECENT_CONNECTS.record_connected(addr, own, Instant::now());
    Ok(stream)
}

/// The first connection to `addr` or one of `others`, which are tried in this order: the next one when the one before has failed,
/// or after 300 ms beside it (RFC 8305 §5, happy eyeballs). So an address that swallows packets uses up its own time only.
///
/// # Errors
/// The error of `addr`, when each has failed.
pub async fn first_connected<T, E, F>(
    addr: SocketAddr,
    others: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let mut attempts = JoinSet::new();
    let begin = |attempts: &mut JoinSet<_>, nth: usize, addr| {
        let attempt = connect(addr);
        // Contained: the panic is passed on below.
        attempts.spawn(async move { (nth, attempt.await) });
    };
    begin(&mut attempts, 0, addr);
    let mut next = others.iter().zip(1..).peekable();
    let mut earliest: Option<(usize, E)> = None;
    loop {
        let ended = tokio::select! {
            ended = attempts.join_next() => ended,
            () = sleep(NEXT_ADDRESS_AFTER), if next.peek().is_some() => None,
        };
        match ended {
            Some(Ok((_, Ok(connected)))) => return Ok(connected),
            Some(Ok((nth, Err(error)))) => {
                let (nth, error) = match earliest.take() {
                    Some(earlier) if earlier.0 < nth => earlier,
                    _ => (nth, error),
                };
                if attempts.is_empty() && next.peek().is_none() {
                    return Err(error);
                }
                earliest = Some((nth, error));
            }
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Some(Err(_)) => std::future::pending().await,
            None => {}
        }
        if let Some((addr, nth)) = next.next() {
            begin(&mut attempts, nth, *addr);
        }
    }
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
    async fn an_instance_that_answers_at_another_of_its_addresses_is_connected_to() {
        let bound = crate::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let closed = crate::reserve_addr();
        let stream =
            connect_to_any(closed, &[closed, bound.addr], LONG, Purpose::Traffic, || false).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), bound.addr);
        let error = connect_to_any(closed, &[closed], LONG, Purpose::Traffic, || false).await.unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::ConnectionRefused);
    }

    /// What an address of a test does, by its port.
    async fn scripted(addr: SocketAddr) -> Result<u16, u16> {
        match addr.port() {
            1..100 => sleep(LONG).await,
            _ => sleep(Duration::from_millis(100)).await,
        }
        if addr.port().is_multiple_of(2) { Ok(addr.port()) } else { Err(addr.port()) }
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_own_time() {
        let addrs = |ports: &[u16]| -> Vec<_> {
            ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
        };
        for (ports, expected, millis) in [
            (&[200][..], Ok(200), 100),
            // The first one hangs.
            (&[1, 200], Ok(200), 400),
            (&[1, 3, 5, 200], Ok(200), 1000),
            // The first one fails, and the next one does not wait.
            (&[201, 200], Ok(200), 200),
            // A late connection is one as well.
            (&[2, 201], Ok(2), 20_000),
            (&[201, 1, 203], Err(201), 20_100),
        ] {
            let from = tokio::time::Instant::now();
            let (first, others) = (addrs(&ports[..1])[0], addrs(&ports[1..]));
            assert_eq!(first_connected(first, &others, scripted).await, expected, "{ports:?}");
            assert_eq!(from.elapsed().as_millis(), millis, "{ports:?}");
        }
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
