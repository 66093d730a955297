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
    io::Line,
    listener::{
        set::Listener,
        worker::{Command, Worker},
    },
    serve,
    session::Shared,
    upstream::connect::is_local_error,
};

/// Connections that the kernel keeps for us between two accepts.
const BACKLOG: i32 = 1024;
/// Pause after an accept that failed for want of files or memory: trying at once would only burn CPU.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);
/// Connections turned away at once with an answer; beyond, without.
const MAX_REJECTIONS_UNDER_WAY: usize = 64;

/// A socket that listens, and the door that it is of.
#[derive(Debug)]
pub(crate) struct BoundListener {
    pub(crate) socket: std::net::TcpListener,
    pub(crate) listener: Arc<Listener>,
}

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listen on {addr}{}", bind_error_hint(source))]
pub struct BindError {
    /// Where.
    pub addr: SocketAddr,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl BindError {
    /// Somebody else has the address.
    pub(crate) fn is_addr_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

fn bind_error_hint(error: &io::Error) -> &'static str {
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
pub(crate) async fn run_acceptor(bound: BoundListener, workers: Arc<[Arc<Worker>]>, shared: Arc<Shared>) {
    let BoundListener { socket, listener } = bound;
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return warn!(%error, "listener could not be set up"),
    };
    let mut rejections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(_) = rejections.join_next() => continue,
            () = listener.stop_accepting.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => match try_count_connection(&shared) {
                Ok(()) => assign_to_worker(stream.into_std(), peer, &listener, &workers, &shared),
                Err(most) => {
                    shared.metrics.record_refusal(crate::reason::Reason::TooManyConnections);
                    if rejections.len() < MAX_REJECTIONS_UNDER_WAY {
                        rejections.spawn(serve::turn_away(Line::new(stream), most));
                    }
                }
            },
            Err(error) => {
                warn!(%error, "accept failed");
                if is_local_error(&error) {
                    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    }
    // Whoever the kernel has let in already must not find a reset.
    if let Ok(socket) = socket.into_std() {
        while let Ok((stream, peer)) = socket.accept() {
            if try_count_connection(&shared).is_ok() {
                let stream = stream.set_nonblocking(true).map(|()| stream);
                assign_to_worker(stream, peer, &listener, &workers, &shared);
            }
        }
    }
    rejections.shutdown().await;
}

/// Counts one connection more; with the limit where there are as many as there may be.
fn try_count_connection(shared: &Shared) -> Result<(), usize> {
    let most = shared.rules.load().outbound.limits.max_connections;
    if shared.connections.fetch_add(1, Relaxed) < most {
        return Ok(());
    }
    shared.connections.fetch_sub(1, Relaxed);
    Err(most)
}

/// Gives a counted connection to a worker.
fn assign_to_worker(
    stream: io::Result<std::net::TcpStream>,
    peer: SocketAddr,
    listener: &Listener,
    workers: &[Arc<Worker>],
    shared: &Shared,
) {
    let fewest = workers.iter().min_by_key(|worker| worker.connections.load(Relaxed));
    let handed = fewest.zip(stream.ok()).is_some_and(|(worker, stream)| {
        worker.connections.fetch_add(1, Relaxed);
        worker.send(Command::Serve { stream, peer, kind: listener.kind.load_full() })
    });
    if !handed {
        shared.connections.fetch_sub(1, Relaxed);
    }
}
