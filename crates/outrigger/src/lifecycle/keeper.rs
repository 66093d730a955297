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
    Plan, calls, health, listed,
    maintenance::Office,
    orphans,
    register::Register,
    report,
    standing::{Board, Phase},
};
use crate::telemetry::error_chain;

/// Longest wait for the last report. An agent that stalls has taken it when it began.
const REPORT: Duration = Duration::from_secs(3);

/// Longest wait for the registration under way, and for each deregistration. Above the 7 s for which
/// an agent stalls without a leader.
const CALL: Duration = Duration::from_secs(8);

/// Longest wait for the deregistration when the report before it stalled, or nobody heard it: there is no
/// leader, then, and it would stall too. It is sent for its effect alone: the agent has forgotten the app when
/// the call begins, and tells the catalog when there is a leader (seen on Consul 1.8.7).
const TOLD: Duration = Duration::from_secs(3);

/// Most tries of the deregistration.
const TRIES: u32 = 3;

/// Pauses between those tries.
const AGAIN: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(1) };

/// What came of the last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes,
    No,
    /// The registry does not hold the app.
    ToNobody,
}

/// Owns the tasks that register the app and keep it registered.
#[derive(Debug)]
pub(crate) struct Keeper {
    registrar: Arc<dyn Registrar>,
    wanted: watch::Sender<Registration>,
    board: Board,
    probing: Probing,
    credentials: watch::Receiver<u64>,
    /// Longest wait for each try of the deregistration.
    patience: Duration,
    stop: CancellationToken,
    report: JoinHandle<()>,
    register: JoinHandle<()>,
    orphans: JoinHandle<()>,
    listed: JoinHandle<()>,
}

/// The task that asks the app how it is, by settings that may change.
#[derive(Debug)]
pub(super) struct Probing {
    /// See [`Plan::started`].
    pub(super) started: CancellationToken,
    pub(super) settings: Health,
    /// What it finds.
    pub(super) told: watch::Sender<Option<ReportedHealth>>,
    pub(super) task: JoinHandle<()>,
}

impl Probing {
    fn start(
        started: CancellationToken,
        settings: Health,
        port: u16,
        told: watch::Sender<Option<ReportedHealth>>,
        board: Board,
    ) -> Self {
        let task = tokio::spawn({
            let (started, settings, told) = (started.clone(), settings.clone(), told.clone());
            async move {
                started.cancelled().await;
                health::watch(settings, port, told, board).await;
            }
        });
        Self { started, settings, told, task }
    }

    /// Goes on by other settings, from what was found last.
    fn adopt(&mut self, settings: Health, port: u16, board: Board) {
        if self.settings != settings {
            self.task.abort();
            *self = Self::start(self.started.clone(), settings, port, self.told.clone(), board);
        }
    }
}

impl Keeper {
    /// Starts to probe the app, and registers it once it is well.
    pub(super) fn start(plan: Plan, office: Office) -> Self {
        let Plan { started, registration, probe, .. } = plan;
        let told = watch::Sender::new(None);
        let probing = Probing::start(started, probe, registration.port, told, office.board.clone());
        Self::with_probing(registration, probing, office)
    }

    /// The same with a probe of the caller's.
    pub(super) fn with_probing(wanted: Registration, probing: Probing, office: Office) -> Self {
        let Office { registrar, board, .. } = office.clone();
        board.enter(Phase::AwaitingApp);
        let (health, wanted) = (probing.told.subscribe(), watch::Sender::new(wanted));
        let doubt = report::Doubt::new(0);
        let doubted = doubt.subscribe();
        let missing = report::Doubt::new(0);
        let unlisted = missing.subscribe();
        let stop = CancellationToken::new();
        let credentials = registrar.watch_credentials();
        let report = tokio::spawn(report::run(registrar.clone(), board.clone(), health.clone(), doubt));
        let orphans = tokio::spawn(orphans::run(registrar.clone(), wanted.subscribe(), board.clone()));
        let listed = tokio::spawn(listed::run(registrar.clone(), wanted.subscribe(), board.clone(), missing));
        let register = Register {
            registrar: registrar.clone(),
            wanted: wanted.subscribe(),
            board: board.clone(),
            office,
            health,
            doubt: doubted,
            unlisted,
            credentials: credentials.clone(),
            stop: stop.clone(),
        };
        let register = tokio::spawn(register.run());
        let patience = CALL;
        Self {
            registrar,
            wanted,
            board,
            probing,
            credentials,
            patience,
            stop,
            report,
            register,
            orphans,
            listed,
        }
    }

    /// What is registered.
    pub(crate) fn wanted(&self) -> Registration {
        self.wanted.borrow().clone()
    }

    /// Whether `other` can replace the registration in place: to callers it is the same instance.
    pub(crate) fn is_of(&self, other: &Registration) -> bool {
        let wanted = self.wanted.borrow();
        (&wanted.id, &wanted.name, wanted.port) == (&other.id, &other.name, other.port)
    }

    /// Registers the app by other settings, in place, and asks it how it is by others.
    pub(crate) fn adopt(&mut self, wanted: Registration, probe: Health) {
        self.probing.adopt(probe, wanted.port, self.board.clone());
        self.wanted.send_if_modified(|now| {
            let news = *now != wanted;
            *now = wanted;
            news
        });
    }

    /// Takes the app out of the registry because another registration follows, or none.
    pub(crate) async fn leave(mut self) {
        if self.stop().await {
            self.report_critical().await;
            self.deregister().await;
        }
    }

    /// Ends the tasks, the registration under way excepted: cut off, it could arrive after what follows.
    /// True when the app was (or may have been) registered, by this run or an earlier one, so that callers
    /// have something to hear of. Takes 11 s at most.
    pub(crate) async fn stop(&mut self) -> bool {
        self.probing.task.abort();
        self.report.abort();
        self.orphans.abort();
        self.listed.abort();
        self.stop.cancel();
        if timeout(CALL, &mut self.register).await.is_err() {
            self.register.abort();
        }
        self.board.now().asked || self.is_left_over().await
    }

    /// Whether the registry holds what this run has not registered: for one that is over before it has
    /// looked.
    async fn is_left_over(&self) -> bool {
        let id = self.wanted().id;
        let held = calls::held(&*self.registrar, &id, None);
        matches!(timeout(REPORT, held).await, Ok(Ok(Some(_))))
    }

    /// Watchers learn it from the check before the registration is gone; a failure is no reason to
    /// stay. True: the registry took it.
    pub(crate) async fn report_critical(&mut self) -> bool {
        let told = self.tell_critical().await;
        let anew = match told {
            // The agent takes it all the same, and could pass on neither this nor the end.
            Told::Yes => *self.credentials.borrow() != self.board.now().credentials,
            // An agent that has lost the app says nothing of its leaving, and callers keep it meanwhile.
            Told::ToNobody => true,
            Told::No => false,
        };
        if anew && self.register_again().await {
            return self.tell_critical().await == Told::Yes;
        }
        told == Told::Yes
    }

    /// As critical, with the credentials that hold now.
    async fn register_again(&self) -> bool {
        let wanted = Registration { initial_health: ReportedHealth::Critical, ..self.wanted() };
        let Err(trouble) = calls::within(REPORT, self.registrar.register(&wanted)).await else { return true };
        warn!(id = wanted.id, error = trouble.text, "could not register again before leaving");
        false
    }

    async fn tell_critical(&mut self) -> Told {
        let id = &self.wanted().id;
        let report = self.registrar.report(id, ReportedHealth::Critical, report::OUTPUT);
        match timeout(REPORT, report).await {
            Ok(Ok(())) => {
                self.board.told(self.board.now().generation, ReportedHealth::Critical);
                return Told::Yes;
            }
            Ok(Err(error)) if error.is_unknown_check() => {
                debug!(id, error = error_chain(&error), "nothing to report critical");
                return Told::ToNobody;
            }
            Ok(Err(error)) => warn!(id, error = error_chain(&error), "could not report critical"),
            Err(_) => {
                self.expect_no_answer();
                warn!(id, "could not report critical within {REPORT:?}");
            }
        }
        Told::No
    }

    /// The deregistration will stall: see [`TOLD`].
    pub(crate) fn expect_no_answer(&mut self) {
        self.patience = TOLD;
    }

    /// True: the registry has confirmed it.
    pub(crate) async fn deregister(&self) -> bool {
        let (id, within) = (&self.wanted().id, self.patience);
        for n in 0..TRIES {
            let error = match timeout(within, self.registrar.deregister(id)).await {
                Ok(Ok(())) => {
                    self.board.enter(Phase::Left);
                    info!(id, "left the registry");
                    return true;
                }
                Ok(Err(error)) => error_chain(&error),
                Err(_) => {
                    // Not again: see [`TOLD`].
                    self.board.failed(format!("no answer within {within:?}"));
                    warn!(id, "the registry has not confirmed within {within:?} that the app left");
                    return false;
                }
            };
            warn!(id, error, attempt = n + 1, "could not deregister the app");
            self.board.failed(error);
            sleep(AGAIN.pause(n, fastrand::u64(..))).await;
        }
        warn!(id, "the registration stays; the registry removes it after deregister_after");
        false
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.probing.task.abort();
        self.report.abort();
        self.register.abort();
        self.orphans.abort();
        self.listed.abort();
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
