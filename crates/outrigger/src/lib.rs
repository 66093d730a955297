//! One process's life: bind, learn, register, serve, drain, leave. A library so that tests can start
//! a whole sidecar in their own process.
//!
//! | module | its job |
//! |---|---|
//! | [`app`] | all the wiring: settings become objects here and nowhere else |
//! | `lifecycle` | the states of a life, the registration, the order of leaving |
//! | `admin` | metrics, health, what is known and why, the drain page |
//! | `child` | the local app as a child: started after the sidecar, stopped before it |
//! | `registry` | which registry is asked, and its metrics |
//! | [`reload`] | settings read again: who asks, what came of it |
//! | [`telemetry`] | logs, and the metrics of the process itself |
//! | `lines` | writes log lines, and waits for nobody to read them |
//! | `limits` | warns when few files may be opened |
//! | [`signal`] | SIGTERM and SIGINT, SIGHUP |
//! | [`cmd`] | the command line: `run`, `check`, `wait`, `drain`, `maintenance`, `reload`, `dev-registry`, ... |
//!
//! It carries no request (that is `outrigger_proxy`) and decides nothing about one (that is
//! `outrigger_policy`).

mod admin;
pub mod app;
mod child;
pub mod cmd;
mod http_client;
mod lifecycle;
mod limits;
mod lines;
mod registry;
pub mod reload;
pub mod signal;
pub mod telemetry;

pub use app::{App, ShutdownSummary, StartError};
pub use lifecycle::{LifecycleState, MaintenanceRequest, RegistrationPhase, RegistrationStatus};
