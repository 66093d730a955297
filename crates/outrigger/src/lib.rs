//! One sidecar process: it binds, learns, registers, serves, drains and leaves. It is a library so that tests
//! can start a whole sidecar in their own process.
//!
//! ARCHITECTURE.md has the map of its modules. The parts of the process are put together only in [`app`].
//!
//! It carries no request (`outrigger_proxy` does) and decides nothing about one (`outrigger_policy` does).

mod activation;
mod admin;
mod api;
pub mod app;
pub mod cmd;
mod config_files;
mod handover;
mod limits;
mod log_format;
mod log_writer;
mod network;
mod process;
mod registry;
pub mod reload;
pub mod signal;
mod sse;
pub mod telemetry;

pub use api::ApiReason;
pub use app::{App, ApplyError, ShutdownSummary, StartError};
pub use outrigger_registration::{LifecycleState, MaintenanceRequest, RegistrationPhase, RegistrationStatus};
