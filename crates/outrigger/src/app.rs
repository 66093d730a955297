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
    admin::{self, Bound, Own, Pages, Server},
    lifecycle::{Life, Standing, State, callers::Callers, port},
    limits, registry,
    reload::{self, Outcome, Source},
    telemetry::{self, Logs},
};
use parts::{Network, Parts, Running, plan};

mod parts;

/// One sidecar, running. Dropping it ends it without leaving the registry.
#[derive(Debug)]
pub struct App {
    parts: Arc<Parts>,
    metrics: prometheus::Registry,
    admin: Server,
    network: Network,
    /// Runs the reloads that are asked for.
    reloads: AbortOnDropHandle<()>,
    /// `outrigger_app_starts_total`
    starts: IntCounter,
    /// See [`Plan::started`](crate::lifecycle::Plan::started).
    started: CancellationToken,
}

/// Where the local app is when its sidecar starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Local {
    /// Somebody else starts it.
    Runs,
    /// It waits for the sidecar.
    ToBeStarted,
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
    pub fn is_about_a_port(&self) -> bool {
        matches!(self, Self::Outbound(outrigger_proxy::StartError::Bind(_)) | Self::Admin(_))
    }
}

/// How the proxy's threads follow from the settings.
pub fn workers(count: Count) -> Workers {
    Workers::Threads(match count {
        Count::Auto => thread::available_parallelism().map_or(1, usize::from).min(2),
        Count::Count(count) => count,
    })
}

/// What was cut off at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
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
        Self::begin(config, origins, workers, Local::Runs)
    }

    /// The same for an app that is still to be started: it is not asked how it is, and so not registered,
    /// before [`App::app_started`].
    ///
    /// # Errors
    /// As [`App::start`].
    pub fn start_first(config: Config, origins: &Origins, workers: Workers) -> Result<Self, StartError> {
        Self::begin(config, origins, workers, Local::ToBeStarted)
    }

    fn begin(config: Config, origins: &Origins, workers: Workers, app: Local) -> Result<Self, StartError> {
        limits::warn_when_low();
        let metrics = telemetry::metrics()?;
        let starts = IntCounter::new("outrigger_app_starts_total", "How often the sidecar started the app.")?;
        metrics.register(Box::new(starts.clone()))?;
        let meters = reload::Meters::register(&metrics, &config)?;
        let opened = registry::open(&config.registry, &metrics).map_err(|error| StartError::Registry {
            place: registry::place(&config.registry),
            source: Box::new(error),
        })?;
        let runtime = tokio::runtime::Handle::current();
        let discovery = match registry::memory(&config, origins) {
            Some(memory) => {
                Discovery::with_cache(opened.registry, config.discovery, runtime, &metrics, memory)?
            }
            None => Discovery::new(opened.registry, config.discovery, runtime, &metrics)?,
        };

        let admin = bind("the admin side", &config.admin.listen)?;
        let network = config.admin.metrics_listen.as_ref().map(bind_network).transpose()?;
        let proxy = Arc::new(Proxy::bind(&config, discovery.clone(), &metrics, workers)?);
        discovery.set_liveness(proxy.evidence());

        proxy.start();
        let first_answers = {
            let proxy = proxy.clone();
            async move { proxy.first_answers().await }
        };
        let started = CancellationToken::new();
        if app == Local::Runs {
            started.cancel();
        }
        let registrar = opened.registrar;
        let plan = plan(&config, registrar.as_ref(), &started);
        let life = Life::start(first_answers, plan, Callers::new(config.drain, discovery.clone()));
        life.observe(&metrics)?;

        let (desk, turns) = reload::desk();
        let own = Own::new(&config.admin.listen);
        let running = Running::new(LoadedConfig { config, origins: origins.clone(), warnings: Vec::new() });
        let parts = Arc::new(Parts {
            proxy,
            discovery,
            life,
            registrar,
            started: started.clone(),
            desk,
            source: OnceLock::new(),
            logs: OnceLock::new(),
            running: Mutex::new(running),
        });
        let pages =
            Pages { vitals: parts.life.vitals().clone(), metrics: metrics.clone(), sources: parts.clone() };
        let network = network.map(|bound| Server::start(bound, admin::metrics_alone(pages.clone())));
        let network = Network(Arc::new(Mutex::new(network)));
        let admin = Server::start(admin, admin::everything(pages.clone(), own));
        let reloads = {
            let (parts, network) = (parts.clone(), network.clone());
            turns.run(meters, move || parts.clone().reload(network.clone(), pages.clone()))
        };
        let reloads = AbortOnDropHandle::new(tokio::spawn(reloads));
        Ok(Self { parts, metrics, admin, network, reloads, starts, started })
    }

    /// Says where settings are read again for a reload and, where the process logs by them, how to change
    /// that. Without it, or a second time, nothing changes.
    pub fn reload_from(&self, source: Source, logs: Option<Logs>) {
        let _ = self.parts.source.set(source);
        if let Some(logs) = logs {
            let _ = self.parts.logs.set(logs);
        }
    }

    /// Reads the settings again and goes on by them: no connection is dropped, and nothing that was
    /// learned is forgotten.
    ///
    /// # Errors
    /// When the settings are wrong, or an address of theirs cannot be had; everything is as it was, then.
    pub async fn reload(&self) -> Outcome {
        self.parts.desk.reload().await
    }

    /// The settings that it goes by.
    pub fn config(&self) -> Config {
        self.parts.running().loaded.config.clone()
    }

    /// What becomes of it when the app ends by itself.
    pub fn on_app_exit(&self) -> OnAppExit {
        self.parts.running().loaded.config.on_app_exit
    }

    /// Where the app sends its requests.
    pub fn outbound_addrs(&self) -> Vec<SocketAddr> {
        self.parts.proxy.outbound_addrs()
    }

    /// Upstreams with a port of their own, and where those are.
    pub fn upstream_addrs(&self) -> Vec<(String, SocketAddr)> {
        self.parts.proxy.upstream_addrs()
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
        self.network.lock().as_ref().map_or_else(Vec::new, |server| server.addrs().to_vec())
    }

    /// Where the process stands.
    pub fn state(&self) -> State {
        self.parts.life.vitals().state()
    }

    /// Where the registration stands.
    pub fn registration(&self) -> Standing {
        self.parts.life.vitals().standing()
    }

    /// Resolves once it is ready, or draining already. It may never: put a time-out around it.
    pub async fn ready(&self) {
        self.parts
            .life
            .vitals()
            .reached(|state| matches!(state, State::Ready | State::Draining | State::Gone))
            .await;
    }

    /// What is known of each service that is called.
    pub fn clusters(&self) -> Vec<ClusterStatus> {
        self.parts.proxy.status()
    }

    /// Every metric of this sidecar.
    pub fn metrics(&self) -> &prometheus::Registry {
        &self.metrics
    }

    /// Resolves once requests are carried: the registry has answered for every declared service, or 5 s
    /// have passed.
    pub async fn carries(&self) {
        self.parts.life.vitals().reached(|state| !matches!(state, State::Starting | State::Learning)).await;
    }

    /// The app was started (again): it is asked how it is from now on.
    pub fn app_started(&self) {
        self.starts.inc();
        self.started.cancel();
        self.parts.life.vitals().probe_now();
    }

    /// The app has ended and will be started again: it is asked at once, so that the registry hears of it.
    pub fn app_ended(&self) {
        self.parts.life.vitals().probe_now();
    }

    /// Callers need not be waited for while it leaves: the app has ended for good, or somebody insists.
    pub fn hurry(&self) {
        self.parts.life.vitals().hurry();
    }

    /// Resolves when nobody listens on the app's port any more, `drain.timeout` later at most; at once
    /// where there is no app.
    pub async fn app_closed(&self) {
        let Config { service: Some(Service { port, .. }), drain, .. } = self.config() else { return };
        if tokio::time::timeout(drain.timeout, port::closed(port)).await.is_err() {
            warn!(port, after = ?drain.timeout, "the app still listens, stopping all the same");
        }
    }

    /// Leaves the registry, goes on routing, and returns when it is safe to stop the app: at most 20 s,
    /// and `drain.cap` or `drain.blind`, later.
    pub async fn drain(&self) {
        self.parts.life.drain().await;
    }

    /// Serves until `signal`, then [`App::shutdown`].
    pub async fn run_until(self, signal: impl Future<Output = ()>) -> Stopped {
        signal.await;
        self.shutdown().await
    }

    /// Drains, closes the listeners, waits for requests in flight up to `drain.timeout`, and returns
    /// when every task and thread has ended.
    pub async fn shutdown(self) -> Stopped {
        let grace = self.config().drain.timeout;
        let aborted = self.parts.life.end(&*self.parts, grace).await;
        // It could open what is closed here.
        self.reloads.abort();
        let _ = self.reloads.await;
        let network = self.network.lock().take();
        self.admin.stop().await;
        if let Some(server) = network {
            server.stop().await;
        }
        self.parts.discovery.shutdown().await;
        Stopped { aborted }
    }
}

fn bind(what: &'static str, listen: &outrigger_config::Listen) -> Result<Bound, StartError> {
    Bound::bind(what, listen).map_err(|error| StartError::Admin(telemetry::causes(&error)))
}

fn bind_network(listen: &Listen) -> Result<Bound, StartError> {
    bind("the metrics listener", listen)
}

#[cfg(test)]
mod tests;
