//! The start: every socket is bound first, so that an occupied port is an error at the start and not a
//! surprise later. Then the sidecar routes, while it learns, registers and becomes ready in the background.

use std::{
    sync::{Arc, OnceLock},
    thread,
};

use outrigger_config::{Config, LoadedConfig, Origins, WorkerThreads};
use outrigger_discovery::Discovery;
use outrigger_net::BindError;
use outrigger_proxy::{Proxy, Workers};
use outrigger_registration::{Lifecycle, PropagationMonitor};
use outrigger_task::essential;
use parking_lot::Mutex;
use prometheus::register_int_counter_with_registry;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    App,
    components::{ActiveConfig, Components, registration_plan},
    listen::{ADMIN_LISTEN, ListenFailures, METRICS_LISTEN},
};
use crate::{
    admin::{self, AdminServer, AdminState, AdminThread, AllowedHosts, BoundListeners},
    limits, registry, reload, telemetry,
};

/// Why a sidecar could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data plane could not start.
    #[error(transparent)]
    Outbound(outrigger_proxy::StartError),
    /// Listeners could not be opened: a line for each, with its flag and its key.
    #[error("{}", .0.join("\n"))]
    Listen(Vec<String>),
    /// The settings of the registry name something that cannot be used.
    #[error("open the registry {place}")]
    Registry {
        /// Its address or file.
        place: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The thread of the admin side could not be started.
    #[error("start the thread of the admin side")]
    Thread(#[source] std::io::Error),
    /// Two metrics have one name: a bug.
    #[error("set up the metrics")]
    Metrics(#[from] prometheus::Error),
}

impl StartError {
    /// Whether a start on another port might succeed.
    pub fn is_bind_error(&self) -> bool {
        matches!(self, Self::Listen(_))
    }
}

/// The number of data-plane threads: with `auto`, one per core and at most 2.
pub fn proxy_workers(count: WorkerThreads) -> Workers {
    Workers::Threads(match count {
        WorkerThreads::Auto => thread::available_parallelism().map_or(1, usize::from).min(2),
        WorkerThreads::Count(count) => count,
    })
}

impl App {
    /// Binds, serves, and starts to learn and to register. The `/config` page shows `origins`.
    /// Needs a tokio runtime with I/O and time: it becomes the control plane.
    ///
    /// # Errors
    /// When a port is occupied, or a file that the settings name cannot be used.
    pub fn start(config: Config, origins: &Origins, workers: Workers) -> Result<Self, StartError> {
        let app = Self::start_before_app(config, origins, workers)?;
        app.app_started.cancel();
        Ok(app)
    }

    /// As [`App::start`], for an app that the caller starts later: the app is not probed, and so not
    /// registered, before [`App::notify_app_started`].
    ///
    /// # Errors
    /// As [`App::start`].
    pub fn start_before_app(config: Config, origins: &Origins, workers: Workers) -> Result<Self, StartError> {
        limits::raise_open_files();
        let metrics = telemetry::new_metrics_registry()?;
        let app_starts = register_int_counter_with_registry!(
            "outrigger_app_starts_total",
            "How often the sidecar started the app.",
            metrics
        )?;
        let reload_metrics = reload::ReloadMetrics::register(&metrics, &config)?;
        let opened = registry::open(&config.registry, &metrics).map_err(|error| StartError::Registry {
            place: registry::location(&config.registry),
            source: error,
        })?;
        let runtime = Handle::current();
        let cache = registry::open_disk_cache(&config, origins);
        let discovery = Discovery::with_cache(opened.registry, config.discovery, runtime, &metrics, cache)?;

        let admin_thread = AdminThread::start().map_err(StartError::Thread)?;
        let bind = |listen| BoundListeners::bind(listen, admin_thread.handle());
        let admin = bind(&config.admin.listen);
        let metrics_listeners = config.admin.metrics_listen.as_ref().map(bind).transpose();
        let proxy = Proxy::bind(&config, discovery.clone(), &metrics, workers);
        let (admin, metrics_listeners, proxy) = every_listener(admin, metrics_listeners, proxy)?;
        let proxy = Arc::new(proxy);
        discovery.set_liveness(proxy.liveness());
        discovery.start_contact_check();

        proxy.start();
        let app_started = CancellationToken::new();
        let registrar = opened.registrar;
        let plan = registration_plan(&config, registrar.as_ref(), &app_started);
        let learner = proxy.clone();
        let first_answers = async move { learner.wait_for_first_answers().await };
        let propagation = PropagationMonitor::new(config.drain, Some(discovery.clone()));
        let lifecycle = Lifecycle::start(first_answers, plan, propagation);
        lifecycle.register_metrics(&metrics)?;

        let (reload_handle, reload_worker) = reload::reload_channel();
        let allowed_hosts = AllowedHosts(config.admin.listen.host);
        let loaded = LoadedConfig { config, origins: origins.clone(), warnings: Vec::new() };
        let components = Arc::new(Components {
            proxy,
            discovery,
            lifecycle,
            registrar,
            app_started: app_started.clone(),
            admin_thread: admin_thread.handle().clone(),
            reload_handle,
            config_source: OnceLock::new(),
            log_control: OnceLock::new(),
            active_config: Mutex::new(ActiveConfig::new(loaded)),
        });
        let state = AdminState {
            lifecycle: components.lifecycle.handle().clone(),
            metrics: metrics.clone(),
            backend: components.clone(),
        };
        let metrics_server =
            metrics_listeners.map(|bound| AdminServer::start(bound, admin::metrics_router(state.clone())));
        let admin = AdminServer::start(admin, admin::admin_router(state.clone(), allowed_hosts));
        components.proxy.set_other_listeners("admin", admin.addrs.clone());
        components.set_metrics_listeners(metrics_server.as_ref());
        let metrics_server = Arc::new(Mutex::new(metrics_server));
        let reloads = {
            let (components, metrics_server) = (components.clone(), metrics_server.clone());
            reload_worker
                .run(reload_metrics, move || components.clone().reload(metrics_server.clone(), state.clone()))
        };
        let reload_task = AbortOnDropHandle::new(tokio::spawn(essential("the reloads", reloads)));
        Ok(Self {
            components,
            metrics,
            admin,
            metrics_server,
            _admin_thread: admin_thread,
            reload_task,
            app_starts,
            app_started,
        })
    }
}

/// What was opened, or why each listener that could not be opened could not.
fn every_listener<M>(
    admin: Result<BoundListeners, Vec<BindError>>,
    metrics: Result<M, Vec<BindError>>,
    proxy: Result<Proxy, outrigger_proxy::StartError>,
) -> Result<(BoundListeners, M, Proxy), StartError> {
    let mut failures = ListenFailures::new(&[]);
    let proxy = match proxy {
        Ok(proxy) => Some(proxy),
        Err(outrigger_proxy::StartError::Listen(refused)) => {
            failures.note_proxy(&refused);
            None
        }
        Err(error) => return Err(StartError::Outbound(error)),
    };
    let (admin, metrics) = (failures.note(ADMIN_LISTEN, admin), failures.note(METRICS_LISTEN, metrics));
    match (admin, metrics, proxy) {
        (Some(admin), Some(metrics), Some(proxy)) => Ok((admin, metrics, proxy)),
        _ => Err(StartError::Listen(failures.lines)),
    }
}
