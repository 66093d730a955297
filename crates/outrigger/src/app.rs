//! All the wiring: settings become objects here and nowhere else.
//!
//! | module | its job |
//! |---|---|
//! | `start` | opens what lives as long as the process, and puts the first settings in place |
//! | `app_config` | what follows the app's configuration in the registry's KV |
//! | `apply` | puts settings in place, at the start and at a reload |
//! | `documents` | documents of the registry's KV over the settings of the file |
//! | `receipts` | which of them this sidecar has applied, in the KV |
//! | `stop` | drains, closes, waits for the requests in flight |
//! | `hand_over` | leaves the listening sockets and the registration to another process |
//! | `components` | what lives as long as the process |
//! | `servers` | the servers of the admin side |
//! | `error` | why settings could not be put in place |
//!
//! The runtime that calls [`App::start`] is the control plane's; the threads of the data plane belong to
//! `outrigger_proxy::Proxy`.

use std::{net::SocketAddr, sync::Arc};

use outrigger_config::{Config, LoadedConfig};
use outrigger_events::Events;
use outrigger_proxy::ClusterStatus;
use outrigger_registration::{AppAddress, LifecycleState, ServiceRegistration};
use prometheus::IntCounter;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    admin::AdminThread,
    config_files::MissingFiles,
    network::{self, NetworkWatch},
    process::AppControl,
    reload::{ConfigSource, ReloadResult},
    telemetry::LogControl,
};
use apply::Running;

mod app_config;
mod apply;
mod components;
mod documents;
mod error;
mod hand_over;
mod listen;
mod receipts;
mod servers;
mod start;
mod stop;

pub use crate::config_files::FilesError;
pub use components::StartFrom;
pub use error::{ApplyError, StartError};
pub use start::proxy_workers;
pub use stop::ShutdownSummary;

/// One sidecar, running. Dropping it ends it without leaving the registry.
#[derive(Debug)]
pub struct App {
    running: Arc<Running>,
    _admin_thread: AdminThread,
    /// Runs the requested reloads, one at a time.
    reload_task: AbortOnDropHandle<()>,
    /// `outrigger_app_starts_total`
    app_starts: IntCounter,
}

impl App {
    /// Sets where a reload reads the settings and how it changes the log level. Without `logs` the log level
    /// stays; a second call changes nothing.
    pub fn set_reload_source(&self, source: ConfigSource, logs: Option<LogControl>) {
        let _ = self.running.components.config_source.set(source);
        if let Some(logs) = logs {
            let _ = self.running.components.log_control.set(logs);
        }
    }

    /// Watches from now on whether the network namespace of this process is alive. `asks_app`: an app that answers is a sign of life.
    pub(crate) fn watch_network(&self, asks_app: bool) -> NetworkWatch {
        let running = self.running.clone();
        let silent_peers = move || {
            let running = running.clone();
            async move {
                let apps =
                    running.config().services.iter().filter(|_| asks_app).map(AppAddress::of).collect();
                network::silent_peers(&running.components.registry, apps).await
            }
        };
        NetworkWatch::start(self.running.components.network.clone(), silent_peers)
    }

    /// Puts settings in place: no connection is dropped, and nothing that was learned is forgotten. The start is the
    /// same call, with nothing to keep. Settings that need a restart ([`outrigger_config::RESTART_ONLY`]) must have
    /// the values that are in place. A reload may run at the same time only through [`App::reload`].
    ///
    /// # Errors
    /// When an address cannot be bound, or a file that the settings name cannot be used. Then nothing changes.
    pub async fn apply(&self, settings: LoadedConfig) -> Result<(), ApplyError> {
        self.running.apply(settings).await
    }

    /// Reads the settings again and puts them in place: no connection is dropped, and nothing that was
    /// learned is forgotten.
    ///
    /// # Errors
    /// When the settings are wrong, or one of their addresses cannot be bound. Then nothing changes.
    pub async fn reload(&self) -> ReloadResult {
        self.running.components.reload_handle.reload().await
    }

    /// The settings that are in place.
    pub fn config(&self) -> Config {
        self.running.config()
    }

    /// Where the app sends its requests.
    pub fn outbound_addrs(&self) -> Vec<SocketAddr> {
        self.running.components.proxy.outbound_addrs()
    }

    /// The upstreams with their own listener: service and address.
    pub fn upstream_addrs(&self) -> Vec<(String, SocketAddr)> {
        self.running.components.proxy.upstream_addrs()
    }

    /// The first address of the admin side.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addrs().first().copied()
    }

    /// Every address of the admin side.
    pub fn admin_addrs(&self) -> Vec<SocketAddr> {
        self.running.servers.admin.addrs()
    }

    /// The addresses that serve metrics and health alone; empty without `admin.metrics_listen`.
    pub fn metrics_addrs(&self) -> Vec<SocketAddr> {
        self.running.servers.metrics.addrs()
    }

    /// The addresses of the API for the app; empty without `api.listen`.
    pub fn api_addrs(&self) -> Vec<SocketAddr> {
        self.running.servers.api.addrs()
    }

    /// The addresses of the DNS listener; empty without `dns.listen`.
    pub fn dns_addrs(&self) -> Vec<SocketAddr> {
        self.running.components.dns.addrs()
    }

    /// The last decisions with their reasons.
    pub fn events(&self) -> &Events {
        &self.running.components.events
    }

    /// The lifecycle state of the process.
    pub fn state(&self) -> LifecycleState {
        self.running.components.lifecycle.handle().state()
    }

    /// The registration of each service, in the order of the settings.
    pub fn registrations(&self) -> Vec<ServiceRegistration> {
        self.running.components.lifecycle.handle().registrations()
    }

    /// Resolves once the sidecar is ready, or already draining. It may never resolve: use a timeout.
    pub async fn ready(&self) {
        self.running
            .components
            .lifecycle
            .handle()
            .wait_for_state(|state| {
                matches!(state, LifecycleState::Ready | LifecycleState::Draining | LifecycleState::Gone)
            })
            .await;
    }

    /// The state of each cluster.
    pub fn clusters(&self) -> Vec<ClusterStatus> {
        self.running.components.proxy.status()
    }

    /// Every metric of this sidecar.
    pub fn metrics(&self) -> &prometheus::Registry {
        &self.running.components.metrics
    }

    /// Resolves once the sidecar routes: the registry has answered for every declared service, or 5 s have
    /// passed.
    pub async fn ready_to_route(&self) {
        self.running
            .components
            .lifecycle
            .handle()
            .wait_for_state(|state| *state != LifecycleState::Learning)
            .await;
    }

    /// The app that the sidecar runs.
    pub(crate) fn app_control(&self) -> &AppControl {
        &self.running.components.app_control
    }

    /// Resolves when the files of the app are written, or their `wait` is over.
    pub(crate) async fn files_written(&self) -> Result<(), MissingFiles> {
        self.running.components.files.written().await
    }

    /// The app was started (again): it is probed from now on.
    pub fn notify_app_started(&self) {
        self.app_starts.inc();
        self.running.components.app_started.cancel();
        self.running.components.lifecycle.handle().request_probe();
    }

    /// The app has ended and will be started again: it is probed at once, so that the registry learns of it.
    pub fn notify_app_exited(&self) {
        self.running.components.lifecycle.handle().request_probe();
    }
}

#[cfg(test)]
mod tests;
