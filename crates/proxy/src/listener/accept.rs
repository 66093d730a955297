//! Sockets that the app connects to: bound first, accepted from later, shared out evenly.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use outrigger_net::is_own_shortage;
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
};

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
                if is_own_shortage(&error) {
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
