//! Compares what the agent holds with the registration, and corrects what needs no new registration.
//!
//! The agent's blocking query on the content hash shows a change within milliseconds, and a restart of the agent
//! after one back-off. Checks have no such query, so they are read after each query. This module never registers: it
//! returns the reason to do so ([`super::register_loop`]).

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
    report::is_own_output,
};

/// Least time between two queries, because an agent may answer each one at once.
const MIN_QUERY_INTERVAL: Duration = Duration::from_secs(1);

/// The result of one comparison.
enum CheckOutcome {
    /// The agent holds the registration, with this hash.
    Matches(Option<String>),
    /// The app has to be registered again.
    MustRegister(RegisterReason),
}

impl RegisterLoop {
    /// Queries until the app has to be registered again.
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
                // New settings first: compared with them, the agent's copy of the old ones would count as changed.
                biased;
                () = wait_for_change(&mut settings) => return RegisterReason::NewSettings,
                () = wait_for_change(&mut credentials) => return RegisterReason::NewCredentials,
                () = wait_for_generation(&self.unlisted_generation, generation) => return RegisterReason::Unlisted,
                // Query again at once: the agent may have forgotten the app.
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
                        warn!(
                            id = registration.id,
                            error, "could not query the registration at the agent, retrying"
                        );
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
            // Before the registration: Consul would keep a foreign HTTP check under the id of the own check.
            warn!(
                id = registration.id,
                output = own.output,
                "another client sets the app's check, replacing it"
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

/// Whether the own check is as this sidecar made it, with an output of this sidecar. Before the first report every
/// output counts.
fn is_own_check(own: &OwnCheck, reported: Option<ReportedHealth>) -> bool {
    own.has_our_name && (reported.is_none() || own.ttl_expired || is_own_output(&own.output))
}

/// Whether the agent holds `registration`. What the agent adds (its address) is no change.
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
