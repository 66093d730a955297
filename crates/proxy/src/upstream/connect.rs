//! Makes a connection to an instance, and says in one word why there is none.

use std::{io, net::SocketAddr, time::Duration};

use outrigger_policy::Outcome;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// A silent peer is asked after this long, then every [`KEEPALIVE_EVERY`].
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
/// Sent bytes that stay unacknowledged for this long end the connection: the host is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// No connection.
#[derive(Debug, thiserror::Error)]
#[error("connect to {addr}")]
pub(crate) struct ConnectError {
    pub(crate) addr: SocketAddr,
    /// What it means for the attempt.
    pub(crate) outcome: Outcome,
    #[source]
    pub(crate) source: io::Error,
}

/// Connects, and sets what a long-lived connection needs.
pub(crate) async fn connect(addr: SocketAddr, within: Duration) -> Result<TcpStream, ConnectError> {
    let failed = |source: io::Error| ConnectError { addr, outcome: classify_connect_error(&source), source };
    let stream = match tokio::time::timeout(within, TcpStream::connect(addr)).await {
        Ok(stream) => stream.map_err(failed)?,
        Err(_) => {
            let source = io::Error::new(io::ErrorKind::TimedOut, format!("not within {within:?}"));
            return Err(ConnectError { addr, outcome: Outcome::ConnectTimeout, source });
        }
    };
    let socket = SockRef::from(&stream);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(3);
    // It was accepted: what fails from here on is our side's.
    let ours = |source: io::Error| ConnectError { addr, outcome: Outcome::Resource, source };
    socket.set_tcp_nodelay(true).map_err(ours)?;
    socket.set_tcp_keepalive(&keepalive).map_err(ours)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT)).map_err(ours)?;
    Ok(stream)
}

/// Whose fault a failed connection is. What this machine ran out of blames nobody else.
pub(crate) fn classify_connect_error(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::ConnectRefused,
        io::ErrorKind::TimedOut => Outcome::ConnectTimeout,
        _ if is_local_error(error) => Outcome::Resource,
        _ => Outcome::ConnectFailed,
    }
}

/// EMFILE, ENFILE, EADDRNOTAVAIL, ENOBUFS, ENOMEM, and EPERM and EACCES, by which this machine's own
/// firewall forbids it (Linux numbers).
pub(crate) fn is_local_error(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(24 | 23 | 99 | 105 | 12 | 1 | 13))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_shortages_blame_nobody() {
        for (number, outcome) in [
            (24, Outcome::Resource),
            (99, Outcome::Resource),
            (1, Outcome::Resource),
            (13, Outcome::Resource),
            (111, Outcome::ConnectRefused),
            (110, Outcome::ConnectTimeout),
            (113, Outcome::ConnectFailed),
        ] {
            assert_eq!(classify_connect_error(&io::Error::from_raw_os_error(number)), outcome, "{number}");
        }
    }
}
