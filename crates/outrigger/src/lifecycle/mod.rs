//! The lifecycle of one process: learn the services, register the app, be ready, drain.
//!
//! | module | its job |
//! |---|---|
//! | `state` | the states of the process and the events between them, a pure table |
//! | `task` | the one task that follows the table, and applies a reload |
//! | `handle` | the view of the lifecycle for the admin pages, the metrics and the app |
//! | `plan` | what is registered, and by which settings |
//! | `identity` | builds the registration of the app |
//! | `health` | probes the local app |
//! | `registrant` | owns the tasks below, and removes the registration |
//! | `register_loop` | registers the app, and registers it again when it has to |
//! | `agent_calls` | calls to the agent: time-outs, and pauses after failures |
//! | `agent_check` | compares what the agent holds with the registration |
//! | `catalog_check` | checks that the catalog lists the app |
//! | `self_lookup` | finds the app in a list of instances |
//! | `report` | reports the app's health, which renews the TTL |
//! | `stale` | removes the registrations that earlier runs left |
//! | `status` | the status of the registration |
//! | `maintenance` | takes the app out of service on request, and keeps it out |
//! | `maintenance_file` | keeps the maintenance reason across a restart |
//! | `drain` | the phases of a drain, and the end of the traffic |
//! | `withdraw` | the steps that take the app out of the registry |
//! | `port` | waits until the app's port is closed |
//! | `metrics` | all of it as gauges |
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

pub(crate) use drain::ServedTraffic;
pub(crate) use handle::LifecycleHandle;
pub(crate) use health::health_label;
pub(crate) use identity::{build_registration, host_name};
pub(crate) use maintenance::MaintenanceError;
pub(crate) use maintenance_file::maintenance_path;
pub(crate) use plan::RegistrationPlan;
pub(crate) use port::wait_until_port_closed;
pub(crate) use task::Lifecycle;
pub(crate) use withdraw::PropagationMonitor;
