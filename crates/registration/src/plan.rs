//! What the lifecycle registers, and by which settings.

use std::{path::PathBuf, sync::Arc};

use outrigger_registry::{Registrar, Registration};
use tokio_util::sync::CancellationToken;

/// What is registered, at which registry, and how the app is probed.
#[derive(Debug, Clone)]
pub struct RegistrationPlan {
    /// Cancelled once the app may be probed. Before the sidecar has started its app, an earlier process of the
    /// app may still answer on the port.
    pub app_started: CancellationToken,
    /// Where it is registered.
    pub registrar: Arc<dyn Registrar>,
    /// What is registered.
    pub registration: Registration,
    /// How the app is probed.
    pub probe: outrigger_config::Health,
    /// The file that keeps the maintenance reason. Absent: the reason is not kept.
    pub maintenance_file: Option<PathBuf>,
}

/// What the process was last told to do.
#[derive(Debug, Clone)]
pub(crate) struct LifecycleSettings {
    /// Absent: there is nothing to register.
    pub(crate) plan: Option<RegistrationPlan>,
    pub(crate) drain: outrigger_config::Drain,
}

/// What becomes of the registration when another process takes this one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOver {
    /// The other process registers the same instance: the registration stays as it is, and is renewed by the other.
    Keep,
    /// The other process registers another instance, or none: the app is deregistered.
    Withdraw,
}
