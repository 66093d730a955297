//! Keeps the registration true: registers once the app is healthy, and again when the agent holds
//! nothing, or something else, or holds it with credentials that were replaced, or when callers do not find
//! it, or when other settings are to hold.
//!
//! What the agent holds is looked at in [`super::look`], what callers find in [`super::listed`]. It never says how the app is
//! ([`super::report`]), and it does not leave ([`super::keeper`]).

use std::{sync::Arc, time::Duration};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Registrar, Registration, ReportedHealth};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    calls::{self, Trouble},
    maintenance::Office,
    standing::{Board, Phase},
};

/// Longest wait for one registration; the registry's own time-out comes first (Consul: 15 s).
const CALL: Duration = Duration::from_secs(20);

/// Pauses between corrections that do not last: somebody else may be writing the same id.
const QUARREL: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

/// As many corrections in a row are somebody's who tries things out, and none of them waits for long.
/// Another sidecar with the same id makes more of them within seconds.
const FEW: u32 = 10;

/// Fewest time between two registrations that the agent forgot: it is restarted again and again, and each
/// time callers wait for the app.
const FORGOTTEN: Duration = Duration::from_secs(3);

/// A registration that lasted this long has settled.
const SETTLED: Duration = Duration::from_secs(60);

/// Why it has to be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The app is well.
    First,
    /// An earlier run left it there, and the app is not well: that has to be said on it.
    Found,
    /// The agent does not hold it, or not its check.
    Forgotten,
    /// The agent holds something else.
    Changed,
    /// The agent holds it, and has refused a report all the same.
    Doubted,
    /// The agent holds it, and callers do not find it all the same.
    Unlisted,
    /// The credentials were replaced.
    Rotated,
    /// Other settings are to hold.
    Settings,
}

/// Owns the registration from the first healthy answer of the app until `stop`.
pub(super) struct Register {
    pub(super) registrar: Arc<dyn Registrar>,
    /// Another one replaces it in place: same id, name and port.
    pub(super) wanted: watch::Receiver<Registration>,
    pub(super) board: Board,
    pub(super) office: Office,
    pub(super) health: watch::Receiver<Option<ReportedHealth>>,
    /// See [`super::report::Doubt`].
    pub(super) doubt: watch::Receiver<u64>,
    /// The last generation that callers did not find: see [`super::listed`].
    pub(super) unlisted: watch::Receiver<u64>,
    /// See [`Registrar::watch_credentials`].
    pub(super) credentials: watch::Receiver<u64>,
    /// Ends the waits. A registration that has been sent is waited for: cut off, it could still
    /// arrive after the deregistration that follows.
    pub(super) stop: CancellationToken,
}

impl Register {
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let Some(Some(mut reason)) = stop.run_until_cancelled(self.due()).await else { return };
        let mut quarrels = 0;
        loop {
            if !self.register(reason).await {
                return;
            }
            let since = Instant::now();
            let Some(next) = stop.run_until_cancelled(self.look()).await else { return };
            reason = next;
            if !matches!(reason, Reason::Rotated | Reason::Settings) {
                self.board.enter(Phase::Lost);
            }
            let pause = pause(reason, since.elapsed(), &mut quarrels);
            tokio::select! {
                () = stop.cancelled() => return,
                // Other settings are no part of a quarrel.
                Ok(()) = self.wanted.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Resolves when there is something to register. `None`: nobody probes the app any more.
    async fn due(&mut self) -> Option<Reason> {
        let mut health = self.health.clone();
        let id = self.wanted.borrow().id.clone();
        tokio::select! {
            well = self.health.wait_for(|health| is_well(*health)) => return well.ok().map(|_| Reason::First),
            () = found(&*self.registrar, &id) => {}
        }
        // From now on leaving takes it back, whatever becomes of the app.
        self.board.asked();
        warn!(id, "an earlier run has left the app in the registry");
        health.wait_for(Option::is_some).await.ok().map(|_| Reason::Found)
    }

    /// Until the registry has taken it. False: stopped.
    async fn register(&mut self, reason: Reason) -> bool {
        if matches!(reason, Reason::First | Reason::Found) {
            self.board.enter(Phase::Registering);
        }
        // Whether the agent held nothing before: then it holds no order of maintenance either.
        let mut fresh = reason == Reason::Forgotten;
        let mut failures = 0;
        loop {
            if self.stop.is_cancelled() {
                return false;
            }
            // Before the call: one that is replaced meanwhile is seen by the next look.
            let credentials = *self.credentials.borrow_and_update();
            let wanted = self.wanted.borrow_and_update().clone();
            let trouble = match timeout(CALL, self.send(&wanted, &mut fresh)).await {
                Ok(Ok(())) => {
                    self.board.registered(credentials);
                    say_registered(&wanted, reason);
                    return true;
                }
                Ok(Err(trouble)) => trouble,
                Err(_) => format!("no answer within {CALL:?}").into(),
            };
            let error = &trouble.text;
            if self.board.failed(error.clone()) {
                warn!(id = wanted.id, error, "could not register the app, trying on");
            }
            let pause = sleep(trouble.pause(failures));
            failures += 1;
            if self.stop.run_until_cancelled(pause).await.is_none() {
                return false;
            }
        }
    }

    async fn send(&self, wanted: &Registration, fresh: &mut bool) -> Result<(), Trouble> {
        // Asked with each try as long as it is held: an agent may lose it between two of them. And once not:
        // a registration without an answer may have arrived.
        if !*fresh && calls::held(&*self.registrar, &wanted.id, None).await?.is_none() {
            *fresh = true;
            if self.board.now().phase == Phase::Registered {
                self.board.enter(Phase::Lost);
            }
        }
        self.board.asked();
        // Well from the start, unless an order of maintenance follows: that must not be overtaken.
        let in_order = self.board.now().to_be().is_none();
        let health = *self.health.borrow();
        let initial = health.filter(|_| in_order).unwrap_or(ReportedHealth::Critical);
        let wanted = Registration { initial_health: initial, ..wanted.clone() };
        self.registrar.register(&wanted).await?;
        // Before it is told that the app is well: an agent that forgot the app forgot this too.
        Ok(self.office.restore(*fresh).await?)
    }
}

fn say_registered(wanted: &Registration, reason: Reason) {
    let Registration { id, name, port, .. } = wanted;
    match reason {
        Reason::First => info!(id, service = name, port, "registered the app"),
        Reason::Found => info!(id, service = name, port, "took over the registration of an earlier run"),
        Reason::Forgotten => {
            warn!(id, service = name, "the registry had forgotten the app, registered again")
        }
        Reason::Changed => warn!(id, service = name, "somebody changed the registration, corrected it"),
        Reason::Doubted => warn!(id, service = name, "the registry refused a report, registered again"),
        Reason::Unlisted => warn!(id, service = name, "callers did not find the app, registered again"),
        Reason::Rotated => info!(id, service = name, "the token was replaced, registered again with it"),
        Reason::Settings => info!(id, service = name, port, "registered the app by its new settings"),
    }
}

/// How long to wait before it is registered again, after one that lasted this long.
fn pause(reason: Reason, lasted: Duration, quarrels: &mut u32) -> Duration {
    match reason {
        Reason::First | Reason::Found | Reason::Rotated | Reason::Settings => Duration::ZERO,
        // The second has a patience of its own.
        Reason::Forgotten | Reason::Unlisted => FORGOTTEN.saturating_sub(lasted),
        Reason::Changed | Reason::Doubted if lasted >= SETTLED => {
            *quarrels = 0;
            Duration::ZERO
        }
        Reason::Changed | Reason::Doubted => {
            let before = *quarrels;
            *quarrels += 1;
            // The first one is corrected at once.
            if before == 0 {
                Duration::ZERO
            } else {
                QUARREL.pause(before.saturating_sub(FEW), fastrand::u64(..))
            }
        }
    }
}

/// Resolves when the agent is seen to hold `id`; never when it does not.
async fn found(registrar: &dyn Registrar, id: &str) {
    let mut failures = 0;
    loop {
        match calls::held(registrar, id, None).await {
            Ok(Some(_)) => return,
            Ok(None) => std::future::pending().await,
            // Said when the app is registered: until then nobody needs it.
            Err(trouble) => sleep(trouble.pause(failures)).await,
        }
        failures += 1;
    }
}

fn is_well(health: Option<ReportedHealth>) -> bool {
    matches!(health, Some(ReportedHealth::Passing | ReportedHealth::Warning))
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
