//! Listening sockets of a process manager (`LISTEN_FDS`, sd_listen_fds(3)): it opened them, and has them also while no sidecar runs.

use std::{io, os::fd::OwnedFd};

use listenfd::ListenFd;
use outrigger_net::{Inherited, InheritedSocket};

/// The variables of the protocol, which are for this process alone.
pub(crate) const VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// A socket of the process manager cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("socket {number} of the process manager (LISTEN_FDS) is no TCP socket that listens")]
pub(crate) struct ForeignSocket {
    number: usize,
    #[source]
    source: io::Error,
}

/// The sockets that this process was given; `None` where there are none. A second call gives none. Call it while there is one thread,
/// because it changes the environment.
///
/// # Errors
/// When one of them is no TCP socket that listens.
pub(crate) fn given_sockets() -> Result<Option<Inherited>, ForeignSocket> {
    let mut given = ListenFd::from_env();
    let mut sockets = Vec::new();
    for number in 0..given.len() {
        let socket = given.take_tcp_listener(number).and_then(|taken| {
            taken.map(|listener| InheritedSocket::new(OwnedFd::from(listener))).transpose()
        });
        sockets.extend(socket.map_err(|source| ForeignSocket { number, source })?);
    }
    Ok((!sockets.is_empty()).then(|| Inherited::new(sockets)))
}
