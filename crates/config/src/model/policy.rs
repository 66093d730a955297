//! How a service is called: load balancing, time-outs, retries, circuit breaker, outlier detection, pool.

use std::{fmt, time::Duration};

use super::protocol::Protocol;

/// How a service is called.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How an instance is chosen. Default `round_robin`.
    pub balance: Balance,
    /// At which of its addresses an instance is called. Default `auto`.
    pub address: AddressKind,
    /// How requests are carried to an instance: that of its upstream. Default `auto`.
    pub protocol: Protocol,
    /// From the later of head accepted and last byte of the request body to the response head, over all
    /// attempts. Default 15s, range 1ms–1h.
    pub timeout: Duration,
    /// The same for one attempt, range 1ms–1h, not above `timeout`. Absent (the default, or `off`):
    /// bounded by `timeout` only.
    pub per_try_timeout: Option<Duration>,
    /// From head accepted to the last byte of the response: all attempts, pauses and both bodies, streams
    /// included; each attempt passes on the time that is left. Range 1ms–24h. Absent (the default, or
    /// `off`): only a request with a deadline of its own has one.
    pub deadline: Option<Duration>,
    /// Longest wait for a connection to an instance. Default 1s, range 1ms–1m.
    pub connect_timeout: Duration,
    /// Longest time without a byte in either body. Default 60s, range 10ms–24h.
    pub body_idle: Duration,
    /// Most requests and tunnels in flight at once, over all instances, range 1–1000000. Absent (the
    /// default, or `off`): not counted; the [`Pool`] of each instance is the limit.
    pub max_in_flight: Option<usize>,
    /// Most requests that wait for one of `max_in_flight` to end. Default 128, range 0–100000; then 503.
    pub max_pending: usize,
    /// Longest such wait. Default 1s, range 1ms–1h; then 503.
    pub pending_timeout: Duration,
    /// When a request is tried again.
    pub retry: RetryPolicy,
    /// When a second attempt runs beside a slow one. Absent (the default, or `off`): never.
    pub hedge: Option<HedgePolicy>,
    /// When all requests to the service are rejected. Absent (`circuit_breaker: off`): never.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// When one instance is ejected for a while. Absent (`outlier: off`): every instance that the registry
    /// lists as healthy is used.
    pub outlier: Option<OutlierDetection>,
    /// Connections to each instance.
    pub pool: Pool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            balance: Balance::RoundRobin,
            address: AddressKind::Auto,
            protocol: Protocol::Auto,
            timeout: Duration::from_secs(15),
            per_try_timeout: None,
            deadline: None,
            connect_timeout: Duration::from_secs(1),
            body_idle: Duration::from_secs(60),
            max_in_flight: None,
            max_pending: 128,
            pending_timeout: Duration::from_secs(1),
            retry: RetryPolicy::default(),
            hedge: None,
            circuit_breaker: Some(CircuitBreaker::default()),
            outlier: Some(OutlierDetection::default()),
            pool: Pool::default(),
        }
    }
}

/// How an instance is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Balance {
    /// Each usable instance in turn.
    RoundRobin,
    /// Uniformly at random.
    Random,
    /// In turn, by the registry's weights.
    Weighted,
    /// Of two at random, by the registry's weights, the one with fewer requests in flight for its weight.
    LeastRequest,
    /// Of two at random, by the registry's weights, the one at which a request is expected to take less time, by an average of
    /// response times that rises at once and falls over 10 s. One pick in twenty takes the first of the two.
    PeakEwma,
}

impl Balance {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::RoundRobin, Self::Random, Self::Weighted, Self::LeastRequest, Self::PeakEwma];

    /// Its name in a settings file, a metric and a page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::Weighted => "weighted",
            Self::LeastRequest => "least_request",
            Self::PeakEwma => "peak_ewma",
        }
    }
}

/// At which of its addresses an instance is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum AddressKind {
    /// One of the own datacenter as with `lan`, one of another as with `wan`.
    #[default]
    Auto,
    /// The address that the registry lists.
    Lan,
    /// The address for other networks; where there is none, as with `lan`.
    Wan,
}

impl AddressKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Lan, Self::Wan];

    /// Its name in a settings file and on a page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When a request is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Most attempts after the first. Default 2, range 0–10; 0 turns retries off.
    pub max_retries: u32,
    /// First ceiling of the back-off's full jitter. Default 25ms, range 0s–10s; not above
    /// `backoff_max`.
    pub backoff_base: Duration,
    /// Last ceiling. Default 250ms, range 0s–1m.
    pub backoff_max: Duration,
    /// Statuses of a response that are retried for idempotent requests. Default 502, 503,
    /// 504, range 400–599; an empty list retries none.
    pub statuses: Vec<u16>,
    /// Treat every method as safe to repeat. Default false: idempotent methods (RFC 9110 §9.2.2) and
    /// requests with an `Idempotency-Key` only.
    pub non_idempotent: bool,
    /// Methods of gRPC that are safe to repeat, as `/pkg.Service/Get*`: a `*` at the end stands for any text. Such a call is repeated as a
    /// request of an idempotent method is, and where the response is the status UNAVAILABLE (14) alone. Default none.
    pub grpc_methods: Vec<String>,
    /// Longest wait that a response may ask for before a retry (`Retry-After`, `grpc-retry-pushback-ms`). Default
    /// 1s, range 0s–1h. A response that asks for more goes to the app.
    pub max_retry_after: Duration,
    /// A safe request (GET, HEAD, OPTIONS; with [`Policy::hedge`] every request that may be repeated) that waits with others
    /// at an instance which answers none of them is sent to another instance too. Default on.
    pub stalled: bool,
    /// Most bytes of a request body kept for a replay. Default 64KiB, range 0–1MiB.
    pub max_body: usize,
    /// Limits the retries of requests that were partly or wholly sent.
    pub budget: RetryBudget,
}

impl RetryPolicy {
    /// Whether `grpc_methods` names the method of a call, by its path.
    pub fn repeats_grpc(&self, path: &[u8]) -> bool {
        self.grpc_methods.iter().any(|method| match method.strip_suffix('*') {
            Some(start) => path.starts_with(start.as_bytes()),
            None => path == method.as_bytes(),
        })
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 2,
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            statuses: vec![502, 503, 504],
            non_idempotent: false,
            grpc_methods: Vec::new(),
            max_retry_after: Duration::from_secs(1),
            stalled: true,
            max_body: 64 * 1024,
            budget: RetryBudget::default(),
        }
    }
}

/// When a second attempt runs beside a slow one: the first response is used, the other attempt is
/// cancelled. Only for idempotent requests with a buffered body, or none; to another instance; each one is
/// charged to the retry budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HedgePolicy {
    /// A second attempt starts when the first has taken longer than this share of the recent responses.
    /// Default 0.95, range 0.5–0.999 (`95%` in a file is the same).
    pub percentile: f64,
    /// The second attempt never starts earlier than this. Default 5ms, range 0s–1m.
    pub min_delay: Duration,
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self { percentile: 0.95, min_delay: Duration::from_millis(5) }
    }
}

/// How many retries are allowed, relative to the requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Retries per request. Default 0.2, range 0–1 (`20%` in a file is the same).
    pub ratio: f64,
    /// Retries per second that are always allowed. Default 10, range 0–10000.
    pub min_per_second: u32,
    /// How long a deposit counts. Default 10s, range 1s–1m.
    pub window: Duration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { ratio: 0.2, min_per_second: 10, window: Duration::from_secs(10) }
    }
}

/// When all requests to a service are rejected for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CircuitBreaker {
    /// Share of failed requests in the window that opens it. Default 0.5, range 0.01–1.
    pub failure_ratio: f64,
    /// The window. Default 10s, range 1s–10m.
    pub window: Duration,
    /// Fewest requests in the window for the ratio to count. Default 20, range 1–1000000.
    pub min_requests: u32,
    /// Consecutive failures that open it, range 1–1000000. Absent (the default, or `off`): not counted.
    pub consecutive_failures: Option<u32>,
    /// How long it stays open the first time. Default 1s, range 10ms–1h; not above `max_open_for`.
    /// Doubles with each failed probe.
    pub open_for: Duration,
    /// Longest time it stays open. Default 30s, range 10ms–1h.
    pub max_open_for: Duration,
    /// Requests let through at once while half-open, and successes that close it. Default 1,
    /// range 1–100. One without a result makes room for another after a second, then after twice as long each
    /// time, up to 16 s.
    pub probes: u32,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            failure_ratio: 0.5,
            window: Duration::from_secs(10),
            min_requests: 20,
            consecutive_failures: None,
            open_for: Duration::from_secs(1),
            max_open_for: Duration::from_secs(30),
            probes: 1,
        }
    }
}

/// When one instance is ejected for a while, before the registry reports a failure.
///
/// An instance that does not accept connections is ejected at once, whatever is set here. These settings limit how
/// instances are ejected for bad responses, and set the ejection time of both.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierDetection {
    /// Consecutive failed requests (502, 503, 504, a connection that ended, `per_try_timeout`), range
    /// 1–1000000. Default 5. Absent (`off`): not counted.
    pub consecutive_failures: Option<u32>,
    /// An instance is ejected when its share of successes is below this and also 30 points below the median
    /// of the other instances; with one other instance, also by more than chance explains (three standard
    /// errors of the difference). A 500 is a failure here, and so is an error with `x-outrigger-error`.
    /// Default 0.8, range 0.01–1. Absent (`off`): not compared.
    pub success_rate: Option<f64>,
    /// The window of that share. Default 10s, range 1s–10m. Each time as long without an ejection takes
    /// back one doubling of `base_ejection_time`.
    pub window: Duration,
    /// Fewest requests in the window for an instance's share to count. Default 20, range 1–1000000.
    pub min_requests: u32,
    /// How many of the instances that accept connections may be ejected for bad responses, in percent. Default
    /// 50, range 0–100.
    pub max_ejection_percent: f64,
    /// Longest first ejection; half of it is the shortest. Default 1s, range 10ms–1h; not above
    /// `max_ejection_time`. Doubles with each ejection.
    pub base_ejection_time: Duration,
    /// Longest ejection. Default 1m, range 10ms–1h.
    pub max_ejection_time: Duration,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_failures: Some(5),
            success_rate: Some(0.8),
            window: Duration::from_secs(10),
            min_requests: 20,
            max_ejection_percent: 50.0,
            base_ejection_time: Duration::from_secs(1),
            max_ejection_time: Duration::from_secs(60),
        }
    }
}

/// Connections to one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// An idle connection is closed after this long. Default 4s, below the 5s of common app servers;
    /// range 0s–1h.
    pub idle_timeout: Duration,
    /// A request that may not be repeated uses only a connection that was idle for less than this. Default
    /// 1s, or `idle_timeout` where that is less; not above `idle_timeout`.
    pub non_idempotent_max_idle: Duration,
    /// Most idle connections kept per instance. Default 128, or `max_connections` where that is less; not above `max_connections`.
    pub max_idle: usize,
    /// Most connections per instance. Default 1024, range 1–100000.
    pub max_connections: usize,
    /// Most requests that wait for one of them. Default 1024, range 0–100000; then 503.
    pub max_waiting: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(4),
            non_idempotent_max_idle: Duration::from_secs(1),
            max_idle: 128,
            max_connections: 1024,
            max_waiting: 1024,
        }
    }
}
