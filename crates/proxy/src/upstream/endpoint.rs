//! An instance that we call: ours and alive. Load, connections and series belong to it and die with
//! it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_config as config;
use outrigger_policy::{Outcome, outlier_detection::EndpointStats};
use outrigger_registry::InstanceId;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::{
    io::Line,
    metrics::ServiceSeries,
    upstream::{
        connect::connect_outcome,
        pool::{Conn, Found, HeadLimits, Pool},
    },
};

/// One instance's live side.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: InstanceId,
    pub(crate) addr: SocketAddr,
    pub(crate) create_index: u64,
    pub(crate) pool: Pool,
    /// What its attempts came to; the cluster's judge reads it.
    pub(crate) stats: Arc<EndpointStats>,
    /// Times it was picked, and attempts that blame it: read when scraped, gone with the endpoint.
    pub(crate) picks: AtomicU64,
    pub(crate) failures: AtomicU64,
    created_at: Instant,
    /// Seconds since then, plus one, of the last answer; 0: none.
    last_success: AtomicU64,
    retired: AtomicBool,
    /// Somebody looks whether it is there.
    probe_running: AtomicBool,
    /// Milliseconds since it was made, plus one, of the last time that nobody was there; 0: never.
    unreachable_at: AtomicU64,
    /// The same of the last look that found somebody.
    reachable_at: AtomicU64,
    /// Looks of requests that wait long for its answer, since it last answered anybody.
    stall_ticks: AtomicU32,
    /// Milliseconds since it was made, plus one, of the last of them.
    last_stall_tick: AtomicU64,
    in_flight: AtomicUsize,
    /// Most requests under way at once.
    max_permits: AtomicUsize,
    /// Turns to be kept when they are given back, since fewer are allowed than were given out.
    excess_permits: AtomicUsize,
    waiting: AtomicUsize,
    /// One permit for each connection that a request may hold; whoever waits longest gets the next.
    permits: Semaphore,
}

/// Why no connection could be had.
#[derive(Debug)]
pub(crate) struct CheckoutError {
    pub(crate) outcome: Outcome,
    pub(crate) detail: String,
}

/// What a checkout needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckoutRequest<'a> {
    pub(crate) worker: usize,
    pub(crate) policy: &'a config::Policy,
    pub(crate) limits: HeadLimits,
    pub(crate) series: &'a ServiceSeries,
    /// May the request be sent again if the connection turns out to be dead?
    pub(crate) repeatable: bool,
    /// Longest time for a new connection.
    pub(crate) connect_timeout: Duration,
    /// Take no idle connection: the last one raced with its close.
    pub(crate) new_only: bool,
    pub(crate) now: Instant,
}

/// A connection idle for less is not looked at before a request that may be repeated: if it was closed
/// just now, that is the keep-alive race, and the look costs a system call per request.
const SKIP_PEEK_WITHIN: Duration = Duration::from_millis(10);

/// Milliseconds for which a look that found somebody is enough. Requests may wait for minutes by intent,
/// and each look is a connection that the instance accepts in vain.
const PROBE_INTERVAL: u64 = 1_000;

/// Looks, four a second for each request that has waited for a second, after which nobody is sent to an
/// endpoint that answers nothing: five requests that wait for a second, or one for two.
const STALL_TICKS: u32 = 5;
/// Without another look for this many milliseconds nobody waits any more, and nothing is known.
const STALL_EXPIRY: u64 = 600;

impl Endpoint {
    pub(crate) fn new(
        id: InstanceId,
        addr: SocketAddr,
        create_index: u64,
        workers: usize,
        policy: &config::Policy,
    ) -> Self {
        let most = max_permits(policy);
        Self {
            id,
            addr,
            create_index,
            pool: Pool::new(workers),
            stats: Arc::new(EndpointStats::new(policy.outlier.as_ref(), Instant::now().into_std())),
            picks: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            created_at: Instant::now(),
            last_success: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            probe_running: AtomicBool::new(false),
            unreachable_at: AtomicU64::new(0),
            reachable_at: AtomicU64::new(0),
            stall_ticks: AtomicU32::new(0),
            last_stall_tick: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            max_permits: AtomicUsize::new(most),
            excess_permits: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            permits: Semaphore::new(most),
        }
    }

    /// Goes on by other settings, with its load and connections. Called by the cluster's one writer.
    pub(crate) fn apply_settings(&self, policy: &config::Policy) {
        self.stats.apply_settings(policy.outlier.as_ref());
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

    /// One turn more to be had, unless too many are out.
    fn release_permit(&self) {
        let kept = self.excess_permits.load(Relaxed) > 0
            && self.excess_permits.fetch_update(Relaxed, Relaxed, |excess| excess.checked_sub(1)).is_ok();
        if !kept {
            self.permits.add_permits(1);
        }
    }

    /// It answered. Whole seconds are enough for the one who asks, and spare a store per request.
    pub(crate) fn record_success(&self, now: Instant) {
        let seconds = now.saturating_duration_since(self.created_at).as_secs() + 1;
        if self.last_success.load(Relaxed) != seconds {
            self.last_success.store(seconds, Relaxed);
        }
    }

    /// A request has waited long for its answer, and waits on.
    pub(crate) fn record_stall_tick(&self, now: Instant) {
        self.last_stall_tick.store(self.millis_since_created(now), Relaxed);
        self.stall_ticks.fetch_add(1, Relaxed);
    }

    /// It has answered somebody, whatever it said.
    pub(crate) fn record_response(&self) {
        if self.stall_ticks.load(Relaxed) != 0 {
            self.stall_ticks.store(0, Relaxed);
        }
    }

    /// Whether requests wait long for it and it answers nobody. Its kernel may accept connections all the
    /// same: only what waits there shows that a process has stopped.
    pub(crate) fn is_stalled(&self) -> bool {
        if self.stall_ticks.load(Relaxed) < STALL_TICKS {
            return false;
        }
        let now = self.millis_since_created(Instant::now());
        now.saturating_sub(self.last_stall_tick.load(Relaxed)) < STALL_EXPIRY
    }

    /// Whether it answered within `lately`, and nothing since has cost it its trust.
    pub(crate) fn succeeded_within(&self, within: Duration, now: Instant) -> bool {
        if !self.stats.admits(true) {
            return false;
        }
        let since = now.saturating_duration_since(self.created_at).as_secs() + 1;
        let last_success = self.last_success.load(Relaxed);
        last_success > 0 && since.saturating_sub(last_success) <= within.as_secs()
    }

    /// True for the one who is to look whether it is there.
    pub(crate) fn try_begin_probe(&self, now: Instant) -> bool {
        let last = self.reachable_at.load(Relaxed);
        let is_recent = last > 0 && self.millis_since_created(now) < last + PROBE_INTERVAL;
        !is_recent && !self.probe_running.swap(true, Relaxed)
    }

    /// What the look has shown.
    pub(crate) fn end_probe(&self, unreachable: bool, now: Instant) {
        let last = if unreachable { &self.unreachable_at } else { &self.reachable_at };
        last.store(self.millis_since_created(now), Relaxed);
        self.probe_running.store(false, Relaxed);
    }

    /// Whether nobody was there at some time after `since`.
    pub(crate) fn unreachable_since(&self, since: Instant) -> bool {
        self.unreachable_at.load(Relaxed) > self.millis_since_created(since)
    }

    fn millis_since_created(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.created_at).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// An attempt failed, and it is to blame.
    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Whether a pick may take it: a View may still list one that has left, or that has lost its trust.
    /// `retryable`: the request can be tried again, so it may be the one that tries the endpoint out.
    pub(crate) fn is_usable(&self, retryable: bool) -> bool {
        !self.retired.load(Relaxed) && self.stats.admits(retryable)
    }

    /// It has left the registry: flagged first, then its idle connections are closed. What is in
    /// flight finishes.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
        self.pool.close();
    }

    /// Requests under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// A turn, when there is one now.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<InFlight> {
        self.permits.try_acquire().ok().map(|permit| InFlight::new(self, permit))
    }

    /// Waits for a turn. The ticket is the turn; leaving by any door gives it back.
    ///
    /// # Errors
    /// [`Outcome::Overloaded`] when `pool.max_waiting` requests wait already.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        policy: &config::Policy,
    ) -> Result<InFlight, CheckoutError> {
        let waiting = WaitingCount::new(&self.waiting);
        if waiting.before >= policy.pool.max_waiting {
            let detail = format!(
                "{}: {} requests are under way and {} wait, the most that pool.max_connections and \
                 pool.max_waiting allow",
                self.id.id,
                self.max_permits.load(Relaxed),
                policy.pool.max_waiting
            );
            return Err(CheckoutError { outcome: Outcome::Overloaded, detail });
        }
        let permit = self.permits.acquire().await.map_err(|closed| CheckoutError {
            outcome: Outcome::Overloaded,
            detail: format!("{}: {closed}", self.id.id),
        })?;
        Ok(InFlight::new(self, permit))
    }

    /// An idle connection that is still good.
    pub(crate) fn take_idle(&self, request: &CheckoutRequest<'_>) -> Found {
        let limit = match (request.new_only, request.repeatable) {
            (true, _) => return Found::Nothing,
            (false, true) => request.policy.pool.idle_timeout,
            (false, false) => request.policy.pool.non_idempotent_max_idle,
        };
        // A request that may be repeated takes a connection that was in use a moment ago at its word.
        let skip_peek = if request.repeatable { SKIP_PEEK_WITHIN } else { Duration::ZERO };
        self.pool.checkout(request.worker, limit, skip_peek, request.now, || request.series.stale.inc())
    }

    /// A connection for what [`Endpoint::take_idle`] found: itself, a codec for its socket, or a new one.
    pub(crate) async fn connect(
        &self,
        checkout: Found,
        request: &CheckoutRequest<'_>,
    ) -> Result<Box<Conn>, CheckoutError> {
        match checkout {
            Found::Ready(conn) => {
                request.series.reused.inc();
                return Ok(conn);
            }
            Found::Socket(line, open) => {
                if let Ok(conn) = Conn::new(line, true, open, request.limits).await {
                    request.series.reused.inc();
                    return Ok(conn);
                }
            }
            Found::Nothing => {}
        }
        // Whoever has a turn has room, also where fewer are allowed since it was given.
        let most = self.max_permits.load(Relaxed).max(self.in_flight());
        let Some(open) = self.pool.reserve(most) else {
            let detail = format!("{}: pool.max_connections are open", self.id.id);
            return Err(CheckoutError { outcome: Outcome::Overloaded, detail });
        };
        let stream = outrigger_net::connect(self.addr, request.connect_timeout).await.map_err(|error| {
            CheckoutError { outcome: connect_outcome(&error), detail: format!("{error}: {}", error.source) }
        })?;
        request.series.opened.inc();
        Conn::new(Line::new(stream), false, open, request.limits).await.map_err(|error| CheckoutError {
            outcome: Outcome::ConnectFailed,
            detail: format!("connect to {}: {error}", self.addr),
        })
    }
}

/// Turns that a policy allows.
fn max_permits(policy: &config::Policy) -> usize {
    policy.pool.max_connections.min(Semaphore::MAX_PERMITS)
}

/// One request's turn at an endpoint: in-flight +1, and −1 when dropped.
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

/// One request in the queue.
struct WaitingCount<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> WaitingCount<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Relaxed) }
    }
}

impl Drop for WaitingCount<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
    }
}
