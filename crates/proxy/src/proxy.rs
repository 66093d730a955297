//! The handle: bind, start, look, stop.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_config as config;
use outrigger_discovery::{Discovery, Liveness};
use outrigger_registry::InstanceId;
use tokio::{
    runtime::Handle,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tracing::info;

use crate::{
    doors::{Door, Moved, Places},
    listener::{BindError, Bound},
    metrics::Metrics,
    session::{Rules, Shared},
    status::{self, ClusterStatus},
    upstream::directory::Directory,
    worker::{Crew, Order},
};

/// How often [`Proxy::shutdown`] looks whether requests are left.
const LOOK: Duration = Duration::from_millis(10);
/// Longest wait for workers to end after everything they carried has.
const STOP: Duration = Duration::from_secs(5);
/// How long connections of a listener that is gone may wait for their last request.
const LAST_CALL: Duration = Duration::from_secs(60);

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
    /// Sockets that are held and not served yet.
    bound: Mutex<Vec<Bound>>,
    doors: Mutex<Vec<Arc<Door>>>,
    /// Each ends the connections of a listener that is gone.
    closing: Mutex<JoinSet<()>>,
    control: Handle,
    sweep: JoinHandle<()>,
}

/// Settings that can be put in place: every new socket is held.
#[derive(Debug)]
pub struct Prepared {
    config: config::Config,
    places: Places,
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
        let places = Places::hold(config, &[])?;
        let families = Metrics::register(metrics)?;
        let control = Handle::current();
        let directory = Directory::new(config, discovery, families.clone(), control.clone(), threads.max(1));
        metrics.register(Box::new(status::Gauges::new(&directory)?))?;
        let shared = Arc::new(Shared {
            directory: directory.clone(),
            metrics: families,
            rules: ArcSwap::from_pointee(Rules::new(config)),
            connections: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        });
        let crew = Crew::start(threads, &shared).map_err(StartError::Worker)?;
        let sweep = control.spawn(directory.sweep());
        let (bound, doors, closing) = (Mutex::default(), Mutex::default(), Mutex::default());
        let proxy = Self { shared, crew, bound, doors, closing, control, sweep };
        let opened = proxy.move_to(places, config);
        lock(&proxy.bound).extend(opened);
        Ok(proxy)
    }

    /// Where requests by name are taken.
    pub fn outbound_addrs(&self) -> Vec<SocketAddr> {
        lock(&self.doors).iter().filter(|door| door.service().is_none()).map(|door| door.addr).collect()
    }

    /// The upstreams' own ports.
    pub fn upstream_addrs(&self) -> Vec<(String, SocketAddr)> {
        lock(&self.doors).iter().filter_map(|door| Some((door.service()?, door.addr))).collect()
    }

    /// Begins to serve. A second call does nothing.
    pub fn start(&self) {
        self.listen(std::mem::take(&mut *lock(&self.bound)));
    }

    fn listen(&self, bound: Vec<Bound>) {
        for one in bound {
            if let Some(worker) = self.crew.workers.first() {
                worker.order(Order::Listen(one));
            }
        }
    }

    /// Holds every socket that other settings need, so that what follows cannot fail; dropped, nothing
    /// has happened. One at a time: between this and [`Proxy::adopt`] no other may come.
    ///
    /// # Errors
    /// When an address is taken.
    pub fn prepare(&self, config: &config::Config) -> Result<Prepared, BindError> {
        let open = lock(&self.doors).clone();
        Ok(Prepared { places: Places::hold(config, &open)?, config: config.clone() })
    }

    /// Goes on by other settings: requests under way by those that they began with, the next ones by the
    /// new ones. Connections to instances, and what is known of these, stay; so do the app's connections,
    /// and where a listener is gone they end with an answer that says so. Takes 5 s at most, and that
    /// only where the registry does not answer for a service that is new.
    pub async fn adopt(&self, prepared: Prepared) {
        let Prepared { config, places } = prepared;
        self.shared.directory.adopt(&config).await;
        self.shared.rules.store(Arc::new(Rules::new(&config)));
        let opened = self.move_to(places, &config);
        for Bound { door, .. } in &opened {
            info!(addr = %door.addr, service = door.service(), "listening");
        }
        self.listen(opened);
    }

    /// Opens new doors and closes those that are none any more: what is to be listened on.
    fn move_to(&self, places: Places, config: &config::Config) -> Vec<Bound> {
        let before = lock(&self.doors).clone();
        let token = || self.crew.drain.child_token();
        let declared = |upstream: &config::Upstream| self.shared.directory.declared(upstream);
        let Moved { doors, opened, retired } = places.open(&config.upstreams, &before, declared, token);
        *lock(&self.doors) = doors;
        let mut closing = lock(&self.closing);
        while closing.try_join_next().is_some() {}
        for entrance in retired {
            entrance.retire();
            let last_call = async move {
                tokio::time::sleep(LAST_CALL).await;
                entrance.gate.cancel();
            };
            closing.spawn_on(last_call, &self.control);
        }
        opened.into_iter().map(|(door, socket)| Bound { socket, door }).collect()
    }

    /// Resolves when the registry has answered for every declared upstream. May never: put a time-out
    /// around it.
    pub async fn first_answers(&self) {
        for cluster in self.shared.directory.all() {
            if cluster.is_declared() {
                cluster.first_answer().await;
            }
        }
    }

    /// Every service in use, for a page.
    pub fn status(&self) -> Vec<ClusterStatus> {
        self.shared.directory.all().iter().map(|cluster| status::of(cluster)).collect()
    }

    /// What the traffic knows of instances, for discovery's guard against answers that lose them.
    pub fn evidence(&self) -> Arc<dyn Liveness> {
        Arc::new(Traffic(Arc::downgrade(&self.shared.directory)))
    }

    /// Requests and tunnels under way.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Relaxed)
    }

    /// Accepts nothing more; idle app connections are closed, the others end with their request.
    pub fn close_listeners(&self) {
        self.crew.drain.cancel();
        lock(&self.bound).clear();
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer this long ago still shows that an instance is there.
const LATELY: Duration = Duration::from_secs(5);

/// The proxy's word on instances. Weak: discovery must not keep alive what follows it.
#[derive(Debug)]
struct Traffic(Weak<Directory>);

impl Liveness for Traffic {
    fn recently_served(&self, id: &InstanceId) -> bool {
        self.0.upgrade().is_some_and(|directory| directory.well_within(id, LATELY, Instant::now()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.sweep.abort();
        self.shared.directory.close();
    }
}
