//! Limits the requests in flight to one service, so that it cannot block the app's other services.
//!
//! A service that hangs keeps every request. Without a limit it would keep all of the app's connections,
//! and no request could reach a working service. A request that finds no free slot waits in the order of
//! arrival, for a bounded time and in a bounded queue; further requests are refused at once.
//!
//! The breaker comes first: a refused request needs no slot.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_config::{self as config, format_duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{limit::service_limit, metrics::labels::Rejected};

/// The slots of one service. A change of its limits makes a new one; a request keeps its slot.
#[derive(Debug)]
pub(crate) struct Bulkhead {
    max_in_flight: usize,
    max_pending: usize,
    pending_timeout: Duration,
    slots: Arc<Semaphore>,
    pending: AtomicUsize,
}

/// One request's slot, free again when dropped.
pub(crate) type Slot = OwnedSemaphorePermit;

impl Bulkhead {
    /// `None`: requests are not counted.
    pub(crate) fn new(policy: &config::Policy) -> Option<Arc<Self>> {
        let max_in_flight = policy.max_in_flight?;
        Some(Arc::new(Self {
            max_in_flight,
            max_pending: policy.max_pending,
            pending_timeout: policy.pending_timeout,
            slots: Arc::new(Semaphore::new(max_in_flight.min(Semaphore::MAX_PERMITS))),
            pending: AtomicUsize::new(0),
        }))
    }

    /// A slot, if one is free and no request waits for it.
    pub(crate) fn try_acquire(&self) -> Option<Slot> {
        self.slots.clone().try_acquire_owned().ok()
    }

    /// Waits for a slot until `ends` at the latest.
    ///
    /// # Errors
    /// When the queue is full, or no slot becomes free in time.
    pub(crate) async fn acquire(&self, ends: Instant) -> Result<Slot, Rejected> {
        let _pending = PendingCount::new(&self.pending, self.max_pending).ok_or(Rejected::QueueFull)?;
        let due = ends.min(Instant::now() + self.pending_timeout);
        match timeout_at(due, self.slots.clone().acquire_owned()).await {
            Ok(Ok(slot)) => Ok(slot),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(Rejected::TimedOut),
        }
    }

    /// Requests that hold a slot.
    pub(crate) fn in_flight(&self) -> usize {
        self.max_in_flight.saturating_sub(self.slots.available_permits())
    }

    /// Requests that wait for a slot.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Relaxed)
    }

    /// The limit of the requests in flight, as a problem body of the service names it.
    pub(crate) fn limit(&self, label: &str) -> String {
        service_limit(label, "max_in_flight", self.max_in_flight)
    }

    /// The text for a refused request of the service.
    pub(crate) fn explain(&self, label: &str, rejected: Rejected) -> String {
        let of_wait = match rejected {
            Rejected::QueueFull => service_limit(label, "max_pending", self.max_pending),
            Rejected::TimedOut => {
                service_limit(label, "pending_timeout", format_duration(self.pending_timeout))
            }
        };
        let what = match rejected {
            Rejected::QueueFull => "as many requests are under way, and as many wait, as may",
            Rejected::TimedOut => {
                "as many requests are under way as may, and none ended within pending_timeout or the request's own time"
            }
        };
        format!("{what}; {}, {of_wait}", self.limit(label))
    }
}

/// One request in a queue.
struct PendingCount<'a>(&'a AtomicUsize);

impl<'a> PendingCount<'a> {
    /// `None`: `most` requests are in the queue.
    fn new(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let join = |before| (before < most).then_some(before + 1);
        count.fetch_update(Relaxed, Relaxed, join).is_ok().then(|| Self(count))
    }
}

impl Drop for PendingCount<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn bulkhead_with(most: usize, pending: usize) -> Arc<Bulkhead> {
        let policy = config::Policy {
            max_in_flight: Some(most),
            max_pending: pending,
            pending_timeout: Duration::from_millis(100),
            ..config::Policy::default()
        };
        Bulkhead::new(&policy).unwrap()
    }

    fn far_future() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_free_slot_waits_for_the_next_one() {
        let bulkhead = bulkhead_with(1, 1);
        let slot = bulkhead.try_acquire().unwrap();
        assert!(bulkhead.try_acquire().is_none());
        let waiting = tokio::spawn({
            let bulkhead = bulkhead.clone();
            async move { bulkhead.acquire(far_future()).await.map(drop) }
        });
        sleep(Duration::from_millis(50)).await;
        assert_eq!(bulkhead.pending(), 1);
        drop(slot);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert_eq!(bulkhead.pending(), 0);
        assert!(bulkhead.try_acquire().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_bounded_in_number_and_in_time() {
        let bulkhead = bulkhead_with(1, 1);
        let _slot = bulkhead.try_acquire().unwrap();
        let start = Instant::now();
        let (first, second) = tokio::join!(bulkhead.acquire(far_future()), bulkhead.acquire(far_future()));
        assert_eq!((first.err(), second.err()), (Some(Rejected::TimedOut), Some(Rejected::QueueFull)));
        assert_eq!(start.elapsed(), Duration::from_millis(100));
        let soon = Instant::now() + Duration::from_millis(10);
        assert_eq!(bulkhead.acquire(soon).await.err(), Some(Rejected::TimedOut));
        assert_eq!(Instant::now(), soon);
        assert_eq!(bulkhead.pending(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_cancelled_leaves_the_queue() {
        let bulkhead = bulkhead_with(1, 1);
        let _slot = bulkhead.try_acquire().unwrap();
        let mut waiting = Box::pin(bulkhead.acquire(far_future()));
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_pending()));
        assert!(polled.await);
        assert_eq!(bulkhead.pending(), 1);
        drop(waiting);
        assert_eq!(bulkhead.pending(), 0);
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        assert!(Bulkhead::new(&config::Policy::default()).is_none());
    }
}
