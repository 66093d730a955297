//! Accepts connections of the app, up to the limit.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use outrigger_net::{Acceptor, is_own_shortage};
use tokio::net::TcpStream;
use tracing::warn;

use crate::{
    context::{ListenerState, WorkerContext},
    downstream::reject_connection,
    listener::set::BoundListener,
    reason::Reason,
};

/// Pause after an accept that failed because file descriptors or memory ran out.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);
/// Connections above the limit that are rejected with a response at the same time; further ones are closed
/// without a response.
const MAX_REJECTIONS_UNDER_WAY: usize = 64;

/// An accepted connection, which is counted among the open ones.
#[derive(Debug)]
pub(crate) struct AcceptedConnection {
    /// Without a runtime: the worker that gets the connection registers the socket with its own.
    pub(crate) stream: std::net::TcpStream,
    /// The app's address.
    pub(crate) peer: SocketAddr,
    /// The address of the listener.
    pub(crate) listener_addr: SocketAddr,
    /// The state of the listener at the accept.
    pub(crate) state: Arc<ListenerState>,
}

/// Accepts until the listener stops. `open`: how many connections the workers have. `assign` gives them one more.
pub(crate) async fn run_acceptor(
    bound: BoundListener,
    worker: Arc<WorkerContext>,
    open: impl Fn() -> usize,
    assign: impl Fn(AcceptedConnection),
) {
    let BoundListener { socket, listener } = bound;
    let socket = match Acceptor::new(socket) {
        Ok(socket) => socket,
        Err(error) => return warn!(%error, "a listening socket could not be set up"),
    };
    let listener_addr = listener.addr;
    let hand_over = |stream, peer, state| assign(AcceptedConnection { stream, peer, listener_addr, state });
    // Acceptors share a worker, so that none adds a connection between this and `assign`.
    let check_room = |state: &ListenerState| {
        let most = state.settings.load().outbound.limits.max_connections;
        if open() < most { Ok(()) } else { Err(most) }
    };
    let mut rejections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(_) = rejections.join_next() => continue,
            () = listener.stop_accepting.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let state = listener.state.load_full();
                match check_room(&state) {
                    Ok(()) => hand_over(stream, peer, state),
                    Err(most) => {
                        worker.cells().record_refusal(Reason::TooManyConnections);
                        if rejections.len() < MAX_REJECTIONS_UNDER_WAY
                            && let Ok(stream) = TcpStream::from_std(stream)
                        {
                            rejections.spawn(reject_connection(stream.into(), most));
                        }
                    }
                }
            }
            Err(error) => {
                warn!(%error, "accept failed");
                if is_own_shortage(&error) {
                    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    }
    // A connection that the kernel has accepted already is served, not reset.
    while let Ok((stream, peer)) = socket.accept_queued() {
        let state = listener.state.load_full();
        if check_room(&state).is_ok() {
            hand_over(stream, peer, state);
        }
    }
    drop(socket);
    rejections.shutdown().await;
}
