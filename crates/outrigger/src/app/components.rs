//! What a running sidecar is made of, and what the admin pages may ask of it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use outrigger_config::{Config, LoadedConfig};
use outrigger_discovery::{Discovery, RegistryContact, ServiceStatus};
use outrigger_proxy::{ClusterStatus, Proxy};
use outrigger_registration::{Lifecycle, RegistrationPlan, build_registration, host_name};
use outrigger_registry::Registrar;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{AdminBackend, AdminServer},
    registry,
    reload::{ConfigSource, ReloadHandle, ReloadResult},
    telemetry::LogControl,
};

/// What these settings ask to register. `None`: no service is configured, or the registry registers nothing.
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

/// The listener for the network, with metrics and health alone. It is not a field of [`Components`], because
/// its pages hold the components, so that it would keep itself alive.
pub(super) type MetricsServer = Arc<Mutex<Option<AdminServer>>>;

/// The parts of a running sidecar.
#[derive(Debug)]
pub(super) struct Components {
    pub(super) proxy: Arc<Proxy>,
    pub(super) discovery: Arc<Discovery>,
    pub(super) lifecycle: Lifecycle,
    pub(super) registrar: Option<Arc<dyn Registrar>>,
    pub(super) app_started: CancellationToken,
    /// Where the listeners of the admin side are served.
    pub(super) admin_thread: Handle,
    pub(super) reload_handle: ReloadHandle,
    pub(super) config_source: OnceLock<ConfigSource>,
    pub(super) log_control: OnceLock<LogControl>,
    pub(super) active_config: Mutex<ActiveConfig>,
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

    fn in_flight(&self) -> usize {
        self.proxy.in_flight()
    }

    fn config(&self) -> Arc<str> {
        self.active_config.lock().page.clone()
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadResult> + Send>> {
        let handle = self.reload_handle.clone();
        Box::pin(async move { handle.reload().await })
    }
}
