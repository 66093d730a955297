//! Looks at what the agent holds of the app, and mends what can be mended without registering again.
//!
//! It asks with the agent's blocking query on the content hash, so that a change is seen within
//! milliseconds, and without it a restart of the agent within one back-off. Checks have no such query: they
//! are read with each look. It registers nothing: it says why that has to be done ([`super::register`]).

use std::time::Duration;

use outrigger_registry::{AgentService, OwnCheck, Registration, ReportedHealth};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::warn;

use super::{
    agent_calls::{CallError, call_agent, query_agent_service},
    register_loop::{RegisterLoop, RegisterReason},
    report::{CHECK_OUTPUT, LIVENESS_CHALLENGE},
};

/// Fewest time between two looks: an agent that answers at once must not be asked in a tight loop.
const MIN_QUERY_INTERVAL: Duration = Duration::from_secs(1);

/// What was seen.
enum CheckOutcome {
    /// What should be, with its hash.
    Matches(Option<String>),
    /// It has to be registered again.
    MustRegister(RegisterReason),
}

impl RegisterLoop {
    /// Looks until the registration is not what it should be.
    pub(super) async fn wait_for_reason(&self) -> RegisterReason {
        let generation = self.state.current().generation;
        let mut settings = self.registration.clone();
        let registration = settings.borrow().clone();
        let mut credentials = self.credentials.clone();
        let mut hash: Option<String> = None;
        let (mut failures, mut report_refused) = (0, false);
        loop {
            let started = Instant::now();
            let outcome = tokio::select! {
                // First: what the agent holds by the old settings is no change of somebody's.
                biased;
                () = wait_for_change(&mut settings) => return RegisterReason::NewSettings,
                () = wait_for_change(&mut credentials) => return RegisterReason::NewCredentials,
                () = wait_for_generation(&self.unlisted_generation, generation) => return RegisterReason::Unlisted,
                // Asked again at once: it may be forgotten.
                () = wait_for_generation(&self.refused_generation, generation), if !report_refused => {
                    report_refused = true;
                    continue;
                }
                outcome = self.check_once(&registration, hash.take()) => outcome,
            };
            let pause = match outcome {
                Ok(CheckOutcome::MustRegister(reason)) => return reason,
                Ok(CheckOutcome::Matches(_)) if report_refused => return RegisterReason::ReportRefused,
                Ok(CheckOutcome::Matches(held)) => {
                    failures = 0;
                    hash = held;
                    MIN_QUERY_INTERVAL.saturating_sub(started.elapsed())
                }
                Err(failure) => {
                    let error = &failure.text;
                    if self.state.record_failure(error.clone()) {
                        warn!(id = registration.id, error, "could not look at the registration, trying on");
                    }
                    failures += 1;
                    failure.retry_pause(failures - 1)
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = wait_for_generation(&self.refused_generation, generation), if !report_refused => {
                    report_refused = true;
                    hash = None;
                }
                () = wait_for_change(&mut settings) => return RegisterReason::NewSettings,
                () = wait_for_change(&mut credentials) => return RegisterReason::NewCredentials,
                () = wait_for_generation(&self.unlisted_generation, generation) => return RegisterReason::Unlisted,
            }
        }
    }

    async fn check_once(
        &self,
        registration: &Registration,
        hash: Option<String>,
    ) -> Result<CheckOutcome, CallError> {
        let Some(held) = query_agent_service(&*self.registrar, &registration.id, hash.as_deref()).await?
        else {
            return Ok(CheckOutcome::MustRegister(RegisterReason::Forgotten));
        };
        if self.state.current().pending_request.is_some() {
            self.maintenance.send_desired().await?;
        }
        let before = self.state.current();
        let checks = call_agent(self.registrar.service_checks(&registration.id)).await?;
        let Some(own) = checks.own else { return Ok(CheckOutcome::MustRegister(RegisterReason::Forgotten)) };
        self.maintenance.record_observed(&before, checks.maintenance).await;
        for check in &checks.others {
            call_agent(self.registrar.deregister_check(check)).await?;
            warn!(id = registration.id, check, "removed a check of the app that is not the sidecar's");
        }
        if !is_own_check(&own, before.reported) {
            // Before it is registered: Consul would go on with somebody's HTTP check under our check's id.
            warn!(
                id = registration.id,
                said = own.output,
                "somebody else sets the app's check, making it anew"
            );
            call_agent(self.registrar.deregister_check(&own.id)).await?;
            return Ok(CheckOutcome::MustRegister(RegisterReason::Changed));
        }
        if !matches_registration(&held, registration) {
            return Ok(CheckOutcome::MustRegister(RegisterReason::Changed));
        }
        Ok(CheckOutcome::Matches(Some(held.content_hash).filter(|hash| !hash.is_empty())))
    }
}

/// Resolves when there is a doubt of registration `generation`, or of a newer one.
async fn wait_for_generation(generations: &watch::Receiver<u64>, generation: u64) {
    if generations.clone().wait_for(|report_refused| *report_refused >= generation).await.is_err() {
        std::future::pending().await
    }
}

/// Resolves when it is another value than was last seen.
async fn wait_for_change<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Whether our check is what we made and says what we said; before we said anything, whatever it says.
fn is_own_check(own: &OwnCheck, told: Option<ReportedHealth>) -> bool {
    own.has_our_name
        && (told.is_none() || own.ttl_expired || [CHECK_OUTPUT, LIVENESS_CHALLENGE].contains(&&*own.output))
}

/// Whether the agent holds what is wanted. Its own additions (an address of its own) are no change.
fn matches_registration(held: &AgentService, registration: &Registration) -> bool {
    let address = |address: &Option<String>| address.clone().unwrap_or_default();
    held.name == registration.name
        && held.port == i64::from(registration.port)
        && address(&held.address) == address(&registration.address)
        && held.tags == registration.tags
        && held.meta == registration.meta
        && held.weights == registration.weights
        && !held.enable_tag_override
}
