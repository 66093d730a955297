//! The process: drain, worker threads, the end of the app, logs.

use std::time::Duration;

/// How the sidecar stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Longest wait for requests in flight after the listeners closed. Default 30s, range 0s–1h. `drain: 30s`
    /// in a file sets this alone.
    pub timeout: Duration,
    /// How long callers need to see a change of the registry. Default `measured`.
    pub propagation: Propagation,
    /// Added to the measured time, because callers ask other servers than this sidecar. Default 1s, range
    /// 0s–1m.
    pub margin: Duration,
    /// Longest measured wait, from the first call to the registry, [`Drain::margin`] included.
    /// Default 5s, range 0s–5m.
    pub max_propagation: Duration,
    /// The wait when nothing can be measured: the registry is unreachable, or does not list our own
    /// registration. From the first call to the registry; longer if the calls take longer. Default 5s, range
    /// 0s–5m.
    pub unobserved_wait: Duration,
    /// How long a sidecar that did not start the app continues to serve requests after SIGTERM,
    /// [`Drain::timeout`] at most. Default `auto`.
    pub await_app: AwaitApp,
    /// The shortest time that a sidecar that did not start the app continues to serve requests after SIGTERM and the
    /// drain. Default 0s, range 0s–1h.
    pub linger: Duration,
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
            linger: Duration::ZERO,
        }
    }
}

/// How long callers need to see that the app is leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Measured by a watch on our own service: when it no longer lists the app, callers have seen the same,
    /// within [`Drain::margin`].
    Measured,
    /// This long, without a measurement. Range 0s–5m.
    Fixed(Duration),
}

/// What a sidecar waits for after SIGTERM, before it closes its listeners, where another process started the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwaitApp {
    /// As process 1, what `on` says: the sidecar then has its own container, which is stopped at the same time as the app's
    /// container. Else, without a service of its own, until no connection of the app carries a request; with one, nothing.
    Auto,
    /// Until the app's port is closed; without a service of its own, until the app has no connection open.
    On,
    /// Until the app has no connection open to the sidecar.
    Connections,
    /// Nothing.
    Off,
}

/// The app that the sidecar starts (`outrigger run -- app`). Without effect when another process starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppProcess {
    /// Whether the app inherits the sidecar's Consul token: the environment variables `CONSUL_HTTP_TOKEN`,
    /// `CONSUL_HTTP_TOKEN_FILE` and `OUTRIGGER_TOKEN_FILE`, and each one with the token's text or the path of its file. Default
    /// `pass`, with a warning at start. A change applies from the app's next start.
    pub consul_token: InheritedToken,
    /// The process group of the app. Default `own`. A change applies from the app's next start.
    pub process_group: ProcessGroup,
}

/// The process group of the app that the sidecar starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessGroup {
    /// One of its own: what is left of it is ended with the app. Where the sidecar's stdin is a terminal it is shared all
    /// the same, because a group in the terminal's background cannot read it.
    Own,
    /// The sidecar's group. Processes that the app leaves behind go on.
    Shared,
}

/// Whether the app inherits the sidecar's Consul token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InheritedToken {
    /// The app gets it, as every other variable.
    Pass,
    /// The app's environment is without it.
    Drop,
}

/// What the sidecar does when its app ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAppExit {
    /// Deregister the app and end with the app's exit code.
    Exit,
    /// Start the app again, after a pause that grows from 500ms to 30s while the app keeps ending.
    Restart,
}

/// Number of data-plane threads.
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
    /// Form of a line. Default `auto`: text on a terminal, JSON otherwise. Needs a restart.
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
