//! Keeps the registration true: registers once the app is healthy, looks at what the agent holds,
//! registers again when that is nothing or something else.
//!
//! It asks with the agent's blocking query on the content hash, so that a change is seen within
//! milliseconds, and without it a restart of the agent within one back-off. It never says how the
//! app is ([`super::report`]), and it does not leave ([`super::keeper`]).

use std::{sync::Arc, time::Duration};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Error, Held, Registrar, Registration, ReportedHealth};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    maintenance, orphans,
    standing::{Board, Phase},
};
use crate::telemetry::causes;

/// Longest wait of one look. Below a minute, because the wake-up of an agent that was restarted in
/// place can be lost.
const LOOK: Duration = Duration::from_secs(30);

/// Added to [`LOOK`] before a look is given up: the registry's own time-out comes first.
const LOOK_MARGIN: Duration = Duration::from_secs(25);

/// Fewest time between two looks: an agent that answers at once must not be asked in a tight loop.
const PACE: Duration = Duration::from_secs(1);

/// Longest wait for one registration; the registry's own time-out comes first (Consul: 15 s).
const CALL: Duration = Duration::from_secs(20);

/// Pauses after a failed call: an agent that is back is used within seconds.
const AGAIN: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(3) };

/// Pauses between registrations that do not last: somebody else may be writing the same id.
const QUARREL: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

/// Most tries to remove what earlier runs left: a token may not be allowed to look.
const ORPHANS: u32 = 3;

/// A registration that lasted this long has settled.
const SETTLED: Duration = Duration::from_secs(60);

/// Why it has to be registered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    First,
    Forgotten,
    Changed,
    Doubted,
    Settings,
}

/// Owns the registration from the first healthy answer of the app until `stop`.
pub(crate) struct Register {
    pub(crate) registrar: Arc<dyn Registrar>,
    /// Another one replaces it in place: same id, name and port.
    pub(crate) wanted: watch::Receiver<Registration>,
    pub(crate) board: Board,
    pub(crate) health: watch::Receiver<Option<ReportedHealth>>,
    /// See [`super::report::Doubt`].
    pub(crate) doubt: watch::Receiver<u64>,
    /// Ends the waits. A registration that has been sent is waited for: cut off, it could still
    /// arrive after the deregistration that follows.
    pub(crate) stop: CancellationToken,
}

impl Register {
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        let healthy = self.health.wait_for(|health| is_well(*health));
        if stop.run_until_cancelled(healthy).await.is_none_or(|well| well.is_err()) {
            return;
        }
        let mut reason = Reason::First;
        let mut short_lived = 0;
        loop {
            if !self.register(reason).await {
                return;
            }
            let since = Instant::now();
            let Some(next) = stop.run_until_cancelled(self.look(reason)).await else { return };
            reason = next;
            if reason == Reason::Settings {
                continue;
            }
            self.board.enter(Phase::Lost);
            if since.elapsed() >= SETTLED {
                short_lived = 0;
            } else {
                // The first one is corrected at once: that is an agent that was restarted.
                let pause = if short_lived == 0 {
                    Duration::ZERO
                } else {
                    QUARREL.after(short_lived - 1, fastrand::u64(..))
                };
                short_lived += 1;
                // Other settings are no part of a quarrel.
                tokio::select! {
                    () = stop.cancelled() => return,
                    Ok(()) = self.wanted.changed() => {}
                    () = sleep(pause) => {}
                }
            }
        }
    }

    /// Until the registry has taken it. False: stopped.
    async fn register(&mut self, reason: Reason) -> bool {
        if reason == Reason::First {
            self.board.enter(Phase::Registering);
        }
        let mut failures = 0;
        loop {
            if self.stop.is_cancelled() {
                return false;
            }
            self.board.asked();
            let wanted = self.wanted.borrow_and_update().clone();
            let registered = async {
                self.registrar.register(&wanted).await?;
                // Before it is told that the app is well: an agent that forgot the app forgot this too.
                maintenance::restore(&*self.registrar, &wanted.id, &self.board).await
            };
            let failure = match timeout(CALL, registered).await {
                Ok(Ok(())) => {
                    self.board.registered();
                    say_registered(&wanted, reason);
                    return true;
                }
                Ok(Err(error)) => causes(&error),
                Err(_) => format!("no answer within {CALL:?}"),
            };
            if self.board.failed(failure.clone()) {
                warn!(id = wanted.id, error = failure, "could not register the app, trying on");
            }
            let pause = sleep(AGAIN.after(failures, fastrand::u64(..)));
            failures += 1;
            if self.stop.run_until_cancelled(pause).await.is_none() {
                return false;
            }
        }
    }

    /// Looks until the registration is not what it should be. Clears up first what an earlier one left.
    async fn look(&self, reason: Reason) -> Reason {
        let generation = self.board.now().generation;
        let mut untidy = Some(0);
        let mut orphans = if reason == Reason::First { ORPHANS } else { 0 };
        let mut settings = self.wanted.clone();
        let wanted = settings.borrow().clone();
        let mut hash: Option<String> = None;
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let held = tokio::select! {
                biased;
                () = self.doubted(generation) => return Reason::Doubted,
                Ok(()) = settings.changed() => return Reason::Settings,
                held = async {
                    untidy = self.tidy(&wanted.id, untidy).await;
                    if orphans > 0 {
                        let removed = orphans::remove(&*self.registrar, &wanted).await;
                        orphans = if removed { 0 } else { orphans - 1 };
                    }
                    self.held(&wanted.id, hash.as_deref()).await
                } => held,
            };
            let pause = match held {
                Ok(None) => return Reason::Forgotten,
                Ok(Some(held)) if !agrees(&held, &wanted) => return Reason::Changed,
                Ok(Some(held)) => {
                    failures = 0;
                    hash = Some(held.hash).filter(|hash| !hash.is_empty());
                    PACE.saturating_sub(started.elapsed())
                }
                Err(error) => {
                    if self.board.failed(error.clone()) {
                        warn!(id = wanted.id, error, "could not look at the registration, trying on");
                    }
                    hash = None;
                    failures += 1;
                    AGAIN.after(failures - 1, fastrand::u64(..))
                }
            };
            tokio::select! {
                () = self.doubted(generation) => return Reason::Doubted,
                Ok(()) = settings.changed() => return Reason::Settings,
                () = sleep_until(Instant::now() + pause) => {}
            }
        }
    }

    /// Removes the checks that are not ours, unless that is done (`None`). Tried again with the next
    /// look: meanwhile they can only make the app look worse than it is.
    async fn tidy(&self, id: &str, failures: Option<u32>) -> Option<u32> {
        let failures = failures?;
        let failure = match timeout(CALL, self.registrar.remove_other_checks(id)).await {
            Ok(Ok(0)) => return None,
            Ok(Ok(removed)) => {
                warn!(id, removed, "removed checks that an earlier registration under this id had left");
                return None;
            }
            Ok(Err(error)) => causes(&error),
            Err(_) => format!("no answer within {CALL:?}"),
        };
        if failures == 0 {
            warn!(id, error = failure, "could not look for checks of an earlier registration, trying on");
        }
        Some(failures.saturating_add(1))
    }

    /// Resolves when a report of this registration was refused.
    async fn doubted(&self, generation: u64) {
        if self.doubt.clone().wait_for(|doubted| *doubted >= generation).await.is_err() {
            std::future::pending().await
        }
    }

    async fn held(&self, id: &str, hash: Option<&str>) -> Result<Option<Held>, String> {
        match timeout(LOOK + LOOK_MARGIN, self.registrar.held(id, hash, LOOK)).await {
            Ok(Ok(held)) => Ok(held),
            // An agent with ACLs says so of an id that it does not know.
            Ok(Err(Error::Refused { status: 404, .. })) => Ok(None),
            Ok(Err(error)) => Err(causes(&error)),
            Err(_) => Err(format!("no answer within {:?}", LOOK + LOOK_MARGIN)),
        }
    }
}

fn say_registered(wanted: &Registration, reason: Reason) {
    let Registration { id, name, port, .. } = wanted;
    match reason {
        Reason::First => info!(id, service = name, port, "registered the app"),
        Reason::Forgotten => {
            warn!(id, service = name, "the registry had forgotten the app, registered again")
        }
        Reason::Changed => warn!(id, service = name, "somebody changed the registration, corrected it"),
        Reason::Doubted => warn!(id, service = name, "the registry refused a report, registered again"),
        Reason::Settings => info!(id, service = name, port, "registered the app by its new settings"),
    }
}

fn is_well(health: Option<ReportedHealth>) -> bool {
    matches!(health, Some(ReportedHealth::Passing | ReportedHealth::Warning))
}

/// Whether the agent holds what is wanted. Its own additions (an address of its own) are no change.
fn agrees(held: &Held, wanted: &Registration) -> bool {
    let address = |address: &Option<String>| address.clone().unwrap_or_default();
    held.name == wanted.name
        && held.port == i64::from(wanted.port)
        && address(&held.address) == address(&wanted.address)
        && held.tags == wanted.tags
        && held.meta == wanted.meta
        && held.weights == wanted.weights
}
