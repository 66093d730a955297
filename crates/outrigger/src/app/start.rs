//! The start: opens what lives as long as the process, and puts the settings in place. Every socket is bound then, so
//! that an occupied port is an error at the start and not a surprise later. Then the sidecar routes, while it learns,
//! registers and becomes ready in the background.

use std::{sync::Arc, thread};

use outrigger_config::{LoadedConfig, WorkerThreads};
use outrigger_proxy::Workers;
use outrigger_task::essential;
use prometheus::register_int_counter_with_registry;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    App,
    apply::Running,
    components::{Components, StartFrom},
    documents::SettingLayers,
    error::StartError,
    servers::AdminServers,
};
use crate::{admin::AdminThread, limits, reload, telemetry};

/// The number of data-plane threads: with `auto`, one per core and at most 2.
pub fn proxy_workers(count: WorkerThreads) -> Workers {
    Workers::Threads(match count {
        WorkerThreads::Auto => thread::available_parallelism().map_or(1, usize::from).min(2),
        WorkerThreads::Count(count) => count,
    })
}

impl App {
    /// Binds, serves, and starts to learn and to register.
    /// Needs a tokio runtime with I/O and time: it becomes the control plane.
    ///
    /// # Errors
    /// When a port is occupied, or a file that the settings name cannot be used.
    pub async fn start(settings: impl Into<LoadedConfig>, workers: Workers) -> Result<Self, StartError> {
        let app = Self::start_from(settings, workers, StartFrom::default()).await?;
        app.take_place();
        Ok(app)
    }

    /// As [`App::start`], for an app that the caller starts later: the app is not probed, and so not
    /// registered, before [`App::notify_app_started`] or [`App::take_place`].
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_from(
        settings: impl Into<LoadedConfig>,
        workers: Workers,
        from: StartFrom,
    ) -> Result<Self, StartError> {
        let settings = settings.into();
        limits::raise_open_files();
        let is_after_another = from.is_after_another;
        let metrics = telemetry::new_metrics_registry()?;
        let app_starts = register_int_counter_with_registry!(
            "outrigger_app_starts_total",
            "How often the sidecar started the app.",
            metrics
        )?;
        let reload_metrics = reload::ReloadMetrics::register(&metrics, &settings.config)?;
        let layers = SettingLayers::register(&metrics)?;
        let (reload_handle, reload_worker) = reload::reload_channel();
        let admin_thread = AdminThread::start().map_err(StartError::Thread)?;
        let thread = admin_thread.handle().clone();
        let documents = layers.first_documents();
        let components =
            Components::open(&settings, workers, metrics, thread, reload_handle, documents, from)?;
        let config_hash = reload_metrics.hash();
        let components = Arc::new(components);
        let running = Arc::new(Running { components, servers: AdminServers::default(), layers, config_hash });
        Box::pin(running.apply(settings)).await?;
        for addr in running.components.inherited.close() {
            if is_after_another {
                info!(%addr, "no setting names this address of the earlier process, not listening there");
            } else {
                warn!(%addr, "no setting names this address of a socket of the process manager, not listening there");
            }
        }
        let reloads = {
            let (running, events) = (running.clone(), running.components.events.clone());
            reload_worker.run(reload_metrics, events, move || {
                let running = running.clone();
                async move { running.reload().await }
            })
        };
        let reload_task = AbortOnDropHandle::new(tokio::spawn(essential("the reloads", reloads)));
        let app = Self { running, _admin_thread: admin_thread, reload_task, app_starts };
        if !is_after_another {
            app.restore_locks();
        }
        Ok(app)
    }
}
