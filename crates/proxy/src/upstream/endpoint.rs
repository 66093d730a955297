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
        connect,
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
    pub(crate) record: Arc<EndpointStats>,
    /// Times it was picked, and attempts that blame it: read when scraped, gone with the endpoint.
    pub(crate) picks: AtomicU64,
    pub(crate) failures: AtomicU64,
    made: Instant,
    /// Seconds since then, plus one, of the last answer; 0: none.
    well: AtomicU64,
    retired: AtomicBool,
    /// Somebody looks whether it is there.
    doubted: AtomicBool,
    /// Milliseconds since it was made, plus one, of the last time that nobody was there; 0: never.
    lost: AtomicU64,
    /// The same of the last look that found somebody.
    found: AtomicU64,
    /// Looks of requests that wait long for its answer, since it last answered anybody.
    silent: AtomicU32,
    /// Milliseconds since it was made, plus one, of the last of them.
    looked: AtomicU64,
    in_flight: AtomicUsize,
    /// Most requests under way at once.
    most: AtomicUsize,
    /// Turns to be kept when they are given back, since fewer are allowed than were given out.
    excess: AtomicUsize,
    waiting: AtomicUsize,
    /// One permit for each connection that a request may hold; whoever waits longest gets the next.
    turns: Semaphore,
}

/// Why no connection could be had.
#[derive(Debug)]
pub(crate) struct CheckoutError {
    pub(crate) outcome: Outcome,
    pub(crate) detail: String,
}

/// What a checkout needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checkout<'a> {
    pub(crate) worker: usize,
    pub(crate) policy: &'a config::Policy,
    pub(crate) limits: HeadLimits,
    pub(crate) series: &'a ServiceSeries,
    /// May the request be sent again if the connection turns out to be dead?
    pub(crate) repeatable: bool,
    /// Longest time for a new connection.
    pub(crate) connect_within: Duration,
    /// Take no idle connection: the last one raced with its close.
    pub(crate) fresh: bool,
    pub(crate) now: Instant,
}

/// A connection idle for less is not looked at before a request that may be repeated: if it was closed
/// just now, that is the keep-alive race, and the look costs a system call per request.
const TRUST: Duration = Duration::from_millis(10);

/// Milliseconds for which a look that found somebody is enough. Requests may wait for minutes by intent,
/// and each look is a connection that the instance accepts in vain.
const REST: u64 = 1_000;

/// Looks, four a second for each request that has waited for a second, after which nobody is sent to an
/// endpoint that answers nothing: five requests that wait for a second, or one for two.
const HUNG: u32 = 5;
/// Without another look for this many milliseconds nobody waits any more, and nothing is known.
const STALE: u64 = 600;

impl Endpoint {
    pub(crate) fn new(
        id: InstanceId,
        addr: SocketAddr,
        create_index: u64,
        workers: usize,
        policy: &config::Policy,
    ) -> Self {
        let most = turns(policy);
        Self {
            id,
            addr,
            create_index,
            pool: Pool::new(workers),
            record: Arc::new(EndpointStats::new(policy.outlier.as_ref(), Instant::now().into_std())),
            picks: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            made: Instant::now(),
            well: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            found: AtomicU64::new(0),
            silent: AtomicU32::new(0),
            looked: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            most: AtomicUsize::new(most),
            excess: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            turns: Semaphore::new(most),
        }
    }

    /// Goes on by other settings, with its load and connections. Called by the cluster's one writer.
    pub(crate) fn adopt(&self, policy: &config::Policy) {
        self.record.apply_settings(policy.outlier.as_ref());
        let most = turns(policy);
        let before = self.most.swap(most, Relaxed);
        if most < before {
            let fewer = before - most;
            self.excess.fetch_add(fewer - self.turns.forget_permits(fewer), Relaxed);
        } else {
            let more = most - before;
            let kept = self.excess.fetch_update(Relaxed, Relaxed, |excess| Some(excess.saturating_sub(more)));
            self.turns.add_permits(more - kept.unwrap_or(0).min(more));
        }
    }

    /// One turn more to be had, unless too many are out.
    fn give_back(&self) {
        let kept = self.excess.load(Relaxed) > 0
            && self.excess.fetch_update(Relaxed, Relaxed, |excess| excess.checked_sub(1)).is_ok();
        if !kept {
            self.turns.add_permits(1);
        }
    }

    /// It answered. Whole seconds are enough for the one who asks, and spare a store per request.
    pub(crate) fn went_well(&self, now: Instant) {
        let seconds = now.saturating_duration_since(self.made).as_secs() + 1;
        if self.well.load(Relaxed) != seconds {
            self.well.store(seconds, Relaxed);
        }
    }

    /// A request has waited long for its answer, and waits on.
    pub(crate) fn keeps_waiting(&self, now: Instant) {
        self.looked.store(self.millis(now), Relaxed);
        self.silent.fetch_add(1, Relaxed);
    }

    /// It has answered somebody, whatever it said.
    pub(crate) fn spoke(&self) {
        if self.silent.load(Relaxed) != 0 {
            self.silent.store(0, Relaxed);
        }
    }

    /// Whether requests wait long for it and it answers nobody. Its kernel may accept connections all the
    /// same: only what waits there shows that a process has stopped.
    pub(crate) fn is_hung(&self) -> bool {
        if self.silent.load(Relaxed) < HUNG {
            return false;
        }
        let now = self.millis(Instant::now());
        now.saturating_sub(self.looked.load(Relaxed)) < STALE
    }

    /// Whether it answered within `lately`, and nothing since has cost it its trust.
    pub(crate) fn well_within(&self, lately: Duration, now: Instant) -> bool {
        if !self.record.admits(true) {
            return false;
        }
        let since = now.saturating_duration_since(self.made).as_secs() + 1;
        let well = self.well.load(Relaxed);
        well > 0 && since.saturating_sub(well) <= lately.as_secs()
    }

    /// True for the one who is to look whether it is there.
    pub(crate) fn begin_doubt(&self, now: Instant) -> bool {
        let found = self.found.load(Relaxed);
        let rests = found > 0 && self.millis(now) < found + REST;
        !rests && !self.doubted.swap(true, Relaxed)
    }

    /// What the look has shown.
    pub(crate) fn end_doubt(&self, lost: bool, now: Instant) {
        let last = if lost { &self.lost } else { &self.found };
        last.store(self.millis(now), Relaxed);
        self.doubted.store(false, Relaxed);
    }

    /// Whether nobody was there at some time after `since`.
    pub(crate) fn lost_after(&self, since: Instant) -> bool {
        self.lost.load(Relaxed) > self.millis(since)
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.made).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// An attempt failed, and it is to blame.
    pub(crate) fn blame(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Whether a pick may take it: a View may still list one that has left, or that has lost its trust.
    /// `retryable`: the request can be tried again, so it may be the one that tries the endpoint out.
    pub(crate) fn usable(&self, retryable: bool) -> bool {
        !self.retired.load(Relaxed) && self.record.admits(retryable)
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
    pub(crate) fn try_begin(self: &Arc<Self>) -> Option<Ticket> {
        self.turns.try_acquire().ok().map(|permit| Ticket::new(self, permit))
    }

    /// Waits for a turn. The ticket is the turn; leaving by any door gives it back.
    ///
    /// # Errors
    /// [`Outcome::Overloaded`] when `pool.max_waiting` requests wait already.
    pub(crate) async fn begin(self: &Arc<Self>, policy: &config::Policy) -> Result<Ticket, CheckoutError> {
        let waiting = Waiting::new(&self.waiting);
        if waiting.before >= policy.pool.max_waiting {
            let detail = format!(
                "{}: {} requests are under way and {} wait, the most that pool.max_connections and \
                 pool.max_waiting allow",
                self.id.id,
                self.most.load(Relaxed),
                policy.pool.max_waiting
            );
            return Err(CheckoutError { outcome: Outcome::Overloaded, detail });
        }
        let permit = self.turns.acquire().await.map_err(|closed| CheckoutError {
            outcome: Outcome::Overloaded,
            detail: format!("{}: {closed}", self.id.id),
        })?;
        Ok(Ticket::new(self, permit))
    }

    /// An idle connection that is still good.
    pub(crate) fn idle(&self, ask: &Checkout<'_>) -> Found {
        let limit = match (ask.fresh, ask.repeatable) {
            (true, _) => return Found::Nothing,
            (false, true) => ask.policy.pool.idle_timeout,
            (false, false) => ask.policy.pool.non_idempotent_max_idle,
        };
        // A request that may be repeated takes a connection that was in use a moment ago at its word.
        let trust = if ask.repeatable { TRUST } else { Duration::ZERO };
        self.pool.checkout(ask.worker, limit, trust, ask.now, || ask.series.stale.inc())
    }

    /// A connection for what [`Endpoint::idle`] found: itself, a codec for its socket, or a new one.
    pub(crate) async fn connect(&self, found: Found, ask: &Checkout<'_>) -> Result<Box<Conn>, CheckoutError> {
        match found {
            Found::Ready(conn) => {
                ask.series.reused.inc();
                return Ok(conn);
            }
            Found::Socket(line, open) => {
                if let Ok(conn) = Conn::new(line, true, open, ask.limits).await {
                    ask.series.reused.inc();
                    return Ok(conn);
                }
            }
            Found::Nothing => {}
        }
        // Whoever has a turn has room, also where fewer are allowed since it was given.
        let most = self.most.load(Relaxed).max(self.in_flight());
        let Some(open) = self.pool.reserve(most) else {
            let detail = format!("{}: pool.max_connections are open", self.id.id);
            return Err(CheckoutError { outcome: Outcome::Overloaded, detail });
        };
        let stream = connect::connect(self.addr, ask.connect_within).await.map_err(|error| {
            CheckoutError { outcome: error.outcome, detail: format!("{error}: {}", error.source) }
        })?;
        ask.series.opened.inc();
        Conn::new(Line::new(stream), false, open, ask.limits).await.map_err(|error| CheckoutError {
            outcome: Outcome::ConnectFailed,
            detail: format!("connect to {}: {error}", self.addr),
        })
    }
}

/// Turns that a policy allows.
fn turns(policy: &config::Policy) -> usize {
    policy.pool.max_connections.min(Semaphore::MAX_PERMITS)
}

/// One request's turn at an endpoint: in-flight +1, and −1 when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) endpoint: Arc<Endpoint>,
}

impl Ticket {
    fn new(endpoint: &Arc<Endpoint>, permit: SemaphorePermit<'_>) -> Self {
        permit.forget();
        endpoint.in_flight.fetch_add(1, Relaxed);
        Self { endpoint: endpoint.clone() }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Relaxed);
        self.endpoint.give_back();
    }
}

/// One request in the queue.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
    }
}
