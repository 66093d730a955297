//! All the wiring: settings become objects here and nowhere else.
//!
//! [`App::start`] binds every socket first, so that an occupied port is an error and not a surprise
//! later; then it learns, registers and becomes ready in the background while it already routes.
//! [`App::reload`] is the start again, with something to keep. [`App::shutdown`] is the way out that no
//! caller notices. The runtime that calls is the control
//! plane's; the data plane's threads belong to [`Proxy`].

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    thread,
};

use outrigger_config::{Config, Listen, LoadedConfig, OnAppExit, Origins, Service, WorkerThreads as Count};
use outrigger_discovery::Discovery;
use outrigger_proxy::{ClusterStatus, Proxy, Workers};
use prometheus::IntCounter;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::warn;

use crate::{
    admin::{self, AdminServer, AdminState, AllowedHosts, BoundListeners},
    lifecycle::{self, Lifecycle, LifecycleState, PropagationMonitor, RegistrationStatus},
    limits, registry,
    reload::{self, ConfigSource, ReloadResult},
    telemetry::{self, LogControl},
};
use parts::{ActiveConfig, Components, MetricsServer, registration_plan};

mod parts;

/// One sidecar, running. Dropping it ends it without leaving the registry.
#[derive(Debug)]
pub struct App {
    components: Arc<Components>,
    metrics: prometheus::Registry,
    admin: AdminServer,
    metrics_server: MetricsServer,
    /// Runs the reloads that are asked for.
    reload_task: AbortOnDropHandle<()>,
    /// `outrigger_app_starts_total`
    app_starts: IntCounter,
    /// See [`RegistrationPlan::app_started`](crate::lifecycle::RegistrationPlan::app_started).
    app_started: CancellationToken,
}

/// Where the local app is when its sidecar starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LocalApp {
    /// Somebody else starts it.
    External,
    /// It waits for the sidecar.
    Child,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data plane could not begin: an occupied port, most likely.
    #[error(transparent)]
    Outbound(#[from] outrigger_proxy::StartError),
    /// A listener of the admin side could not be had.
    #[error("{0}")]
    Admin(String),
    /// The registry's settings name something that cannot be used.
    #[error("open the registry {place}")]
    Registry {
        /// Which.
        place: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Two metrics have one name: a mistake of ours.
    #[error("set up the metrics")]
    Metrics(#[from] prometheus::Error),
}

impl StartError {
    /// Whether another port might do.
    pub fn is_bind_error(&self) -> bool {
        matches!(self, Self::Outbound(outrigger_proxy::StartError::Bind(_)) | Self::Admin(_))
    }
}

/// How the proxy's threads follow from the settings.
pub fn proxy_workers(count: Count) -> Workers {
    Workers::Threads(match count {
        Count::Auto => thread::available_parallelism().map_or(1, usize::from).min(2),
        Count::Count(count) => count,
    })
}

/// What was cut off at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownSummary {
    /// Requests and tunnels that did not end within `drain.timeout`.
    pub aborted: usize,
}

impl App {
    /// Binds, serves, and begins to learn and to register. `origins` are for the `/config` page.
    /// Needs a tokio runtime with I/O and time: it becomes the control plane.
    ///
    /// # Errors
    /// When a port is occupied, or a file that the settings name cannot be used.
    pub fn start(config: Config, origins: &Origins, workers: Workers) -> Result<Self, StartError> {
        Self::start_with(config, origins, workers, LocalApp::External)
    }

    /// The same for an app that is still to be started: it is not asked how it is, and so not registered,
    /// before `App::app_started`.
    ///
    /// # Errors
    /// As [`App::start`].
    pub fn start_before_app(config: Config, origins: &Origins, workers: Workers) -> Result<Self, StartError> {
        Self::start_with(config, origins, workers, LocalApp::Child)
    }

    fn start_with(
        config: Config,
        origins: &Origins,
        workers: Workers,
        app: LocalApp,
    ) -> Result<Self, StartError> {
        limits::warn_when_low();
        let metrics = telemetry::new_metrics_registry()?;
        let starts = IntCounter::new("outrigger_app_starts_total", "How often the sidecar started the app.")?;
        metrics.register(Box::new(starts.clone()))?;
        let meters = reload::ReloadMetrics::register(&metrics, &config)?;
        let opened = registry::open(&config.registry, &metrics).map_err(|error| StartError::Registry {
            place: registry::location(&config.registry),
            source: Box::new(error),
        })?;
        let runtime = tokio::runtime::Handle::current();
        let discovery = match registry::open_disk_cache(&config, origins) {
            Some(memory) => {
                Discovery::with_cache(opened.registry, config.discovery, runtime, &metrics, memory)?
            }
            None => Discovery::new(opened.registry, config.discovery, runtime, &metrics)?,
        };

        let admin = bind_admin("the admin side", &config.admin.listen)?;
        let network = config.admin.metrics_listen.as_ref().map(bind_metrics).transpose()?;
        let proxy = Arc::new(Proxy::bind(&config, discovery.clone(), &metrics, workers)?);
        discovery.set_liveness(proxy.liveness());

        proxy.start();
        let first_answers = {
            let proxy = proxy.clone();
            async move { proxy.wait_for_first_answers().await }
        };
        let started = CancellationToken::new();
        if app == LocalApp::External {
            started.cancel();
        }
        let registrar = opened.registrar;
        let plan = registration_plan(&config, registrar.as_ref(), &started);
        let life =
            Lifecycle::start(first_answers, plan, PropagationMonitor::new(config.drain, discovery.clone()));
        life.register_metrics(&metrics)?;

        let (desk, turns) = reload::reload_channel();
        let own = AllowedHosts::new(&config.admin.listen);
        let running =
            ActiveConfig::new(LoadedConfig { config, origins: origins.clone(), warnings: Vec::new() });
        let parts = Arc::new(Components {
            proxy,
            discovery,
            lifecycle: life,
            registrar,
            app_started: started.clone(),
            reload_handle: desk,
            config_source: OnceLock::new(),
            log_control: OnceLock::new(),
            active: Mutex::new(running),
        });
        let pages = AdminState {
            lifecycle: parts.lifecycle.handle().clone(),
            metrics: metrics.clone(),
            backend: parts.clone(),
        };
        let network = network.map(|bound| AdminServer::start(bound, admin::metrics_router(pages.clone())));
        let network = MetricsServer(Arc::new(Mutex::new(network)));
        let admin = AdminServer::start(admin, admin::admin_router(pages.clone(), own));
        let reloads = {
            let (parts, network) = (parts.clone(), network.clone());
            turns.run(meters, move || parts.clone().reload(network.clone(), pages.clone()))
        };
        let reloads = AbortOnDropHandle::new(tokio::spawn(reloads));
        Ok(Self {
            components: parts,
            metrics,
            admin,
            metrics_server: network,
            reload_task: reloads,
            app_starts: starts,
            app_started: started,
        })
    }

    /// Says where settings are read again for a reload and, where the process logs by them, how to change
    /// that. Without it, or a second time, nothing changes.
    pub fn set_reload_source(&self, source: ConfigSource, logs: Option<LogControl>) {
        let _ = self.components.config_source.set(source);
        if let Some(logs) = logs {
            let _ = self.components.log_control.set(logs);
        }
    }

    /// Reads the settings again and goes on by them: no connection is dropped, and nothing that was
    /// learned is forgotten.
    ///
    /// # Errors
    /// When the settings are wrong, or an address of theirs cannot be had; everything is as it was, then.
    pub async fn reload(&self) -> ReloadResult {
        self.components.reload_handle.reload().await
    }

    /// The settings that it goes by.
    pub fn config(&self) -> Config {
        self.components.active_config().loaded.config.clone()
    }

    /// What becomes of it when the app ends by itself.
    pub fn on_app_exit(&self) -> OnAppExit {
        self.components.active_config().loaded.config.on_app_exit
    }

    /// Where the app sends its requests.
    pub fn outbound_addrs(&self) -> Vec<SocketAddr> {
        self.components.proxy.outbound_addrs()
    }

    /// Upstreams with a port of their own, and where those are.
    pub fn upstream_addrs(&self) -> Vec<(String, SocketAddr)> {
        self.components.proxy.upstream_addrs()
    }

    /// The first address of the admin side.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addrs().first().copied()
    }

    /// Every address of the admin side.
    pub fn admin_addrs(&self) -> &[SocketAddr] {
        self.admin.addrs()
    }

    /// Where metrics and health alone are served; empty without `admin.metrics_listen`.
    pub fn metrics_addrs(&self) -> Vec<SocketAddr> {
        self.metrics_server.lock().as_ref().map_or_else(Vec::new, |server| server.addrs().to_vec())
    }

    /// Where the process stands.
    pub fn state(&self) -> LifecycleState {
        self.components.lifecycle.handle().state()
    }

    /// Where the registration stands.
    pub fn registration(&self) -> RegistrationStatus {
        self.components.lifecycle.handle().registration_status()
    }

    /// Resolves once it is ready, or draining already. It may never: put a time-out around it.
    pub async fn ready(&self) {
        self.components
            .lifecycle
            .handle()
            .wait_for_state(|state| {
                matches!(state, LifecycleState::Ready | LifecycleState::Draining | LifecycleState::Gone)
            })
            .await;
    }

    /// What is known of each service that is called.
    pub fn clusters(&self) -> Vec<ClusterStatus> {
        self.components.proxy.status()
    }

    /// Every metric of this sidecar.
    pub fn metrics(&self) -> &prometheus::Registry {
        &self.metrics
    }

    /// Resolves once requests are carried: the registry has answered for every declared service, or 5 s
    /// have passed.
    pub async fn ready_to_route(&self) {
        self.components.lifecycle.handle().wait_for_state(|state| *state != LifecycleState::Learning).await;
    }

    /// The app was started (again): it is asked how it is from now on.
    pub fn notify_app_started(&self) {
        self.app_starts.inc();
        self.app_started.cancel();
        self.components.lifecycle.handle().request_probe();
    }

    /// The app has ended and will be started again: it is asked at once, so that the registry hears of it.
    pub fn notify_app_exited(&self) {
        self.components.lifecycle.handle().request_probe();
    }

    /// Callers need not be waited for while it leaves: the app has ended for good, or somebody insists.
    pub fn skip_waits(&self) {
        self.components.lifecycle.handle().skip_waits();
    }

    /// Resolves when nobody listens on the app's port any more, `drain.timeout` later at most; at once
    /// where there is no app.
    pub async fn app_port_closed(&self) {
        let Config { service: Some(Service { port, .. }), drain, .. } = self.config() else { return };
        if tokio::time::timeout(drain.timeout, lifecycle::wait_until_port_closed(port)).await.is_err() {
            warn!(port, after = ?drain.timeout, "the app still listens, stopping all the same");
        }
    }

    /// Leaves the registry, goes on routing, and returns when it is safe to stop the app: at most 20 s,
    /// and `drain.cap` or `drain.blind`, later.
    pub async fn drain(&self) {
        self.components.lifecycle.drain().await;
    }

    /// Serves until `signal`, then [`App::shutdown`].
    pub async fn run_until(self, signal: impl Future<Output = ()>) -> ShutdownSummary {
        signal.await;
        self.shutdown().await
    }

    /// Drains, closes the listeners, waits for requests in flight up to `drain.timeout`, and returns
    /// when every task and thread has ended.
    pub async fn shutdown(self) -> ShutdownSummary {
        let grace = self.config().drain.timeout;
        let aborted = self.components.lifecycle.drain_and_stop(&*self.components, grace).await;
        // It could open what is closed here.
        self.reload_task.abort();
        let _ = self.reload_task.await;
        let network = self.metrics_server.lock().take();
        self.admin.stop().await;
        if let Some(server) = network {
            server.stop().await;
        }
        self.components.discovery.shutdown().await;
        ShutdownSummary { aborted }
    }
}

fn bind_admin(what: &'static str, listen: &outrigger_config::Listen) -> Result<BoundListeners, StartError> {
    BoundListeners::bind(what, listen).map_err(|error| StartError::Admin(telemetry::error_chain(&error)))
}

fn bind_metrics(listen: &Listen) -> Result<BoundListeners, StartError> {
    bind_admin("the metrics listener", listen)
}

#[cfg(test)]
mod tests;
