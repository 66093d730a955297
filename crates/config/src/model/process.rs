//! The process: drain, worker threads, the end of the app, logs.

use std::time::Duration;

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
    pub max_propagation: Duration,
    /// The wait where nothing can be measured: the registry is unreachable, or does not show us our own
    /// registration. From the first call that would tell it, as far as those do not take longer. Default 5s,
    /// range 0s–5m.
    pub unobserved_wait: Duration,
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
            max_propagation: Duration::from_secs(5),
            unobserved_wait: Duration::from_secs(5),
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

/// Whether the end of an app that another process started is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwaitApp {
    /// When the sidecar is process 1: it has a container of its own, and that container is stopped at the
    /// same time as the app's.
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
pub enum WorkerThreads {
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
