//! Keeps the app announced: from its first healthy probe, and again when the registry holds nothing, or something
//! else, or was given credentials that were replaced, or does not list the app, or when the settings changed.
//!
//! What differs is the answer to one question ([`Registrar::drift`]), which this loop asks again and again.
//! [`crate::report`] reports the health, and [`crate::withdraw`] withdraws the app.

use std::{sync::Arc, time::Duration};

use outrigger_events::EventKind;
use outrigger_registry::{Drift, Registrar, Registration, ReportedHealth, Seen};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::reason::{AnnounceReason, log_announced, reannounce_pause};
use crate::{
    calls::{CallError, within},
    claim::ClaimFile,
    maintenance::Maintenance,
    status::{RegistrationPhase, RegistrationState},
};

mod reason;

/// Longest wait for one announcement. The time-out of the registry client is shorter (Consul: 15 s).
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest wait for one question. The time-outs of the registry client are shorter (Consul: 20 s and 15 s for its two
/// parts).
const DRIFT_TIMEOUT: Duration = Duration::from_secs(45);

/// Least time between two questions, because a registry may answer each one at once.
const MIN_QUESTION_INTERVAL: Duration = Duration::from_secs(1);

/// Owns the registration from the first healthy answer of the app until `stop`.
pub(super) struct Keeper {
    pub(super) registrar: Arc<dyn Registrar>,
    /// A reload may replace it in place: same id, name and port.
    pub(super) registration: watch::Receiver<Registration>,
    pub(super) state: RegistrationState,
    pub(super) maintenance: Maintenance,
    pub(super) claim: ClaimFile,
    pub(super) health: watch::Receiver<Option<ReportedHealth>>,
    /// The last generation that refused a report: see [`crate::report`].
    pub(super) refused_generation: watch::Receiver<u64>,
    /// Ends the waits, but not an announcement that has been sent: aborted, it could still arrive after the
    /// withdrawal that follows.
    pub(super) stop: CancellationToken,
    pub(super) seen: Seen,
}

impl Keeper {
    /// Returns after `stop`, with what was seen of the registration.
    pub(super) async fn run(mut self) -> Seen {
        let stop = self.stop.clone();
        self.seen.claim = self.claim.load().await;
        let Some(Some(mut reason)) = stop.run_until_cancelled(self.wait_for_first_reason()).await else {
            return self.seen;
        };
        let mut conflicts = 0;
        loop {
            if reason == AnnounceReason::NewSettings
                && self.state.current().phase == RegistrationPhase::Conflict
            {
                // They are announced when the other process has left.
                self.registration.mark_unchanged();
            } else if !self.announce(reason).await {
                return self.seen;
            }
            let since = Instant::now();
            let Some(next) = stop.run_until_cancelled(self.wait_for_reason()).await else {
                return self.seen;
            };
            reason = next;
            if let Some(drift) = reason.drift() {
                self.maintenance.record_event(EventKind::RegistrationDrift, drift);
            }
            // In a conflict the next report waits for the registration: until then it would be one for the other process.
            if !matches!(reason, AnnounceReason::NewCredentials | AnnounceReason::NewSettings)
                && self.state.current().phase != RegistrationPhase::Conflict
            {
                self.state.set_phase(RegistrationPhase::Lost);
            }
            let pause = reannounce_pause(reason, since.elapsed(), &mut conflicts);
            tokio::select! {
                () = stop.cancelled() => return self.seen,
                // New settings need no back-off.
                Ok(()) = self.registration.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Resolves when there is something to register. `None`: the probe task has ended.
    async fn wait_for_first_reason(&mut self) -> Option<AnnounceReason> {
        let mut health = self.health.clone();
        let registration = self.registration.borrow().clone();
        tokio::select! {
            healthy = self.health.wait_for(|health| is_healthy(*health)) => return healthy.ok().map(|_| AnnounceReason::First),
            () = wait_until_held(&self.registrar, &registration, &mut self.seen) => {}
        }
        if self.seen.is_elsewhere {
            // A process that still runs renews it, or it expires with its TTL: an app that is down takes it from no other one.
            info!(
                service = registration.name,
                id = registration.id,
                "the id is registered for another address: the app is registered once it is healthy"
            );
            return health.wait_for(|health| is_healthy(*health)).await.ok().map(|_| AnnounceReason::First);
        }
        // From now on a drain withdraws the app.
        self.state.record_sent();
        info!(
            service = registration.name,
            id = registration.id,
            "the app is still registered from an earlier run"
        );
        health.wait_for(Option::is_some).await.ok().map(|_| AnnounceReason::FoundExisting)
    }

    /// Announces the app, until the registry has taken it. False: stopped.
    async fn announce(&mut self, reason: AnnounceReason) -> bool {
        if matches!(reason, AnnounceReason::First | AnnounceReason::FoundExisting) {
            // The process that this one replaces has let the claim go meanwhile.
            self.seen.claim = self.claim.load().await;
            self.state.set_phase(RegistrationPhase::Registering);
        }
        // Whether the registry held nothing before: then it holds no maintenance either.
        let mut fresh = reason == AnnounceReason::Forgotten;
        let mut failures = 0;
        loop {
            if self.stop.is_cancelled() {
                return false;
            }
            let registration = self.registration.borrow_and_update().clone();
            let Err(failure) = within(ANNOUNCE_TIMEOUT, self.announce_once(&registration, &mut fresh)).await
            else {
                self.state.record_registered();
                self.claim.save(self.seen.claim.since).await;
                log_announced(&registration, reason);
                self.maintenance.record_event(EventKind::Registered, reason.announced());
                return true;
            };
            let error = &failure.text;
            if self.state.record_failure(error.clone()) {
                warn!(
                    service = registration.name,
                    id = registration.id,
                    error,
                    "could not register the app, retrying"
                );
            }
            let pause = sleep(failure.retry_pause(failures));
            failures += 1;
            if self.stop.run_until_cancelled(pause).await.is_none() {
                return false;
            }
        }
    }

    async fn announce_once(
        &mut self,
        registration: &Registration,
        fresh: &mut bool,
    ) -> Result<(), CallError> {
        // Asked before each try while the registry holds the app, because it may lose it between two tries. Once it has
        // lost it, `fresh` stays: an announcement without an answer may have arrived.
        if !*fresh && !is_held(&self.registrar, registration, &mut self.seen).await? {
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
        self.registrar.announce(&registration, &mut self.seen).await?;
        // Before the first report: a registry that forgot the app forgot maintenance, too.
        Ok(self.maintenance.restore_after_announcement(*fresh).await?)
    }

    /// Asks until the app has to be announced again.
    async fn wait_for_reason(&mut self) -> AnnounceReason {
        let generation = self.state.current().generation;
        let mut settings = self.registration.clone();
        let registration = settings.borrow().clone();
        let refused = self.refused_generation.clone();
        let (mut failures, mut report_refused) = (0, false);
        loop {
            let started = Instant::now();
            if report_refused {
                // The registry may have forgotten the app.
                self.seen.ask_at_once();
            }
            let answer = tokio::select! {
                // New settings first: compared with them, the registry's copy of the old ones would count as changed.
                biased;
                () = wait_for_change(&mut settings) => return AnnounceReason::NewSettings,
                () = wait_for_generation(&refused, generation), if !report_refused => {
                    report_refused = true;
                    continue;
                }
                answer = self.ask(&registration) => answer,
            };
            let pause = match answer {
                Ok(Some(reason)) => return reason,
                Ok(None) if report_refused && self.state.current().phase != RegistrationPhase::Conflict => {
                    return AnnounceReason::ReportRefused;
                }
                Ok(None) => {
                    failures = 0;
                    MIN_QUESTION_INTERVAL.saturating_sub(started.elapsed())
                }
                Err(failure) => {
                    let error = &failure.text;
                    if self.state.record_failure(error.clone()) {
                        warn!(
                            service = registration.name,
                            id = registration.id,
                            error,
                            "could not ask the registry for the registration, retrying"
                        );
                    }
                    failures += 1;
                    failure.retry_pause(failures - 1)
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = wait_for_generation(&refused, generation), if !report_refused => report_refused = true,
                () = wait_for_change(&mut settings) => return AnnounceReason::NewSettings,
            }
        }
    }

    /// Records what the last answer showed of another process that registers the id.
    fn record_rival(&self, registration: &Registration) {
        let Registration { id, name, port, .. } = registration;
        if !self.state.record_rival(self.seen.rival.as_ref()) {
            return;
        }
        match self.state.current().conflict() {
            Some(conflict) => {
                warn!(id, service = name, port, "{conflict}");
                self.maintenance.record_event(EventKind::RegistrationConflict, conflict);
            }
            None => {
                let over = "no other process registers the id any more";
                info!(id, service = name, "{over}");
                self.maintenance.record_event(EventKind::RegistrationConflict, over);
            }
        }
    }

    /// One question. A request for maintenance that the registry has not taken yet follows an answer, because the
    /// registry answers again.
    async fn ask(&mut self, registration: &Registration) -> Result<Option<AnnounceReason>, CallError> {
        let before = self.state.current();
        self.seen.maintenance.clone_from(&before.maintenance);
        let drift = self.registrar.clone().drift(registration, &mut self.seen);
        let drift = within(DRIFT_TIMEOUT, drift).await?;
        self.record_rival(registration);
        let was_taken = before.phase == RegistrationPhase::Conflict;
        let maintenance = match drift {
            Drift::Taken => {
                self.state.yield_to_rival();
                return Ok(None);
            }
            Drift::Forgotten | Drift::Changed if was_taken => return Ok(Some(AnnounceReason::TakenOver)),
            Drift::Forgotten => return Ok(Some(AnnounceReason::Forgotten)),
            Drift::Changed => return Ok(Some(AnnounceReason::Changed)),
            Drift::Unlisted => return Ok(Some(AnnounceReason::Unlisted)),
            Drift::Credentials => return Ok(Some(AnnounceReason::NewCredentials)),
            Drift::Maintenance(reason) => Some(reason),
            Drift::None => None,
        };
        if self.state.current().pending_request.is_some() {
            self.maintenance.send_desired().await?;
        } else if let Some(reason) = maintenance {
            self.maintenance.record_observed(&before, reason).await;
        }
        Ok(None)
    }
}

/// Resolves when the registry holds the registration; pends when it does not.
async fn wait_until_held(registrar: &Arc<dyn Registrar>, registration: &Registration, seen: &mut Seen) {
    let mut failures = 0;
    loop {
        match is_held(registrar, registration, seen).await {
            Ok(true) => return,
            Ok(false) => std::future::pending().await,
            // Not logged: a failure matters only when the app is announced.
            Err(failure) => sleep(failure.retry_pause(failures)).await,
        }
        failures += 1;
    }
}

/// Whether the registry holds the registration, whatever it is like.
pub(super) async fn is_held(
    registrar: &Arc<dyn Registrar>,
    registration: &Registration,
    seen: &mut Seen,
) -> Result<bool, CallError> {
    seen.only_look();
    let drift = within(DRIFT_TIMEOUT, registrar.clone().drift(registration, seen)).await?;
    Ok(drift != Drift::Forgotten)
}

/// Resolves when `generations` holds `generation` or a newer one.
async fn wait_for_generation(generations: &watch::Receiver<u64>, generation: u64) {
    if generations.clone().wait_for(|newest| *newest >= generation).await.is_err() {
        std::future::pending().await
    }
}

/// Resolves when the value has changed.
async fn wait_for_change<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending().await
    }
}

pub(super) fn is_healthy(health: Option<ReportedHealth>) -> bool {
    matches!(health, Some(ReportedHealth::Passing | ReportedHealth::Warning))
}

#[cfg(test)]
mod conflict;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unlisted;
