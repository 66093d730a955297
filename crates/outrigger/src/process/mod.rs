//! The local app as a child of the sidecar: `outrigger run -- ./app`.
//!
//! | module | its job |
//! |---|---|
//! | `order` | what happens when, from the first signal to the exit code: a pure table |
//! | `supervise` | walks it |
//! | `process` | one run of the app: start, signal, how it ended |
//! | `reaper` | collects what ended: the app, and as process 1 everybody's orphans |
//! | `signals` | what the sidecar is sent, and what of it is meant for the app |
//!
//! Decisions, with their reasons:
//!
//! **The app stays in the sidecar's process group**, with its stdin, stdout, stderr, working folder and
//! environment, as if it had been started alone. A group of its own would be in the terminal's background:
//! reading stdin would stop it (SIGTTIN), and Ctrl-Z would not. The price: a terminal's Ctrl-C reaches the
//! app directly, before callers have heard; that is a person at a keyboard, and the sidecar then does not
//! send it a second time.
//!
//! **Signals go to the app alone, not to its children**: a server with workers of its own knows how to
//! stop them, and most would be cut short by a signal to each.
//!
//! **Calls to the system go through `rustix`** (maintained with Rust's own tooling, already in the
//! dependency tree, and without `unsafe` on this side). `std` can neither send a signal other than SIGKILL nor
//! wait for children that it did not start; `tokio::process` would race the reaper for the app's status.
//!
//! **A sidecar that is killed with SIGKILL leaves the app running**: the way to tie them
//! (`PR_SET_PDEATHSIG`) has to run between fork and exec, which is `unsafe`. The registry notices by the
//! check's TTL; whoever started the sidecar has to end the rest (systemd and containers do).

mod app;
mod reaper;
mod signals;
mod state;
mod supervise;

pub(crate) use supervise::{AppExit, supervise};
