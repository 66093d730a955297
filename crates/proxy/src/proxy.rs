//! The handle: bind, start, look, stop.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_config as config;
use outrigger_discovery::{Discovery, Liveness};
use outrigger_net::BindError;
use outrigger_registry::InstanceId;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tracing::info;

use crate::{
    context::ProxyContext,
    listener::{
        kind::{BoundListener, Listener},
        set::{ListenerChange, ListenerPlan},
        worker::{Command, WorkerPool},
    },
    metrics::{Metrics, collector},
    status::{self, ClusterStatus},
    upstream::manager::ClusterManager,
};

/// How often [`Proxy::shutdown`] looks whether requests are left.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Longest wait for workers to end after everything they carried has.
const WORKER_STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connections of a listener that is gone may wait for their last request.
const RETIRED_CONNECTION_TTL: Duration = Duration::from_secs(60);

/// Where the data plane runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// On the caller's runtime: for tests.
    CurrentRuntime,
    /// On this many threads of their own, at least one.
    Threads(usize),
}

/// Why the proxy could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The metrics registry holds families of our names already.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
    /// No thread could be started.
    #[error("start a worker")]
    Worker(#[source] std::io::Error),
}

/// What was left at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Requests and tunnels that were cut.
    pub aborted: usize,
}

/// A running proxy. Dropping it ends its workers without waiting.
#[derive(Debug)]
pub struct Proxy {
    context: Arc<ProxyContext>,
    workers: WorkerPool,
    /// Sockets that are held and not served yet.
    bound: Mutex<Vec<BoundListener>>,
    listeners: Mutex<Vec<Arc<Listener>>>,
    /// Each ends the connections of a listener that is gone.
    retirements: Mutex<JoinSet<()>>,
    control: Handle,
    sweep: JoinHandle<()>,
}

/// Settings that can be put in place: every new socket is held.
#[derive(Debug)]
pub struct PreparedSettings {
    config: config::Config,
    listeners: ListenerPlan,
}

impl Proxy {
    /// Binds every socket. They are held: the kernel queues connections, and nothing is served until
    /// [`Proxy::start`]. The current runtime becomes the one for the control plane's tasks.
    ///
    /// # Errors
    /// When an address is taken, a thread cannot be started, or metrics of our names are there.
    pub fn bind(
        config: &config::Config,
        discovery: Arc<Discovery>,
        metrics: &prometheus::Registry,
        workers: Workers,
    ) -> Result<Self, StartError> {
        let threads = match workers {
            Workers::CurrentRuntime => 0,
            Workers::Threads(count) => count.max(1),
        };
        let plan = ListenerPlan::bind(config, &[])?;
        let families = Metrics::register(metrics)?;
        let control = Handle::current();
        let clusters =
            ClusterManager::new(config, discovery, families.clone(), control.clone(), threads.max(1));
        collector::register(metrics, &clusters)?;
        let context = Arc::new(ProxyContext {
            clusters: clusters.clone(),
            metrics: families,
            connections: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        });
        let workers = WorkerPool::start(threads, &context).map_err(StartError::Worker)?;
        let sweep = control.spawn(clusters.sweep());
        let (bound, listeners, retirements) = (Mutex::default(), Mutex::default(), Mutex::default());
        let proxy = Self { context, workers, bound, listeners, retirements, control, sweep };
        let opened = proxy.replace_listeners(plan, config);
        proxy.bound.lock().extend(opened);
        Ok(proxy)
    }

    /// Where requests by name are taken.
    pub fn outbound_addrs(&self) -> Vec<SocketAddr> {
        self.listeners
            .lock()
            .iter()
            .filter(|listener| listener.service().is_none())
            .map(|listener| listener.addr)
            .collect()
    }

    /// The upstreams' own ports.
    pub fn upstream_addrs(&self) -> Vec<(String, SocketAddr)> {
        self.listeners
            .lock()
            .iter()
            .filter_map(|listener| Some((listener.service()?, listener.addr)))
            .collect()
    }

    /// Begins to serve. A second call does nothing.
    pub fn start(&self) {
        self.start_acceptors(std::mem::take(&mut *self.bound.lock()));
    }

    fn start_acceptors(&self, bound: Vec<BoundListener>) {
        for one in bound {
            if let Some(worker) = self.workers.workers.first() {
                worker.send(Command::Listen(one));
            }
        }
    }

    /// Holds every socket that other settings need, so that what follows cannot fail; dropped, nothing
    /// has happened. One at a time: between this and [`Proxy::apply_settings`] no other may come.
    ///
    /// # Errors
    /// When an address is taken.
    pub fn prepare(&self, config: &config::Config) -> Result<PreparedSettings, BindError> {
        let open = self.listeners.lock().clone();
        Ok(PreparedSettings { listeners: ListenerPlan::bind(config, &open)?, config: config.clone() })
    }

    /// Goes on by other settings: requests under way by those that they began with, the next ones by the
    /// new ones. Connections to instances, and what is known of these, stay; so do the app's connections,
    /// and where a listener is gone they end with an answer that says so. Takes 5 s at most, and that
    /// only where the registry does not answer for a service that is new.
    pub async fn apply_settings(&self, prepared: PreparedSettings) {
        let PreparedSettings { config, listeners: plan } = prepared;
        self.context.clusters.apply_settings(&config).await;
        let opened = self.replace_listeners(plan, &config);
        for BoundListener { listener, .. } in &opened {
            info!(addr = %listener.addr, service = listener.service(), "listening");
        }
        self.start_acceptors(opened);
    }

    /// Opens new doors and closes those that are none any more: what is to be listened on.
    fn replace_listeners(&self, plan: ListenerPlan, config: &config::Config) -> Vec<BoundListener> {
        let before = self.listeners.lock().clone();
        let token = || self.workers.drain.child_token();
        let declared = |upstream: &config::Upstream| self.context.clusters.declared_cluster(upstream);
        let ListenerChange { listeners, opened, retired } = plan.apply(config, &before, declared, token);
        *self.listeners.lock() = listeners;
        let mut retirements = self.retirements.lock();
        while retirements.try_join_next().is_some() {}
        for state in retired {
            state.retire();
            let shut_down = async move {
                tokio::time::sleep(RETIRED_CONNECTION_TTL).await;
                state.connections_shutdown.cancel();
            };
            retirements.spawn_on(shut_down, &self.control);
        }
        opened
    }

    /// Resolves when the registry has answered for every declared upstream. May never: put a time-out
    /// around it.
    pub async fn wait_for_first_answers(&self) {
        for cluster in self.context.clusters.clusters() {
            if cluster.is_declared() {
                cluster.wait_for_first_answer().await;
            }
        }
    }

    /// Every service in use, for a page.
    pub fn status(&self) -> Vec<ClusterStatus> {
        self.context.clusters.clusters().iter().map(|cluster| status::cluster_status(cluster)).collect()
    }

    /// What the traffic knows of instances, for discovery's guard against answers that lose them.
    pub fn liveness(&self) -> Arc<dyn Liveness> {
        Arc::new(TrafficLiveness(Arc::downgrade(&self.context.clusters)))
    }

    /// Requests and tunnels under way.
    pub fn in_flight(&self) -> usize {
        self.context.in_flight.load(Relaxed)
    }

    /// Accepts nothing more; idle app connections are closed, the others end with their request.
    pub fn close_listeners(&self) {
        self.workers.drain.cancel();
        self.bound.lock().clear();
    }

    /// Closes the listeners, waits up to `grace` for what is under way, and ends everything.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        self.close_listeners();
        let done = async {
            while self.in_flight() > 0 || self.context.connections.load(Relaxed) > 0 {
                tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(grace, done).await;
        let aborted = self.in_flight();
        self.workers.stop(WORKER_STOP_TIMEOUT).await;
        self.context.clusters.close();
        self.sweep.abort();
        ShutdownReport { aborted }
    }
}

/// An answer this long ago still shows that an instance is there.
const RECENT_SUCCESS: Duration = Duration::from_secs(5);

/// Reports to discovery which instances serve traffic. Weak, because the cluster manager keeps
/// discovery alive.
#[derive(Debug)]
struct TrafficLiveness(Weak<ClusterManager>);

impl Liveness for TrafficLiveness {
    fn recently_served(&self, service: &str, id: &InstanceId) -> bool {
        let clusters = self.0.upgrade();
        clusters.is_some_and(|all| all.recently_served(service, id, RECENT_SUCCESS, Instant::now()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.sweep.abort();
        self.context.clusters.close();
    }
}
