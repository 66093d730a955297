//! What a running sidecar is made of, and how other settings reach it: [`App::start`](super::App::start)
//! again, with something to keep.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use outrigger_config::{Config, LoadedConfig, Origin};
use outrigger_discovery::{Discovery, ServiceStatus};
use outrigger_proxy::{BindError, ClusterStatus, Proxy};
use outrigger_registry::Registrar;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::bind_metrics;
use crate::{
    admin::{self, AdminBackend, AdminServer, AdminState},
    lifecycle::{Lifecycle, RegistrationPlan, ServedTraffic, build_registration, host_name},
    registry,
    reload::{AppliedReload, ConfigSource, ReloadError, ReloadHandle, ReloadResult},
    telemetry::{self, LogControl},
};

/// What is to be registered by these settings, where there is a place to register at.
pub(super) fn registration_plan(
    config: &Config,
    registrar: Option<&Arc<dyn Registrar>>,
    started: &CancellationToken,
) -> Option<RegistrationPlan> {
    config.service.as_ref().zip(registrar).map(|(service, registrar)| RegistrationPlan {
        app_started: started.clone(),
        registrar: registrar.clone(),
        registration: build_registration(service, &host_name()),
        probe: service.health.clone(),
        maintenance_file: registry::maintenance_file_path(config, service),
    })
}

/// The file that some of these settings come from.
fn settings_file(loaded: &LoadedConfig) -> Option<&str> {
    loaded.origins.iter().find_map(|(_, origin)| match origin {
        Origin::File { file, .. } => Some(&**file),
        _ => None,
    })
}

/// The settings that hold.
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

/// The listener with metrics and health alone, for the network. Not among [`Parts`], which its pages ask:
/// it would keep itself alive.
#[derive(Debug, Clone)]
pub(super) struct MetricsServer(pub(super) Arc<Mutex<Option<AdminServer>>>);

impl MetricsServer {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<AdminServer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What carries requests, knows instances and keeps the registration.
#[derive(Debug)]
pub(super) struct Components {
    pub(super) proxy: Arc<Proxy>,
    pub(super) discovery: Arc<Discovery>,
    pub(super) lifecycle: Lifecycle,
    pub(super) registrar: Option<Arc<dyn Registrar>>,
    pub(super) app_started: CancellationToken,
    pub(super) reload_handle: ReloadHandle,
    pub(super) config_source: OnceLock<ConfigSource>,
    pub(super) log_control: OnceLock<LogControl>,
    pub(super) active: Mutex<ActiveConfig>,
}

impl Components {
    pub(super) fn active_config(&self) -> MutexGuard<'_, ActiveConfig> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A wider or narrower form of an address that is listened on cannot be had beside it.
    fn bind_refusal(&self, error: &BindError) -> ReloadError {
        let ours = self.proxy.outbound_addrs().into_iter();
        let mut ours = ours.chain(self.proxy.upstream_addrs().into_iter().map(|(_, addr)| addr));
        let text = telemetry::error_chain(error);
        let overlaps = ours.find(|addr| addr.port() == error.addr.port());
        ReloadError::Address(match overlaps {
            Some(addr) => {
                format!("{text}; this sidecar listens on {addr}: choose another port, or restart it")
            }
            None => text,
        })
    }

    /// One reload: first all that can fail, then all that cannot.
    pub(super) async fn reload(self: Arc<Self>, network: MetricsServer, pages: AdminState) -> ReloadResult {
        let read = match self.config_source.get() {
            Some(source) => source.read().await?,
            None => return Err(ReloadError::NoFile),
        };
        if self.lifecycle.handle().is_draining() {
            return Err(ReloadError::Leaving);
        }
        let running = self.active_config().loaded.clone();
        // Whoever writes a file anew empties it first, and what it says then would deregister the app.
        if let (Some(file), None) = (settings_file(&running), settings_file(&read)) {
            return Err(ReloadError::Problems(vec![format!(
                "{file}: sets nothing any more; if that is meant, restart the sidecar"
            )]));
        }
        let outrigger_config::ReloadPlan { next, changed, needs_restart } =
            outrigger_config::plan_reload(&running, read);
        let (old, new) = (&running.config.admin.metrics_listen, &next.config.admin.metrics_listen);
        let moves = old != new;
        let bound = match new {
            Some(listen) if moves => Some(
                bind_metrics(listen).map_err(|error| ReloadError::Address(telemetry::error_chain(&error)))?,
            ),
            Some(_) | None => None,
        };
        let prepared = self.proxy.prepare(&next.config).map_err(|error| self.bind_refusal(&error))?;

        for warning in &next.warnings {
            warn!(%warning, "settings");
        }
        if let Some(logs) =
            self.log_control.get().filter(|_| running.config.log.level != next.config.log.level)
        {
            logs.set_level(&next.config.log.level);
        }
        self.discovery.apply_settings(next.config.discovery);
        self.proxy.apply_settings(prepared).await;
        self.lifecycle.apply_settings(
            registration_plan(&next.config, self.registrar.as_ref(), &self.app_started),
            next.config.drain,
        );
        if moves {
            let server = bound.map(|bound| AdminServer::start(bound, admin::metrics_router(pages)));
            let before = std::mem::replace(&mut *network.lock(), server);
            if let Some(server) = before {
                server.stop().await;
            }
        }
        let hash = outrigger_config::fingerprint(&next.config);
        *self.active_config() = ActiveConfig::new(next);
        Ok(AppliedReload { changed, needs_restart, hash })
    }
}

impl ServedTraffic for Components {
    fn close_listeners(&self) {
        self.proxy.close_listeners();
    }

    async fn drain_requests(&self, grace: std::time::Duration) -> usize {
        self.proxy.shutdown(grace).await.aborted
    }
}

impl AdminBackend for Components {
    fn clusters(&self) -> Vec<ClusterStatus> {
        self.proxy.status()
    }

    fn services(&self) -> Vec<ServiceStatus> {
        self.discovery.services()
    }

    fn in_flight(&self) -> usize {
        self.proxy.in_flight()
    }

    fn config(&self) -> Arc<str> {
        self.active_config().page.clone()
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadResult> + Send>> {
        let desk = self.reload_handle.clone();
        Box::pin(async move { desk.reload().await })
    }
}
