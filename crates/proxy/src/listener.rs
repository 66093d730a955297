//! Sockets that the app connects to: bound first, accepted from later, shared out evenly.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tracing::warn;

use crate::{
    doors::Door,
    io::Line,
    serve,
    session::Shared,
    upstream::connect::is_local,
    worker::{Order, Worker},
};

/// Connections that the kernel keeps for us between two accepts.
const BACKLOG: i32 = 1024;
/// Pause after an accept that failed for want of files or memory: trying at once would only burn CPU.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections turned away at once with an answer; beyond, without.
const TURNED_AWAY: usize = 64;

/// A socket that listens, and the door that it is of.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: std::net::TcpListener,
    pub(crate) door: Arc<Door>,
}

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listen on {addr}{}", hint(source))]
pub struct BindError {
    /// Where.
    pub addr: SocketAddr,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl BindError {
    /// Somebody else has the address.
    pub(crate) fn is_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": the address is taken, by another sidecar perhaps; stop that one or choose another port"
        }
        io::ErrorKind::PermissionDenied => ": not allowed; ports below 1024 need a privilege",
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
        _ => "",
    }
}

/// Binds an address: the socket, and where it really is.
///
/// # Errors
/// When it cannot be had.
pub(crate) fn bind(addr: SocketAddr) -> Result<(std::net::TcpListener, SocketAddr), BindError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let socket: std::net::TcpListener = socket.into();
        let local = socket.local_addr()?;
        Ok((socket, local))
    };
    open().map_err(|source| BindError { addr, source })
}

/// Accepts until its door is closed, and gives each connection to the worker that has the fewest.
pub(crate) async fn accept(bound: Bound, workers: Arc<[Arc<Worker>]>, shared: Arc<Shared>) {
    let Bound { socket, door } = bound;
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return warn!(%error, "listener could not be set up"),
    };
    let mut turned_away = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = turned_away.join_next() => continue,
            () = door.closing.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => match admit(&shared) {
                Ok(()) => hand_over(stream.into_std(), peer, &door, &workers, &shared),
                Err(most) => {
                    shared.metrics.refused(crate::error::Reason::TooManyConnections);
                    if turned_away.len() < TURNED_AWAY {
                        turned_away.spawn(serve::turn_away(Line::new(stream), most));
                    }
                }
            },
            Err(error) => {
                warn!(%error, "accept failed");
                if is_local(&error) {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    // Whoever the kernel has let in already must not find a reset.
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, peer)) = listener.accept() {
            if admit(&shared).is_ok() {
                let stream = stream.set_nonblocking(true).map(|()| stream);
                hand_over(stream, peer, &door, &workers, &shared);
            }
        }
    }
    turned_away.shutdown().await;
}

/// Counts one connection more; with the limit where there are as many as there may be.
fn admit(shared: &Shared) -> Result<(), usize> {
    let most = shared.rules.load().outbound.limits.max_connections;
    if shared.connections.fetch_add(1, Relaxed) < most {
        return Ok(());
    }
    shared.connections.fetch_sub(1, Relaxed);
    Err(most)
}

/// Gives a counted connection to a worker.
fn hand_over(
    stream: io::Result<std::net::TcpStream>,
    peer: SocketAddr,
    door: &Door,
    workers: &[Arc<Worker>],
    shared: &Shared,
) {
    let fewest = workers.iter().min_by_key(|worker| worker.connections.load(Relaxed));
    let handed = fewest.zip(stream.ok()).is_some_and(|(worker, stream)| {
        worker.connections.fetch_add(1, Relaxed);
        worker.order(Order::Serve { stream, peer, entrance: door.entrance.load_full() })
    });
    if !handed {
        shared.connections.fetch_sub(1, Relaxed);
    }
}
