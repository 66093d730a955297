//! One sidecar process: it binds, learns, registers, serves, drains and leaves. It is a library so that tests
//! can start a whole sidecar in their own process.
//!
//! | module | its job |
//! |---|---|
//! | [`app`] | all the wiring: settings become objects here and nowhere else |
//! | `lifecycle` | the lifecycle states, the registration, the order of leaving |
//! | `admin` | the admin pages: metrics, health, services, settings, drain |
//! | `process` | the local app as a child process: started after the sidecar, stopped before it |
//! | `registry` | opens the registry that the settings name; its metrics |
//! | [`reload`] | requests for a reload, one at a time, and their results |
//! | [`telemetry`] | logs, and the metrics of the process itself |
//! | `log_writer` | writes log lines without blocking: a line that finds no room is lost and counted |
//! | `limits` | warns when few files may be opened |
//! | [`signal`] | SIGTERM and SIGINT |
//! | [`cmd`] | the command line: `run`, `check`, `wait`, `drain`, `maintenance`, `reload`, `dev-registry`, ... |
//!
//! It carries no request (`outrigger_proxy` does) and decides nothing about one (`outrigger_policy` does).

mod admin;
pub mod app;
pub mod cmd;
mod http_client;
mod lifecycle;
mod limits;
mod log_writer;
mod process;
mod registry;
pub mod reload;
pub mod signal;
pub mod telemetry;

pub use app::{App, ShutdownSummary, StartError};
pub use lifecycle::{LifecycleState, MaintenanceRequest, RegistrationPhase, RegistrationStatus};
