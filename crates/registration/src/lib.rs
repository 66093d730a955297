//! Keeps the app announced at the registry, and takes it out: the lifecycle of one process.
//!
//! | module | its job |
//! |---|---|
//! | `lifecycle` | learn the services, register the app, be ready, drain: `state` is the table, `services` the services of the app, `handle` the view for pages |
//! | `plan`, `identity` | what is registered |
//! | `registrant` | owns the tasks of one registration |
//! | `app_address` | the addresses at which the app is asked |
//! | `health` | probes the app; `report` sends its health and renews the check |
//! | `reach` | tries the registered address from here, and decides by which health the app is known |
//! | `keeper` | announces the app, and again when the registry differs |
//! | `claim` | keeps which of two processes with one id was first |
//! | `maintenance` | takes the app out of service on request |
//! | `drain`, `withdraw` | the phases of a drain, and the steps that take the app out of the registry |
//!
//! The crate opens no listener and carries no request, and it knows no registry: it has the five verbs of
//! [`outrigger_registry::Registrar`].

mod app_address;
mod calls;
mod claim;
mod drain;
mod health;
pub mod http_client;
mod identity;
mod keeper;
mod lifecycle;
mod maintenance;
mod plan;
mod port;
mod reach;
mod registrant;
mod report;
mod status;
#[cfg(test)]
mod testing;
mod withdraw;

pub use app_address::AppAddress;
pub use claim::ClaimPlace;
pub use drain::{DrainControl, DrainPhase};
pub use health::{HealthReason, ReasonKind, health_label};
pub use identity::{build_registration, host_name};
pub use lifecycle::{Lifecycle, LifecycleHandle, LifecycleState, ServiceRegistration};
pub use maintenance::{MaintenanceError, maintenance_path};
pub use plan::{HandOver, RegistrationPlan};
pub use port::{accepts_on_loopback, wait_until_port_closed};
pub use status::{MaintenanceRequest, Reachability, RegistrationPhase, RegistrationStatus, Unreachable};
pub use withdraw::PropagationMonitor;
