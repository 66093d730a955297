//! Connections to a peer.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpStream, ToSocketAddrs},
    time::timeout,
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
    /// The error of the operating system.
    #[source]
    pub source: io::Error,
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

/// Connects to `addr` in at most `within`, and sets what a long-lived connection needs: no delay of
/// small writes, TCP keep-alive, and an end after 30 s of unacknowledged bytes.
///
/// # Errors
/// When there is no connection.
pub async fn connect(addr: SocketAddr, within: Duration) -> Result<TcpStream, DialError> {
    let failed = |(stage, source)| DialError { peer: addr.to_string(), stage, source };
    dial(addr, within).await.map_err(failed)
}

/// As [`connect`], to a host name or an IP address as text. The addresses of a name are tried in turn.
///
/// # Errors
/// When the name has no address, or none of its addresses can be connected to.
pub async fn connect_host(host: &str, port: u16, within: Duration) -> Result<TcpStream, DialError> {
    let failed = |(stage, source)| DialError { peer: format!("{host}:{port}"), stage, source };
    dial((host, port), within).await.map_err(failed)
}

async fn dial(to: impl ToSocketAddrs, within: Duration) -> Result<TcpStream, (DialStage, io::Error)> {
    let stream = timeout(within, TcpStream::connect(to)).await.map_err(|_| {
        let source = io::Error::new(io::ErrorKind::TimedOut, format!("not within {within:?}"));
        (DialStage::TimedOut, source)
    })?;
    let stream = stream.map_err(|source| (DialStage::Connect, source))?;
    configure(&stream).map_err(|source| (DialStage::Configure, source))?;
    Ok(stream)
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

/// Whether `error` is about this machine and not about the peer: EMFILE, ENFILE, EADDRNOTAVAIL,
/// ENOBUFS, ENOMEM, and EPERM and EACCES, which a local firewall causes (Linux numbers).
pub fn is_own_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(24 | 23 | 99 | 105 | 12 | 1 | 13))
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

    #[test]
    fn shortages_of_this_machine_differ_from_failures_of_the_peer() {
        for (number, own) in [(24, true), (99, true), (1, true), (13, true), (111, false), (110, false)] {
            assert_eq!(is_own_shortage(&io::Error::from_raw_os_error(number)), own, "{number}");
        }
    }
}
