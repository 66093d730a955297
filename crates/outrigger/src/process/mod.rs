//! The local app as a child process of the sidecar: `outrigger run -- ./app`.
//!
//! | module | its job |
//! |---|---|
//! | `state` | the states from the start to the exit code: a pure table |
//! | `supervise` | the loop that runs the table |
//! | `app` | one run of the app: start, signals, exit code |
//! | `reaper` | collects ended processes: the app, and as process 1 every orphan |
//! | `signals` | the signals that the sidecar gets, and which of them the app gets |
//!
//! Decisions, with their reasons:
//!
//! **The app stays in the sidecar's process group**, with its stdin, stdout, stderr, working folder and
//! environment, as if it had been started alone. A separate group would be in the terminal's background:
//! reading stdin would stop the app (SIGTTIN), and Ctrl-Z would not. The price: Ctrl-C at a terminal reaches
//! the app directly, before callers have learned of it. The sidecar then does not send that signal again.
//!
//! **Signals go to the app alone, not to its children**: a server with worker processes stops them itself, and
//! a signal to each would cut most of them off.
//!
//! **System calls go through `rustix`** (it needs no `unsafe` here, and other dependencies use it already).
//! `std` can neither send a signal other than SIGKILL nor wait for children that it did not start;
//! `tokio::process` would race the reaper for the app's status.
//!
//! **A sidecar that is killed with SIGKILL leaves the app running**: `PR_SET_PDEATHSIG` would end it, but has to
//! be set between fork and exec, which is `unsafe`. The check of the app expires by its TTL, and systemd or the
//! container ends the app.

mod app;
mod reaper;
mod signals;
mod state;
mod supervise;

pub(crate) use supervise::{AppExit, supervise};
