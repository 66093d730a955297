//! Ten apps that contend for a mutex and a semaphore, each through a sidecar of its own, on a cluster with two agents.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use outrigger_net::reserve_addr;
use outrigger_tests::{consul::Consul, process::Process, wait};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::{
    case::SetupError,
    cluster_testbed::ClusterTestbed,
    lock_app::{self, AppOrders, HeldBy, LockApp},
    lock_log::{ContendedLock, HoldNumber, LockLog},
};

/// The lock that one may hold.
pub(crate) const MUTEX: ContendedLock = ContendedLock { name: "chaos/mutex", limit: 1 };
/// The lock that three may hold.
pub(crate) const POOL: ContendedLock = ContendedLock { name: "chaos/pool", limit: 3 };
/// How many apps.
const APPS: usize = 10;
/// Settings of every sidecar. The lock-delay is as long as the session's time to live: when an agent leaves the cluster, the sessions
/// of its node end at once, and the sidecars behind it hear of it no earlier than the end of that time.
const SETTINGS: &str = "drain: {timeout: 4s}";
/// Longest wait for a certain holder: some ten apps take turns of some 200 ms.
const HOLDER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time from the order to stop until all apps have ended.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Which agent a sidecar asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgentNumber {
    First,
    Second,
}

/// A sidecar that can be killed, frozen and started again with its state and its ports.
#[derive(Debug)]
pub(crate) struct LockSidecar {
    pub(crate) process: Process,
    settings: String,
    api: SocketAddr,
    _state: TempDir,
}

impl LockSidecar {
    async fn start(agent: SocketAddr) -> Self {
        let state = tempfile::Builder::new().prefix("chaos-state-").tempdir().expect("a directory");
        let (outbound, admin, api) = (reserve_addr(), reserve_addr(), reserve_addr());
        let settings = format!(
            "registry: {{consul: {{address: \"http://{agent}\"}}}}\nstate_dir: {:?}\n\
             outbound: {{listen: \"{outbound}\"}}\nadmin: {{listen: \"{admin}\"}}\n\
             upstreams: [{{service: orders}}]\n{}\n{SETTINGS}\n",
            state.path(),
            api_settings(api),
        );
        let process = Process::run(&settings).await;
        process.wait_ready().await;
        Self { process, settings, api, _state: state }
    }

    /// Kills it with SIGKILL, and starts it again.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.process.signal("KILL");
        self.process.wait_exit(wait::TIMEOUT).await;
        self.start_again().await;
    }

    /// Starts it again after its end.
    pub(crate) async fn start_again(&mut self) {
        self.process = Process::run(&self.settings).await;
        self.process.wait_ready().await;
    }

    /// Lets a new process serve in the place of this one (`run --replace`). Returns the old one, which ends by itself.
    pub(crate) async fn replace(&mut self) -> Process {
        let next = self.process.replace().await;
        std::mem::replace(&mut self.process, next)
    }
}

fn api_settings(api: SocketAddr) -> String {
    let lock_delay = lock_app::SESSION_TTL.as_secs();
    format!("api: {{listen: \"{api}\", locks: {{lock_delay: {lock_delay}s}}}}")
}

/// The cluster, the sidecars and the apps. App 0 runs beside the caller of [`ClusterTestbed`], which no fault meets.
pub(crate) struct LockTestbed {
    pub(crate) site: ClusterTestbed,
    pub(crate) second_agent: Consul,
    /// Of the apps from 1 on.
    sidecars: Vec<LockSidecar>,
    pub(crate) log: Arc<LockLog>,
    orders: watch::Sender<AppOrders>,
    apps: JoinSet<()>,
}

impl LockTestbed {
    pub(crate) async fn start() -> Result<Self, SetupError> {
        let api = reserve_addr();
        let site = ClusterTestbed::start_with(&format!("{}\n{SETTINGS}", api_settings(api))).await?;
        let second_agent = site.cluster.start_named_agent("agent2").await?;
        let agents = [site.agent.http_addr(), second_agent.http_addr()];
        let sidecars = (1..APPS).map(|app| match agent_of(app) {
            AgentNumber::First => LockSidecar::start(agents[0]),
            AgentNumber::Second => LockSidecar::start(agents[1]),
        });
        let sidecars = join_all(sidecars).await;
        let log = Arc::new(LockLog::new());
        let orders = watch::Sender::new(AppOrders::default());
        let mut apps = JoinSet::new();
        for (number, api) in [api].into_iter().chain(sidecars.iter().map(|one| one.api)).enumerate() {
            for lock in [MUTEX, POOL] {
                let app = LockApp {
                    name: app_name(number),
                    by: held_by(number),
                    heeds_drain: number % 4 < 2,
                    api,
                    lock,
                    log: log.clone(),
                    orders: orders.subscribe(),
                };
                apps.spawn(app.run());
            }
        }
        // Not for the semaphore: `consul lock -n` knows no lock-delay, so it may take the place of a holder at once after the
        // end of its session.
        apps.spawn(lock_app::run_consul_lock(second_agent.url(), MUTEX, log.clone(), orders.subscribe()));
        Ok(Self { site, second_agent, sidecars, log, orders, apps })
    }

    /// The sidecar of this app, which is not app 0.
    pub(crate) fn sidecar(&mut self, app: usize) -> &mut LockSidecar {
        &mut self.sidecars[app - 1]
    }

    /// Lets these apps keep these locks and no others, until the next call.
    pub(crate) fn keep(&self, kept: &[(ContendedLock, &[usize])]) {
        let of_lock = |(lock, apps): &(ContendedLock, &[usize])| {
            apps.iter().map(|app| (app_name(*app), *lock)).collect::<Vec<_>>()
        };
        let keep = kept.iter().flat_map(of_lock).collect();
        self.orders.send_modify(|orders| orders.keep = keep);
    }

    /// Waits until one of these apps holds `lock`, and returns its number and its hold, which it keeps if [`keep`](Self::keep) says so.
    pub(crate) async fn wait_holder(&self, lock: ContendedLock, apps: &[usize]) -> (usize, HoldNumber) {
        let names: Vec<_> = apps.iter().map(|app| app_name(*app)).collect();
        let mut found = None;
        wait::until(&format!("one of {names:?} holds {}", lock.name), HOLDER_TIMEOUT, async || {
            found = self.log.held_by(lock, &names);
            found.is_some()
        })
        .await;
        let (name, number) = found.expect("just seen");
        let app = apps.iter().copied().find(|app| app_name(*app) == name).expect("one of them");
        (app, number)
    }

    /// The apps that have not begun a hold of each of their locks since `since`; `consul lock` is one of them.
    pub(crate) fn waiting_since(&self, since: Duration) -> Vec<String> {
        let mut waiting = Vec::new();
        for lock in [MUTEX, POOL] {
            let holds = self.log.holds(lock);
            let foreign = (lock == MUTEX).then(|| lock_app::CONSUL_LOCK.to_owned());
            for holder in (0..APPS).map(app_name).chain(foreign) {
                if !holds.iter().any(|hold| hold.holder == holder && hold.acquired >= since) {
                    waiting.push(format!("{holder} for {}", lock.name));
                }
            }
        }
        waiting
    }

    /// Stops the apps. Returns what went wrong with them.
    pub(crate) async fn stop_apps(&mut self) -> Vec<String> {
        self.orders.send_modify(|orders| *orders = AppOrders { keep: Vec::new(), stop: true });
        let mut trouble = Vec::new();
        let all_ended = async {
            while let Some(ended) = self.apps.join_next().await {
                trouble.extend(ended.err().map(|error| format!("an app: {error}")));
            }
        };
        if timeout(STOP_TIMEOUT, all_ended).await.is_err() {
            trouble.push(format!("{} apps did not end", self.apps.len()));
        }
        trouble
    }
}

/// The apps of all numbers from 1 on that hold their locks in this way and ask this agent.
pub(crate) fn apps_with(by: HeldBy, agent: AgentNumber) -> Vec<usize> {
    (1..APPS).filter(|app| held_by(*app) == by && agent_of(*app) == agent).collect()
}

fn app_name(number: usize) -> String {
    format!("app-{number}")
}

fn held_by(number: usize) -> HeldBy {
    if number.is_multiple_of(2) { HeldBy::Connection } else { HeldBy::Lease }
}

/// Pairs, so that both kinds of holders are behind both agents.
fn agent_of(number: usize) -> AgentNumber {
    if (number / 2).is_multiple_of(2) { AgentNumber::First } else { AgentNumber::Second }
}
