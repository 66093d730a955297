//! Owns the tasks around one registration: probe, announce and keep announced, report. Then makes the calls that
//! withdraw the app, in the order of [`crate::withdraw`].

use std::{sync::Arc, time::Duration};

use outrigger_config::{Health, ReachTest, error_chain};
use outrigger_events::{Event, EventKind, Events};
use outrigger_policy::backoff::Backoff;
use outrigger_registry::{Registrar, Registration, Report, ReportedHealth, Seen};
use outrigger_task::essential;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, info, warn};

use crate::{
    app_address::AppAddress,
    calls::within,
    claim::ClaimFile,
    health,
    keeper::{Keeper, is_held},
    maintenance::Maintenance,
    plan::RegistrationPlan,
    reach::{self, HealthRelay},
    report,
    status::{Reachability, RegistrationPhase, RegistrationState, RegistrationStatus},
};

/// Longest wait for the last report. An agent that stalls has acted on the report when the call began.
const REPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for the registration in flight, and for each deregistration. Above the 7 s for which an agent stalls
/// without a leader.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// Longest wait for the deregistration when the report before it stalled, or the own watch did not see the report:
/// then there is no leader, and the deregistration would stall, too. It is sent without waiting for its answer: the
/// agent has forgotten the app when the call begins, and updates the catalog when there is a leader (seen on Consul
/// 1.8.7).
const STALLED_TIMEOUT: Duration = Duration::from_secs(3);

/// Most tries of the deregistration.
const MAX_TRIES: u32 = 3;

/// Pauses between those tries.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(1) };

/// The result of the last report.
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
    events: Events,
    probe_task: ProbeTask,
    /// Longest wait for each try of the deregistration.
    deregister_timeout: Duration,
    stop: CancellationToken,
    keeper_task: AbortOnDropHandle<Seen>,
    report_task: AbortOnDropHandle<()>,
    /// From the end of the keeper's task.
    seen: Seen,
}

/// `None`: not known yet.
type HealthSender = watch::Sender<Option<ReportedHealth>>;

/// The tasks that probe the app and test its registered address. A reload may change their settings.
#[derive(Debug)]
pub(crate) struct ProbeTask {
    /// See [`RegistrationPlan::app_started`].
    pub(crate) app_started: CancellationToken,
    /// The name of its service.
    pub(crate) service: String,
    pub(crate) settings: Health,
    /// Where the app is asked.
    pub(crate) app: AppAddress,
    /// The last result of the probes.
    pub(crate) local: HealthSender,
    /// The health by which the app is registered and reported: see [`reach`].
    pub(crate) results: HealthSender,
    pub(crate) task: AbortOnDropHandle<()>,
    pub(crate) reach_task: AbortOnDropHandle<()>,
}

impl ProbeTask {
    /// `local` and `results` hold the last results.
    fn start(
        app_started: CancellationToken,
        service: String,
        settings: Health,
        app: AppAddress,
        (local, results): (HealthSender, HealthSender),
        state: RegistrationState,
    ) -> Self {
        let relay = HealthRelay { service: service.clone(), told: results.clone(), state: state.clone() };
        let reach = reach::run(settings.clone(), app.clone(), local.subscribe(), relay);
        let probe = {
            let (started, service, settings) = (app_started.clone(), service.clone(), settings.clone());
            let (app, local) = (app.clone(), local.clone());
            async move {
                started.cancelled().await;
                health::run_probes(service, settings, app, local, state).await;
            }
        };
        let task = tokio::spawn(essential("the probe of the app", probe));
        let reach_task = tokio::spawn(essential("the test of the registered address", reach));
        let (task, reach_task) = (AbortOnDropHandle::new(task), AbortOnDropHandle::new(reach_task));
        Self { app_started, service, settings, app, local, results, task, reach_task }
    }

    /// Replaces the settings; the last results stay. What is known of the registered address stays where it is tested as before.
    fn apply_settings(&mut self, settings: Health, app: AppAddress, state: RegistrationState) {
        if (&self.settings, &self.app) != (&settings, &app) {
            self.abort();
            if self.app.registered != app.registered || self.settings.reach == ReachTest::Off {
                state.record_reach(Reachability::Unknown);
            }
            let (started, service) = (self.app_started.clone(), self.service.clone());
            let results = (self.local.clone(), self.results.clone());
            *self = Self::start(started, service, settings, app, results, state);
        }
    }

    fn abort(&self) {
        self.task.abort();
        self.reach_task.abort();
    }
}

fn app_address(probe: &Health, registration: &Registration) -> AppAddress {
    AppAddress::new(registration.port, probe, registration.address.as_ref())
}

impl Registrant {
    /// Starts to probe the app, and registers it once it is healthy.
    pub(crate) fn start(plan: RegistrationPlan, maintenance: Maintenance) -> Self {
        let RegistrationPlan { app_started: started, registration, probe, claim, .. } = plan;
        let app = app_address(&probe, &registration);
        let (service, state) = (registration.name.clone(), maintenance.state.clone());
        let probing = ProbeTask::start(started, service, probe, app, Default::default(), state);
        Self::start_with_probe(registration, probing, maintenance, ClaimFile::new(claim))
    }

    /// The same with the caller's probe.
    pub(crate) fn start_with_probe(
        registration: Registration,
        probing: ProbeTask,
        maintenance: Maintenance,
        claim: ClaimFile,
    ) -> Self {
        let Maintenance { registrar, state, events, .. } = maintenance.clone();
        state.set_phase(RegistrationPhase::AwaitingApp);
        let (health, registration) = (probing.results.subscribe(), watch::Sender::new(registration));
        let refused = watch::Sender::new(0);
        let stop = CancellationToken::new();
        let keeper = Keeper {
            registrar: registrar.clone(),
            registration: registration.subscribe(),
            state: state.clone(),
            maintenance,
            claim,
            health: health.clone(),
            refused_generation: refused.subscribe(),
            stop: stop.clone(),
            seen: Seen::default(),
        };
        let reports = report::run(probing.service.clone(), registrar.clone(), state.clone(), health, refused);
        Self {
            registrar,
            registration,
            state,
            events,
            probe_task: probing,
            deregister_timeout: CALL_TIMEOUT,
            stop,
            keeper_task: AbortOnDropHandle::new(tokio::spawn(essential("the registration", keeper.run()))),
            report_task: AbortOnDropHandle::new(tokio::spawn(essential(
                "the report of the app's health",
                reports,
            ))),
            seen: Seen::default(),
        }
    }

    /// The registration.
    pub(crate) fn registration(&self) -> Registration {
        self.registration.borrow().clone()
    }

    /// Whether `other` can replace the registration in place: for callers it is the same instance.
    pub(crate) fn is_same_instance(&self, other: &Registration) -> bool {
        let registration = self.registration.borrow();
        (&registration.id, &registration.name, registration.port) == (&other.id, &other.name, other.port)
    }

    /// Replaces the registration in place, and the settings of the probe.
    pub(crate) fn apply_settings(&mut self, registration: Registration, probe: Health) {
        let app = app_address(&probe, &registration);
        self.probe_task.apply_settings(probe, app, self.state.clone());
        self.registration.send_if_modified(|now| {
            let changed = *now != registration;
            *now = registration;
            changed
        });
    }

    /// Deregisters the app without waiting for callers, because a reload replaced or removed the registration.
    pub(crate) async fn withdraw_now(mut self) {
        if self.stop_tasks().await {
            self.report_critical(true).await;
            self.deregister().await;
        }
    }

    /// Ends the tasks and leaves the app registered, because another process renews the registration.
    pub(crate) async fn let_go(mut self) {
        self.end_tasks().await;
        let Registration { id, name, .. } = self.registration();
        info!(service = name, id, "the registration of the app is left to another process");
        self.record_event(EventKind::RegistrationLeft, "it is left to another process");
    }

    /// Records a decision about the registration.
    pub(crate) fn record_event(&self, kind: EventKind, reason: impl AsRef<str>) {
        let Registration { name, id, .. } = self.registration();
        self.events.record(Event::new(kind, reason).of_service(name).of_instance(id));
    }

    /// Ends the tasks. True when the app was (or may have been) registered, by this run or an earlier one; false also where
    /// the registration is another process's. Takes 11 s at most.
    pub(crate) async fn stop_tasks(&mut self) -> bool {
        self.end_tasks().await;
        let RegistrationStatus { phase, sent, id, .. } = self.state.current();
        let is_yielding = phase == RegistrationPhase::Conflict;
        let is_held = if is_yielding || (sent && !self.seen.is_contested) { None } else { self.look().await };
        if is_yielding || (is_held == Some(true) && self.seen.is_others) {
            info!(
                service = self.registration().name,
                id, "another process keeps the id, nothing to deregister"
            );
            return false;
        }
        sent || is_held == Some(true)
    }

    /// Ends the tasks, but waits for a registration in flight: aborted, it could arrive after the deregistration, or after the
    /// registration of another process.
    async fn end_tasks(&mut self) {
        self.probe_task.abort();
        self.report_task.abort();
        self.stop.cancel();
        match timeout(CALL_TIMEOUT, &mut self.keeper_task).await {
            Ok(ended) => self.seen = ended.unwrap_or_default(),
            Err(_) => self.keeper_task.abort(),
        }
    }

    /// Whether the registry holds the id, from this run, an earlier one ([`Self::stop_tasks`] may come before the first question), or
    /// another process. `None`: no answer.
    async fn look(&mut self) -> Option<bool> {
        let registration = self.registration();
        let held = is_held(&self.registrar, &registration, &mut self.seen);
        timeout(REPORT_TIMEOUT, held).await.ok()?.ok()
    }

    /// Reports the app as critical; where `is_running` and the app is healthy, with the mark that it drains. True: the registry
    /// took the report. The app is deregistered in either case.
    pub(crate) async fn report_critical(&mut self, is_running: bool) -> bool {
        let healthy = self.health_while_leaving().filter(|_| is_running);
        let status = self.state.current();
        let was_critical = *self.probe_task.results.borrow() == Some(ReportedHealth::Critical);
        let why = status.explanation_of(ReportedHealth::Critical).filter(|_| was_critical);
        let report = match (healthy, why.as_deref()) {
            (Some(_), _) => Report::Draining,
            (None, Some(why)) => Report::Explained { health: ReportedHealth::Critical, why },
            (None, None) => Report::Health(ReportedHealth::Critical),
        };
        let reported = self.send_last_report(report).await;
        let again = match reported {
            // The agent takes a report with the new token, but with the replaced token of the registration it cannot
            // update the catalog.
            CriticalReport::Accepted => self.seen.has_new_credentials(),
            // An agent that has lost the app does not remove it from the catalog.
            CriticalReport::NotRegistered => true,
            CriticalReport::Failed => false,
        };
        if again && self.announce_again(healthy.unwrap_or(ReportedHealth::Critical)).await {
            return self.send_last_report(report).await == CriticalReport::Accepted;
        }
        reported == CriticalReport::Accepted
    }

    /// The health by which callers still use the app. `None`: it is ill or in maintenance, or was never probed.
    fn health_while_leaving(&self) -> Option<ReportedHealth> {
        let in_service = self.state.current().desired_maintenance().is_none();
        let health = *self.probe_task.results.borrow();
        health.filter(|health| in_service && *health != ReportedHealth::Critical)
    }

    /// Registers the app with the current credentials. `health`: that of a check that the agent does not hold. A healthy app is
    /// registered as healthy, because the agent tells the catalog at once only of a change of the status, not of the output.
    async fn announce_again(&mut self, health: ReportedHealth) -> bool {
        let registration = Registration { initial_health: health, ..self.registration() };
        let call = self.registrar.announce(&registration, &mut self.seen);
        let Err(failure) = within(REPORT_TIMEOUT, call).await else {
            return true;
        };
        warn!(
            service = registration.name,
            id = registration.id,
            error = failure.text,
            "could not register the app again before the deregistration"
        );
        false
    }

    async fn send_last_report(&mut self, report: Report<'_>) -> CriticalReport {
        let Registration { id, name: service, .. } = &self.registration();
        match timeout(REPORT_TIMEOUT, self.registrar.report(id, report)).await {
            Ok(Ok(())) => {
                self.state.record_reported(self.state.current().generation, ReportedHealth::Critical);
                return CriticalReport::Accepted;
            }
            Ok(Err(error)) if error.is_unknown_check() => {
                debug!(
                    service,
                    id,
                    error = error_chain(&error),
                    "the agent does not know the check, nothing to report"
                );
                return CriticalReport::NotRegistered;
            }
            Ok(Err(error)) => warn!(service, id, error = error_chain(&error), "could not report critical"),
            Err(_) => {
                self.expect_stall();
                warn!(service, id, "could not report critical within {REPORT_TIMEOUT:?}");
            }
        }
        CriticalReport::Failed
    }

    /// Expects that the deregistration stalls: see [`STALLED_TIMEOUT`].
    pub(crate) fn expect_stall(&mut self) {
        self.deregister_timeout = STALLED_TIMEOUT;
    }

    /// Deregisters the app. True: the registry has confirmed it. False also where another process has registered the id meanwhile.
    pub(crate) async fn deregister(&mut self) -> bool {
        let Registration { id, name: service, .. } = &self.registration();
        let within = self.deregister_timeout;
        let mut failure = String::new();
        for n in 0..MAX_TRIES {
            if self.seen.is_contested && self.look().await == Some(true) && self.seen.is_others {
                self.state.set_phase(RegistrationPhase::Left);
                info!(service, id, "another process has registered the id, nothing to deregister");
                return false;
            }
            let error = match timeout(within, self.registrar.withdraw(id)).await {
                Ok(Ok(())) => {
                    self.state.set_phase(RegistrationPhase::Left);
                    info!(service, id, "deregistered the app");
                    self.record_event(EventKind::Withdrawn, "the registry has confirmed it");
                    return true;
                }
                Ok(Err(error)) => error_chain(&error),
                Err(_) => {
                    // No further try: see [`STALLED_TIMEOUT`].
                    self.state.record_failure(format!("no answer within {within:?}"));
                    warn!(service, id, "the registry has not confirmed the deregistration within {within:?}");
                    let reason = format!("the registry has not confirmed it within {within:?}");
                    self.record_event(EventKind::WithdrawalUnconfirmed, reason);
                    return false;
                }
            };
            warn!(service, id, error, attempt = n + 1, "could not deregister the app");
            self.state.record_failure(error.clone());
            failure = error;
            sleep(RETRY_BACKOFF.pause(n, fastrand::u64(..))).await;
        }
        warn!(service, id, "could not deregister the app; the registry removes it after deregister_after");
        self.record_event(EventKind::WithdrawalUnconfirmed, failure);
        false
    }
}

#[cfg(test)]
mod tests;
