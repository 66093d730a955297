//! What the lifecycle registers, and by which settings.

use std::{path::PathBuf, sync::Arc};

use outrigger_events::Events;
use outrigger_registry::{Registrar, Registration};
use tokio_util::sync::CancellationToken;

use crate::claim::ClaimPlace;

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
    /// Where is kept that this process was the first of those with its id. Absent: a restart makes it the later one.
    pub claim: Option<ClaimPlace>,
    /// Where decisions about it are recorded.
    pub events: Events,
}

/// What becomes of the registrations when another process takes this one's place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HandOver {
    /// The ids of the instances that the other process registers, too: these registrations stay as they are, and are renewed by the
    /// other. Every other one is deregistered.
    pub kept: Vec<String>,
}
