//! All the wiring: settings become objects here and nowhere else.
//!
//! [`App::start`] binds every socket first, so that an occupied port is an error and not a surprise
//! later; then it learns, registers and becomes ready in the background while it already routes.
//! [`App::shutdown`] is the way out that no caller notices. The runtime that calls is the control
//! plane's; the data plane's threads belong to [`Proxy`].

use std::{net::SocketAddr, sync::Arc, thread};

use outrigger_config::{Config, Drain, Origins, Workers as Count};
use outrigger_discovery::{Discovery, ServiceStatus};
use outrigger_proxy::{ClusterStatus, Proxy, Workers};
use prometheus::IntCounter;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Bound, Own, Pages, Server, Sources},
    lifecycle::{
        Life, Plan, Standing, State, callers::Callers, drain::Traffic, host_name, port, registration,
    },
    limits, registry, telemetry,
};

/// One sidecar, running. Dropping it ends it without leaving the registry.
#[derive(Debug)]
pub struct App {
    life: Life,
    parts: Arc<Parts>,
    metrics: prometheus::Registry,
    /// The admin side, then the listener with metrics alone.
    servers: Vec<Server>,
    admin_addrs: Vec<SocketAddr>,
    metrics_addrs: Vec<SocketAddr>,
    drain: Drain,
    /// The local app's.
    port: Option<u16>,
    /// `outrigger_app_starts_total`
    starts: IntCounter,
    /// See [`Plan::started`].
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
        let opened = registry::open(&config.registry, &metrics).map_err(|error| StartError::Registry {
            place: registry::place(&config.registry),
            source: Box::new(error),
        })?;
        let runtime = tokio::runtime::Handle::current();
        let discovery = match registry::memory(&config) {
            Some(memory) => {
                Discovery::with_memory(opened.registry, config.discovery, runtime, &metrics, memory)?
            }
            None => Discovery::new(opened.registry, config.discovery, runtime, &metrics)?,
        };

        let admin = bind("the admin side", &config.admin.listen)?;
        let network = config.admin.metrics_listen.as_ref().map(|listen| bind("the metrics listener", listen));
        let network = network.transpose()?;
        let proxy = Arc::new(Proxy::bind(&config, discovery.clone(), &metrics, workers)?);
        discovery.set_evidence(proxy.evidence());

        proxy.start();
        let first_answers = {
            let proxy = proxy.clone();
            async move { proxy.first_answers().await }
        };
        let started = CancellationToken::new();
        if app == Local::Runs {
            started.cancel();
        }
        let plan = config.service.as_ref().zip(opened.registrar).map(|(service, registrar)| Plan {
            started: started.clone(),
            registrar,
            registration: registration(service, &host_name()),
            probe: service.health.clone(),
            note: registry::note(&config, service),
        });
        let life = Life::start(first_answers, plan, Callers::new(config.drain, discovery.clone()));
        life.observe(&metrics)?;

        let parts = Arc::new(Parts { proxy, discovery });
        let pages = Pages {
            vitals: life.vitals().clone(),
            metrics: metrics.clone(),
            config: outrigger_config::render(&config, origins).into(),
            sources: parts.clone(),
        };
        let own = Own::new(&config.admin.listen);
        let mut servers = vec![Server::start(admin, admin::everything(pages.clone(), own))];
        servers.extend(network.map(|bound| Server::start(bound, admin::metrics_alone(pages))));
        let addrs =
            |n: usize| servers.get(n).map_or_else(Vec::new, |server: &Server| server.addrs().to_vec());
        let (admin_addrs, metrics_addrs) = (addrs(0), addrs(1));
        let (drain, port) = (config.drain, config.service.map(|service| service.port));
        Ok(Self { life, parts, metrics, servers, admin_addrs, metrics_addrs, drain, port, starts, started })
    }

    /// Where the app sends its requests.
    pub fn outbound_addrs(&self) -> &[SocketAddr] {
        self.parts.proxy.outbound_addrs()
    }

    /// Upstreams with a port of their own, and where those are.
    pub fn upstream_addrs(&self) -> &[(String, SocketAddr)] {
        self.parts.proxy.upstream_addrs()
    }

    /// The first address of the admin side.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addrs().first().copied()
    }

    /// Every address of the admin side.
    pub fn admin_addrs(&self) -> &[SocketAddr] {
        &self.admin_addrs
    }

    /// Where metrics and health alone are served; empty without `admin.metrics_listen`.
    pub fn metrics_addrs(&self) -> &[SocketAddr] {
        &self.metrics_addrs
    }

    /// Where the process stands.
    pub fn state(&self) -> State {
        self.life.vitals().state()
    }

    /// Where the registration stands.
    pub fn registration(&self) -> Standing {
        self.life.vitals().standing()
    }

    /// Resolves once it is ready, or draining already. It may never: put a time-out around it.
    pub async fn ready(&self) {
        self.life
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
        self.life.vitals().reached(|state| !matches!(state, State::Starting | State::Learning)).await;
    }

    /// The app was started (again): it is asked how it is from now on.
    pub fn app_started(&self) {
        self.starts.inc();
        self.started.cancel();
        self.life.vitals().probe_now();
    }

    /// The app has ended and will be started again: it is asked at once, so that the registry hears of it.
    pub fn app_ended(&self) {
        self.life.vitals().probe_now();
    }

    /// Callers need not be waited for while it leaves: the app has ended for good, or somebody insists.
    pub fn hurry(&self) {
        self.life.vitals().hurry();
    }

    /// Resolves when nobody listens on the app's port any more, `drain.timeout` later at most; at once
    /// where there is no app.
    pub async fn app_closed(&self) {
        let Some(port) = self.port else { return };
        if tokio::time::timeout(self.drain.timeout, port::closed(port)).await.is_err() {
            tracing::warn!(port, after = ?self.drain.timeout, "the app still listens, stopping all the same");
        }
    }

    /// Leaves the registry, goes on routing, and returns when it is safe to stop the app: at most 20 s,
    /// and `drain.cap` or `drain.blind`, later.
    pub async fn drain(&self) {
        self.life.drain().await;
    }

    /// Serves until `signal`, then [`App::shutdown`].
    pub async fn run_until(self, signal: impl Future<Output = ()>) -> Stopped {
        signal.await;
        self.shutdown().await
    }

    /// Drains, closes the listeners, waits for requests in flight up to `drain.timeout`, and returns
    /// when every task and thread has ended.
    pub async fn shutdown(self) -> Stopped {
        let aborted = self.life.end(&*self.parts, self.drain.timeout).await;
        for server in self.servers {
            server.stop().await;
        }
        self.parts.discovery.shutdown().await;
        Stopped { aborted }
    }
}

fn bind(what: &'static str, listen: &outrigger_config::Listen) -> Result<Bound, StartError> {
    Bound::bind(what, listen).map_err(|error| StartError::Admin(telemetry::causes(&error)))
}

/// What carries requests and knows instances.
#[derive(Debug)]
struct Parts {
    proxy: Arc<Proxy>,
    discovery: Arc<Discovery>,
}

impl Traffic for Parts {
    fn close_listeners(&self) {
        self.proxy.close_listeners();
    }

    async fn end(&self, grace: std::time::Duration) -> usize {
        self.proxy.shutdown(grace).await.aborted
    }
}

impl Sources for Parts {
    fn clusters(&self) -> Vec<ClusterStatus> {
        self.proxy.status()
    }

    fn services(&self) -> Vec<ServiceStatus> {
        self.discovery.services()
    }

    fn in_flight(&self) -> usize {
        self.proxy.in_flight()
    }
}

#[cfg(test)]
mod tests;
