//! Every setting: what it means, its unit, its default and what its absence does.
//!
//! A value of these types is already right: ranges were checked, names were parsed, time-outs are
//! consistent. Nothing here reads files, and nothing knows serde: see `raw` for the shape of
//! the file and `check` for how one becomes the other. A reload follows every setting that does not say
//! that it needs a restart.

mod listeners;
mod policy;
mod process;
mod registry;
mod service;

use std::path::PathBuf;

pub use listeners::{Admin, Limits, Listen, ListenHost, Outbound};
pub use policy::{
    Balance, CircuitBreaker, HedgePolicy, OutlierDetection, Policy, Pool, RetryBudget, RetryPolicy,
    UnknownBalance, Upstream,
};
pub use process::{AwaitApp, Drain, Log, LogFormat, OnAppExit, Propagation, WorkerThreads};
pub use registry::{
    ConsulAddress, ConsulSettings, DiscoverySettings, MassLoss, Registry, Secret, Tls, Token,
};
pub use service::{Health, Probe, Service, Weights};

/// Everything one sidecar runs by.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The local app to register. Absent: nothing is registered, the sidecar only routes.
    pub service: Option<Service>,
    /// Where instances are learned from, and where the app is registered. Needs a restart.
    pub registry: Registry,
    /// How many services are watched, and for how long.
    pub discovery: DiscoverySettings,
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
    pub workers: WorkerThreads,
    /// What is logged, and how.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service: None,
            registry: Registry::Consul(ConsulSettings::default()),
            discovery: DiscoverySettings::default(),
            state_dir: None,
            outbound: Outbound::default(),
            defaults: Policy::default(),
            upstreams: Vec::new(),
            admin: Admin { listen: Listen::localhost(7079), metrics_listen: None },
            drain: Drain::default(),
            on_app_exit: OnAppExit::Exit,
            workers: WorkerThreads::Auto,
            log: Log { level: "info".into(), format: LogFormat::Auto, access: false },
        }
    }
}
