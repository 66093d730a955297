//! The tasks around one registration, and how they end: probe, register, report; then leave.

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
    health,
    register::Register,
    report,
    standing::{Board, Phase},
};
use crate::telemetry::causes;

/// Longest wait for the last report. An agent that stalls has taken it when it began.
const REPORT: Duration = Duration::from_secs(3);

/// Longest wait for the registration under way, and for each deregistration. Above the 7 s for which
/// an agent stalls without a leader.
const CALL: Duration = Duration::from_secs(8);

/// Longest wait for the deregistration when the report before it stalled: there is no leader, then, and
/// it would stall too. It is sent for its effect alone: the agent has forgotten the app when the call
/// begins, and tells the catalog when there is a leader (seen on Consul 1.8.7).
const TOLD: Duration = Duration::from_secs(3);

/// Most tries of the deregistration.
const TRIES: u32 = 3;

/// Longest time that leaving takes in all; then `deregister_after` has to do it.
const LEAVE: Duration = Duration::from_secs(20);

/// Pauses between those tries.
const AGAIN: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(1) };

/// Owns the tasks that register the app and keep it registered.
#[derive(Debug)]
pub(crate) struct Keeper {
    registrar: Arc<dyn Registrar>,
    id: String,
    board: Board,
    stop: CancellationToken,
    probe: JoinHandle<()>,
    report: JoinHandle<()>,
    register: JoinHandle<()>,
}

impl Keeper {
    /// Starts to probe the app, and registers it once it is well.
    pub(crate) fn start(
        registrar: Arc<dyn Registrar>,
        wanted: Registration,
        probe: Health,
        board: Board,
    ) -> Self {
        let told = watch::Sender::new(None);
        let health = told.subscribe();
        let probe = tokio::spawn(health::watch(probe, wanted.port, told, board.clone()));
        Self::with_health(registrar, wanted, health, probe, board)
    }

    /// The same with a probe of the caller's.
    fn with_health(
        registrar: Arc<dyn Registrar>,
        wanted: Registration,
        health: watch::Receiver<Option<ReportedHealth>>,
        probe: JoinHandle<()>,
        board: Board,
    ) -> Self {
        board.enter(Phase::AwaitingApp);
        let doubt = report::Doubt::new(0);
        let doubted = doubt.subscribe();
        let stop = CancellationToken::new();
        let report = tokio::spawn(report::run(registrar.clone(), board.clone(), health.clone(), doubt));
        let id = wanted.id.clone();
        let register = Register {
            registrar: registrar.clone(),
            wanted,
            board: board.clone(),
            health,
            doubt: doubted,
            stop: stop.clone(),
        };
        let register = tokio::spawn(register.run());
        Self { registrar, id, board, stop, probe, report, register }
    }

    /// Reports critical, deregisters, and ends the tasks. True when the app was (or may have been)
    /// registered, so that callers have something to hear of. Takes 20 s at most.
    pub(crate) async fn leave(mut self) -> bool {
        self.probe.abort();
        self.report.abort();
        self.stop.cancel();
        let left = timeout(LEAVE, async {
            // A registration under way is waited for: cut off, it could arrive after what follows.
            if timeout(CALL, &mut self.register).await.is_err() {
                self.register.abort();
            }
            if !self.board.now().asked {
                return false;
            }
            let within = if self.report_critical().await { CALL } else { TOLD };
            self.deregister(within).await;
            true
        })
        .await;
        left.unwrap_or_else(|_| {
            warn!(
                id = self.id,
                "gave up leaving the registry after {LEAVE:?}; deregister_after will remove it"
            );
            true
        })
    }

    /// Watchers learn it from the check before the registration is gone; a failure is no reason to
    /// stay. False: it stalled.
    async fn report_critical(&self) -> bool {
        let report = self.registrar.report(&self.id, ReportedHealth::Critical, report::OUTPUT);
        let answer = timeout(REPORT, report).await;
        match &answer {
            Ok(Ok(())) => self.board.told(self.board.now().generation, ReportedHealth::Critical),
            // It was never registered, or the agent has lost it: gone is what we want it to be.
            Ok(Err(error)) if error.is_unknown_check() => {
                debug!(id = self.id, error = causes(error), "nothing to report critical");
            }
            Ok(Err(error)) => warn!(id = self.id, error = causes(error), "could not report critical"),
            Err(_) => warn!(id = self.id, "could not report critical within {REPORT:?}"),
        }
        answer.is_ok()
    }

    /// `within`: longest wait for each try.
    async fn deregister(&self, within: Duration) {
        for n in 0..TRIES {
            let error = match timeout(within, self.registrar.deregister(&self.id)).await {
                Ok(Ok(())) => {
                    self.board.enter(Phase::Left);
                    info!(id = self.id, "left the registry");
                    return;
                }
                Ok(Err(error)) => causes(&error),
                Err(_) => {
                    // Not again: see [`TOLD`].
                    self.board.failed(format!("no answer within {within:?}"));
                    warn!(id = self.id, "the registry has not confirmed within {within:?} that the app left");
                    return;
                }
            };
            warn!(id = self.id, error, attempt = n + 1, "could not deregister the app");
            self.board.failed(error);
            sleep(AGAIN.after(n, fastrand::u64(..))).await;
        }
        warn!(id = self.id, "the registration stays; the registry removes it after deregister_after");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.probe.abort();
        self.report.abort();
        self.register.abort();
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
