//! A sidecar's data path inside the test's process, on a file of static instances.
//!
//! Everything from the settings' text to the socket is the real thing; only the process around it
//! (registration, admin side, signals) is missing.
#![allow(clippy::expect_used, clippy::panic, reason = "a harness fails its test by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use outrigger_config::{Environment, Overrides};
use outrigger_discovery::Discovery;
use outrigger_events::{EventFilter, RecordedEvent};
use outrigger_proxy::{EndpointStatus, Proxy, Workers};
use tempfile::TempDir;

use crate::{
    client::{self, Client, Response},
    instance::Instance,
    wait,
};

/// What a file of static instances lists.
#[derive(Debug, Clone, Default)]
pub struct Services(BTreeMap<String, Vec<String>>);

impl Services {
    /// One service with these instances, in this order.
    pub fn of(service: &str, instances: &[&Instance]) -> Self {
        instances.iter().fold(Self::default().empty(service), |all, one| all.and(service, one, ""))
    }

    /// A service without instances, unless it has some.
    #[must_use]
    pub fn empty(mut self, service: &str) -> Self {
        self.0.entry(service.to_owned()).or_default();
        self
    }

    /// One more instance; `more` is further keys, as `weight: 3, tags: [v2]`.
    #[must_use]
    pub fn and(self, service: &str, instance: &Instance, more: &str) -> Self {
        self.and_at(service, instance.name(), instance.addr(), more)
    }

    /// One more instance, which may not exist.
    #[must_use]
    pub fn and_at(mut self, service: &str, id: &str, addr: SocketAddr, more: &str) -> Self {
        let (ip, port) = (addr.ip(), addr.port());
        let entry = format!("{{id: {id}, address: \"{ip}\", port: {port}, {more}}}");
        self.0.entry(service.to_owned()).or_default().push(entry);
        self
    }

    fn to_yaml(&self) -> String {
        let mut text = String::from("services:\n");
        for (service, entries) in &self.0 {
            let _ = writeln!(text, "  {service}: [{}]", entries.join(", "));
        }
        text
    }
}

/// A running data path. Stops when it is dropped.
#[derive(Debug)]
pub struct Sidecar {
    /// The handle under test.
    pub proxy: Proxy,
    discovery: Arc<Discovery>,
    metrics: prometheus::Registry,
    addr: SocketAddr,
    dir: TempDir,
}

impl Sidecar {
    /// Routes `orders` to these instances, by the defaults and `settings` (YAML without `registry`).
    pub async fn orders(settings: &str, instances: &[&Instance]) -> Self {
        Self::start(settings, &Services::of("orders", instances)).await
    }

    /// Routes to `services`, by the defaults and `settings` (YAML without `registry`; an `outbound`
    /// in it needs a `listen`).
    ///
    /// # Panics
    /// The settings are wrong, or something could not be started.
    pub async fn start(settings: &str, services: &Services) -> Self {
        Self::start_on(Workers::CurrentRuntime, settings, services).await
    }

    /// As [`Sidecar::start`], on these workers.
    ///
    /// # Panics
    /// The settings are wrong, or something could not be started.
    pub async fn start_on(workers: Workers, settings: &str, services: &Services) -> Self {
        let dir = tempfile::Builder::new().prefix("outrigger-e2e-").tempdir().expect("a directory");
        let file = dir.path().join("services.yaml");
        std::fs::write(&file, services.to_yaml()).expect("write services.yaml");
        let config = load_config(settings, &file);
        let registry =
            outrigger_registry::file::FileRegistry::open(&file).unwrap_or_else(|error| panic!("{error}"));
        let metrics = prometheus::Registry::new();
        let runtime = tokio::runtime::Handle::current();
        let discovery = Discovery::new(Arc::new(registry), config.discovery, runtime, &metrics)
            .expect("a discovery of our own metrics");
        let proxy = Proxy::bind(&config, Arc::clone(&discovery), &metrics, workers)
            .unwrap_or_else(|error| panic!("bind: {error}"));
        proxy.start();
        wait::within("the first answers of the declared services", proxy.wait_for_first_answers()).await;
        let addr = *proxy.outbound_addrs().first().expect("an outbound address");
        Self { proxy, discovery, metrics, addr, dir }
    }

    /// Goes on by other settings, written as for [`Sidecar::start`].
    ///
    /// # Panics
    /// They are wrong, or an address of theirs cannot be had.
    pub async fn apply_settings(&self, settings: &str) {
        let config = load_config(settings, &self.services_file());
        let prepared = self.proxy.prepare(&config).unwrap_or_else(|error| panic!("prepare: {error}"));
        self.discovery.apply_settings(config.discovery);
        wait::within("it goes by other settings", self.proxy.apply_settings(prepared)).await;
    }

    /// `kind instance: reason` of each event about `service`, with its count where it is above 1, in their order.
    pub fn events(&self, service: &str) -> Vec<String> {
        let filter = EventFilter { service: Some(service.to_owned()), kinds: Vec::new() };
        let all = self.discovery.events().page(&filter, None, usize::MAX).events;
        let line = |one: &RecordedEvent| {
            let (instance, count) = (one.instance().unwrap_or("-"), one.count);
            let line = format!("{} {instance}: {}", one.kind(), one.reason());
            if count > 1 { format!("{line} x{count}") } else { line }
        };
        all.iter().map(line).collect()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the upstream with a port of its own listens.
    ///
    /// # Panics
    /// There is none.
    pub fn upstream_addr(&self, service: &str) -> SocketAddr {
        let all = self.proxy.upstream_addrs();
        all.iter().find(|(name, _)| name == service).expect("an upstream with a port").1
    }

    /// A connection of the app's.
    pub async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, host: &str, target: &str) -> Response {
        client::get(self.addr, host, target).await
    }

    /// One exchange on a connection of its own.
    pub async fn exchange(&self, bytes: impl AsRef<[u8]>) -> Response {
        client::exchange(self.addr, bytes).await
    }

    /// The file of instances.
    pub fn services_file(&self) -> PathBuf {
        self.dir.path().join("services.yaml")
    }

    /// Replaces the file's text at once, as an editor does.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write_services_file(&self, text: &str) {
        let new = self.dir.path().join("services.yaml.new");
        std::fs::write(&new, text).expect("write services.yaml");
        std::fs::rename(new, self.services_file()).expect("replace services.yaml");
    }

    /// Lists other instances.
    pub fn write_services(&self, services: &Services) {
        self.write_services_file(&services.to_yaml());
    }

    /// The endpoints of a service, as the status page would show them.
    pub fn endpoints(&self, service: &str) -> Vec<EndpointStatus> {
        self.proxy
            .status()
            .into_iter()
            .filter(|cluster| cluster.service == service)
            .flat_map(|cluster| cluster.endpoints)
            .collect()
    }

    /// Waits until `service` has exactly these endpoints.
    pub async fn wait_endpoints(&self, service: &str, mut names: Vec<&str>) {
        names.sort_unstable();
        wait::until_true(&format!("{service} has the endpoints {names:?}"), || {
            let mut ids: Vec<String> =
                self.endpoints(service).into_iter().map(|e| instance_id(&e.id)).collect();
            ids.sort();
            ids == names
        })
        .await;
    }

    /// The sum of a metric's series that carry all these labels; 0 when there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.metrics.gather();
        let series = families.iter().filter(|family| family.name() == name).flat_map(|f| f.get_metric());
        series
            .filter(|metric| {
                labels.iter().all(|(label, value)| {
                    metric.get_label().iter().any(|pair| pair.name() == *label && pair.value() == *value)
                })
            })
            .map(|metric| {
                metric.get_counter().get_value()
                    + metric.get_gauge().get_value()
                    + f64::from(u32::try_from(metric.get_histogram().get_sample_count()).unwrap_or(u32::MAX))
            })
            .sum()
    }

    /// A page of its metrics, as `/metrics` shows it.
    ///
    /// # Panics
    /// The metrics cannot be encoded.
    pub fn scrape(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.metrics.gather()).expect("a page")
    }

    /// The values that a label has in a metric's series.
    pub fn label_values(&self, name: &str, label: &str) -> BTreeSet<String> {
        let families = self.metrics.gather();
        let series = families.iter().filter(|family| family.name() == name).flat_map(|f| f.get_metric());
        let labels = series.flat_map(|metric| metric.get_label());
        labels.filter(|pair| pair.name() == label).map(|pair| pair.value().to_owned()).collect()
    }

    /// Stops it, as at the end of a process, and says how many requests were cut.
    pub async fn stop(self, grace: Duration) -> usize {
        let stopped = wait::within("the data path stops", self.proxy.shutdown(grace)).await;
        wait::within("the watches stop", self.discovery.shutdown()).await;
        stopped.aborted
    }
}

/// Node and datacenter of a static instance say nothing.
fn instance_id(id: &str) -> String {
    id.rsplit('/').next().unwrap_or(id).to_owned()
}

fn load_config(settings: &str, file: &std::path::Path) -> outrigger_config::Config {
    let mut text = settings.to_owned();
    text.push('\n');
    let _ = writeln!(text, "registry: {{file: {:?}}}", file.display().to_string());
    for (section, value) in
        [("outbound", "{listen: \"127.0.0.1:0\"}"), ("admin", "{listen: \"127.0.0.1:0\"}")]
    {
        if !settings.lines().any(|line| line.starts_with(&format!("{section}:"))) {
            let _ = writeln!(text, "{section}: {value}");
        }
    }
    let loaded =
        outrigger_config::load(Some(("test.yaml", &text)), &Environment::default(), &Overrides::default());
    loaded.unwrap_or_else(|problems| panic!("{problems}\n{text}")).config
}
