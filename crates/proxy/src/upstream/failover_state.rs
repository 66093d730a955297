//! Whether requests go to a failover target, and since when they could return.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// The state of the requests to a cluster, or to a subset of it.
#[derive(Debug)]
pub(crate) struct FailoverState {
    over: AtomicBool,
    made_at: Instant,
    /// Milliseconds from `made_at`, and one more, since when an endpoint has been healthy without a break. 0: none is.
    healthy_since: AtomicU64,
}

impl FailoverState {
    pub(crate) fn new() -> Self {
        Self { over: AtomicBool::new(false), made_at: Instant::now(), healthy_since: AtomicU64::new(0) }
    }

    /// Whether requests go to a failover target.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Requests go to a failover target from now on. False: they did before.
    pub(crate) fn begin(&self) -> bool {
        let begins = !self.over.swap(true, Relaxed);
        if begins {
            self.healthy_since.store(0, Relaxed);
        }
        begins
    }

    /// They return. False: they did before.
    pub(crate) fn end(&self) -> bool {
        self.over.swap(false, Relaxed)
    }

    /// Notes whether an endpoint is healthy: to be called after each change of that.
    pub(crate) fn note_healthy(&self, is_healthy: bool, now: Instant) {
        if !is_healthy {
            self.healthy_since.store(0, Relaxed);
        } else if self.healthy_since.load(Relaxed) == 0 {
            self.healthy_since.store(self.millis_at(now), Relaxed);
        }
    }

    /// Whether an endpoint has been healthy for so long.
    pub(crate) fn is_healthy_for(&self, time: Duration, now: Instant) -> bool {
        self.healthy_for(now).is_some_and(|healthy| healthy >= time)
    }

    /// How long an endpoint has been healthy, in whole milliseconds. `None`: none is.
    pub(crate) fn healthy_for(&self, now: Instant) -> Option<Duration> {
        let since = self.healthy_since.load(Relaxed);
        (since != 0).then(|| Duration::from_millis(self.millis_at(now).saturating_sub(since)))
    }

    fn millis_at(&self, now: Instant) -> u64 {
        let millis = now.saturating_duration_since(self.made_at).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1
    }
}
