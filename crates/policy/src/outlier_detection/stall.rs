//! Finds endpoints that accept requests and answer none: a stopped process, a vanished host.
//!
//! Neither fails a request before its time-out. The evidence is two requests or more that wait unusually long
//! ([`PeakLatency`]) at the same time while the endpoint responds to none ([`Stall`]), and a probe that cannot connect. One
//! request that waits alone is no evidence: a slow report looks the same.
//! The words are separate: readers see each one's last value, and no decision needs two that agree.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A probe that connected is enough for this long. Requests may wait for minutes by intent, and each
/// probe is a connection that the instance accepts in vain.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a probe that could not connect counts. A request that asks has waited for as long, so the
/// instance was lost while it waited.
const PROBE_RESULT_TTL: Duration = Duration::from_secs(1);

/// Checks of waiting requests, after which an endpoint that responds to none is stalled. A request that
/// has waited for a second checks four times a second: five requests that wait for a second, two for one and a half, or one for
/// two while another one waits for one.
const STALL_TICKS: u32 = 5;

/// Without another check for this long no request waits any more, and nothing is known.
const STALL_EXPIRY: Duration = Duration::from_millis(600);

/// Whether one endpoint responds.
#[derive(Debug)]
pub struct Stall {
    created_at: Instant,
    /// Whole seconds from `created_at`, plus one, of the last success; 0: none.
    last_success: AtomicU64,
    /// Responses so far; wraps.
    responses: AtomicU32,
    /// Checks of waiting requests since the last response. Those of one request alone stay below [`STALL_TICKS`].
    ticks: AtomicU32,
    /// Requests that have checked so far; wraps, and is never 0 after the first.
    waits: AtomicU32,
    /// The number of the request that alone has checked since the last response; 0: none has.
    lone_wait: AtomicU32,
    /// Milliseconds from `created_at`, plus one, of the last check.
    last_tick: AtomicU64,
    probe_running: AtomicBool,
    /// Milliseconds from `created_at`, plus one, of the last probe that could not connect; 0: none.
    unreachable_at: AtomicU64,
    /// The same of the last probe that connected.
    reachable_at: AtomicU64,
}

/// One request that waits for a response of an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct StallWait {
    /// [`Stall::responses`] when the endpoint got the request.
    responses: u32,
    /// Tells the waiting requests apart; 0: it has not checked yet.
    number: u32,
}

impl Stall {
    /// An endpoint without requests.
    pub fn new(now: Instant) -> Self {
        Self {
            created_at: now,
            last_success: AtomicU64::new(0),
            responses: AtomicU32::new(0),
            ticks: AtomicU32::new(0),
            waits: AtomicU32::new(0),
            lone_wait: AtomicU32::new(0),
            last_tick: AtomicU64::new(0),
            probe_running: AtomicBool::new(false),
            unreachable_at: AtomicU64::new(0),
            reachable_at: AtomicU64::new(0),
        }
    }

    /// Records a successful request, to the second: that spares a store per request.
    pub fn record_success(&self, now: Instant) {
        let seconds = self.seconds(now);
        if self.last_success.load(Relaxed) != seconds {
            self.last_success.store(seconds, Relaxed);
        }
    }

    /// Whether a request succeeded within `within`, to the second.
    pub fn succeeded_within(&self, within: Duration, now: Instant) -> bool {
        let last_success = self.last_success.load(Relaxed);
        last_success > 0 && self.seconds(now).saturating_sub(last_success) <= within.as_secs()
    }

    /// A request that the endpoint gets now, or that has got an interim response.
    pub fn begin_wait(&self) -> StallWait {
        StallWait { responses: self.responses.load(Relaxed), number: 0 }
    }

    /// Records that a request has waited unusually long and still waits. An endpoint that has responded to another request
    /// since it got this one is at work, and the request is slow: it is no evidence. Nor is a request that waits alone.
    pub fn record_tick(&self, wait: &mut StallWait, now: Instant) {
        if self.responses.load(Relaxed) != wait.responses {
            return;
        }
        if wait.number == 0 {
            wait.number = self.waits.fetch_add(1, Relaxed).wrapping_add(1).max(1);
        }
        if self.time_since(&self.last_tick, now) >= STALL_EXPIRY {
            // The requests that checked before have left, perhaps without a response.
            self.forget_ticks();
        }
        self.last_tick.store(self.millis(now), Relaxed);
        let is_alone = match self.lone_wait.compare_exchange(0, wait.number, Relaxed, Relaxed) {
            Ok(_) => true,
            Err(first) => first == wait.number,
        };
        let counted = |ticks: u32| (!is_alone || ticks < STALL_TICKS - 1).then(|| ticks.saturating_add(1));
        // An error: the request waits alone, and its checks count for no more.
        let _ = self.ticks.fetch_update(Relaxed, Relaxed, counted);
    }

    /// Records a response of any status.
    pub fn record_response(&self) {
        self.responses.fetch_add(1, Relaxed);
        if self.ticks.load(Relaxed) != 0 {
            self.forget_ticks();
        }
    }

    fn forget_ticks(&self) {
        self.ticks.store(0, Relaxed);
        self.lone_wait.store(0, Relaxed);
    }

    /// Whether requests wait for the endpoint and it responds to none. Its kernel may still accept
    /// connections, so only the waiting requests show a stopped process. `now` is read only after the
    /// check of the count, because every pick calls this.
    #[inline]
    pub fn is_stalled(&self, now: impl FnOnce() -> Instant) -> bool {
        if self.ticks.load(Relaxed) < STALL_TICKS {
            return false;
        }
        self.time_since(&self.last_tick, now()) < STALL_EXPIRY
    }

    /// Whether the caller is to probe the endpoint; [`end_probe`](Self::end_probe) must follow. False while
    /// another probe runs or shortly after one that connected.
    pub fn try_begin_probe(&self, now: Instant) -> bool {
        let is_recent =
            self.reachable_at.load(Relaxed) > 0 && self.time_since(&self.reachable_at, now) < PROBE_INTERVAL;
        !is_recent && !self.probe_running.swap(true, Relaxed)
    }

    /// Records the result of a probe.
    pub fn end_probe(&self, unreachable: bool, now: Instant) {
        let last = if unreachable { &self.unreachable_at } else { &self.reachable_at };
        last.store(self.millis(now), Relaxed);
        self.probe_running.store(false, Relaxed);
    }

    /// Whether a recent probe could not connect.
    pub fn is_unreachable(&self, now: Instant) -> bool {
        let since = now.checked_sub(PROBE_RESULT_TTL);
        since.is_some_and(|since| self.unreachable_at.load(Relaxed) > self.millis(since))
    }

    fn time_since(&self, mark: &AtomicU64, now: Instant) -> Duration {
        Duration::from_millis(self.millis(now).saturating_sub(mark.load(Relaxed)))
    }

    fn seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.created_at).as_secs() + 1
    }

    fn millis(&self, now: Instant) -> u64 {
        let millis = now.saturating_duration_since(self.created_at).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1
    }
}

/// The longest recent response time of a cluster: a wait is unusual by comparison with it.
#[derive(Debug, Default)]
pub struct PeakLatency {
    millis: AtomicU64,
}

impl PeakLatency {
    /// Records the time that a response took.
    pub fn record(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // A load for nearly all responses: the cache line stays shared between workers.
        if self.millis.load(Relaxed) < millis {
            self.millis.fetch_max(millis, Relaxed);
        }
    }

    /// Reduces the peak by an eighth. Called once a second.
    pub fn decay(&self) {
        let millis = self.millis.load(Relaxed);
        if millis > 0 {
            self.millis.store(millis - millis.div_ceil(8), Relaxed);
        }
    }

    /// Whether a wait is longer than twice the peak.
    pub fn is_unusual(&self, wait: Duration) -> bool {
        wait > Duration::from_millis(self.millis.load(Relaxed).saturating_mul(2))
    }
}
