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
    agent_calls::{self, CallError},
    maintenance::Maintenance,
    status::{RegistrationPhase, RegistrationState},
};

/// Longest wait for one registration; the registry's own time-out comes first (Consul: 15 s).
const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);

/// Pauses between corrections that do not last: somebody else may be writing the same id.
const CONFLICT_BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

/// As many corrections in a row are somebody's who tries things out, and none of them waits for long.
/// Another sidecar with the same id makes more of them within seconds.
const PROMPT_CORRECTIONS: u32 = 10;

/// Fewest time between two registrations that the agent forgot: it is restarted again and again, and each
/// time callers wait for the app.
const MIN_REREGISTER_INTERVAL: Duration = Duration::from_secs(3);

/// A registration that lasted this long has settled.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Why it has to be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RegisterReason {
    /// The app is well.
    First,
    /// An earlier run left it there, and the app is not well: that has to be said on it.
    FoundExisting,
    /// The agent does not hold it, or not its check.
    Forgotten,
    /// The agent holds something else.
    Changed,
    /// The agent holds it, and has refused a report all the same.
    ReportRefused,
    /// The agent holds it, and callers do not find it all the same.
    Unlisted,
    /// The credentials were replaced.
    NewCredentials,
    /// Other settings are to hold.
    NewSettings,
}

/// Owns the registration from the first healthy answer of the app until `stop`.
pub(super) struct RegisterLoop {
    pub(super) registrar: Arc<dyn Registrar>,
    /// Another one replaces it in place: same id, name and port.
    pub(super) registration: watch::Receiver<Registration>,
    pub(super) state: RegistrationState,
    pub(super) maintenance: Maintenance,
    pub(super) health: watch::Receiver<Option<ReportedHealth>>,
    /// See [`super::report::Doubt`].
    pub(super) refused_generation: watch::Receiver<u64>,
    /// The last generation that callers did not find: see [`super::listed`].
    pub(super) unlisted_generation: watch::Receiver<u64>,
    /// See [`Registrar::watch_credentials`].
    pub(super) credentials: watch::Receiver<u64>,
    /// Ends the waits. A registration that has been sent is waited for: cut off, it could still
    /// arrive after the deregistration that follows.
    pub(super) stop: CancellationToken,
}

impl RegisterLoop {
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let Some(Some(mut reason)) = stop.run_until_cancelled(self.wait_for_first_reason()).await else {
            return;
        };
        let mut conflicts = 0;
        loop {
            if !self.register(reason).await {
                return;
            }
            let since = Instant::now();
            let Some(next) = stop.run_until_cancelled(self.wait_for_reason()).await else { return };
            reason = next;
            if !matches!(reason, RegisterReason::NewCredentials | RegisterReason::NewSettings) {
                self.state.set_phase(RegistrationPhase::Lost);
            }
            let pause = reregister_pause(reason, since.elapsed(), &mut conflicts);
            tokio::select! {
                () = stop.cancelled() => return,
                // Other settings are no part of a quarrel.
                Ok(()) = self.registration.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Resolves when there is something to register. `None`: nobody probes the app any more.
    async fn wait_for_first_reason(&mut self) -> Option<RegisterReason> {
        let mut health = self.health.clone();
        let id = self.registration.borrow().id.clone();
        tokio::select! {
            well = self.health.wait_for(|health| is_healthy(*health)) => return well.ok().map(|_| RegisterReason::First),
            () = wait_until_held(&*self.registrar, &id) => {}
        }
        // From now on leaving takes it back, whatever becomes of the app.
        self.state.record_sent();
        warn!(id, "an earlier run has left the app in the registry");
        health.wait_for(Option::is_some).await.ok().map(|_| RegisterReason::FoundExisting)
    }

    /// Until the registry has taken it. False: stopped.
    async fn register(&mut self, reason: RegisterReason) -> bool {
        if matches!(reason, RegisterReason::First | RegisterReason::FoundExisting) {
            self.state.set_phase(RegistrationPhase::Registering);
        }
        // Whether the agent held nothing before: then it holds no order of maintenance either.
        let mut fresh = reason == RegisterReason::Forgotten;
        let mut failures = 0;
        loop {
            if self.stop.is_cancelled() {
                return false;
            }
            // Before the call: one that is replaced meanwhile is seen by the next look.
            let credentials = *self.credentials.borrow_and_update();
            let registration = self.registration.borrow_and_update().clone();
            let failure =
                match timeout(REGISTER_TIMEOUT, self.send_registration(&registration, &mut fresh)).await {
                    Ok(Ok(())) => {
                        self.state.record_registered(credentials);
                        log_registered(&registration, reason);
                        return true;
                    }
                    Ok(Err(failure)) => failure,
                    Err(_) => format!("no answer within {REGISTER_TIMEOUT:?}").into(),
                };
            let error = &failure.text;
            if self.state.record_failure(error.clone()) {
                warn!(id = registration.id, error, "could not register the app, trying on");
            }
            let pause = sleep(failure.retry_pause(failures));
            failures += 1;
            if self.stop.run_until_cancelled(pause).await.is_none() {
                return false;
            }
        }
    }

    async fn send_registration(
        &self,
        registration: &Registration,
        fresh: &mut bool,
    ) -> Result<(), CallError> {
        // Asked with each try as long as it is held: an agent may lose it between two of them. And once not:
        // a registration without an answer may have arrived.
        if !*fresh
            && agent_calls::query_agent_service(&*self.registrar, &registration.id, None).await?.is_none()
        {
            *fresh = true;
            if self.state.current().phase == RegistrationPhase::Registered {
                self.state.set_phase(RegistrationPhase::Lost);
            }
        }
        self.state.record_sent();
        // Well from the start, unless an order of maintenance follows: that must not be overtaken.
        let in_order = self.state.current().desired_maintenance().is_none();
        let health = *self.health.borrow();
        let initial = health.filter(|_| in_order).unwrap_or(ReportedHealth::Critical);
        let registration = Registration { initial_health: initial, ..registration.clone() };
        self.registrar.register(&registration).await?;
        // Before it is told that the app is well: an agent that forgot the app forgot this too.
        Ok(self.maintenance.restore_after_register(*fresh).await?)
    }
}

fn log_registered(registration: &Registration, reason: RegisterReason) {
    let Registration { id, name, port, .. } = registration;
    match reason {
        RegisterReason::First => info!(id, service = name, port, "registered the app"),
        RegisterReason::FoundExisting => {
            info!(id, service = name, port, "took over the registration of an earlier run")
        }
        RegisterReason::Forgotten => {
            warn!(id, service = name, "the registry had forgotten the app, registered again")
        }
        RegisterReason::Changed => {
            warn!(id, service = name, "somebody changed the registration, corrected it")
        }
        RegisterReason::ReportRefused => {
            warn!(id, service = name, "the registry refused a report, registered again")
        }
        RegisterReason::Unlisted => {
            warn!(id, service = name, "callers did not find the app, registered again")
        }
        RegisterReason::NewCredentials => {
            info!(id, service = name, "the token was replaced, registered again with it")
        }
        RegisterReason::NewSettings => {
            info!(id, service = name, port, "registered the app by its new settings")
        }
    }
}

/// How long to wait before it is registered again, after one that lasted this long.
fn reregister_pause(reason: RegisterReason, lasted: Duration, conflicts: &mut u32) -> Duration {
    match reason {
        RegisterReason::First
        | RegisterReason::FoundExisting
        | RegisterReason::NewCredentials
        | RegisterReason::NewSettings => Duration::ZERO,
        // The second has a patience of its own.
        RegisterReason::Forgotten | RegisterReason::Unlisted => {
            MIN_REREGISTER_INTERVAL.saturating_sub(lasted)
        }
        RegisterReason::Changed | RegisterReason::ReportRefused if lasted >= SETTLED_AFTER => {
            *conflicts = 0;
            Duration::ZERO
        }
        RegisterReason::Changed | RegisterReason::ReportRefused => {
            let before = *conflicts;
            *conflicts += 1;
            // The first one is corrected at once.
            if before == 0 {
                Duration::ZERO
            } else {
                CONFLICT_BACKOFF.pause(before.saturating_sub(PROMPT_CORRECTIONS), fastrand::u64(..))
            }
        }
    }
}

/// Resolves when the agent is seen to hold `id`; never when it does not.
async fn wait_until_held(registrar: &dyn Registrar, id: &str) {
    let mut failures = 0;
    loop {
        match agent_calls::query_agent_service(registrar, id, None).await {
            Ok(Some(_)) => return,
            Ok(None) => std::future::pending().await,
            // Said when the app is registered: until then nobody needs it.
            Err(failure) => sleep(failure.retry_pause(failures)).await,
        }
        failures += 1;
    }
}

fn is_healthy(health: Option<ReportedHealth>) -> bool {
    matches!(health, Some(ReportedHealth::Passing | ReportedHealth::Warning))
}

#[cfg(test)]
mod tests;
