//! What lives as long as the process, and what the admin pages may ask of it.

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use outrigger_config::{Config, ConfigFile, LoadedConfig, escape_control};
use outrigger_discovery::{Discovery, RegistryContact, ServiceStatus, unix_time};
use outrigger_dns::DnsServer;
use outrigger_events::Events;
use outrigger_locks::{BootClock, LockManager, LocksOverview};
use outrigger_net::Inherited;
use outrigger_proxy::{ClusterStatus, ExplainError, ExplainRequest, Explanation, Proxy, Workers};
use outrigger_registration::{
    Lifecycle, PropagationMonitor, RegistrationPlan, build_registration, host_name,
};
use outrigger_registry::Locks;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{app_config::AppConfigParts, error::StartError, receipts::instance_id};
use crate::{
    admin::AdminBackend,
    config_files::{AppFiles, FileSummary, KvContent, RestartSummary},
    network::NetworkStatus,
    process::AppControl,
    registry::{self, OpenedRegistry},
    reload::{ConfigSource, ReloadHandle, ReloadResult},
    telemetry::LogControl,
};

/// What another process has left for a start.
#[derive(Debug, Default)]
pub struct StartFrom {
    /// Its listening sockets.
    pub inherited: Inherited,
    /// It still serves: nothing is accepted before [`App::take_place`](super::App::take_place).
    pub is_after_another: bool,
    /// This process starts the app and ends it.
    pub runs_app: bool,
}

/// The settings that are in place.
#[derive(Debug)]
pub(super) struct ActiveConfig {
    pub(super) loaded: LoadedConfig,
    /// The text of `/config`.
    page: Arc<str>,
}

impl ActiveConfig {
    pub(super) fn new(loaded: LoadedConfig) -> Self {
        let page = outrigger_config::render(&loaded.config, &loaded.origins).into();
        Self { loaded, page }
    }
}

/// The parts of a running sidecar that no settings replace.
#[derive(Debug)]
pub(super) struct Components {
    pub(super) proxy: Arc<Proxy>,
    pub(super) discovery: Arc<Discovery>,
    pub(super) dns: DnsServer,
    pub(super) lifecycle: Lifecycle,
    pub(super) network: NetworkStatus,
    pub(super) registry: OpenedRegistry,
    /// Absent: the registry keeps none.
    pub(super) locks: Option<LockManager>,
    /// Absent: the registry has no keys.
    pub(super) app_config: Option<AppConfigParts>,
    pub(super) metrics: prometheus::Registry,
    pub(super) events: Events,
    pub(super) app_started: CancellationToken,
    /// The app that the sidecar runs.
    pub(super) app_control: Arc<AppControl>,
    /// This process starts it and ends it.
    pub(super) runs_app: bool,
    pub(super) files: AppFiles,
    /// Sockets that another process opened, for the first settings.
    pub(super) inherited: Inherited,
    /// Cancelled: the admin side accepts.
    pub(super) accepts: CancellationToken,
    /// Where the listeners of the admin side are served.
    pub(super) admin_thread: Handle,
    pub(super) reload_handle: ReloadHandle,
    pub(super) config_source: OnceLock<ConfigSource>,
    pub(super) log_control: OnceLock<LogControl>,
    /// Absent before the first settings are in place.
    pub(super) active_config: Mutex<Option<ActiveConfig>>,
}

impl Components {
    /// Opens what `settings` name of those that need a restart, and starts what needs no socket. The rest of
    /// the settings is put in place by the caller. The start learns until `first_documents` resolves, too.
    pub(super) fn open(
        settings: &LoadedConfig,
        workers: Workers,
        metrics: prometheus::Registry,
        admin_thread: Handle,
        reload_handle: ReloadHandle,
        first_documents: impl Future<Output = ()> + Send + 'static,
        from: StartFrom,
    ) -> Result<Self, StartError> {
        let LoadedConfig { config, origins, .. } = settings;
        let opened = registry::open(&config.registry, &metrics).map_err(|error| StartError::Registry {
            place: registry::location(&config.registry),
            source: error,
        })?;
        let cache = registry::open_disk_cache(config, origins, from.is_after_another);
        let runtime = Handle::current();
        let source = opened.registry.clone();
        let events = Events::new(unix_time);
        let discovery =
            Discovery::with_cache(source, config.discovery, runtime, &metrics, cache, events.clone())?;
        let proxy = Proxy::new(config, discovery.clone(), &metrics, workers).map_err(StartError::Outbound)?;
        let proxy = Arc::new(proxy);
        let accepts = CancellationToken::new();
        if from.is_after_another {
            proxy.hold();
        } else {
            accepts.cancel();
        }
        let dns = DnsServer::new(discovery.clone(), &metrics, accepts.clone())?;
        discovery.set_liveness(proxy.liveness());
        discovery.start_contact_check();
        let learner = proxy.clone();
        let first_answers = async move {
            tokio::join!(learner.wait_for_first_answers(), first_documents);
        };
        let propagation = PropagationMonitor::new(config.drain, Some(discovery.clone()));
        let lifecycle = Lifecycle::start(first_answers, propagation, events.clone());
        lifecycle.register_metrics(&metrics)?;
        let network = NetworkStatus::register(&metrics)?;
        let locks = opened.locks().map(|locks| open_locks(locks, config, events.clone())).transpose()?;
        if let Some(locks) = &locks {
            locks.register_metrics(&metrics)?;
        }
        let app_control = Arc::<AppControl>::default();
        let files = AppFiles::new(app_control.clone(), events.clone(), &metrics)?;
        if let Some(locks) = locks.clone().filter(|_| from.runs_app) {
            files.start_restarts(lifecycle.handle().clone(), locks);
        }
        let app_config = AppConfigParts::open(&opened, config, events.clone(), &metrics)?;
        Ok(Self {
            proxy,
            discovery,
            dns,
            lifecycle,
            network,
            registry: opened,
            locks,
            metrics,
            events,
            app_started: CancellationToken::new(),
            app_control,
            runs_app: from.runs_app,
            files,
            app_config,
            inherited: from.inherited,
            accepts,
            admin_thread,
            reload_handle,
            config_source: OnceLock::new(),
            log_control: OnceLock::new(),
            active_config: Mutex::default(),
        })
    }

    /// The settings that are in place. Absent before the first.
    pub(super) fn active(&self) -> Option<LoadedConfig> {
        self.active_config.lock().as_ref().map(|active| active.loaded.clone())
    }

    /// Follows the app's configuration, and keeps its files, by these settings.
    pub(super) fn apply_app_config(&self, config: &Config) {
        let Some(parts) = &self.app_config else { return };
        parts.apply_settings(config);
        let settings = &config.api.config;
        let open = |file: &ConfigFile| KvContent::open(&parts.watches, parts.merged.state(), file);
        self.files.apply(&settings.files, &settings.sources, open);
    }

    /// `api.token_file` of the settings that are in place.
    pub(super) fn api_token_file(&self) -> Option<PathBuf> {
        self.active_config.lock().as_ref()?.loaded.config.api.token_file.clone()
    }

    /// What these settings ask to register, one for each service. Empty: no service is configured, or the registry
    /// registers nothing.
    pub(super) fn registration_plans(&self, config: &Config) -> Vec<RegistrationPlan> {
        let Some(registrar) = &self.registry.registrar else { return Vec::new() };
        let plan = |service| {
            let registration = build_registration(service, &host_name());
            RegistrationPlan {
                app_started: self.app_started.clone(),
                registrar: registrar.clone(),
                claim: registry::claim_place(config, &registration),
                registration,
                probe: service.health.clone(),
                maintenance_file: registry::maintenance_file_path(config, service),
                events: self.events.clone(),
            }
        };
        config.services.iter().map(plan).collect()
    }
}

/// The locks of this sidecar. Their record is in a folder of this run, because each process has its own.
fn open_locks(
    registry: Arc<dyn Locks>,
    config: &Config,
    events: Events,
) -> Result<LockManager, prometheus::Error> {
    let name = registry::run_name(config);
    let folder = config
        .state_dir
        .as_ref()
        .zip(name.as_ref())
        .map(|(folder, name)| folder.join(format!("locks-{name}")));
    let (settings, holder) = (config.api.locks.clone(), instance_id(config));
    LockManager::new(registry, settings, holder, folder.as_deref(), BootClock::Kernel, events)
}

impl AdminBackend for Components {
    fn clusters(&self) -> Vec<ClusterStatus> {
        self.proxy.status()
    }

    fn services(&self) -> Vec<ServiceStatus> {
        self.discovery.services()
    }

    fn registry_contact(&self) -> RegistryContact {
        self.discovery.contact()
    }

    fn warnings(&self) -> Vec<String> {
        self.proxy.tls_warnings()
    }

    fn lost_network(&self) -> Option<String> {
        self.network.lost()
    }

    fn in_flight(&self) -> usize {
        self.proxy.in_flight()
    }

    fn own_names(&self) -> Vec<String> {
        let active = self.active_config.lock();
        active.as_ref().map(|active| active.loaded.config.outbound.names.clone()).unwrap_or_default()
    }

    fn files(&self) -> Vec<FileSummary> {
        self.files.summaries()
    }

    fn restart(&self) -> Option<RestartSummary> {
        self.files.restart()
    }

    fn locks(&self) -> Option<LocksOverview> {
        self.locks.as_ref().map(LockManager::overview)
    }

    fn explain(&self, request: &ExplainRequest) -> Result<Explanation, ExplainError> {
        let active = self.active_config.lock();
        let origins = active.as_ref().map(|active| active.loaded.origins.clone()).unwrap_or_default();
        drop(active);
        self.proxy.explain(request, &origins)
    }

    fn config(&self) -> Arc<str> {
        let page = self.active_config.lock().as_ref().map_or_else(|| "".into(), |active| active.page.clone());
        let chains = describe_chain_problems(&self.proxy.status());
        if chains.is_empty() { page } else { format!("{page}{chains}").into() }
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadResult> + Send>> {
        let handle = self.reload_handle.clone();
        Box::pin(async move { handle.reload().await })
    }
}

/// What of the chains in Consul has no effect, as comments of a settings file.
fn describe_chain_problems(clusters: &[ClusterStatus]) -> String {
    let problems = clusters.iter().filter_map(|one| Some((&one.service, one.chain.as_ref()?)));
    let line = |service: &str, problem: &str| {
        format!("# Consul's chain of {}: {}\n", escape_control(service), escape_control(problem))
    };
    let lines = problems
        .flat_map(|(service, chain)| chain.problems.iter().map(move |one| line(service, &one.problem)));
    lines.collect()
}
