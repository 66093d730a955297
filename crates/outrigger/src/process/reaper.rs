//! Collects processes that have ended: the app and, where the sidecar is process 1, every orphan that
//! the kernel hands to it. Uncollected ones stay as zombies until the process table is full.
//!
//! It asks for any child, so nothing else in this process may wait for one of its own.

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
    /// Begins to listen; before the first child is started, so that no end is missed.
    pub(super) fn listen() -> io::Result<Self> {
        signal(SignalKind::child()).map(Self)
    }

    /// Collects until `app` has ended, for ever without one. Cancel-safe: what is collected is
    /// returned at once.
    pub(super) async fn wait_for_exit(&mut self, app: Option<Pid>) -> WaitStatus {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == app => return status,
                Ok(Some((pid, _))) => {
                    debug!(pid = pid.as_raw_nonzero().get(), "collected an orphan");
                    continue;
                }
                Err(Errno::INTR) => continue,
                // Children that live; none at all.
                Ok(None) | Err(Errno::CHILD) => {}
                Err(error) => warn!(%error, "cannot ask which processes have ended"),
            }
            if self.0.recv().await.is_none() {
                std::future::pending::<()>().await; // out of reach: the runtime is ours
            }
        }
    }
}
