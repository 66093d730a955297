//! The handle: bind, start, look, stop.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_config as config;
use outrigger_discovery::{Discovery, Evidence};
use outrigger_registry::InstanceId;
use tokio::{runtime::Handle, task::JoinHandle, time::Instant};

use crate::{
    listener::{self, BindError, Bound},
    metrics::Metrics,
    session::{Entrance, Shared},
    status::{self, ClusterStatus},
    upstream::{directory::Directory, pool::HeadLimits},
    worker::{Crew, Order},
};

/// How often [`Proxy::shutdown`] looks whether requests are left.
const LOOK: Duration = Duration::from_millis(10);
/// Longest wait for workers to end after everything they carried has.
const STOP: Duration = Duration::from_secs(5);

/// Where the data plane runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// On the caller's runtime: for tests.
    Here,
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
pub struct Stopped {
    /// Requests and tunnels that were cut.
    pub aborted: usize,
}

/// A running proxy. Dropping it ends its workers without waiting.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    crew: Crew,
    bound: Mutex<Vec<Bound>>,
    outbound: Vec<SocketAddr>,
    upstreams: Vec<(String, SocketAddr)>,
    sweep: JoinHandle<()>,
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
            Workers::Here => 0,
            Workers::Threads(count) => count.max(1),
        };
        let listening = listener::bind(&config.outbound.listen)?;
        let outbound = listening.iter().map(|(_, addr)| *addr).collect();
        let mut own_ports = Vec::new();
        for upstream in &config.upstreams {
            if let Some(listen) = &upstream.listen {
                own_ports.push((upstream, listener::bind(listen)?));
            }
        }
        let families = Metrics::register(metrics)?;
        let control = Handle::current();
        let directory = Directory::new(config, discovery, families.clone(), control.clone(), threads.max(1));
        metrics.register(Box::new(status::Gauges::new(&directory)?))?;
        let by_name = Arc::new(Entrance { cluster: None });
        let mut bound: Vec<Bound> =
            listening.into_iter().map(|(socket, _)| Bound { socket, entrance: by_name.clone() }).collect();
        let mut upstreams = Vec::new();
        for (upstream, sockets) in own_ports {
            let entrance = Arc::new(Entrance { cluster: directory.declared(upstream) });
            for (socket, addr) in sockets {
                upstreams.push((upstream.service.clone(), addr));
                bound.push(Bound { socket, entrance: entrance.clone() });
            }
        }
        let limits = &config.outbound.limits;
        let shared = Arc::new(Shared {
            directory: directory.clone(),
            metrics: families,
            heads: HeadLimits { bytes: limits.max_header_bytes, fields: limits.max_headers },
            outbound: config.outbound.clone(),
            unread: config
                .upstreams
                .iter()
                .map(|upstream| upstream.policy.body_idle)
                .fold(config.defaults.body_idle, Duration::max),
            access_log: config.log.access,
            connections: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        });
        let crew = Crew::start(threads, &shared).map_err(StartError::Worker)?;
        let sweep = control.spawn(directory.sweep());
        Ok(Self { shared, crew, bound: Mutex::new(bound), outbound, upstreams, sweep })
    }

    /// Where requests by name are taken.
    pub fn outbound_addrs(&self) -> &[SocketAddr] {
        &self.outbound
    }

    /// The upstreams' own ports.
    pub fn upstream_addrs(&self) -> &[(String, SocketAddr)] {
        &self.upstreams
    }

    /// Begins to serve. A second call does nothing.
    pub fn start(&self) {
        let bound = std::mem::take(&mut *self.bound.lock().unwrap_or_else(PoisonError::into_inner));
        for one in bound {
            if let Some(worker) = self.crew.workers.first() {
                worker.order(Order::Listen(one));
            }
        }
    }

    /// Resolves when the registry has answered for every declared upstream. May never: put a time-out
    /// around it.
    pub async fn first_answers(&self) {
        for cluster in self.shared.directory.all() {
            if cluster.declared {
                cluster.first_answer().await;
            }
        }
    }

    /// Every service in use, for a page.
    pub fn status(&self) -> Vec<ClusterStatus> {
        self.shared.directory.all().iter().map(|cluster| status::of(cluster)).collect()
    }

    /// What the traffic knows of instances, for discovery's guard against answers that lose them.
    pub fn evidence(&self) -> Arc<dyn Evidence> {
        Arc::new(Traffic(Arc::downgrade(&self.shared.directory)))
    }

    /// Requests and tunnels under way.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Relaxed)
    }

    /// Accepts nothing more; idle app connections are closed, the others end with their request.
    pub fn close_listeners(&self) {
        self.crew.drain.cancel();
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Closes the listeners, waits up to `grace` for what is under way, and ends everything.
    pub async fn shutdown(&self, grace: Duration) -> Stopped {
        self.close_listeners();
        let done = async {
            while self.in_flight() > 0 || self.shared.connections.load(Relaxed) > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(grace, done).await;
        let aborted = self.in_flight();
        self.crew.stop(STOP).await;
        self.shared.directory.close();
        self.sweep.abort();
        Stopped { aborted }
    }
}

/// An answer this long ago still shows that an instance is there.
const LATELY: Duration = Duration::from_secs(5);

/// The proxy's word on instances. Weak: discovery must not keep alive what follows it.
#[derive(Debug)]
struct Traffic(Weak<Directory>);

impl Evidence for Traffic {
    fn traffic_ok(&self, id: &InstanceId) -> bool {
        self.0.upgrade().is_some_and(|directory| directory.well_within(id, LATELY, Instant::now()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.sweep.abort();
        self.shared.directory.close();
    }
}
