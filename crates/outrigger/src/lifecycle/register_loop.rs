//! Registers the app once it is healthy, and again when the agent holds nothing, or something else, or was given
//! credentials that were replaced, or when the catalog does not list the app, or when the settings changed.
//!
//! [`super::agent_check`] watches the agent, [`super::catalog_check`] the catalog, [`super::report`] reports the
//! health, and [`super::withdraw`] deregisters the app.

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

/// Longest wait for one registration. The time-out of the registry client is shorter (Consul: 15 s).
const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);

/// Pauses between corrections that do not last: another process may register the same id.
const CONFLICT_BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

/// This many corrections in a row are prompt, because a person may be changing the registration by hand. Another
/// sidecar with the same id causes more of them within seconds.
const PROMPT_CORRECTIONS: u32 = 10;

/// Least time between two registrations that the agent forgot. Short, because an agent may restart several times, and
/// each time callers wait for the app.
const MIN_REREGISTER_INTERVAL: Duration = Duration::from_secs(3);

/// After a registration that lasted this long, the next correction counts as the first.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Why the app has to be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RegisterReason {
    /// The app is healthy for the first time.
    First,
    /// An earlier run left the registration, and the app is not healthy, which has to be reported.
    FoundExisting,
    /// The agent does not hold the app, or not its check.
    Forgotten,
    /// The agent holds something else.
    Changed,
    /// The agent holds the app, but has refused a report.
    ReportRefused,
    /// The agent holds the app, but the catalog does not list it.
    Unlisted,
    /// The credentials were replaced.
    NewCredentials,
    /// A reload changed the settings.
    NewSettings,
}

/// Owns the registration from the first healthy answer of the app until `stop`.
pub(super) struct RegisterLoop {
    pub(super) registrar: Arc<dyn Registrar>,
    /// A reload may replace it in place: same id, name and port.
    pub(super) registration: watch::Receiver<Registration>,
    pub(super) state: RegistrationState,
    pub(super) maintenance: Maintenance,
    pub(super) health: watch::Receiver<Option<ReportedHealth>>,
    /// See [`super::report::GenerationSender`].
    pub(super) refused_generation: watch::Receiver<u64>,
    /// The last generation that the catalog did not list: see [`super::catalog_check`].
    pub(super) unlisted_generation: watch::Receiver<u64>,
    /// See [`Registrar::watch_credentials`].
    pub(super) credentials: watch::Receiver<u64>,
    /// Ends the waits, but not a registration that has been sent: aborted, it could still arrive after the
    /// deregistration that follows.
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
                // New settings need no back-off.
                Ok(()) = self.registration.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Resolves when there is something to register. `None`: the probe task has ended.
    async fn wait_for_first_reason(&mut self) -> Option<RegisterReason> {
        let mut health = self.health.clone();
        let id = self.registration.borrow().id.clone();
        tokio::select! {
            healthy = self.health.wait_for(|health| is_healthy(*health)) => return healthy.ok().map(|_| RegisterReason::First),
            () = wait_until_held(&*self.registrar, &id) => {}
        }
        // From now on a drain deregisters the app.
        self.state.record_sent();
        warn!(id, "the app is still registered from an earlier run");
        health.wait_for(Option::is_some).await.ok().map(|_| RegisterReason::FoundExisting)
    }

    /// Registers the app, until the registry has taken it. False: stopped.
    async fn register(&mut self, reason: RegisterReason) -> bool {
        if matches!(reason, RegisterReason::First | RegisterReason::FoundExisting) {
            self.state.set_phase(RegistrationPhase::Registering);
        }
        // Whether the agent held nothing before: then it holds no maintenance either.
        let mut fresh = reason == RegisterReason::Forgotten;
        let mut failures = 0;
        loop {
            if self.stop.is_cancelled() {
                return false;
            }
            // Read before the call, so that a token that is replaced during the call counts as new.
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
                warn!(id = registration.id, error, "could not register the app, retrying");
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
        // Queried before each try while the agent holds the app, because the agent may lose it between two tries. Once
        // the agent has lost it, `fresh` stays: a registration without an answer may have arrived.
        if !*fresh
            && agent_calls::query_agent_service(&*self.registrar, &registration.id, None).await?.is_none()
        {
            *fresh = true;
            if self.state.current().phase == RegistrationPhase::Registered {
                self.state.set_phase(RegistrationPhase::Lost);
            }
        }
        self.state.record_sent();
        // Healthy from the start, unless maintenance follows, which has to come first.
        let in_service = self.state.current().desired_maintenance().is_none();
        let health = *self.health.borrow();
        let initial = health.filter(|_| in_service).unwrap_or(ReportedHealth::Critical);
        let registration = Registration { initial_health: initial, ..registration.clone() };
        self.registrar.register(&registration).await?;
        // Before the first report: an agent that forgot the app forgot maintenance, too.
        Ok(self.maintenance.restore_after_register(*fresh).await?)
    }
}

fn log_registered(registration: &Registration, reason: RegisterReason) {
    let Registration { id, name, port, .. } = registration;
    let what = match reason {
        RegisterReason::First => "registered the app",
        RegisterReason::FoundExisting => "took over the registration of an earlier run",
        RegisterReason::Forgotten => "the registry had forgotten the app, registered again",
        RegisterReason::Changed => "another client changed the registration, corrected it",
        RegisterReason::ReportRefused => "the registry refused a report, registered again",
        RegisterReason::Unlisted => "the catalog did not list the app, registered again",
        RegisterReason::NewCredentials => "the token was replaced, registered again with it",
        RegisterReason::NewSettings => "registered the app with its new settings",
    };
    match reason {
        RegisterReason::First | RegisterReason::FoundExisting | RegisterReason::NewSettings => {
            info!(id, service = name, port, "{what}");
        }
        RegisterReason::NewCredentials => info!(id, service = name, "{what}"),
        _ => warn!(id, service = name, "{what}"),
    }
}

/// The pause before the next registration, after one that lasted this long.
fn reregister_pause(reason: RegisterReason, lasted: Duration, conflicts: &mut u32) -> Duration {
    match reason {
        RegisterReason::First
        | RegisterReason::FoundExisting
        | RegisterReason::NewCredentials
        | RegisterReason::NewSettings => Duration::ZERO,
        // For Unlisted, `catalog_check` waits in addition.
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

/// Resolves when the agent holds `id`; pends when it does not.
async fn wait_until_held(registrar: &dyn Registrar, id: &str) {
    let mut failures = 0;
    loop {
        match agent_calls::query_agent_service(registrar, id, None).await {
            Ok(Some(_)) => return,
            Ok(None) => std::future::pending().await,
            // Not logged: a failure matters only when the app is registered.
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
