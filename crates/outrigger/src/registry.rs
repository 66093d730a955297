//! Opens the registry that the `registry` settings name, and its registrar where it has one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use outrigger_config as config;
use outrigger_discovery::DiskCache;
use outrigger_registration::{ClaimPlace, maintenance_path};
use outrigger_registry::{
    Kv, Locks, Registrar, Registration, Registry,
    consul::{Consul, NewCredentials, Observation, Observer},
    file::FileRegistry,
};
use prometheus::{
    IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
    register_histogram_vec_with_registry, register_int_counter_vec_with_registry,
};
use tracing::warn;

/// Bounds of the durations, seconds: from a local answer to the longest blocking query.
const DURATIONS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0, 60.0, 300.0];

/// A registry, ready for queries.
#[derive(Debug)]
pub(crate) struct OpenedRegistry {
    pub(crate) registry: Arc<dyn Registry>,
    /// `None`: the registry cannot register an instance.
    pub(crate) registrar: Option<Arc<dyn Registrar>>,
    /// `None`: a file of static instances.
    consul: Option<Arc<Consul>>,
}

impl OpenedRegistry {
    /// The keys and values beside its services. `None`: it is a file.
    pub(crate) fn kv(&self) -> Option<Arc<dyn Kv>> {
        self.consul.clone().map(|consul| consul as Arc<dyn Kv>)
    }

    /// The locks that it keeps. `None`: it is a file.
    pub(crate) fn locks(&self) -> Option<Arc<dyn Locks>> {
        self.consul.clone().map(|consul| consul as Arc<dyn Locks>)
    }

    /// Asks whether the registry accepts connections, by a new one. `None`: it is a file.
    pub(crate) async fn reach(&self) -> Option<Result<(), outrigger_registry::Error>> {
        Some(self.consul.as_ref()?.reach().await)
    }
}

/// Opens the registry. Connects to nothing.
pub(crate) fn open(
    settings: &config::Registry,
    metrics: &prometheus::Registry,
) -> Result<OpenedRegistry, Box<dyn std::error::Error + Send + Sync>> {
    match settings {
        config::Registry::File(path) => Ok(OpenedRegistry {
            registry: Arc::new(FileRegistry::open(path)?),
            registrar: None,
            consul: None,
        }),
        config::Registry::Consul(settings) => {
            let observer = Observer::new(exchange_recorder(metrics)?);
            let consul = Arc::new(Consul::with_observer(settings, observer)?);
            metrics.register(Box::new(WatchConnections::new(consul.clone())?))?;
            Ok(OpenedRegistry {
                registry: consul.clone(),
                registrar: Some(consul.clone()),
                consul: Some(consul),
            })
        }
    }
}

/// Reads the credentials of `new`, where they are other ones than those of `old`.
pub(crate) fn read_new_credentials(
    old: &config::Registry,
    new: &config::Registry,
) -> Result<Option<NewCredentials>, outrigger_registry::Error> {
    match (old, new) {
        (config::Registry::Consul(old), config::Registry::Consul(new)) if old.token != new.token => {
            Consul::read_credentials(new.token.as_ref()).map(Some)
        }
        _ => Ok(None),
    }
}

/// Puts in place what needs no restart.
pub(crate) fn apply_settings(
    opened: &OpenedRegistry,
    config: &config::Config,
    credentials: Option<NewCredentials>,
) {
    if let (Some(consul), config::Registry::Consul(settings)) = (&opened.consul, &config.registry) {
        consul.keep_connection_for_calls(!config.services.is_empty());
        consul.apply_settings(settings.wait, credentials);
    }
}

/// Why the last answers would not survive a restart. `None`: they would, or `state_dir: off` is set.
pub(crate) fn missing_state_dir(config: &config::Config, origins: &config::Origins) -> Option<&'static str> {
    let config::Registry::Consul(_) = config.registry else { return None };
    (config.state_dir.is_none() && !origins.is_set("state_dir"))
        .then_some("no state_dir is set, and none of STATE_DIRECTORY, XDG_STATE_HOME and HOME names a folder")
}

/// Opens the file that keeps the answers of a Consul across a restart. A file of static instances needs none.
/// Each sidecar of a machine has its own file, named after its first service and its port, or its outbound port, at the
/// start; a reload that changes these does not rename the file.
///
/// `after_another`: this process takes the place of another one, which writes the file until it ends.
pub(crate) fn open_disk_cache(
    config: &config::Config,
    origins: &config::Origins,
    after_another: bool,
) -> Option<DiskCache> {
    if let Some(reason) = missing_state_dir(config, origins) {
        warn!(
            reason,
            "learned instances will not survive a restart; if that is intended, set state_dir: off"
        );
    }
    let AnswersPlace { folder, name, source } = answers_place(config)?;
    let open = if after_another { DiskCache::open_after_another } else { DiskCache::open };
    Some(open(folder, &format!("table-{name}"), &source))
}

/// Where the answers of a Consul are kept across a restart. Each sidecar of a machine has its own files there.
#[derive(Debug)]
pub(crate) struct AnswersPlace<'a> {
    pub(crate) folder: &'a Path,
    /// In the names of the files: [`run_name`].
    pub(crate) name: String,
    /// What the answers are from, in the files.
    pub(crate) source: String,
}

/// `None`: no answers are kept, or the registry is a file.
pub(crate) fn answers_place(config: &config::Config) -> Option<AnswersPlace<'_>> {
    let config::Registry::Consul(consul) = &config.registry else { return None };
    let source = format!("consul {} {}", consul.address, consul.datacenter.as_deref().unwrap_or("-"));
    Some(AnswersPlace { folder: config.state_dir.as_deref()?, name: run_name(config)?, source })
}

/// What the next run with the same settings is known by, in the names of files. `None`: nothing but a port that the system chooses.
pub(crate) fn run_name(config: &config::Config) -> Option<String> {
    run_names(config).into_iter().next()
}

/// [`run_name`], and the names of a run with the same services in another order.
pub(crate) fn run_names(config: &config::Config) -> Vec<String> {
    let names = config.services.iter().map(|service| format!("{}-{}", service.name, service.port));
    let port = config.outbound.listen.port;
    let without_service = (config.services.is_empty() && port != 0).then(|| port.to_string());
    names.chain(without_service).collect()
}

/// The file that keeps the maintenance of a service across a restart.
pub(crate) fn maintenance_file_path(config: &config::Config, service: &config::Service) -> Option<PathBuf> {
    let folder = config.state_dir.as_deref()?;
    let plain = |service: &config::Service| maintenance_path(folder, &service.name, service.port);
    let path = plain(service);
    let is_shared = config.services.iter().filter(|other| plain(other) == path).count() > 1;
    match service.id.as_deref().filter(|_| is_shared) {
        Some(id) => Some(maintenance_path(folder, &format!("{}-{id}", service.name), service.port)),
        None => Some(path),
    }
}

/// Where is kept that this process was the first of those with the id of `registration`.
pub(crate) fn claim_place(config: &config::Config, registration: &Registration) -> Option<ClaimPlace> {
    let folder = config.state_dir.as_deref()?;
    Some(ClaimPlace::new(folder, &registration.id, &location(&config.registry)))
}

/// The address or file of the registry, for logs.
pub(crate) fn location(settings: &config::Registry) -> String {
    match settings {
        config::Registry::Consul(consul) => consul.address.to_string(),
        config::Registry::File(path) => path.display().to_string(),
    }
}

/// Counts and times the exchanges.
fn exchange_recorder(
    metrics: &prometheus::Registry,
) -> Result<impl Fn(Observation) + use<>, prometheus::Error> {
    let requests = register_int_counter_vec_with_registry!(
        "outrigger_registry_requests_total",
        "Exchanges with the registry that ended.",
        &["operation", "outcome"],
        metrics
    )?;
    let durations = register_histogram_vec_with_registry!(
        "outrigger_registry_request_duration_seconds",
        "Time from the question to the registry's answer, with the wait of a blocking query.",
        &["operation"],
        DURATIONS.to_vec(),
        metrics
    )?;
    Ok(move |Observation { operation, outcome, latency }: Observation| {
        requests.with_label_values(&[operation, outcome]).inc();
        durations.with_label_values(&[operation]).observe(latency.as_secs_f64());
    })
}

/// The load of the connections for watches, read at each scrape.
struct WatchConnections {
    consul: Arc<Consul>,
    gauge: IntGaugeVec,
}

impl WatchConnections {
    fn new(consul: Arc<Consul>) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "outrigger_registry_watch_connections",
            "Connections to the agent for watches: in use, waiting for one, and the limit.",
        );
        Ok(Self { consul, gauge: IntGaugeVec::new(opts, &["state"])? })
    }
}

impl Collector for WatchConnections {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let load = self.consul.watch_load();
        for (state, count) in [("in_use", load.in_use), ("waiting", load.waiting), ("limit", load.limit)] {
            self.gauge.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(metrics: &prometheus::Registry) -> String {
        prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap()
    }

    #[test]
    fn a_missing_state_dir_is_reported_unless_it_is_off_or_needless() {
        let file = "registry: {file: services.yaml}";
        for (text, env, missing) in [
            ("{}", vec![], true),
            ("{}", vec![("HOME", "/h")], false),
            ("{}", vec![("HOME", "relative")], true),
            ("state_dir: off", vec![], false),
            ("state_dir: /s", vec![], false),
            (file, vec![], false),
        ] {
            let env = env.iter().copied().collect();
            let loaded = config::load(Some(("c.yaml", text)), &env, &config::Overrides::default()).unwrap();
            let reason = missing_state_dir(&loaded.config, &loaded.origins);
            assert_eq!(reason.is_some(), missing, "{text} with {env:?}: {reason:?}");
        }
    }

    #[test]
    fn exchanges_are_counted_by_operation_and_outcome() {
        let metrics = prometheus::Registry::new();
        let latency = Duration::from_secs(3);
        exchange_recorder(&metrics).unwrap()(Observation { operation: "watch", outcome: "ok", latency });
        let text = text(&metrics);
        for line in [
            "outrigger_registry_requests_total{operation=\"watch\",outcome=\"ok\"} 1",
            "outrigger_registry_request_duration_seconds_sum{operation=\"watch\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_consul_has_a_registrar_and_a_metric_of_its_watch_connections() {
        let metrics = prometheus::Registry::new();
        let opened = open(&config::Registry::Consul(config::ConsulSettings::default()), &metrics).unwrap();
        assert!(format!("{:?}", opened.registry).starts_with("Consul"));
        assert!(opened.registrar.is_some());
        assert!(text(&metrics).contains("outrigger_registry_watch_connections{state=\"limit\"} 96"));
    }

    #[test]
    fn a_file_has_no_registrar_and_a_missing_file_is_named() {
        let metrics = prometheus::Registry::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("services.yaml");
        let error = open(&config::Registry::File(path.clone()), &metrics).unwrap_err();
        assert!(error.to_string().contains("services.yaml"), "{error}");

        std::fs::write(&path, "services:\n  orders:\n    - address: 127.0.0.1:9001\n").unwrap();
        if let Ok(opened) = open(&config::Registry::File(path), &metrics) {
            assert!(opened.registrar.is_none());
        }
    }
}
