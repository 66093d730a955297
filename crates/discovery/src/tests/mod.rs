//! Discovery with a registry that is scripted by the test, on tokio's paused clock.

mod cached;
mod contact;
mod events;
mod limits;
mod log_capture;
mod logs;
mod lookup;
mod metrics;
mod outages;
mod recheck;
mod sharing;
mod watch;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_events::Events;
use outrigger_registry::{
    Error, HealthStatus, Instance, InstanceId, Query, WatchAnswer,
    testing::{self, PendingQuery, ScriptedRegistry},
};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{Discovery, DiskCache, Follower, Liveness, ProbeFuture, WatchReason};

/// Reports the instances that the test names as alive; none at first.
#[derive(Debug, Default)]
struct ScriptedLiveness {
    accepting: Mutex<HashSet<SocketAddr>>,
    serving: Mutex<HashSet<String>>,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    /// How long a probe takes.
    delay: Mutex<Duration>,
}

impl ScriptedLiveness {
    fn set_accepting(&self, ids: &[&str]) {
        *self.accepting.lock().unwrap() = ids.iter().map(|id| addr(id)).collect();
    }

    fn set_serving(&self, ids: &[&str]) {
        *self.serving.lock().unwrap() = ids.iter().map(ToString::to_string).collect();
    }
}

/// A probe in progress; it may be cancelled.
struct RunningProbe<'a>(&'a ScriptedLiveness);

impl<'a> RunningProbe<'a> {
    fn begin(liveness: &'a ScriptedLiveness) -> Self {
        let at_once = liveness.at_once.fetch_add(1, Relaxed) + 1;
        liveness.most_at_once.fetch_max(at_once, Relaxed);
        Self(liveness)
    }
}

impl Drop for RunningProbe<'_> {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Relaxed);
    }
}

impl Liveness for ScriptedLiveness {
    fn accepts_connection<'a>(
        &'a self,
        addr: SocketAddr,
        others: &'a [SocketAddr],
        _within: Duration,
    ) -> ProbeFuture<'a> {
        self.asked.fetch_add(1, Relaxed);
        Box::pin(async move {
            let _running = RunningProbe::begin(self);
            let delay = *self.delay.lock().unwrap();
            if delay > Duration::ZERO {
                sleep(delay).await;
            }
            let accepting = self.accepting.lock().unwrap();
            std::iter::once(&addr).chain(others).any(|addr| accepting.contains(addr))
        })
    }

    fn recently_served(&self, _service: &str, id: &InstanceId) -> bool {
        self.serving.lock().unwrap().contains(&*id.id)
    }
}

/// A registry and the receiver of its queries; installs the capture of log lines.
fn scripted() -> (Arc<ScriptedRegistry>, mpsc::UnboundedReceiver<PendingQuery>) {
    log_capture::install();
    ScriptedRegistry::new()
}

/// A discovery and the receiver of its queries.
struct Rig {
    discovery: Arc<Discovery>,
    asked: mpsc::UnboundedReceiver<PendingQuery>,
    metrics: prometheus::Registry,
    liveness: Arc<ScriptedLiveness>,
    events: Events,
}

impl Rig {
    fn new() -> Self {
        Self::with(outrigger_config::DiscoverySettings::default())
    }

    fn with(settings: outrigger_config::DiscoverySettings) -> Self {
        Self::of(|registry, metrics, events| {
            Discovery::with_cache(registry, settings, Handle::current(), metrics, None, events)
        })
    }

    fn with_cache(cache: DiskCache) -> Self {
        let settings = outrigger_config::DiscoverySettings::default();
        Self::of(|registry, metrics, events| {
            Discovery::with_cache(registry, settings, Handle::current(), metrics, Some(cache), events)
        })
    }

    fn of(
        make: impl FnOnce(
            Arc<ScriptedRegistry>,
            &prometheus::Registry,
            Events,
        ) -> Result<Arc<Discovery>, prometheus::Error>,
    ) -> Self {
        let (registry, asked) = scripted();
        let (metrics, events) = (prometheus::Registry::new(), Events::default());
        let discovery = make(registry, &metrics, events.clone()).expect("metrics are new");
        let liveness = Arc::new(ScriptedLiveness::default());
        discovery.set_liveness(liveness.clone());
        Self { discovery, asked, metrics, liveness, events }
    }

    fn follow(&self, service: &str) -> Follower {
        self.discovery.follow(query(service), WatchReason::OnDemand).expect("within the quotas")
    }

    fn declare(&self, service: &str) -> Follower {
        self.discovery.follow(query(service), WatchReason::Declared).expect("never refused")
    }

    /// The next query; an hour without one fails the test.
    async fn next(&mut self) -> PendingQuery {
        timeout(Duration::from_secs(3600), self.asked.recv()).await.expect("a query").expect("a registry")
    }

    /// Follows `service` and answers its first query; the second one is pending.
    async fn follow_and_answer(&mut self, service: &str, answer: WatchAnswer) -> (Follower, PendingQuery) {
        let follower = self.follow(service);
        self.next().await.answer(answer);
        let next = self.next().await;
        (follower, next)
    }

    fn scrape(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.metrics.gather()).expect("text")
    }

    /// The value of the series that starts with `name` up to its last space.
    fn metric(&self, name: &str) -> Option<f64> {
        let scrape = self.scrape();
        let line = scrape.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(line.parse().expect("a number"))
    }
}

fn query(service: &str) -> Query {
    Query::new(service, None)
}

/// Each id has an address of its own.
fn addr(id: &str) -> SocketAddr {
    let port = id.bytes().fold(1_u16, |port, byte| port.wrapping_mul(31).wrapping_add(byte.into()));
    ([127, 0, 0, 1], port.max(1)).into()
}

fn instance(id: &str, status: HealthStatus) -> Instance {
    Instance { addr: Ok(addr(id)), ..testing::instance("n1", id, status) }
}

/// An answer that lists these ids, all passing.
fn list(index: u64, ids: &[&str]) -> WatchAnswer {
    let instances: Vec<_> = ids.iter().map(|id| instance(id, HealthStatus::Passing)).collect();
    testing::list(index, instances)
}

fn ids(follower: &Follower) -> Vec<String> {
    follower.snapshot().instances.iter().map(|instance| instance.id.id.to_string()).collect()
}

fn unreachable() -> Error {
    Error::Connect { address: "127.0.0.1:8500".into(), source: std::io::Error::other("refused by the test") }
}

fn no_leader() -> Error {
    let (request, text) = ("GET /v1/health/service/orders".into(), "No cluster leader".into());
    Error::Refused { request, status: 500, text, hint: None }
}

/// Lets every task that is ready run; moves the clock by 1 ms.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}
