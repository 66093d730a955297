//! A sidecar under measurement: its open files, memory and requests in flight, read from outside before, during
//! and after a load that it must recover from.
//!
//! Its instances come from a file, so that no connection to a registry comes and goes meanwhile: the count
//! of its files is exact.

use std::{future::Future, net::SocketAddr, time::Duration};

use outrigger_tests::{
    client::Response,
    instance::{Answer, Instance, Request},
    load::{RequestResult, RequestResults},
    memory::resident_memory,
    process::Process,
    scrape::Scrape,
    usage, wait,
};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// The file that lists the instances.
const SERVICES_FILE: &str = "services.yaml";
/// Longest wait until all is released: idle connections to instances are closed after 4 s, and the
/// allocator gives back within a second.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(30);
/// Memory in bytes that may stay allocated: tables have grown, and the allocator keeps some pages.
const MAX_RETAINED: u64 = 4 << 20;
/// Longest exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(100);
/// Pause between two measurements.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Files and memory at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResourceUse {
    /// Open files.
    pub(crate) files: usize,
    /// Resident memory, bytes.
    pub(crate) memory: u64,
}

impl ResourceUse {
    /// The larger value of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { files: self.files.max(other.files), memory: self.memory.max(other.memory) }
    }

    /// KiB more than `before` for each of `count`.
    pub(crate) fn kib_each_since(&self, before: &Self, count: usize) -> u64 {
        self.memory.saturating_sub(before.memory) / 1024 / count.max(1) as u64
    }
}

/// The sidecar, and three instances of `orders`.
pub(crate) struct MeasuredSidecar {
    pub(crate) process: Process,
    pub(crate) instances: Vec<Instance>,
    /// Its settings, without the lines of the case.
    settings: String,
    dir: TempDir,
}

impl MeasuredSidecar {
    /// Instances that answer by `script`, a sidecar by the defaults and `settings` (lines of YAML).
    pub(crate) async fn start(settings: &str, script: fn(&Request) -> Answer) -> Self {
        let mut instances = Vec::new();
        for name in ["a", "b", "c"] {
            instances.push(Instance::scripted(name, script).await);
        }
        let dir = tempfile::Builder::new().prefix("chaos-held-").tempdir().expect("a directory");
        write_instances(&dir, &instances, &[]);
        let own = format!("registry: {{file: {:?}}}\n", dir.path().join(SERVICES_FILE));
        let process = Process::run(&format!("{own}upstreams: [{{service: orders}}]\n{settings}")).await;
        process.wait_ready().await;
        Self { process, instances, settings: own, dir }
    }

    /// Lists its instances, and others by their id.
    pub(crate) fn list_instances(&self, others: &[(String, SocketAddr)]) {
        write_instances(&self.dir, &self.instances, others);
    }

    /// Reloads other settings (lines of YAML), and returns the answer.
    pub(crate) async fn reload(&self, settings: &str) -> Response {
        self.process.write_settings(&format!("{}{settings}", self.settings));
        self.process.admin_post("/reload").await
    }

    /// Its files and memory now.
    pub(crate) fn resource_use(&self) -> ResourceUse {
        let pid = self.process.pid();
        ResourceUse { files: usage::open_files(pid), memory: resident_memory(Some(pid)) }
    }

    /// Its files and memory once nothing is open or under way, and its memory is stable.
    pub(crate) async fn wait_idle(&self) -> ResourceUse {
        let mut last = self.resource_use();
        let mut since = Instant::now();
        wait::until("the sidecar comes to rest", RELEASE_TIMEOUT, async || {
            let now = self.resource_use();
            if now.files != last.files || now.memory.abs_diff(last.memory) > 256 * 1024 {
                (last, since) = (now, Instant::now());
            }
            since.elapsed() > Duration::from_secs(1) && self.list_busy().await.is_empty()
        })
        .await;
        last
    }

    /// Waits until no more is held than `before`, when `peak` was held meanwhile: of the growth a quarter may
    /// stay. Else what is left.
    pub(crate) async fn wait_released(&self, before: ResourceUse, peak: ResourceUse) -> Result<(), String> {
        let most = before.memory + peak.memory.saturating_sub(before.memory) / 4 + MAX_RETAINED;
        let end = Instant::now() + RELEASE_TIMEOUT;
        loop {
            let (now, busy) = (self.resource_use(), self.list_busy().await);
            if now.files <= before.files && now.memory <= most && busy.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!(
                    "still held after {} s: {} files ({} before), {} KiB ({} before, {} meanwhile), {busy:?}",
                    RELEASE_TIMEOUT.as_secs(),
                    now.files,
                    before.files,
                    now.memory / 1024,
                    before.memory / 1024,
                    peak.memory / 1024
                ));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Retries so far.
    pub(crate) async fn retried(&self) -> f64 {
        let metrics = Scrape::parse(&self.process.admin_get("/metrics").await.text());
        metrics.sum("outrigger_retries_total", &[("why", "again")])
    }

    /// What is still open or under way, by the sidecar's metrics and admin page; empty when nothing is.
    async fn list_busy(&self) -> Vec<String> {
        let metrics = Scrape::parse(&self.process.admin_get("/metrics").await.text());
        let gauges = [
            ("outrigger_in_flight", &[][..]),
            ("outrigger_app_connections", &[("state", "active")][..]),
            ("outrigger_app_connections", &[("state", "parked")][..]),
            ("outrigger_pool_idle_connections", &[][..]),
        ];
        let open = gauges.iter().filter(|(gauge, labels)| metrics.sum(gauge, labels) != 0.0);
        let mut busy: Vec<_> = open.map(|(gauge, labels)| format!("{gauge} {labels:?}")).collect();
        let services = self.process.admin_get("/services").await.json();
        let instances: Vec<_> = services["services"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|service| service["instances"].as_array().into_iter().flatten())
            .collect();
        if instances.len() != self.instances.len() {
            busy.push(format!("the page shows {} instances", instances.len()));
        }
        for one in instances.iter().filter(|one| one["in_flight"] != 0 || one["connections"] != 0) {
            busy.push(format!("{}: {} in flight on {}", one["id"], one["in_flight"], one["connections"]));
        }
        busy
    }

    /// `count` exchanges at once, each by a `client` of its own: what came of them, and the most that was held
    /// meanwhile.
    pub(crate) async fn run_clients<C>(
        &self,
        count: usize,
        method: &'static str,
        client: impl Fn() -> C,
    ) -> (RequestResults, ResourceUse)
    where
        C: Future<Output = Result<(), String>> + Send + 'static,
    {
        let begun = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..count {
            let client = client();
            clients.spawn(async move {
                let ended = timeout(EXCHANGE_TIMEOUT, client).await;
                let failed =
                    ended.unwrap_or_else(|_| Err(format!("not over within {EXCHANGE_TIMEOUT:?}"))).err();
                (begun.elapsed(), failed)
            });
        }
        let (mut answers, mut peak) = (Vec::new(), self.resource_use());
        while !clients.is_empty() {
            if let Ok(Some(ended)) = timeout(POLL_INTERVAL, clients.join_next()).await {
                let (took, failed) = ended.expect("a client does not panic");
                answers.push(RequestResult { id: 0, method, due: Duration::ZERO, took, failed });
            } else {
                peak = peak.max(self.resource_use());
            }
        }
        (RequestResults(answers), peak)
    }
}

/// Replaces the list of instances at once.
fn write_instances(dir: &TempDir, instances: &[Instance], others: &[(String, SocketAddr)]) {
    let own = instances.iter().map(|one| one.addr().to_string());
    let others =
        others.iter().map(|(id, at)| format!("{{id: {id}, address: {}, port: {}}}", at.ip(), at.port()));
    let list: Vec<_> = own.chain(others).collect();
    let new = dir.path().join("services.yaml.new");
    std::fs::write(&new, format!("services: {{orders: [{}]}}", list.join(", ")))
        .expect("write the instances");
    std::fs::rename(new, dir.path().join(SERVICES_FILE)).expect("replace the instances");
}
