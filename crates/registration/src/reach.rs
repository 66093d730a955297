//! Tries the registered address from here while the app is healthy, and passes on the health by which the app is registered and
//! reported.
//!
//! An app may be healthy at a loopback address while the address that is registered refuses connections: then it is listed as
//! passing, and no caller reaches it. What a failure of the registered address means is set by [`ReachTest`]:
//!
//! | registered address | `warn` | `require` |
//! |---|---|---|
//! | accepts a connection, or cannot be tested | health of the app | health of the app |
//! | refuses, does not answer in time, or fails otherwise | health of the app | critical |
//! | no result since the app became healthy | health of the app | as it was before |
//!
//! A connection by TCP is a try, because the local probe has asked the app already. The first failure counts only once a later
//! probe has found the app healthy and one more try has failed: an app that stops fails as well. A shortage of this process, no route
//! from here and a host name that is not found say nothing of the address.
//!
//! What is not tested: whether the program that accepts is the app, and whether other hosts may pass the firewalls between.

use std::{future::Future, io, net::SocketAddr, pin::pin, time::Duration};

use outrigger_config::{Health, ReachTest};
use outrigger_net::{DialStage, format_host_port};
use outrigger_registry::ReportedHealth;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use crate::{
    app_address::{AppAddress, AppFinder, NoConnection},
    keeper::is_healthy,
    status::{Reachability, RegistrationState, Unreachable},
};

/// Least time between the begins of two tries, except for the one that confirms a failure.
const MIN_INTERVAL: Duration = Duration::from_secs(10);

/// Longest wait for the first look-up of a host name. A name without an answer cannot be tested yet.
const LOOKUP_WAIT: Duration = Duration::from_secs(5);

/// The result of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Attempt {
    Connected,
    Failed(Unreachable),
    /// This side is at fault; why.
    NoNews(String),
}

/// Passes the health of the app on, from the probes to the tasks that announce and report it.
pub(crate) struct HealthRelay {
    /// The name of the service, for the log.
    pub(crate) service: String,
    /// By what the app is registered and reported.
    pub(crate) told: watch::Sender<Option<ReportedHealth>>,
    pub(crate) state: RegistrationState,
}

/// Passes the health `local` on, and tests the registered address. Returns only when the probes have ended.
pub(crate) async fn run(
    settings: Health,
    app: AppAddress,
    mut local: watch::Receiver<Option<ReportedHealth>>,
    relay: HealthRelay,
) {
    let untested = match (settings.reach, &app.registered) {
        (ReachTest::Off, _) => Reachability::Unknown,
        (ReachTest::Warn | ReachTest::Require, None) => Reachability::NotTested(
            "service.address is not set, so the agent's own address is registered".into(),
        ),
        (policy @ (ReachTest::Warn | ReachTest::Require), Some(host)) => {
            let address = RegisteredAddress::new(host, app.port, settings.timeout);
            return test_repeatedly(&relay, policy, pause(settings.interval), &mut local, || {
                address.attempt()
            })
            .await;
        }
    };
    relay.state.record_reach(untested);
    loop {
        let health = *local.borrow_and_update();
        relay.tell(ReachTest::Off, health);
        if local.changed().await.is_err() {
            return;
        }
    }
}

/// From the begin of one try to the next; `interval` is that of the probes.
fn pause(interval: Duration) -> Duration {
    interval.max(MIN_INTERVAL)
}

async fn test_repeatedly<F, Fut>(
    relay: &HealthRelay,
    policy: ReachTest,
    pause: Duration,
    local: &mut watch::Receiver<Option<ReportedHealth>>,
    mut attempt: F,
) where
    F: FnMut() -> Fut,
    Fut: Future<Output = Attempt>,
{
    let mut tries = Tries::new(&relay.state);
    loop {
        let health = *local.borrow_and_update();
        if !is_healthy(health) {
            relay.state.record_reach(Reachability::Unknown);
            relay.tell(policy, health);
            tries.begin_anew();
            if local.changed().await.is_err() {
                return;
            }
            continue;
        }
        if relay.state.current().reach == Reachability::Unknown {
            relay.state.record_reach(Reachability::Pending);
        }
        relay.tell(policy, health);
        let ended = {
            let mut next = pin!(async {
                tries.wait_until_due(&relay.state).await;
                (Instant::now(), attempt().await)
            });
            loop {
                tokio::select! {
                    ended = &mut next => break Some(ended),
                    changed = local.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        let health = *local.borrow_and_update();
                        if !is_healthy(health) {
                            break None;
                        }
                        relay.tell(policy, health);
                    }
                }
            }
        };
        if let Some((began, result)) = ended {
            tries.next = began + pause;
            relay.record(policy, result, &mut tries);
        }
    }
}

/// When the next try is due, and what the last ones said.
struct Tries {
    next: Instant,
    /// When a try failed that is not confirmed yet.
    doubted_at: Option<Instant>,
    /// Kept while the app is not healthy: a try without news does not bring back an app that could not be reached.
    last_failure: Option<Unreachable>,
}

impl Tries {
    fn new(state: &RegistrationState) -> Self {
        let last_failure = state.current().reach.failure().cloned();
        Self { next: Instant::now(), doubted_at: None, last_failure }
    }

    /// The next try is due at once.
    fn begin_anew(&mut self) {
        (self.next, self.doubted_at) = (Instant::now(), None);
    }

    async fn wait_until_due(&self, state: &RegistrationState) {
        match self.doubted_at {
            None => sleep_until(self.next).await,
            Some(failed_at) => state.wait_healthy_probe(failed_at).await,
        }
    }
}

impl HealthRelay {
    /// Sets the health by which the app is known.
    fn tell(&self, policy: ReachTest, local: Option<ReportedHealth>) {
        let is_required = policy == ReachTest::Require && is_healthy(local);
        let health = match self.state.current().reach {
            Reachability::Unknown | Reachability::Pending if is_required => return,
            Reachability::Unreachable(_) if is_required => Some(ReportedHealth::Critical),
            _ => local,
        };
        self.told.send_if_modified(|last| std::mem::replace(last, health) != health);
    }

    /// Records the result of a try.
    fn record(&self, policy: ReachTest, result: Attempt, tries: &mut Tries) {
        let is_first = tries.doubted_at.take().is_none();
        let reach = self.state.current().reach;
        match result {
            Attempt::Connected => {
                self.state.record_reach(Reachability::Reached);
                if tries.last_failure.take().is_some() {
                    let Self { service, state, .. } = self;
                    info!(
                        service,
                        id = state.current().id,
                        "the registered address accepts connections from here again"
                    );
                }
            }
            Attempt::Failed(_) if is_first && reach.failure().is_none() => {
                tries.doubted_at = Some(Instant::now())
            }
            Attempt::Failed(failure) => {
                if reach.failure().is_none_or(|known| known.kind != failure.kind) {
                    self.warn_unreachable(policy, &failure);
                }
                self.state.record_reach(Reachability::Unreachable(failure.clone()));
                tries.last_failure = Some(failure);
            }
            // What is known stays.
            Attempt::NoNews(why) if matches!(reach, Reachability::Unknown | Reachability::Pending) => {
                self.state.record_reach(match &tries.last_failure {
                    Some(failure) => Reachability::Unreachable(failure.clone()),
                    None => {
                        let Self { service, state, .. } = self;
                        info!(
                            service,
                            id = state.current().id,
                            why,
                            "the registered address cannot be tested from here"
                        );
                        Reachability::NotTested(why)
                    }
                });
            }
            Attempt::NoNews(_) => {}
        }
    }

    fn warn_unreachable(&self, policy: ReachTest, failure: &Unreachable) {
        let Unreachable { kind, error } = failure;
        let status = self.state.current();
        let reported = match policy {
            ReachTest::Require => "it is reported as critical, by health.reach: require",
            ReachTest::Warn | ReachTest::Off => "it is reported as healthy all the same",
        };
        warn!(
            service = self.service,
            id = status.id,
            error,
            app = status.probe_detail,
            "{kind}, but the app is healthy: {reported}; let the app listen there or on all addresses, or set service.address to where it listens"
        );
    }
}

/// The address at which callers look for the app.
struct RegisteredAddress {
    /// As it is configured, with the port.
    name: String,
    finder: AppFinder,
    /// Longest wait for a connection.
    limit: Duration,
}

/// How an address failed; of several addresses of a name, the last of these counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    Other,
    TimedOut,
    Refused,
}

impl RegisteredAddress {
    /// Needs a Tokio runtime.
    fn new(host: &str, port: u16, limit: Duration) -> Self {
        Self { name: format_host_port(host, port), finder: AppFinder::at(host, port), limit }
    }

    /// Connects to the addresses of the host, until one accepts.
    async fn attempt(&self) -> Attempt {
        self.finder.wait_for_look_up(LOOKUP_WAIT).await;
        let failure = Mutex::new(Failure::Other);
        let found = self.finder.find(|addr| {
            let failure = &failure;
            async move {
                let (one, no_connection) = match connect(addr, self.limit).await {
                    Ok(()) => return Ok(()),
                    Err(failed) => failed,
                };
                if no_connection.is_of_peer() {
                    let mut failure = failure.lock();
                    *failure = one.max(*failure);
                }
                Err(no_connection)
            }
        });
        let not_found = match found.await {
            Ok(()) => return Attempt::Connected,
            Err(not_found) if !not_found.is_news => return Attempt::NoNews(not_found.why),
            Err(not_found) => not_found,
        };
        let Self { name, limit, .. } = self;
        let kind = match *failure.lock() {
            Failure::Refused => format!("the registered address {name} refuses connections from here"),
            Failure::TimedOut => {
                format!("the registered address {name} accepts no connection from here within {limit:?}")
            }
            Failure::Other => format!("the registered address {name} cannot be connected to from here"),
        };
        Attempt::Failed(Unreachable { kind, error: not_found.why })
    }
}

async fn connect(addr: SocketAddr, limit: Duration) -> Result<(), (Failure, NoConnection)> {
    outrigger_net::connect(addr, limit).await.map(drop).map_err(|error| {
        let failure = match (error.stage, error.source.kind()) {
            (DialStage::TimedOut, _) | (_, io::ErrorKind::TimedOut) => Failure::TimedOut,
            (DialStage::Connect, io::ErrorKind::ConnectionRefused) => Failure::Refused,
            (DialStage::Connect | DialStage::Configure, _) => Failure::Other,
        };
        (failure, NoConnection::new(addr, error.fault, &error.source))
    })
}

#[cfg(test)]
mod tests;
