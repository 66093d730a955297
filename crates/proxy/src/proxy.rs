//! The handle of a proxy: bind, start, reload, status, shut down.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd as _,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_config as config;
use outrigger_discovery::{Discovery, Liveness};
use outrigger_net::{Inherited, ListeningSocket};
use outrigger_registry::InstanceId;
use outrigger_task::essential;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tracing::info;

use crate::{
    context::{
        ConnectionInfo, ConnectionTable, DownstreamSettings, ListenerKind, ListenerState, ProxyContext,
        WorkerContext,
    },
    explain::{self, ExplainError, ExplainRequest, Explanation, RequestUrl},
    host,
    listener::{
        own::OwnListeners,
        set::{BoundListener, ListenErrors, Listener, ListenerChange, ListenerPlan},
        worker::{Command, WorkerPool},
    },
    metrics::{Metrics, collector, families},
    status::{self, ClusterStatus},
    upstream::manager::ClusterManager,
};

/// How often [`Proxy::shutdown`] checks whether requests are in flight.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Longest wait for the workers to end after their requests have ended.
const WORKER_STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the connections of a retired listener may wait for their last request.
const RETIRED_CONNECTION_TTL: Duration = Duration::from_secs(60);

/// Where the data plane runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// On the caller's runtime: for tests.
    CurrentRuntime,
    /// On this many threads, at least one.
    Threads(usize),
}

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Listeners could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenErrors),
    /// The registry of metrics has a metric of the same name.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
    /// No thread could be started.
    #[error("start a worker")]
    Worker(#[source] std::io::Error),
}

/// What was in flight at the end of a shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Requests and tunnels that were cut.
    pub aborted: usize,
}

/// A running proxy. Dropping it ends its workers without a wait.
#[derive(Debug)]
pub struct Proxy {
    context: Arc<ProxyContext>,
    workers: WorkerPool,
    /// Sockets that no acceptor serves yet.
    bound: Mutex<Vec<BoundListener>>,
    /// Nothing is accepted before [`Proxy::start`].
    is_held: AtomicBool,
    listeners: Mutex<Vec<Arc<Listener>>>,
    /// Where other servers of this process listen, by their name.
    other_listeners: Mutex<BTreeMap<&'static str, Vec<SocketAddr>>>,
    /// What the connections of every listener follow.
    downstream: Arc<ArcSwap<DownstreamSettings>>,
    /// Each task ends the connections of a retired listener.
    retirements: Mutex<JoinSet<()>>,
    control: Handle,
    sweep: JoinHandle<()>,
}

/// Settings that can be put in place without an error: every new socket is bound.
#[derive(Debug)]
pub struct PreparedSettings {
    config: config::Config,
    listeners: ListenerPlan,
}

impl Proxy {
    /// As [`Proxy::new`], and binds every socket. The kernel queues connections; none is served before
    /// [`Proxy::start`].
    ///
    /// # Errors
    /// As [`Proxy::new`], and when an address cannot be bound: all that cannot are named.
    pub fn bind(
        config: &config::Config,
        discovery: Arc<Discovery>,
        metrics: &prometheus::Registry,
        workers: Workers,
    ) -> Result<Self, StartError> {
        let plan = ListenerPlan::bind(config, &[], &Inherited::default())?;
        let proxy = Self::new(config, discovery, metrics, workers)?;
        proxy.hold();
        let opened = proxy.replace_listeners(plan, config);
        proxy.bound.lock().extend(opened);
        Ok(proxy)
    }

    /// Starts workers, and watches the declared services. It has no listener before [`Proxy::apply_settings`]. The
    /// tasks of the control plane run on the current runtime.
    ///
    /// # Errors
    /// When a thread cannot be started, or a metric's name is taken.
    pub fn new(
        config: &config::Config,
        discovery: Arc<Discovery>,
        metrics: &prometheus::Registry,
        workers: Workers,
    ) -> Result<Self, StartError> {
        let threads = match workers {
            Workers::CurrentRuntime => 0,
            Workers::Threads(count) => count.max(1),
        };
        let families = Metrics::new(threads)?;
        families::register(metrics, &families)?;
        let control = Handle::current();
        let clusters =
            ClusterManager::new(config, discovery, families.clone(), control.clone(), threads.max(1));
        collector::register(metrics, &clusters)?;
        let context = Arc::new(ProxyContext::new(clusters.clone(), families));
        let workers = WorkerPool::start(threads, &context).map_err(|error| {
            // Else its tasks would go on.
            clusters.close();
            StartError::Worker(error)
        })?;
        let sweep = control.spawn(essential("the sweep of idle connections and clusters", clusters.sweep()));
        Ok(Self {
            context,
            workers,
            bound: Mutex::default(),
            is_held: AtomicBool::new(false),
            listeners: Mutex::default(),
            other_listeners: Mutex::default(),
            downstream: Arc::new(ArcSwap::from_pointee(DownstreamSettings::new(config))),
            retirements: Mutex::default(),
            control,
            sweep,
        })
    }

    /// Sets the addresses on which another server of this process, `name`, listens. As the proxy's own, they are no
    /// instances of a service.
    pub fn set_other_listeners(&self, name: &'static str, addrs: Vec<SocketAddr>) {
        self.other_listeners.lock().insert(name, addrs);
        self.publish_own_listeners();
    }

    fn publish_own_listeners(&self) {
        self.context.clusters.set_own_listeners(OwnListeners::from_iter(self.own_addrs()));
    }

    /// Every address on which this process listens: the proxy's, and those of [`Proxy::set_other_listeners`].
    pub fn own_addrs(&self) -> Vec<SocketAddr> {
        let mut own: Vec<_> = self.listeners.lock().iter().map(|listener| listener.addr).collect();
        own.extend(self.other_listeners.lock().values().flatten());
        own
    }

    /// The addresses of the listeners where each request names its service.
    pub fn outbound_addrs(&self) -> Vec<SocketAddr> {
        self.listeners
            .lock()
            .iter()
            .filter(|listener| listener.service().is_none())
            .map(|listener| listener.addr)
            .collect()
    }

    /// The addresses of the listeners of one service, with its name.
    pub fn upstream_addrs(&self) -> Vec<(String, SocketAddr)> {
        self.listeners
            .lock()
            .iter()
            .filter_map(|listener| Some((listener.service()?, listener.addr)))
            .collect()
    }

    /// From now on the kernel queues connections, and none is served before [`Proxy::start`].
    pub fn hold(&self) {
        self.is_held.store(true, Relaxed);
    }

    /// Starts to serve. A second call does nothing.
    pub fn start(&self) {
        self.is_held.store(false, Relaxed);
        self.start_acceptors(std::mem::take(&mut *self.bound.lock()));
    }

    fn start_acceptors(&self, bound: Vec<BoundListener>) {
        if self.is_held.load(Relaxed) {
            return self.bound.lock().extend(bound);
        }
        for one in bound {
            if let Some(worker) = self.workers.workers.first() {
                worker.send(Command::Listen(one));
            }
        }
    }

    /// Binds every socket that new settings need, so that [`Proxy::apply_settings`] cannot fail. Dropping the
    /// result undoes it. No other call of `prepare` may come between this one and `apply_settings`.
    ///
    /// # Errors
    /// When an address cannot be bound: all that cannot.
    pub fn prepare(&self, config: &config::Config) -> Result<PreparedSettings, ListenErrors> {
        self.prepare_with(config, &Inherited::default())
    }

    /// As [`Proxy::prepare`]; takes the sockets of `inherited` that listen on new addresses.
    ///
    /// # Errors
    /// As [`Proxy::prepare`].
    pub fn prepare_with(
        &self,
        config: &config::Config,
        inherited: &Inherited,
    ) -> Result<PreparedSettings, ListenErrors> {
        let open = self.listeners.lock().clone();
        let listeners = ListenerPlan::bind(config, &open, inherited)?;
        Ok(PreparedSettings { listeners, config: config.clone() })
    }

    /// Puts new settings in place. Requests in flight keep the settings that they began with. Connections to
    /// instances, and their state, stay; the app's connections stay too, and those of a removed listener end
    /// with their next response. Takes at most 5 s, and only while the registry does not answer for a new
    /// service.
    pub async fn apply_settings(&self, prepared: PreparedSettings) {
        let PreparedSettings { config, listeners: plan } = prepared;
        self.context.clusters.apply_settings(&config).await;
        self.downstream.store(Arc::new(DownstreamSettings::new(&config)));
        let is_first = self.listeners.lock().is_empty();
        let opened = self.replace_listeners(plan, &config);
        for BoundListener { listener, .. } in opened.iter().filter(|_| !is_first) {
            info!(addr = %listener.addr, service = listener.service(), "listening");
        }
        self.start_acceptors(opened);
    }

    /// Puts `plan` in place; gives the new listeners, which no acceptor serves yet.
    fn replace_listeners(&self, plan: ListenerPlan, config: &config::Config) -> Vec<BoundListener> {
        let before = self.listeners.lock().clone();
        let token = || self.workers.drain.child_token();
        let declared = |upstream: &config::Upstream| self.context.clusters.declared_cluster(upstream);
        let ListenerChange { listeners, opened, retired } =
            plan.apply(config, &before, &self.downstream, declared, token);
        *self.listeners.lock() = listeners;
        self.publish_own_listeners();
        let mut retirements = self.retirements.lock();
        while retirements.try_join_next().is_some() {}
        for state in retired {
            state.retire();
            let wake = self.workers.waker();
            let shut_down = async move {
                tokio::time::sleep(RETIRED_CONNECTION_TTL).await;
                state.connections_shutdown.cancel();
                wake();
            };
            retirements.spawn_on(essential("the end of a retired listener", shut_down), &self.control);
        }
        opened
    }

    /// Resolves when the registry has answered for every declared upstream. This may never happen: the caller
    /// sets a timeout.
    pub async fn wait_for_first_answers(&self) {
        for cluster in self.context.clusters.clusters() {
            if cluster.is_declared() {
                cluster.wait_for_first_answer().await;
            }
        }
    }

    /// The state of every service in use.
    pub fn status(&self) -> Vec<ClusterStatus> {
        self.context.clusters.clusters().iter().map(|cluster| status::cluster_status(cluster)).collect()
    }

    /// What people should know of TLS to instances, as sentences.
    pub fn tls_warnings(&self) -> Vec<String> {
        self.context.clusters.clusters().iter().flat_map(|cluster| status::tls_warnings(cluster)).collect()
    }

    /// What a request would meet now; `origins` are those of the settings that are in place. It sends nothing, opens no service, counts nothing
    /// and takes no turn.
    ///
    /// # Errors
    /// No client would send it.
    pub fn explain(
        &self,
        request: &ExplainRequest,
        origins: &config::Origins,
    ) -> Result<Explanation, ExplainError> {
        let url = RequestUrl::parse(&request.url)?;
        explain::explain(request, &url, &self.connection_for(&url), origins)
    }

    /// A connection as the client of a URL would have it: to the listener with its port, else to one where each request names its
    /// service.
    fn connection_for(&self, url: &RequestUrl) -> ConnectionInfo {
        let ip = host::host_of(&url.authority).and_then(host::ip_of);
        let listeners = self.listeners.lock();
        let of_port = || listeners.iter().filter(|listener| listener.addr.port() == url.port);
        let found = of_port().find(|listener| Some(listener.addr.ip()) == ip).or_else(|| of_port().next());
        let found = found.or_else(|| listeners.iter().find(|listener| listener.service().is_none()));
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let local = match found.map(|listener| listener.addr) {
            Some(addr) if addr.ip().is_unspecified() => {
                SocketAddr::new(ip.unwrap_or_else(|| loopback.ip()), addr.port())
            }
            found => found.unwrap_or(loopback),
        };
        let listener = found.map(|listener| listener.state.load_full());
        let listener = listener.unwrap_or_else(|| {
            let token = self.workers.drain.child_token();
            ListenerState::new(ListenerKind::ByName, self.downstream.clone(), token)
        });
        let worker =
            WorkerContext { context: self.context.clone(), index: 0, table: ConnectionTable::default() };
        ConnectionInfo { worker: Arc::new(worker), listener, peer: loopback, local, is_http2: false }
    }

    /// Tells discovery which instances served requests lately, so that it can doubt an answer that loses them.
    pub fn liveness(&self) -> Arc<dyn Liveness> {
        Arc::new(TrafficLiveness(Arc::downgrade(&self.context.clusters)))
    }

    /// Requests and tunnels in flight.
    pub fn in_flight(&self) -> usize {
        let requests = self.context.metrics.workers.sum(|cells| &cells.in_flight);
        usize::try_from(requests).unwrap_or(usize::MAX)
    }

    /// Open connections of the app.
    pub fn open_connections(&self) -> usize {
        self.workers.connections()
    }

    /// Connections of the app that carry a request, or a part of one.
    pub fn active_connections(&self) -> usize {
        let active = self.context.metrics.workers.sum(|cells| &cells.active);
        usize::try_from(active).unwrap_or(usize::MAX)
    }

    /// Every listening socket, so that another process can get it.
    ///
    /// # Errors
    /// When files are used up.
    pub fn listening_sockets(&self) -> io::Result<Vec<ListeningSocket>> {
        let listeners = self.listeners.lock();
        let sockets = listeners.iter().filter_map(|listener| {
            let (key, socket) = listener.shared_socket()?;
            let socket = socket.as_fd().try_clone_to_owned();
            Some(socket.map(|socket| ListeningSocket {
                key,
                configured_addr: listener.configured_addr,
                socket,
            }))
        });
        sockets.collect()
    }

    /// Stops accepting, because another process accepts on the same sockets: the connections that they have queued are the
    /// other's. The open connections end with the response to their next request. Then waits until all have ended, at most `grace`.
    pub async fn hand_over_listeners(&self, grace: Duration) {
        for listener in &*self.listeners.lock() {
            listener.hand_over();
        }
        self.bound.lock().clear();
        let ended = async {
            while self.workers.connections() > 0 {
                tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(grace, ended).await;
    }

    /// Closes the listeners and the idle app connections; the other connections end with their request.
    pub fn close_listeners(&self) {
        self.workers.drain.cancel();
        self.workers.waker()();
        self.bound.lock().clear();
    }

    /// Closes the listeners, waits up to `grace` for the requests in flight, and ends everything.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        self.close_listeners();
        let done = async {
            while self.in_flight() > 0 || self.workers.connections() > 0 {
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

/// How recent a response is evidence that an instance runs.
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
