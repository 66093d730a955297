//! What a connection of the admin side does, by which it is closed for another one or at its longest age.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Longest time in which the client of a stream takes nothing. In place of the longest age, while it streams.
pub(super) const MAX_STREAM_STALL: Duration = Duration::from_secs(30);

/// What a connection does.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    /// When it was accepted, or its last request began: milliseconds since `started`.
    last: AtomicU64,
    /// A request is being answered. Of a page, an answer that its peer does not read does not count.
    is_busy: AtomicBool,
    /// When it is to be closed: milliseconds since `started`.
    ends: AtomicU64,
}

impl Activity {
    /// Of a connection that is accepted now. `started`: the same for all that are compared. Without `max_age` it lives for as long as
    /// its peer likes.
    pub(super) fn new(started: Instant, max_age: Option<Duration>) -> Self {
        let activity = Self {
            started,
            last: AtomicU64::new(0),
            is_busy: AtomicBool::new(false),
            ends: AtomicU64::new(u64::MAX),
        };
        activity.touch();
        max_age.into_iter().for_each(|age| activity.end_after(age));
        activity
    }

    fn touch(&self) {
        self.last.store(milliseconds(self.started.elapsed()), Relaxed);
    }

    fn end_after(&self, time: Duration) {
        self.ends.store(milliseconds(self.started.elapsed() + time), Relaxed);
    }

    /// The order in which connections are closed.
    pub(super) fn order(&self) -> (bool, u64) {
        (self.is_busy.load(Relaxed), self.last.load(Relaxed))
    }

    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Relaxed)
    }

    pub(super) fn begin_request(self: &Arc<Self>) -> BusyGuard {
        self.touch();
        self.is_busy.store(true, Relaxed);
        BusyGuard(self.clone())
    }

    /// Resolves when the connection is to be closed.
    pub(super) async fn outlived(&self) {
        loop {
            let ends = match self.ends.load(Relaxed) {
                // A stream may begin later, and gives it an end.
                u64::MAX => {
                    sleep(MAX_STREAM_STALL).await;
                    continue;
                }
                ends => self.started + Duration::from_millis(ends),
            };
            if Instant::now() >= ends {
                return;
            }
            sleep_until(ends).await;
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A request that is being answered, until it is dropped.
pub(super) struct BusyGuard(Arc<Activity>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Relaxed);
    }
}

/// The connection of a request, as an extension of it: for an answer that is a stream.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionControl {
    pub(super) activity: Arc<Activity>,
    /// The listener stops.
    pub(super) stop: CancellationToken,
}

impl ConnectionControl {
    /// The client takes what is sent: the connection may live for as long as that goes on, and counts as used.
    pub(crate) fn extend(&self) {
        self.activity.touch();
        self.activity.end_after(MAX_STREAM_STALL);
    }

    /// Resolves when the listener stops.
    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

#[cfg(test)]
impl ConnectionControl {
    /// The listener stops.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// The connection is to be closed.
    pub(crate) async fn is_outlived(&self) -> bool {
        tokio::time::timeout(Duration::ZERO, self.activity.outlived()).await.is_ok()
    }
}

impl Default for ConnectionControl {
    /// Of no listener, so that nothing stops or closes it.
    fn default() -> Self {
        Self { activity: Arc::new(Activity::new(Instant::now(), None)), stop: CancellationToken::new() }
    }
}
