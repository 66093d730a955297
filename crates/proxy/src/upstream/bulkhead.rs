//! How many requests to one service may be under way: a wall between it and the app's other services.
//!
//! A service that hangs holds every request that it is given. Without a limit it ends up holding all of
//! the app's connections, and with them the services that are well. Whoever finds no place waits, in the
//! order of arrival, for a bounded time and with a bounded number of others; the rest is refused at once.
//!
//! The breaker is asked first: a service that is not called needs no place.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_config as config;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// The places of one service. Made anew when its numbers change: a request keeps the place it has.
#[derive(Debug)]
pub(crate) struct Bulkhead {
    most: usize,
    most_pending: usize,
    patience: Duration,
    places: Arc<Semaphore>,
    pending: AtomicUsize,
}

/// One request's place. Dropped, the next one's.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shed {
    /// As many wait as may.
    Full,
    /// None became free in time.
    Waited,
}

impl Bulkhead {
    /// `None`: requests are not counted.
    pub(crate) fn new(policy: &config::Policy) -> Option<Arc<Self>> {
        let most = policy.max_in_flight?;
        Some(Arc::new(Self {
            most,
            most_pending: policy.max_pending,
            patience: policy.pending_timeout,
            places: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            pending: AtomicUsize::new(0),
        }))
    }

    /// A place, when there is one and nobody waits for it.
    pub(crate) fn try_enter(&self) -> Option<Place> {
        self.places.clone().try_acquire_owned().ok().map(|permit| Place { _permit: permit })
    }

    /// Waits for a place, `ends` at the latest.
    ///
    /// # Errors
    /// With why there is none.
    pub(crate) async fn enter(&self, ends: Instant) -> Result<Place, Shed> {
        let _waits = Pending::new(&self.pending, self.most_pending).ok_or(Shed::Full)?;
        let due = ends.min(Instant::now() + self.patience);
        match timeout_at(due, self.places.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place { _permit: permit }),
            // Nobody closes it.
            Ok(Err(_)) | Err(_) => Err(Shed::Waited),
        }
    }

    /// Requests that wait for a place.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Relaxed)
    }

    /// What to tell whoever was shed.
    pub(crate) fn explain(&self, shed: Shed) -> String {
        let Self { most, most_pending, patience, .. } = self;
        match shed {
            Shed::Full => {
                format!("{most} requests are under way (max_in_flight), {most_pending} wait (max_pending)")
            }
            Shed::Waited => format!(
                "{most} requests are under way (max_in_flight), and none ended within pending_timeout \
                 ({patience:?}) or the request's own time"
            ),
        }
    }
}

/// One request in the queue.
struct Pending<'a>(&'a AtomicUsize);

impl<'a> Pending<'a> {
    fn new(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let joins = |before| (before < most).then_some(before + 1);
        count.fetch_update(Relaxed, Relaxed, joins).is_ok().then(|| Self(count))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn of(most: usize, pending: usize) -> Arc<Bulkhead> {
        let policy = config::Policy {
            max_in_flight: Some(most),
            max_pending: pending,
            pending_timeout: Duration::from_millis(100),
            ..config::Policy::default()
        };
        Bulkhead::new(&policy).unwrap()
    }

    fn never() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_for_the_next_one() {
        let bulkhead = of(1, 1);
        let place = bulkhead.try_enter().unwrap();
        assert!(bulkhead.try_enter().is_none());
        let waits = tokio::spawn({
            let bulkhead = bulkhead.clone();
            async move { bulkhead.enter(never()).await.map(drop) }
        });
        sleep(Duration::from_millis(50)).await;
        assert_eq!(bulkhead.pending(), 1);
        drop(place);
        assert_eq!(waits.await.unwrap(), Ok(()));
        assert_eq!(bulkhead.pending(), 0);
        assert!(bulkhead.try_enter().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_bounded_in_number_and_in_time() {
        let bulkhead = of(1, 1);
        let _place = bulkhead.try_enter().unwrap();
        let start = Instant::now();
        let (first, second) = tokio::join!(bulkhead.enter(never()), bulkhead.enter(never()));
        assert_eq!((first.err(), second.err()), (Some(Shed::Waited), Some(Shed::Full)));
        assert_eq!(start.elapsed(), Duration::from_millis(100));
        let soon = Instant::now() + Duration::from_millis(10);
        assert_eq!(bulkhead.enter(soon).await.err(), Some(Shed::Waited));
        assert_eq!(Instant::now(), soon);
        assert_eq!(bulkhead.pending(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_leaves_the_queue() {
        let bulkhead = of(1, 1);
        let _place = bulkhead.try_enter().unwrap();
        let mut waits = Box::pin(bulkhead.enter(never()));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx).is_pending()));
        assert!(polled.await);
        assert_eq!(bulkhead.pending(), 1);
        drop(waits);
        assert_eq!(bulkhead.pending(), 0);
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        assert!(Bulkhead::new(&config::Policy::default()).is_none());
    }
}
