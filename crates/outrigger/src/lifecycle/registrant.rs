//! The tasks around one registration, and how they end: probe, register, report, watch over it, clear up; then the calls
//! of leaving, in the order of [`super::step`].

use std::{sync::Arc, time::Duration};

use outrigger_config::Health;
use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Registrar, Registration, ReportedHealth};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    agent_calls, catalog_check, health,
    maintenance::Maintenance,
    plan::RegistrationPlan,
    register_loop::RegisterLoop,
    report, stale,
    status::{RegistrationPhase, RegistrationState},
};
use crate::telemetry::error_chain;

/// Longest wait for the last report. An agent that stalls has taken it when it began.
const REPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for the registration under way, and for each deregistration. Above the 7 s for which
/// an agent stalls without a leader.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// Longest wait for the deregistration when the report before it stalled, or nobody heard it: there is no
/// leader, then, and it would stall too. It is sent for its effect alone: the agent has forgotten the app when
/// the call begins, and tells the catalog when there is a leader (seen on Consul 1.8.7).
const STALLED_TIMEOUT: Duration = Duration::from_secs(3);

/// Most tries of the deregistration.
const MAX_TRIES: u32 = 3;

/// Pauses between those tries.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(1) };

/// What came of the last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CriticalReport {
    Accepted,
    Failed,
    /// The registry does not hold the app.
    NotRegistered,
}

/// Owns the tasks that register the app and keep it registered.
#[derive(Debug)]
pub(crate) struct Registrant {
    registrar: Arc<dyn Registrar>,
    registration: watch::Sender<Registration>,
    state: RegistrationState,
    probe_task: ProbeTask,
    credentials: watch::Receiver<u64>,
    /// Longest wait for each try of the deregistration.
    deregister_timeout: Duration,
    stop: CancellationToken,
    report_task: JoinHandle<()>,
    register_task: JoinHandle<()>,
    stale_task: JoinHandle<()>,
    catalog_task: JoinHandle<()>,
}

/// The task that asks the app how it is, by settings that may change.
#[derive(Debug)]
pub(super) struct ProbeTask {
    /// See [`Plan::started`].
    pub(super) app_started: CancellationToken,
    pub(super) settings: Health,
    /// What it finds.
    pub(super) results: watch::Sender<Option<ReportedHealth>>,
    pub(super) task: JoinHandle<()>,
}

impl ProbeTask {
    fn start(
        started: CancellationToken,
        settings: Health,
        port: u16,
        results: watch::Sender<Option<ReportedHealth>>,
        state: RegistrationState,
    ) -> Self {
        let task = tokio::spawn({
            let (started, settings, results) = (started.clone(), settings.clone(), results.clone());
            async move {
                started.cancelled().await;
                health::run_probes(settings, port, results, state).await;
            }
        });
        Self { app_started: started, settings, results, task }
    }

    /// Goes on by other settings, from what was found last.
    fn apply_settings(&mut self, settings: Health, port: u16, state: RegistrationState) {
        if self.settings != settings {
            self.task.abort();
            *self = Self::start(self.app_started.clone(), settings, port, self.results.clone(), state);
        }
    }
}

impl Registrant {
    /// Starts to probe the app, and registers it once it is well.
    pub(super) fn start(plan: RegistrationPlan, maintenance: Maintenance) -> Self {
        let RegistrationPlan { app_started: started, registration, probe, .. } = plan;
        let reported = watch::Sender::new(None);
        let probing =
            ProbeTask::start(started, probe, registration.port, reported, maintenance.state.clone());
        Self::start_with_probe(registration, probing, maintenance)
    }

    /// The same with a probe of the caller's.
    pub(super) fn start_with_probe(
        registration: Registration,
        probing: ProbeTask,
        maintenance: Maintenance,
    ) -> Self {
        let Maintenance { registrar, state, .. } = maintenance.clone();
        state.set_phase(RegistrationPhase::AwaitingApp);
        let (health, registration) = (probing.results.subscribe(), watch::Sender::new(registration));
        let doubt = report::GenerationSender::new(0);
        let doubted = doubt.subscribe();
        let missing = report::GenerationSender::new(0);
        let unlisted = missing.subscribe();
        let stop = CancellationToken::new();
        let credentials = registrar.watch_credentials();
        let report = tokio::spawn(report::run(registrar.clone(), state.clone(), health.clone(), doubt));
        let stale_task = tokio::spawn(stale::run(registrar.clone(), registration.subscribe(), state.clone()));
        let catalog_task = tokio::spawn(catalog_check::run(
            registrar.clone(),
            registration.subscribe(),
            state.clone(),
            missing,
        ));
        let register = RegisterLoop {
            registrar: registrar.clone(),
            registration: registration.subscribe(),
            state: state.clone(),
            maintenance,
            health,
            refused_generation: doubted,
            unlisted_generation: unlisted,
            credentials: credentials.clone(),
            stop: stop.clone(),
        };
        let register = tokio::spawn(register.run());
        let deregister_timeout = CALL_TIMEOUT;
        Self {
            registrar,
            registration,
            state,
            probe_task: probing,
            credentials,
            deregister_timeout,
            stop,
            report_task: report,
            register_task: register,
            stale_task,
            catalog_task,
        }
    }

    /// What is registered.
    pub(crate) fn registration(&self) -> Registration {
        self.registration.borrow().clone()
    }

    /// Whether `other` can replace the registration in place: to callers it is the same instance.
    pub(crate) fn is_same_instance(&self, other: &Registration) -> bool {
        let registration = self.registration.borrow();
        (&registration.id, &registration.name, registration.port) == (&other.id, &other.name, other.port)
    }

    /// Registers the app by other settings, in place, and asks it how it is by others.
    pub(crate) fn apply_settings(&mut self, registration: Registration, probe: Health) {
        self.probe_task.apply_settings(probe, registration.port, self.state.clone());
        self.registration.send_if_modified(|now| {
            let news = *now != registration;
            *now = registration;
            news
        });
    }

    /// Takes the app out of the registry because another registration follows, or none.
    pub(crate) async fn withdraw_now(mut self) {
        if self.stop_tasks().await {
            self.report_critical().await;
            self.deregister().await;
        }
    }

    /// Ends the tasks, the registration under way excepted: cut off, it could arrive after what follows.
    /// True when the app was (or may have been) registered, by this run or an earlier one, so that callers
    /// have something to hear of. Takes 11 s at most.
    pub(crate) async fn stop_tasks(&mut self) -> bool {
        self.probe_task.task.abort();
        self.report_task.abort();
        self.stale_task.abort();
        self.catalog_task.abort();
        self.stop.cancel();
        if timeout(CALL_TIMEOUT, &mut self.register_task).await.is_err() {
            self.register_task.abort();
        }
        self.state.current().sent || self.is_held_by_agent().await
    }

    /// Whether the registry holds what this run has not registered: for one that is over before it has
    /// looked.
    async fn is_held_by_agent(&self) -> bool {
        let id = self.registration().id;
        let held = agent_calls::query_agent_service(&*self.registrar, &id, None);
        matches!(timeout(REPORT_TIMEOUT, held).await, Ok(Ok(Some(_))))
    }

    /// Watchers learn it from the check before the registration is gone; a failure is no reason to
    /// stay. True: the registry took it.
    pub(crate) async fn report_critical(&mut self) -> bool {
        let reported = self.send_critical_report().await;
        let anew = match reported {
            // The agent takes it all the same, and could pass on neither this nor the end.
            CriticalReport::Accepted => *self.credentials.borrow() != self.state.current().credentials,
            // An agent that has lost the app says nothing of its leaving, and callers keep it meanwhile.
            CriticalReport::NotRegistered => true,
            CriticalReport::Failed => false,
        };
        if anew && self.register_again().await {
            return self.send_critical_report().await == CriticalReport::Accepted;
        }
        reported == CriticalReport::Accepted
    }

    /// As critical, with the credentials that hold now.
    async fn register_again(&self) -> bool {
        let registration = Registration { initial_health: ReportedHealth::Critical, ..self.registration() };
        let Err(failure) =
            agent_calls::with_timeout(REPORT_TIMEOUT, self.registrar.register(&registration)).await
        else {
            return true;
        };
        warn!(id = registration.id, error = failure.text, "could not register again before leaving");
        false
    }

    async fn send_critical_report(&mut self) -> CriticalReport {
        let id = &self.registration().id;
        let report = self.registrar.report(id, ReportedHealth::Critical, report::CHECK_OUTPUT);
        match timeout(REPORT_TIMEOUT, report).await {
            Ok(Ok(())) => {
                self.state.record_reported(self.state.current().generation, ReportedHealth::Critical);
                return CriticalReport::Accepted;
            }
            Ok(Err(error)) if error.is_unknown_check() => {
                debug!(id, error = error_chain(&error), "nothing to report critical");
                return CriticalReport::NotRegistered;
            }
            Ok(Err(error)) => warn!(id, error = error_chain(&error), "could not report critical"),
            Err(_) => {
                self.expect_stall();
                warn!(id, "could not report critical within {REPORT_TIMEOUT:?}");
            }
        }
        CriticalReport::Failed
    }

    /// The deregistration will stall: see [`STALLED_TIMEOUT`].
    pub(crate) fn expect_stall(&mut self) {
        self.deregister_timeout = STALLED_TIMEOUT;
    }

    /// True: the registry has confirmed it.
    pub(crate) async fn deregister(&self) -> bool {
        let (id, within) = (&self.registration().id, self.deregister_timeout);
        for n in 0..MAX_TRIES {
            let error = match timeout(within, self.registrar.deregister(id)).await {
                Ok(Ok(())) => {
                    self.state.set_phase(RegistrationPhase::Left);
                    info!(id, "left the registry");
                    return true;
                }
                Ok(Err(error)) => error_chain(&error),
                Err(_) => {
                    // Not again: see [`STALLED_TIMEOUT`].
                    self.state.record_failure(format!("no answer within {within:?}"));
                    warn!(id, "the registry has not confirmed within {within:?} that the app left");
                    return false;
                }
            };
            warn!(id, error, attempt = n + 1, "could not deregister the app");
            self.state.record_failure(error);
            sleep(RETRY_BACKOFF.pause(n, fastrand::u64(..))).await;
        }
        warn!(id, "the registration stays; the registry removes it after deregister_after");
        false
    }
}

impl Drop for Registrant {
    fn drop(&mut self) {
        self.probe_task.task.abort();
        self.report_task.abort();
        self.register_task.abort();
        self.stale_task.abort();
        self.catalog_task.abort();
    }
}

#[cfg(test)]
mod tests;
