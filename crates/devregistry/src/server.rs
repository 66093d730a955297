//! The registry as a server: a handle that owns every task it starts.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use outrigger_task::essential;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    checks,
    http::{self, HttpContext},
    options::DevRegistryOptions,
    shared_store::SharedStore,
};

#[cfg(test)]
mod tests;

/// Longest wait for open connections when shutting down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Pause after a failed accept: it fails again at once when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running registry. Dropping it is like a crash: connections close without an answer. [`DevRegistry::shutdown`]
/// stops it in order.
#[derive(Debug)]
pub struct DevRegistry {
    context: Arc<HttpContext>,
    tasks: Vec<JoinHandle<()>>,
}

impl DevRegistry {
    /// Listens on `addr` (port 0: any free one) and answers from now on. Must be called on a tokio
    /// runtime with I/O and time.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(addr: SocketAddr, options: DevRegistryOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let store = Arc::new(SharedStore::new(&options, addr));
        let context = Arc::new(HttpContext::new(Arc::clone(&store), options, addr));
        let tasks = vec![
            tokio::spawn(essential(
                "the acceptor of the registry",
                accept_connections(listener, Arc::clone(&context)),
            )),
            tokio::spawn(essential("the clock of the registry", checks::run_clock(Arc::clone(&store)))),
            tokio::spawn(essential("the checks of the registry", checks::run_probes(store))),
        ];
        Ok(Self { context, tasks })
    }

    /// The bound address, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.context.addr
    }

    /// Waits until a client has asked the registry to leave (`PUT /v1/agent/leave`). It then takes no more connections.
    pub async fn left(&self) {
        self.context.store.stopping.cancelled().await;
    }

    /// Stops: blocked queries are answered at once with what they have, open requests get up to 2 s,
    /// then every task has ended.
    pub async fn shutdown(mut self) {
        self.context.store.stopping.cancel();
        for mut task in std::mem::take(&mut self.tasks) {
            if timeout(SHUTDOWN_GRACE + SHUTDOWN_GRACE, &mut task).await.is_err() {
                task.abort();
                // Only whether it has ended matters.
                let _ = task.await;
            }
        }
    }
}

impl Drop for DevRegistry {
    fn drop(&mut self) {
        // The accept task owns the tasks of the connections, the probe task those of the probes.
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Open connections by client address.
#[derive(Debug)]
struct ClientConnections {
    max_per_client: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// Counts one open connection of a client.
struct ConnectionSlot {
    connections: Arc<ClientConnections>,
    ip: IpAddr,
}

impl ConnectionSlot {
    /// `None`: the client has as many as it may.
    fn acquire(connections: &Arc<ClientConnections>, ip: IpAddr) -> Option<Self> {
        let mut open = connections.open.lock();
        let count = open.entry(ip).or_default();
        if *count >= connections.max_per_client {
            return None;
        }
        *count += 1;
        Some(Self { connections: Arc::clone(connections), ip })
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        if let Some(count) = open.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.ip);
            }
        }
    }
}

async fn accept_connections(listener: TcpListener, context: Arc<HttpContext>) {
    let max_per_client = context.options.http_max_conns_per_client;
    let open = Arc::new(ClientConnections { max_per_client, open: Mutex::default() });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = context.store.stopping.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match ConnectionSlot::acquire(&open, peer.ip()) {
                    // Contained: a panic ends one connection.
                    Some(slot) => drop(connections.spawn(serve_connection(stream, Arc::clone(&context), slot))),
                    None => debug!(%peer, "too many connections of this client, closed"),
                },
                Err(error) => {
                    warn!(%error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_GRACE, ended).await.is_err() {
        connections.shutdown().await;
    }
}

async fn serve_connection(stream: TcpStream, context: Arc<HttpContext>, _slot: ConnectionSlot) {
    let context = &*context;
    // The answer to a blocked query is one small packet, which must not be delayed.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| http::respond(context, request));
    let connection =
        http1::Builder::new().title_case_headers(true).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = context.store.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}
