//! What the lifecycle registers, and by which settings.

use std::{path::PathBuf, sync::Arc};

use outrigger_registry::{Registrar, Registration};
use tokio_util::sync::CancellationToken;

/// What is to be registered, where, and what is asked of the app before.
#[derive(Debug, Clone)]
pub(crate) struct RegistrationPlan {
    /// Cancelled once the app may be asked how it is. One that is still to be started must not be
    /// mistaken for an earlier one that has not ended yet.
    pub(crate) app_started: CancellationToken,
    pub(crate) registrar: Arc<dyn Registrar>,
    pub(crate) registration: Registration,
    pub(crate) probe: outrigger_config::Health,
    /// Where maintenance is written down. Absent: nowhere.
    pub(crate) maintenance_file: Option<PathBuf>,
}

/// What a life is to keep true, until a reload wants something else.
#[derive(Debug, Clone)]
pub(super) struct LifecycleSettings {
    /// Absent: there is nothing to register.
    pub(super) plan: Option<RegistrationPlan>,
    /// Absent: as [`Callers`] were made.
    pub(super) drain: Option<outrigger_config::Drain>,
}
