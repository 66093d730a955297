//! Collects processes that have ended: the app, and each orphan that became the sidecar's child, because the sidecar is a
//! subreaper (`prctl(2)`). A process that is not collected stays as a zombie: zombies fill the process table, and the process
//! group of one looks as if it still ran.
//!
//! It waits for any child, so nothing else in this process may wait for a child.

use std::io;

use rustix::{
    io::Errno,
    process::{Pid, WaitOptions, WaitStatus, wait},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, warn};

#[derive(Debug)]
pub(super) struct Reaper(Signal);

impl Reaper {
    /// Starts to listen. Must come before the first child starts, so that no end is missed.
    pub(super) fn listen() -> io::Result<Self> {
        signal(SignalKind::child()).map(Self)
    }

    /// Collects until `app` has ended; without an app it never returns. Cancel-safe: it returns as soon as it
    /// has collected the app.
    pub(super) async fn wait_for_exit(&mut self, app: Option<Pid>) -> WaitStatus {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == app => return status,
                Ok(Some((pid, _))) => {
                    debug!(pid = pid.as_raw_nonzero().get(), "collected an orphan");
                    continue;
                }
                Err(Errno::INTR) => continue,
                // No child has ended, or there is no child.
                Ok(None) | Err(Errno::CHILD) => {}
                Err(error) => warn!(%error, "cannot find out which processes have ended"),
            }
            if self.0.recv().await.is_none() {
                std::future::pending::<()>().await; // unreachable while the runtime lives
            }
        }
    }
}
