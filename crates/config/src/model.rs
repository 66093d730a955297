//! Every setting: what it means, its unit, its default and what its absence does.
//!
//! A value of these types is already right: ranges were checked, names were parsed, time-outs are
//! consistent. Nothing here reads files, and nothing knows serde: see `raw` for the shape of
//! the file and `check` for how one becomes the other. A reload follows every setting that does not say
//! that it needs a restart.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

/// Everything one sidecar runs by.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The local app to register. Absent: nothing is registered, the sidecar only routes.
    pub service: Option<Service>,
    /// Where instances are learned from, and where the app is registered. Needs a restart.
    pub registry: Registry,
    /// How many services are watched, and for how long.
    pub discovery: Discovery,
    /// Folder in which the last good answers, and maintenance, outlive a restart. Default: the first folder of
    /// `$STATE_DIRECTORY` (which systemd sets), else `outrigger` under `$XDG_STATE_HOME`, else
    /// `.local/state/outrigger` under `$HOME`. Absent (none of the three, or `off`): a restart
    /// forgets them. Needs a restart.
    pub state_dir: Option<PathBuf>,
    /// The listener that the app sends its requests to.
    pub outbound: Outbound,
    /// What holds for every upstream that does not say otherwise.
    pub defaults: Policy,
    /// Services known by name in the file: watched from the start.
    pub upstreams: Vec<Upstream>,
    /// The admin listener.
    pub admin: Admin,
    /// How long leaving may take.
    pub drain: Drain,
    /// What becomes of the sidecar when the app that it started (`outrigger run -- app`) ends by itself.
    /// Default `exit`. Means nothing where the app is started by somebody else.
    pub on_app_exit: OnAppExit,
    /// Data-plane threads. Default `auto`: min(available cores, 2). Needs a restart.
    pub workers: Workers,
    /// What is logged, and how.
    pub log: Log,
}

/// The local app.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// The name that other services call it by: one DNS label. Required.
    pub name: String,
    /// The port the app listens on. Required, 1–65535.
    pub port: u16,
    /// The address others reach it at. Absent: the registry agent's own address.
    pub address: Option<String>,
    /// The registration's identity. Absent: stable, made from name, host name and port.
    pub id: Option<String>,
    /// Tags of the registration, each at most 255 bytes. Default none.
    pub tags: Vec<String>,
    /// Key-value metadata of the registration, by Consul's rules: at most 64 pairs, keys of at most
    /// 128 letters, digits, `-` and `_`, values of at most 512 bytes. Default none.
    pub meta: BTreeMap<String, String>,
    /// Relative share of traffic. Default 1 and 1.
    pub weights: Weights,
    /// How the sidecar finds out whether the app is well. Default `tcp: true`.
    pub health: Health,
    /// How long a critical registration is kept before the registry removes it. Default 1m, range
    /// 1m–720h; Consul's minimum is 1m.
    pub deregister_after: Duration,
}

/// Shares of traffic by health, as in Consul's `Weights`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// While passing. Default 1, range 1–65535.
    pub passing: u16,
    /// While warning. Default 1, range 0–65535; 0 takes no traffic while warning.
    pub warning: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// The probe of the local app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// Within this a change is found: a probe begins `interval` - `timeout` after the last one, at least
    /// half of `interval`. Default 2s, range 100ms–1h.
    pub interval: Duration,
    /// Longest wait for one probe. Default 1s, range 10ms–1m; not above `interval`.
    pub timeout: Duration,
}

/// What a health probe asks of the local app, always on the loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A connection is accepted.
    Tcp,
    /// `GET` of this path answers: 2xx passing, 429 warning, everything else critical.
    Http(String),
}

/// Where instances come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Registry {
    /// A Consul agent. The default.
    Consul(Consul),
    /// Static instances in a YAML file, re-read when the file changes. Nothing is registered.
    File(PathBuf),
}

/// How to reach the Consul agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Consul {
    /// `http://` or `https://` and host and port. Default `CONSUL_HTTP_ADDR`, else
    /// `http://127.0.0.1:8500`.
    pub address: ConsulAddress,
    /// Datacenter asked for by default. Absent: the agent's own.
    pub datacenter: Option<String>,
    /// Where the ACL token comes from. Absent: no token is sent.
    pub token: Option<Token>,
    /// TLS to the agent; used when the address is `https`.
    pub tls: Tls,
    /// Longest time one blocking query waits. Default 45s, range 1s–10m.
    pub wait: Duration,
    /// Most connections held by watches. Default 96, range 1–180: with the four that agent calls hold,
    /// half of what an agent allows an address (it closes the 201st without a word).
    pub max_connections: usize,
}

/// The agent's address, split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulAddress {
    /// `https` was asked for.
    pub tls: bool,
    /// Host name or IP (no brackets).
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for ConsulAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Where a token comes from. Never printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// Given in the environment or as a `${VARIABLE}` of the file.
    Value(Secret),
    /// Read from this file, and read again when the file changes.
    File(PathBuf),
}

/// A string that no log, page or `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// TLS as a client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// PEM file of the authorities to trust. Absent: the Mozilla roots built in.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate chain. Absent: none is shown. Needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the certificate's key. Needs `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Name expected in the server's certificate. Absent: the address's host.
    pub server_name: Option<String>,
}

/// Which services are watched, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discovery {
    /// Longest wait of a first request for the registry's first answer. Default 1s, range
    /// 1ms–1m.
    pub first_answer: Duration,
    /// An undeclared service is dropped after this long without requests. Default 10m, range 1s–24h.
    pub idle: Duration,
    /// Most services watched at once. Default 256, range 1–10000; not below the declared ones.
    pub max_services: usize,
    /// Most names watched that never had an instance. Default 64, range 1–10000.
    pub max_unknown: usize,
    /// How long such a name is kept. Default 30s, range 1s–1h.
    pub unknown_ttl: Duration,
    /// Doubt about answers in which many instances are gone at once. Absent (`guard: off`): every
    /// answer is believed as it comes.
    pub guard: Option<Guard>,
}

/// How long instances are kept that a suspect answer no longer lists, while they still answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// Their loss is believed once consistent answers, with an index above that of their last listing,
    /// have confirmed it over more than this, if others are left. Default 1s, range 0s–1m; not above
    /// `hold`.
    pub confirm: Duration,
    /// Their loss is believed after this long whatever speaks for them; a silence of the registry
    /// begins it anew. Default 10s, range 0s–10m.
    pub hold: Duration,
    /// Longest wait for an instance's answer to a connection attempt. Default 300ms, range 10ms–5s.
    pub probe: Duration,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            confirm: Duration::from_secs(1),
            hold: Duration::from_secs(10),
            probe: Duration::from_millis(300),
        }
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            first_answer: Duration::from_secs(1),
            idle: Duration::from_secs(600),
            max_services: 256,
            max_unknown: 64,
            unknown_ttl: Duration::from_secs(30),
            guard: Some(Guard::default()),
        }
    }
}

/// An address to listen on: `localhost` stands for 127.0.0.1 and ::1 with one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Loopback of both families, or one address.
    pub host: ListenHost,
    /// Port; 0 lets the system choose (tests).
    pub port: u16,
}

/// The host part of a [`Listen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenHost {
    /// 127.0.0.1, and ::1 where the machine has IPv6.
    Localhost,
    /// One address.
    Ip(IpAddr),
}

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Self {
        Self { host: ListenHost::Ip(addr.ip()), port: addr.port() }
    }
}

impl Listen {
    /// Both loopback addresses with this port.
    pub const fn localhost(port: u16) -> Self {
        Self { host: ListenHost::Localhost, port }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            ListenHost::Localhost => write!(f, "localhost:{}", self.port),
            ListenHost::Ip(ip) => SocketAddr::new(ip, self.port).fmt(f),
        }
    }
}

/// The listener that the app sends its requests to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outbound {
    /// Where it listens. Default `localhost:7070`.
    pub listen: Listen,
    /// Add `X-Forwarded-For`, `-Proto` and `-Host`. Default false.
    pub x_forwarded: bool,
    /// Add `Via`. Default false.
    pub via: bool,
    /// Origins (`https://host[:port]`) whose browser requests are allowed. Default none.
    pub allow_origins: Vec<String>,
    /// Limits towards the app.
    pub limits: Limits,
}

/// What one app connection may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a request's or answer's head. Default 64KiB, range 8KiB–1MiB.
    pub max_header_bytes: usize,
    /// Most header fields of a head. Default 100, range 10–1000.
    pub max_headers: usize,
    /// Longest time from a head's first byte to its last. Default 10s, range 100ms–10m. Then 408.
    pub head_timeout: Duration,
    /// How long an idle app connection is kept. Default 1h, range 1s–24h.
    pub idle: Duration,
    /// Most app connections at once, over all listeners. Default 10000, range 1–1000000. Then 503
    /// and a close.
    pub max_connections: usize,
    /// Silence in both directions that ends a tunnel. Default 1h, range 1s–168h.
    pub tunnel_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 64 * 1024,
            max_headers: 100,
            head_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(3600),
            max_connections: 10_000,
            tunnel_idle: Duration::from_secs(3600),
        }
    }
}

/// A service declared in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Its name in the registry. Required.
    pub service: String,
    /// A port of its own. Absent: reached by name only.
    pub listen: Option<Listen>,
    /// Only instances that carry all these tags. Default: every instance.
    pub tags: Vec<String>,
    /// Datacenter asked for. Absent: `registry.consul.datacenter`, else the agent's own.
    pub datacenter: Option<String>,
    /// How it is called: the defaults, with what the upstream says itself laid over them.
    pub policy: Policy,
}

/// How a service is called.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How an instance is chosen. Default `round_robin`.
    pub balance: Balance,
    /// From the later of head accepted and last request-body byte to the response head, over all
    /// attempts. Default 15s, range 1ms–1h.
    pub timeout: Duration,
    /// The same for one attempt, range 1ms–1h, not above `timeout`. Absent (the default, or `off`):
    /// bounded by `timeout` only.
    pub per_try_timeout: Option<Duration>,
    /// From head accepted to the answer's last byte: over all attempts, pauses and both bodies, streams
    /// included; each instance is told what is left of it. Range 1ms–24h. Absent (the default, or
    /// `off`): only a request that brings one has one.
    pub deadline: Option<Duration>,
    /// Longest wait for a connection to an instance. Default 1s, range 1ms–1m.
    pub connect_timeout: Duration,
    /// Longest silence in either body. Default 60s, range 10ms–24h.
    pub body_idle: Duration,
    /// Most requests and tunnels under way at once, over all instances, range 1–1000000. Absent (the
    /// default, or `off`): not counted, each instance's [`Pool`] is the limit.
    pub max_in_flight: Option<usize>,
    /// Most requests that wait for one of `max_in_flight` to end. Default 128, range 0–100000; then 503.
    pub max_pending: usize,
    /// Longest such wait. Default 1s, range 1ms–1h; then 503.
    pub pending_timeout: Duration,
    /// When a request is tried again.
    pub retry: Retry,
    /// When a second attempt is made beside one that is slow. Absent (the default, or `off`): never.
    pub hedge: Option<Hedge>,
    /// When the service is not called at all. Absent (`circuit_breaker: off`): always called.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// When one instance is not chosen for a while. Absent (`outlier: off`): every instance that the
    /// registry calls healthy is.
    pub outlier: Option<Outlier>,
    /// Connections to each instance.
    pub pool: Pool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            balance: Balance::RoundRobin,
            timeout: Duration::from_secs(15),
            per_try_timeout: None,
            deadline: None,
            connect_timeout: Duration::from_secs(1),
            body_idle: Duration::from_secs(60),
            max_in_flight: None,
            max_pending: 128,
            pending_timeout: Duration::from_secs(1),
            retry: Retry::default(),
            hedge: None,
            circuit_breaker: Some(CircuitBreaker::default()),
            outlier: Some(Outlier::default()),
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
}

impl Balance {
    /// Every way there is.
    pub const ALL: [Self; 3] = [Self::RoundRobin, Self::Random, Self::Weighted];

    /// The word for it in a settings file, a metric and a page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::Weighted => "weighted",
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Balance {
    type Err = UnknownBalance;

    fn from_str(text: &str) -> Result<Self, UnknownBalance> {
        Self::ALL.into_iter().find(|balance| balance.as_str() == text).ok_or(UnknownBalance)
    }
}

/// The text names no way to choose an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one of round_robin, random, weighted")]
pub struct UnknownBalance;

/// When a request is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Most attempts after the first. Default 2, range 0–10; 0 turns retries off.
    pub max_retries: u32,
    /// First ceiling of the back-off's full jitter. Default 25ms, range 0s–10s; not above
    /// `backoff_max`.
    pub backoff_base: Duration,
    /// Last ceiling. Default 250ms, range 0s–1m.
    pub backoff_max: Duration,
    /// Statuses of an instance's answer that are retried for idempotent requests. Default 502, 503,
    /// 504, range 400–599; an empty list retries none.
    pub statuses: Vec<u16>,
    /// Treat every method as safe to repeat. Default false: idempotent methods (RFC 9110 §9.2.2) and
    /// requests with an `Idempotency-Key` only.
    pub non_idempotent: bool,
    /// Most bytes of a request body kept for a replay. Default 64KiB, range 0–1MiB.
    pub max_body: usize,
    /// Bounds the retries of requests of which something was sent.
    pub budget: Budget,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_retries: 2,
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            statuses: vec![502, 503, 504],
            non_idempotent: false,
            max_body: 64 * 1024,
            budget: Budget::default(),
        }
    }
}

/// When a second attempt is made beside one that is slow: the first answer is taken, the other attempt
/// is cancelled. For idempotent requests whose body, if any, has been read and is kept; to another
/// instance; each one is paid for from the retry budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hedge {
    /// The share of recent answers that came sooner than the attempt has taken. Default 0.95, range
    /// 0.5–0.999 (the file may say `95%`).
    pub percentile: f64,
    /// However fast they came, no sooner than this. Default 5ms, range 0s–1m.
    pub min_delay: Duration,
}

impl Default for Hedge {
    fn default() -> Self {
        Self { percentile: 0.95, min_delay: Duration::from_millis(5) }
    }
}

/// A share of the requests that may be spent on retries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Retries per request. Default 0.2, range 0–1 (the file may say `20%`).
    pub ratio: f64,
    /// Retries per second that are always allowed. Default 10, range 0–10000.
    pub min_per_second: u32,
    /// How long a deposit counts. Default 10s, range 1s–1m.
    pub window: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self { ratio: 0.2, min_per_second: 10, window: Duration::from_secs(10) }
    }
}

/// When a service is not called at all for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CircuitBreaker {
    /// Share of failed requests in the window that opens it. Default 0.5, range 0.01–1.
    pub failure_ratio: f64,
    /// The window. Default 10s, range 1s–10m.
    pub window: Duration,
    /// Fewest requests in the window for the ratio to count. Default 20, range 1–1000000.
    pub min_requests: u32,
    /// Failures in a row that open it, range 1–1000000. Absent (the default, or `off`): rows are not
    /// counted.
    pub consecutive_failures: Option<u32>,
    /// How long it stays open the first time. Default 1s, range 10ms–1h; not above `open_max`.
    /// Doubles with each failed probe.
    pub open: Duration,
    /// Longest time it stays open. Default 30s, range 10ms–1h.
    pub open_max: Duration,
    /// Requests let through at once while half-open, and successes that close it. Default 1,
    /// range 1–100.
    pub probes: u32,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            failure_ratio: 0.5,
            window: Duration::from_secs(10),
            min_requests: 20,
            consecutive_failures: None,
            open: Duration::from_secs(1),
            open_max: Duration::from_secs(30),
            probes: 1,
        }
    }
}

/// When one instance is not chosen for a while, ahead of the registry.
///
/// One that cannot be connected to is out at once, whatever is set here; these are the limits for one
/// that answers badly, and how long either is out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlier {
    /// Requests in a row that it failed (502, 503, 504, a connection that ended, `per_try_timeout`),
    /// range 1–1000000. Default 5. Absent (`off`): rows are not counted.
    pub consecutive_failures: Option<u32>,
    /// Share of successes below which it is out, if it is also 30 points below the median of at least
    /// two siblings; a 500 is no success here. Default 0.8, range 0.01–1. Absent (`off`): shares are
    /// not compared.
    pub success_rate: Option<f64>,
    /// The window of that share. Default 10s, range 1s–10m. As long a time of trust takes one doubling
    /// of `base` back.
    pub window: Duration,
    /// Fewest requests in the window for an instance's share to count. Default 20, range 1–1000000.
    pub min_requests: u32,
    /// Most of the instances that accept connections that may be out for how they answer. Default 0.5,
    /// range 0–1 (the file may say `50%`).
    pub max_ejected: f64,
    /// Longest time out at first; half of it is the shortest. Default 1s, range 10ms–1h; not above
    /// `max`. Doubles each time.
    pub base: Duration,
    /// Longest time out. Default 1m, range 10ms–1h.
    pub max: Duration,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive_failures: Some(5),
            success_rate: Some(0.8),
            window: Duration::from_secs(10),
            min_requests: 20,
            max_ejected: 0.5,
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
        }
    }
}

/// Connections to one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// An idle connection is closed after this long. Default 4s, below the 5s of common app servers;
    /// range 0s–1h.
    pub idle: Duration,
    /// A request that may not be repeated takes only a connection idle for less than this. Default
    /// 1s, or `idle` where that is less; not above `idle`.
    pub fresh: Duration,
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
            idle: Duration::from_secs(4),
            fresh: Duration::from_secs(1),
            max_idle: 128,
            max_connections: 1024,
            max_waiting: 1024,
        }
    }
}

/// The admin side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where everything is served. Default `localhost:7079`. Needs a restart.
    pub listen: Listen,
    /// A second listener with metrics and health alone, for the network. Absent: none.
    pub metrics_listen: Option<Listen>,
}

/// How leaving goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Longest wait for requests in flight after the listeners closed. Default 30s, range 0s–1h. The file
    /// may say `drain: 30s` for this alone.
    pub timeout: Duration,
    /// How it is known that callers have heard, after the registry was told. Default `measured`.
    pub propagation: Propagation,
    /// Added to what was measured, because callers ask other servers than we do. Default 1s, range
    /// 0s–1m.
    pub margin: Duration,
    /// Longest measured wait, from the first call that told the registry, [`Drain::margin`] included.
    /// Default 5s, range 0s–5m.
    pub cap: Duration,
    /// The wait where nothing can be measured: the registry is unreachable, or does not show us our own
    /// registration. From the first call that would tell it, as far as those do not take longer. Default 5s,
    /// range 0s–5m.
    pub blind: Duration,
    /// Whether a sidecar that did not start the app goes on carrying requests after SIGTERM until the
    /// app's port is closed, [`Drain::timeout`] at most. Default `auto`.
    pub await_app: AwaitApp,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            propagation: Propagation::Measured,
            margin: Duration::from_secs(1),
            cap: Duration::from_secs(5),
            blind: Duration::from_secs(5),
            await_app: AwaitApp::Auto,
        }
    }
}

/// How it is known that callers have heard that the app is leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// A watch of our own on our own service is a caller like any other: when it has seen the app leave,
    /// so have they, give or take [`Drain::margin`].
    Measured,
    /// Nothing is measured, this is how long it takes. Range 0s–5m.
    Fixed(Duration),
}

/// Whether the end of an app that somebody else started is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwaitApp {
    /// When the sidecar is process 1: it has a container of its own, and whoever stops that container
    /// stops the app's at the same time.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What becomes of the sidecar when its app ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAppExit {
    /// It deregisters the app and ends with the app's exit code.
    Exit,
    /// It starts the app again, after a pause that grows from 500ms to 30s while the app keeps ending.
    Restart,
}

/// How many data-plane threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// min(available cores, 2).
    Auto,
    /// This many, 1–256.
    Count(usize),
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Filter, as `info` or `warn,outrigger_proxy=debug`. Default `info`; `OUTRIGGER_LOG` wins.
    pub level: String,
    /// How. Default `auto`: text on a terminal, JSON otherwise. Needs a restart.
    pub format: LogFormat,
    /// One line per request. Default false.
    pub access: bool,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service: None,
            registry: Registry::Consul(Consul::default()),
            discovery: Discovery::default(),
            state_dir: None,
            outbound: Outbound::default(),
            defaults: Policy::default(),
            upstreams: Vec::new(),
            admin: Admin { listen: Listen::localhost(7079), metrics_listen: None },
            drain: Drain::default(),
            on_app_exit: OnAppExit::Exit,
            workers: Workers::Auto,
            log: Log { level: "info".into(), format: LogFormat::Auto, access: false },
        }
    }
}

impl Default for Consul {
    fn default() -> Self {
        Self {
            address: ConsulAddress { tls: false, host: "127.0.0.1".into(), port: 8500 },
            datacenter: None,
            token: None,
            tls: Tls::default(),
            wait: Duration::from_secs(45),
            max_connections: 96,
        }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            listen: Listen::localhost(7070),
            x_forwarded: false,
            via: false,
            allow_origins: Vec::new(),
            limits: Limits::default(),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self { probe: Probe::Tcp, interval: Duration::from_secs(2), timeout: Duration::from_secs(1) }
    }
}
