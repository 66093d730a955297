//! The local app as a child process of the sidecar: `outrigger run -- ./app`. Also the command that runs under a lock: `outrigger lock`.
//!
//! | module | its job |
//! |---|---|
//! | `state` | the states from the start to the exit code: a pure table |
//! | `supervise` | the loop that runs the table |
//! | `control` | what the other parts of the sidecar see of the app, and ask of it |
//! | `guarded` | a command that runs while a lock is held |
//! | `app` | one run of the app: start, process group, signals, exit code |
//! | `token` | the sidecar's Consul token in the app's environment |
//! | `reaper` | collects ended processes: the app, and its orphans |
//! | `signals` | the signals that the sidecar gets, and which of them the app gets |
//!
//! docs/decisions/app-as-a-child.md has the reasons for the process group, the signals and the system calls.

mod app;
mod control;
mod guarded;
mod reaper;
mod signals;
mod state;
mod supervise;
mod token;

pub(crate) use control::{AppControl, AppRequest, AppRun};
pub(crate) use guarded::{GuardedCommand, LossPolicy, replace_process};
pub(crate) use signals::signal_name;
pub(crate) use supervise::{CaughtSignals, supervise};
pub(crate) use token::warn_of_inherited_token;
