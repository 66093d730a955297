//! The open connections to the agent, which all questions share.
//!
//! Idle connections are taken newest first. While a question that cannot wait (a report, a registration) waits for a
//! connection, every connection that is given back is its own. Where the app is registered, one connection stays for such questions
//! while others are open, because watches keep theirs for up to a minute.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};

use super::connection::{AgentConnection, OpenGuard};

/// Idle connections that stay where the agent takes no more: one for the next report.
const IDLE_UNDER_PRESSURE: usize = 1;

/// The open connections.
#[derive(Default)]
pub(super) struct ConnectionPool {
    open: Arc<AtomicUsize>,
    /// Questions that wait for [`ConnectionPool::wait_for_idle`].
    urgent: AtomicUsize,
    given_back: Notify,
    keeps_one: AtomicBool,
    // Locked for a push or a pop, never over an await.
    idle: Mutex<Vec<AgentConnection>>,
}

impl ConnectionPool {
    /// Open connections, idle ones included.
    pub(super) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Counts one more open connection.
    pub(super) fn count(&self) -> OpenGuard {
        OpenGuard::new(self.open.clone())
    }

    /// Whether one connection stays for questions that cannot wait.
    pub(super) fn keep_one(&self, keeps_one: bool) {
        self.keeps_one.store(keeps_one, Relaxed);
    }

    /// Whether one connection stays for questions that cannot wait.
    pub(super) fn keeps_one(&self) -> bool {
        self.keeps_one.load(Relaxed)
    }

    /// The newest idle connection that can be used. Connections that cannot be used are closed.
    pub(super) async fn pop_idle(&self, is_urgent: bool) -> Option<AgentConnection> {
        if !is_urgent && self.is_awaited() {
            return None;
        }
        loop {
            // The only connection is for all questions: watches would never have one.
            let kept = usize::from(!is_urgent && self.keeps_one() && self.open() > 1);
            let mut conn = {
                let mut idle = self.idle.lock();
                if idle.len() <= kept { None } else { idle.pop() }
            }?;
            if conn.is_reusable().await {
                return Some(conn);
            }
        }
    }

    /// Keeps `conn` for the next exchange, and closes those that were idle for too long.
    pub(super) fn give_back(&self, conn: AgentConnection) {
        let mut idle = self.idle.lock();
        idle.retain(|one| !one.is_too_old());
        idle.push(conn);
        drop(idle);
        self.given_back.notify_one();
    }

    /// Whether a question that cannot wait waits for a connection.
    pub(super) fn is_awaited(&self) -> bool {
        self.urgent.load(Relaxed) > 0
    }

    /// Closes idle connections, because the agent takes no more of this address.
    pub(super) fn close_idle(&self) {
        let mut idle = self.idle.lock();
        let surplus = idle.len().saturating_sub(IDLE_UNDER_PRESSURE);
        // The oldest are first.
        let closed: Vec<_> = idle.drain(..surplus).collect();
        drop(idle); // before `closed`, which closes sockets
        drop(closed);
    }

    /// The next connection that is given back, within `longest`: before all questions that can wait.
    pub(super) async fn wait_for_idle(&self, longest: Duration) -> Option<AgentConnection> {
        self.urgent.fetch_add(1, Relaxed);
        let _counted = UrgentGuard(&self.urgent);
        let next = async {
            loop {
                if let Some(conn) = self.pop_idle(true).await {
                    return conn;
                }
                self.given_back.notified().await;
            }
        };
        timeout(longest, next).await.ok()
    }
}

/// One question that waits. Dropping it is one less, also when the question is cancelled.
struct UrgentGuard<'a>(&'a AtomicUsize);

impl Drop for UrgentGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
