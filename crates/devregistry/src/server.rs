//! The registry as a server: a handle that owns every task it starts.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{checks, http, store::Store};

#[cfg(test)]
mod tests;

/// Longest wait for open connections when shutting down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Pause after a failed accept: it fails again at once when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the registry is called, and how it differs from Consul's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevRegistryOptions {
    /// The node's name. Default `dev`.
    pub node_name: String,
    /// The datacenter's name. Default `dc1`.
    pub datacenter: String,
    /// Least time that a critical service is kept, whatever its check's
    /// `DeregisterCriticalServiceAfter` says. Default 1m, as Consul; tests may lower it.
    pub check_deregister_interval_min: Duration,
    /// How often services that have been critical for too long are removed. Default 30s, as Consul.
    pub check_reap_interval: Duration,
    /// How long the catalog is not told a check's output that changed while its status did not.
    /// Default 5m, as Consul.
    pub check_update_interval: Duration,
    /// Most connections from one address; the next is closed without a word, as Consul does.
    /// Default 200, as Consul.
    pub http_max_conns_per_client: usize,
    /// Most blocking queries at a time; the next is answered 503. Default 4096.
    pub max_blocking_queries: usize,
}

impl Default for DevRegistryOptions {
    fn default() -> Self {
        Self {
            node_name: "dev".to_owned(),
            datacenter: "dc1".to_owned(),
            check_deregister_interval_min: Duration::from_secs(60),
            check_reap_interval: Duration::from_secs(30),
            check_update_interval: Duration::from_secs(300),
            http_max_conns_per_client: 200,
            max_blocking_queries: 4096,
        }
    }
}

/// A running registry. Dropping it is a crash: connections break off, nothing is answered.
/// [`DevRegistry::shutdown`] is the orderly end.
#[derive(Debug)]
pub struct DevRegistry {
    shared: Arc<ServerContext>,
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
        let shared = Arc::new(ServerContext::new(options, addr));
        let tasks = vec![
            tokio::spawn(accept_connections(listener, Arc::clone(&shared))),
            tokio::spawn(checks::run_clock(Arc::clone(&shared))),
            tokio::spawn(checks::run_probes(Arc::clone(&shared))),
        ];
        Ok(Self { shared, tasks })
    }

    /// Where it listens: the real port.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Stops: blocked queries are answered at once with what they have, open requests get up to 2 s,
    /// then every task has ended.
    pub async fn shutdown(mut self) {
        self.shared.stopping.cancel();
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
        // The accept task owns the connections' tasks, the probing task the probes.
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What every task of the registry sees.
#[derive(Debug)]
pub(crate) struct ServerContext {
    pub(crate) options: DevRegistryOptions,
    pub(crate) addr: SocketAddr,
    pub(crate) stopping: CancellationToken,
    /// Taken by a blocking query while it blocks.
    pub(crate) blocking_slots: Semaphore,
    store: Mutex<Store>,
    changes: watch::Sender<()>,
    connections: Mutex<HashMap<IpAddr, usize>>,
}

impl ServerContext {
    fn new(options: DevRegistryOptions, addr: SocketAddr) -> Self {
        Self {
            store: Mutex::new(Store::new(&options, addr, now())),
            changes: watch::Sender::new(()),
            blocking_slots: Semaphore::new(options.max_blocking_queries.min(Semaphore::MAX_PERMITS)),
            connections: Mutex::default(),
            options,
            addr,
            stopping: CancellationToken::new(),
        }
    }

    /// Looks at the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&lock(&self.store))
    }

    /// Changes the state, now, and wakes whoever waits for changes.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Store, Instant) -> T) -> T {
        let answer = change(&mut lock(&self.store), now());
        self.changes.send_replace(());
        answer
    }

    /// Tells of every write from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// A connection's place in the count of its client's connections.
struct ConnectionSlot {
    shared: Arc<ServerContext>,
    ip: IpAddr,
}

impl ConnectionSlot {
    /// `None`: the client has as many as it may.
    fn acquire(shared: &Arc<ServerContext>, ip: IpAddr) -> Option<Self> {
        let mut connections = lock(&shared.connections);
        let count = connections.entry(ip).or_default();
        if *count >= shared.options.http_max_conns_per_client {
            return None;
        }
        *count += 1;
        Some(Self { shared: Arc::clone(shared), ip })
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut connections = lock(&self.shared.connections);
        if let Some(count) = connections.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.ip);
            }
        }
    }
}

async fn accept_connections(listener: TcpListener, shared: Arc<ServerContext>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match ConnectionSlot::acquire(&shared, peer.ip()) {
                    Some(place) => drop(connections.spawn(serve_connection(stream, place))),
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

async fn serve_connection(stream: TcpStream, place: ConnectionSlot) {
    let shared = &place.shared;
    // A blocked query's answer is one small packet that somebody waits for.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| http::respond(shared, request));
    let connection =
        http1::Builder::new().title_case_headers(true).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shared.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

/// tokio's clock, so that a test can pause it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Nobody panics with these locks held; if somebody did, the state is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
