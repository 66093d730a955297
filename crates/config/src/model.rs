//! Every setting: what it means, its unit, its default and what its absence does.
//!
//! A value of these types is valid: ranges were checked, names were parsed, time-outs are consistent.
//! Nothing here reads files or uses serde: `raw` has the shape of the file, `check` makes a [`Config`] of
//! it. A reload applies every setting that is not documented to need a restart.

mod allowed_origin;
mod api;
mod app_config;
mod dns;
mod dynamic_config;
mod listeners;
mod policy;
mod process;
mod protocol;
mod registry;
mod routing;
mod service;
mod traffic;
mod upstream;

use std::path::PathBuf;

pub use allowed_origin::AllowedOrigin;
pub use api::{Api, ApiListen, FileOwner, LockSettings, SocketAccess};
pub use app_config::{
    AppConfigSettings, AppSignal, ConfigContext, ConfigFile, ConfigFormat, KvLayout, LoopbackUrl, OnChange,
    PropertySource, SpringSource, prefix_covers,
};
pub use dns::{Dns, DnsAnswer, DnsBrowsers};
pub use dynamic_config::{Bounds, DynamicConfig, SettingGroup, TunedService, UnknownKeys};
pub use listeners::{Admin, Limits, Listen, ListenHost, Outbound};
pub use policy::{
    AddressKind, Balance, CircuitBreaker, HedgePolicy, OutlierDetection, Policy, Pool, RetryBudget,
    RetryPolicy,
};
pub use process::{
    AppProcess, AwaitApp, Drain, InheritedToken, Log, LogFormat, OnAppExit, ProcessGroup, Propagation,
    WorkerThreads,
};
pub use protocol::Protocol;
pub use registry::{
    ConsulAddress, ConsulSettings, DiscoverySettings, MassLoss, Registry, Secret, Tls, TlsVerify, Token,
};
pub use routing::Routing;
pub use service::{ExpectedStatus, Health, Probe, ReachTest, Service, Weights};
pub use traffic::{
    ExactPlace, ExactTarget, Failover, FailoverTarget, Glob, HeaderEdits, Mirror, OnEmpty, PathMatch,
    Pattern, PolicyTuning, Route, RouteMatch, RouteTarget, SUBSET_FIELDS, Split, SplitEntry, SplitTarget,
    Sticky, Subset, SubsetFilter, TrafficRules, ValueMatch, ValueTest, ZoneRouting, ZoneSource,
};
pub use upstream::{ProxyProtocol, TcpSettings, Upstream};

/// All settings of one sidecar.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The services of the local app to register: that of `service`, or those of the list `services`. Empty: nothing is
    /// registered, the sidecar only routes.
    pub services: Vec<Service>,
    /// Where instances are learned from, and where the app is registered. Needs a restart, except
    /// token and wait of the same agent.
    pub registry: Registry,
    /// How many services are watched, and for how long.
    pub discovery: DiscoverySettings,
    /// Folder that keeps the last good answers and maintenance across a restart, and where `run --replace` finds the running sidecar. Default: the first folder of
    /// `$STATE_DIRECTORY` (which systemd sets), else `outrigger` under `$XDG_STATE_HOME`, else
    /// `.local/state/outrigger` under `$HOME`. Absent (none of the three, or `off`): both are lost in a
    /// restart, and the sidecar cannot be replaced. Needs a restart.
    pub state_dir: Option<PathBuf>,
    /// The listener that the app sends its requests to.
    pub outbound: Outbound,
    /// The policy of every service, unless an upstream sets its own values.
    pub defaults: Policy,
    /// Services declared in the file: watched from the start.
    pub upstreams: Vec<Upstream>,
    /// Which documents of the registry's KV set how services are called, and what they may set.
    pub dynamic_config: DynamicConfig,
    /// Services that are not declared and have settings of their own from such documents, sorted by name. A file sets none.
    pub tuned: Vec<TunedService>,
    /// Which rules of the registry are honoured.
    pub routing: Routing,
    /// The admin listener.
    pub admin: Admin,
    /// The API for the local app.
    pub api: Api,
    /// The DNS listener.
    pub dns: Dns,
    /// How long the drain may take.
    pub drain: Drain,
    /// The app that the sidecar starts.
    pub app: AppProcess,
    /// What the sidecar does when the app that it started (`outrigger run -- app`) ends by itself. Default
    /// `exit`. Without effect when another process started the app.
    pub on_app_exit: OnAppExit,
    /// Data-plane threads. Default `auto`: min(available cores, 2). Needs a restart.
    pub workers: WorkerThreads,
    /// What is logged, and how.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            registry: Registry::Consul(ConsulSettings::default()),
            discovery: DiscoverySettings::default(),
            state_dir: None,
            outbound: Outbound::default(),
            defaults: Policy::default(),
            upstreams: Vec::new(),
            dynamic_config: DynamicConfig::default(),
            tuned: Vec::new(),
            routing: Routing::default(),
            admin: Admin { listen: Listen::localhost(7079), metrics_listen: None },
            api: Api::default(),
            dns: Dns::default(),
            drain: Drain::default(),
            app: AppProcess { consul_token: InheritedToken::Pass, process_group: ProcessGroup::Own },
            on_app_exit: OnAppExit::Exit,
            workers: WorkerThreads::Auto,
            log: Log { level: "info".into(), format: LogFormat::Auto, access: false },
        }
    }
}

impl Config {
    /// The key of the `n`th service: a list of one is the same as `service`, so that flags and variables apply to it.
    pub(crate) fn service_key(&self, n: usize) -> String {
        if self.services.len() == 1 { "service".to_owned() } else { format!("services[{n}]") }
    }
}
