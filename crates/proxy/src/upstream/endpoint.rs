//! An instance that the sidecar calls, with its load, its connections and its counts.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_config as config;
use outrigger_policy::{
    Outcome,
    outlier_detection::{EndpointStats, stall::Stall},
};
use outrigger_registry::InstanceId;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::{
    metrics::ServiceSeries,
    transport::pool::{Connection, ConnectionPool},
    upstream::{bulkhead::PendingCount, connect::connect_outcome},
};

/// One instance. An instance that is registered anew gets a new endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: InstanceId,
    pub(crate) addr: SocketAddr,
    pub(crate) create_index: u64,
    pub(crate) pool: ConnectionPool,
    /// The results of its attempts; the cluster's detector reads them.
    pub(crate) stats: EndpointStats,
    pub(crate) stall: Stall,
    /// Picks, and attempts that count against the instance; read by a scrape.
    pub(crate) picks: AtomicU64,
    pub(crate) failures: AtomicU64,
    retired: AtomicBool,
    in_flight: AtomicUsize,
    /// Most requests in flight at once.
    max_permits: AtomicUsize,
    /// Permits to withhold when they are released, because a reload has reduced their number.
    excess_permits: AtomicUsize,
    waiting: AtomicUsize,
    /// One permit for each connection that a request may hold; the longest waiting request gets the next.
    permits: Semaphore,
}

impl AsRef<EndpointStats> for Endpoint {
    fn as_ref(&self) -> &EndpointStats {
        &self.stats
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct CheckoutError {
    pub(crate) outcome: Outcome,
    pub(crate) detail: String,
}

/// Which idle connections a request may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckoutRequest<'a> {
    pub(crate) worker: usize,
    pub(crate) policy: &'a config::Policy,
    pub(crate) series: &'a ServiceSeries,
    /// Whether the request may be sent again if the connection turns out to be closed.
    pub(crate) is_repeatable: bool,
    pub(crate) now: Instant,
}

/// A connection that is idle for less is not peeked at before a request that may be repeated: the
/// keep-alive race covers a close in that time, and a peek costs a system call per request.
const SKIP_PEEK_WITHIN: Duration = Duration::from_millis(10);

impl Endpoint {
    pub(crate) fn new(
        id: InstanceId,
        addr: SocketAddr,
        create_index: u64,
        workers: usize,
        policy: &config::Policy,
    ) -> Self {
        let (most, now) = (max_permits(policy), Instant::now().into_std());
        Self {
            id,
            addr,
            create_index,
            pool: ConnectionPool::new(workers),
            stats: EndpointStats::new(now),
            stall: Stall::new(now),
            picks: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            max_permits: AtomicUsize::new(most),
            excess_permits: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            permits: Semaphore::new(most),
        }
    }

    /// Changes the most requests in flight. Called by the cluster's one writer.
    pub(crate) fn set_max_permits(&self, policy: &config::Policy) {
        let most = max_permits(policy);
        let before = self.max_permits.swap(most, Relaxed);
        if most < before {
            let fewer = before - most;
            self.excess_permits.fetch_add(fewer - self.permits.forget_permits(fewer), Relaxed);
        } else {
            let more = most - before;
            let kept = self
                .excess_permits
                .fetch_update(Relaxed, Relaxed, |excess| Some(excess.saturating_sub(more)));
            self.permits.add_permits(more - kept.unwrap_or(0).min(more));
        }
    }

    /// Returns a permit, or withholds it when too many are in use.
    fn release_permit(&self) {
        let kept = self.excess_permits.load(Relaxed) > 0
            && self.excess_permits.fetch_update(Relaxed, Relaxed, |excess| excess.checked_sub(1)).is_ok();
        if !kept {
            self.permits.add_permits(1);
        }
    }

    /// Whether requests wait for the instance and it responds to none.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stall.is_stalled(|| Instant::now().into_std())
    }

    /// Whether a request succeeded within `within`, and the endpoint is not ejected.
    pub(crate) fn succeeded_within(&self, within: Duration, now: Instant) -> bool {
        self.stats.admits(true) && self.stall.succeeded_within(within, now.into_std())
    }

    /// Counts a failed attempt against the instance.
    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Whether a pick may take the endpoint: a View may list one that has left or is ejected. `retryable`:
    /// the request can be retried, so it may decide a probation.
    pub(crate) fn is_usable(&self, retryable: bool) -> bool {
        !self.retired.load(Relaxed) && self.stats.admits(retryable)
    }

    /// Ends the picks and closes idle connections, because the instance has left the registry. Requests in
    /// flight finish.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
        self.pool.close();
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// A permit, if one is free.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<InFlight> {
        self.permits.try_acquire().ok().map(|permit| InFlight::new(self, permit))
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// [`Outcome::Overloaded`] when `pool.max_waiting` requests wait already.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        policy: &config::Policy,
    ) -> Result<InFlight, CheckoutError> {
        let Some(_waiting) = PendingCount::new(&self.waiting, policy.pool.max_waiting) else {
            let detail = format!(
                "{}: {} requests are under way and {} wait, the most that pool.max_connections and \
                 pool.max_waiting allow",
                self.id.id,
                self.max_permits.load(Relaxed),
                policy.pool.max_waiting
            );
            return Err(CheckoutError { outcome: Outcome::Overloaded, detail });
        };
        let permit = self.permits.acquire().await.map_err(|closed| CheckoutError {
            outcome: Outcome::Overloaded,
            detail: format!("{}: {closed}", self.id.id),
        })?;
        Ok(InFlight::new(self, permit))
    }

    /// An idle connection that is still good.
    pub(crate) fn take_idle(&self, request: &CheckoutRequest<'_>) -> Option<Connection> {
        let pool = &request.policy.pool;
        let (limit, skip_peek) = if request.is_repeatable {
            (pool.idle_timeout, SKIP_PEEK_WITHIN)
        } else {
            (pool.non_idempotent_max_idle, Duration::ZERO)
        };
        let stale = || request.series.stale.inc();
        let connection = self.pool.checkout(request.worker, limit, skip_peek, request.now, stale)?;
        request.series.reused.inc();
        Some(connection)
    }

    /// A new connection, made within `timeout`.
    pub(crate) async fn connect(
        &self,
        series: &ServiceSeries,
        timeout: Duration,
    ) -> Result<Connection, CheckoutError> {
        // A permit includes a connection, also when a reload has reduced the number since.
        let most = self.max_permits.load(Relaxed).max(self.in_flight());
        let Some(open) = self.pool.reserve(most) else {
            let detail = format!("{}: pool.max_connections are open", self.id.id);
            return Err(CheckoutError { outcome: Outcome::Overloaded, detail });
        };
        let stream = outrigger_net::connect(self.addr, timeout).await.map_err(|error| CheckoutError {
            outcome: connect_outcome(&error),
            detail: format!("{error}: {}", error.source),
        })?;
        series.opened.inc();
        Ok(Connection::new(stream.into(), open))
    }
}

/// The most permits that a policy allows.
fn max_permits(policy: &config::Policy) -> usize {
    policy.pool.max_connections.min(Semaphore::MAX_PERMITS)
}

/// One request's permit: counts the request as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) endpoint: Arc<Endpoint>,
}

impl InFlight {
    fn new(endpoint: &Arc<Endpoint>, permit: SemaphorePermit<'_>) -> Self {
        permit.forget();
        endpoint.in_flight.fetch_add(1, Relaxed);
        Self { endpoint: endpoint.clone() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Relaxed);
        self.endpoint.release_permit();
    }
}
