//! All the wiring: settings become objects here and nowhere else.
//!
//! | module | its job |
//! |---|---|
//! | `start` | binds every socket, then starts every part |
//! | `apply` | a reload: puts other settings in place |
//! | `stop` | drains, closes, waits for the requests in flight |
//! | `components` | what a running sidecar is made of |
//!
//! The runtime that calls [`App::start`] is the control plane's; the threads of the data plane belong to
//! `outrigger_proxy::Proxy`.

use std::{net::SocketAddr, sync::Arc};

use outrigger_config::Config;
use outrigger_proxy::ClusterStatus;
use outrigger_registration::{LifecycleState, RegistrationStatus};
use prometheus::IntCounter;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    admin::{AdminServer, AdminThread},
    reload::{ConfigSource, ReloadResult},
    telemetry::LogControl,
};
use components::{Components, MetricsServer};

mod apply;
mod components;
mod listen;
mod start;
mod stop;

pub use start::{StartError, proxy_workers};
pub use stop::ShutdownSummary;

/// One sidecar, running. Dropping it ends it without leaving the registry.
#[derive(Debug)]
pub struct App {
    components: Arc<Components>,
    metrics: prometheus::Registry,
    admin: AdminServer,
    metrics_server: MetricsServer,
    _admin_thread: AdminThread,
    /// Runs the requested reloads, one at a time.
    reload_task: AbortOnDropHandle<()>,
    /// `outrigger_app_starts_total`
    app_starts: IntCounter,
    /// See [`RegistrationPlan::app_started`](outrigger_registration::RegistrationPlan::app_started).
    app_started: CancellationToken,
}

impl App {
    /// Sets where a reload reads the settings and how it changes the log level. Without `logs` the log level
    /// stays; a second call changes nothing.
    pub fn set_reload_source(&self, source: ConfigSource, logs: Option<LogControl>) {
        let _ = self.components.config_source.set(source);
        if let Some(logs) = logs {
            let _ = self.components.log_control.set(logs);
        }
    }

    /// Reads the settings again and puts them in place: no connection is dropped, and nothing that was
    /// learned is forgotten.
    ///
    /// # Errors
    /// When the settings are wrong, or one of their addresses cannot be bound. Then nothing changes.
    pub async fn reload(&self) -> ReloadResult {
        self.components.reload_handle.reload().await
    }

    /// The settings that are in place.
    pub fn config(&self) -> Config {
        self.components.active_config.lock().loaded.config.clone()
    }

    /// Where the app sends its requests.
    pub fn outbound_addrs(&self) -> Vec<SocketAddr> {
        self.components.proxy.outbound_addrs()
    }

    /// The upstreams with their own listener: service and address.
    pub fn upstream_addrs(&self) -> Vec<(String, SocketAddr)> {
        self.components.proxy.upstream_addrs()
    }

    /// The first address of the admin side.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addrs().first().copied()
    }

    /// Every address of the admin side.
    pub fn admin_addrs(&self) -> &[SocketAddr] {
        &self.admin.addrs
    }

    /// The addresses that serve metrics and health alone; empty without `admin.metrics_listen`.
    pub fn metrics_addrs(&self) -> Vec<SocketAddr> {
        self.metrics_server.lock().as_ref().map_or_else(Vec::new, |server| server.addrs.clone())
    }

    /// The lifecycle state of the process.
    pub fn state(&self) -> LifecycleState {
        self.components.lifecycle.handle().state()
    }

    /// The state of the registration.
    pub fn registration(&self) -> RegistrationStatus {
        self.components.lifecycle.handle().registration_status()
    }

    /// Resolves once the sidecar is ready, or already draining. It may never resolve: use a timeout.
    pub async fn ready(&self) {
        self.components
            .lifecycle
            .handle()
            .wait_for_state(|state| {
                matches!(state, LifecycleState::Ready | LifecycleState::Draining | LifecycleState::Gone)
            })
            .await;
    }

    /// The state of each cluster.
    pub fn clusters(&self) -> Vec<ClusterStatus> {
        self.components.proxy.status()
    }

    /// Every metric of this sidecar.
    pub fn metrics(&self) -> &prometheus::Registry {
        &self.metrics
    }

    /// Resolves once the sidecar routes: the registry has answered for every declared service, or 5 s have
    /// passed.
    pub async fn ready_to_route(&self) {
        self.components.lifecycle.handle().wait_for_state(|state| *state != LifecycleState::Learning).await;
    }

    /// The app was started (again): it is probed from now on.
    pub fn notify_app_started(&self) {
        self.app_starts.inc();
        self.app_started.cancel();
        self.components.lifecycle.handle().request_probe();
    }

    /// The app has ended and will be started again: it is probed at once, so that the registry learns of it.
    pub fn notify_app_exited(&self) {
        self.components.lifecycle.handle().request_probe();
    }
}

#[cfg(test)]
mod tests;
