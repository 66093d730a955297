//! Discovery, with or without a proxy that picks from its snapshots.

use std::{sync::Arc, time::Duration};

use outrigger_config as config;
use outrigger_discovery::{Discovery, Follower, WatchReason};
use outrigger_proxy::{Proxy, Workers};
use outrigger_registry::Query;
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};

use super::{
    fixture::{LARGE, large, other},
    plan::{Reach, UpdateKind, UpdatePlan},
    registry::ScriptedRegistry,
};
use crate::{Error, clock::Stopwatch, error::doing, stats::Samples};

/// Between two updates: a watch with more than ten changes a second is slowed down on purpose, and the
/// proxy drops retired views after a second.
const PAUSE: Duration = Duration::from_millis(1300);
/// Long enough for every task that an update wakes; the thread sleeps for the rest of the time.
const SETTLE: Duration = Duration::from_millis(100);
/// Longest wait for anything.
const TIMEOUT: Duration = Duration::from_secs(120);

/// All parts of an update, on the runtime of the calling thread.
#[derive(Debug)]
pub(super) struct UpdateRig {
    registry: Arc<ScriptedRegistry>,
    discovery: Arc<Discovery>,
    large: Follower,
    /// Keeps the other services watched.
    others: Vec<Follower>,
    proxy: Option<Proxy>,
}

impl UpdateRig {
    /// Starts and waits for the first answers of all services.
    pub(super) async fn start(plan: UpdatePlan) -> Result<Self, Error> {
        let registry = Arc::new(ScriptedRegistry::new(large(UpdateKind::One, 0)));
        let metrics = prometheus::Registry::new();
        let discovery = Discovery::new(registry.clone(), settings(), Handle::current(), &metrics)
            .map_err(doing("set up discovery"))?;
        let proxy = match plan.reach {
            Reach::Snapshot => None,
            Reach::View => {
                let config = config(plan.services);
                let proxy = Proxy::bind(&config, discovery.clone(), &metrics, Workers::Threads(1));
                Some(proxy.map_err(doing("set up the proxy"))?)
            }
        };
        let follow = |service: &str| {
            let query = Query::new(service, None);
            discovery.follow(query, WatchReason::Declared).map_err(doing("follow a service"))
        };
        let others = (1..plan.services).map(|n| follow(&other(n))).collect::<Result<_, _>>()?;
        let rig = Self { registry, large: follow(LARGE)?, others, proxy, discovery };
        timeout(TIMEOUT, rig.first_answers()).await.map_err(doing("wait for the first answers"))?;
        Ok(rig)
    }

    async fn first_answers(&self) {
        for follower in self.others.iter().chain([&self.large]) {
            follower.first_answer().await;
        }
        if let Some(proxy) = &self.proxy {
            proxy.wait_for_first_answers().await;
        }
    }

    /// Milliseconds of processor time of each of `rounds` updates, after one that is not counted.
    pub(super) async fn samples(&self, change: UpdateKind, rounds: u32) -> Result<Samples, Error> {
        self.update(change, 0).await?;
        let mut samples = Vec::new();
        for round in 1..=rounds {
            samples.push(self.update(change, round).await?);
        }
        Ok(Samples::new(samples))
    }

    async fn update(&self, change: UpdateKind, round: u32) -> Result<f64, Error> {
        let asked = timeout(TIMEOUT, self.registry.wait_asked());
        asked.await.map_err(doing("wait for the watch's next query"))?;
        sleep(PAUSE).await;
        self.registry.prepare(large(change, round + 1));
        let version = self.large.snapshot().version + 1;

        let start = Stopwatch::start();
        self.registry.release();
        sleep(SETTLE).await;
        let took = start.elapsed();

        self.check_arrived(version)?;
        Ok(took.cpu.as_secs_f64() * 1e3)
    }

    /// Checks that the update has arrived: for an unfinished one the measured time would be too short.
    fn check_arrived(&self, version: u64) -> Result<(), Error> {
        let snapshot = self.large.snapshot().version;
        let view = self.proxy.as_ref().map_or(version, |proxy| {
            let clusters = proxy.status();
            clusters.iter().find(|cluster| cluster.service == LARGE).map_or(0, |cluster| cluster.version)
        });
        if (snapshot, view) == (version, version) {
            return Ok(());
        }
        Err(Error::new(format!(
            "find update {version} after {SETTLE:?}: the snapshot has version {snapshot}, the view {view}"
        )))
    }

    /// Stops all tasks and threads.
    pub(super) async fn stop(self) {
        if let Some(proxy) = &self.proxy {
            proxy.shutdown(Duration::ZERO).await;
        }
        self.discovery.shutdown().await;
    }
}

/// Declares every service; the system chooses the ports.
fn config(services: u32) -> config::Config {
    let upstream = |service: String| config::Upstream {
        service,
        listen: None,
        protocol: config::Protocol::default(),
        tls: None,
        tcp: config::TcpSettings::default(),
        hosts: Vec::new(),
        tags: Vec::new(),
        datacenter: None,
        policy: config::Policy { balance: config::Balance::Weighted, ..config::Policy::default() },
        traffic: config::TrafficRules::default(),
    };
    let base = config::Config::default();
    let listen = config::Listen { host: config::ListenHost::Ip([127, 0, 0, 1].into()), port: 0 };
    config::Config {
        discovery: settings(),
        outbound: config::Outbound { listen, ..base.outbound },
        upstreams: (1..services).map(other).chain([LARGE.to_owned()]).map(upstream).collect(),
        ..base
    }
}

fn settings() -> config::DiscoverySettings {
    config::DiscoverySettings {
        max_services: 10_000,
        max_unknown: 10_000,
        mass_loss: None,
        ..config::DiscoverySettings::default()
    }
}
