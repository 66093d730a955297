//! The lifecycle of one process: learn the services, register the app, be ready, drain.
//!
//! `state` is the table of the states, and `task` follows it; `handle` is the view for the admin pages and the app.
//! `registrant` owns the tasks of one registration: `health` probes the app, `register_loop` registers it,
//! `agent_check` and `catalog_check` find out when that has to be repeated, `report` renews the check, and `stale`
//! removes what earlier runs left. `maintenance` takes the app out of service on request. `drain` has the phases of
//! a drain, and `withdraw` the steps that take the app out of the registry.
//!
//! The lifecycle opens no listener and carries no request: [`crate::app`] does. Other modules use only what
//! is exported here.

mod agent_calls;
mod agent_check;
mod catalog_check;
mod drain;
mod handle;
mod health;
mod identity;
mod maintenance;
mod maintenance_file;
mod metrics;
mod plan;
mod port;
mod register_loop;
mod registrant;
mod report;
mod self_lookup;
mod stale;
mod state;
mod status;
mod task;
#[cfg(test)]
mod testing;
mod withdraw;

pub use state::LifecycleState;
pub use status::{MaintenanceRequest, RegistrationPhase, RegistrationStatus};

pub(crate) use handle::LifecycleHandle;
pub(crate) use health::health_label;
pub(crate) use identity::{build_registration, host_name};
pub(crate) use maintenance::MaintenanceError;
pub(crate) use maintenance_file::maintenance_path;
pub(crate) use plan::RegistrationPlan;
pub(crate) use port::wait_until_port_closed;
pub(crate) use task::Lifecycle;
pub(crate) use withdraw::PropagationMonitor;
