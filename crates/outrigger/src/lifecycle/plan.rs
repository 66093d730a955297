//! What the lifecycle registers, and by which settings.

use std::{path::PathBuf, sync::Arc};

use outrigger_registry::{Registrar, Registration};
use tokio_util::sync::CancellationToken;

/// What is registered, at which registry, and how the app is probed.
#[derive(Debug, Clone)]
pub(crate) struct RegistrationPlan {
    /// Cancelled once the app may be probed. Before the sidecar has started its app, an earlier process of the
    /// app may still answer on the port.
    pub(crate) app_started: CancellationToken,
    pub(crate) registrar: Arc<dyn Registrar>,
    pub(crate) registration: Registration,
    pub(crate) probe: outrigger_config::Health,
    /// The file that keeps the maintenance reason. Absent: the reason is not kept.
    pub(crate) maintenance_file: Option<PathBuf>,
}

/// What a reload replaces.
#[derive(Debug, Clone)]
pub(super) struct LifecycleSettings {
    /// Absent: there is nothing to register.
    pub(super) plan: Option<RegistrationPlan>,
    /// Absent: the settings that the `PropagationMonitor` was made with.
    pub(super) drain: Option<outrigger_config::Drain>,
}
