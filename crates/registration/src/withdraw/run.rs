//! Runs the steps that withdraw the app: see [`super::plan`] for their order. [`crate::drain`] says what
//! follows.

use std::time::Duration;

use futures_util::future::join_all;
use outrigger_events::EventKind;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::{
    plan::{StepResult, WithdrawStep},
    propagation::PropagationMonitor,
};
use crate::{
    drain::{DrainControl, DrainPhase},
    registrant::Registrant,
};

/// Longest time until the app is deregistered. After it, the registry removes the app after `deregister_after`.
pub(crate) const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the app stays registered after the own watch has seen it critical; at most `drain.margin`. Without this
/// time, a caller with a late watch would see the app vanish without having seen it critical.
const MIN_CRITICAL_TIME: Duration = Duration::from_millis(500);

/// Withdraws all services at once. The phase of the drain is that of the service that is behind the others. Bounded:
/// [`WITHDRAW_TIMEOUT`], then `drain.max_propagation` or `drain.unobserved_wait`.
pub(crate) async fn run_all(
    registrants: impl ExactSizeIterator<Item = Registrant>,
    propagation: &PropagationMonitor,
    drain: &DrainControl,
) {
    let phases = JointPhase::new(drain, registrants.len());
    let phases = &phases;
    let all = registrants.enumerate().map(|(n, registrant)| async move {
        let mut propagation = propagation.for_another();
        run_steps(registrant, &mut propagation, drain, &|phase| phases.set(n, phase)).await;
        phases.set(n, DrainPhase::Safe);
    });
    join_all(all).await;
}

/// The phases of several withdrawals.
struct JointPhase<'a> {
    drain: &'a DrainControl,
    phases: Mutex<Vec<DrainPhase>>,
}

impl<'a> JointPhase<'a> {
    fn new(drain: &'a DrainControl, withdrawals: usize) -> Self {
        Self { drain, phases: Mutex::new(vec![DrainPhase::Leaving; withdrawals]) }
    }

    fn set(&self, n: usize, phase: DrainPhase) {
        let mut phases = self.phases.lock();
        phases[n] = phase;
        if let Some(last) = phases.iter().min() {
            self.drain.set_phase(*last);
        }
    }
}

/// Runs every step up to `Safe`.
async fn run_steps(
    mut registrant: Registrant,
    propagation: &mut PropagationMonitor,
    drain: &DrainControl,
    set_phase: &(dyn Fn(DrainPhase) + Sync),
) {
    let until = Instant::now() + WITHDRAW_TIMEOUT;
    set_phase(DrainPhase::Leaving);
    // Before the report, so that the watch sees the app healthy first.
    propagation.start_watch(&registrant.registration());
    let stopped = timeout_at(until, registrant.stop_tasks()).await;
    if let Ok(false) = stopped {
        return; // never registered
    }
    propagation.start_clock();
    let mut step = WithdrawStep::ReportCritical;
    while step != WithdrawStep::Safe {
        set_phase(step.drain_phase());
        let result = tokio::select! {
            biased;
            () = drain.skip_waits.cancelled(), if step.is_skippable() => StepResult::Skipped,
            result = run_step(step, &mut registrant, propagation, drain, until) => result,
        };
        registrant.record_event(EventKind::DrainStep, format!("{}: {}", step.label(), result.label()));
        let skipped = drain.skip_waits.is_cancelled() && step == WithdrawStep::Deregister;
        step = step.next(if skipped { StepResult::Skipped } else { result });
    }
}

async fn run_step(
    step: WithdrawStep,
    registrant: &mut Registrant,
    propagation: &mut PropagationMonitor,
    drain: &DrainControl,
    until: Instant,
) -> StepResult {
    let result_of = |done: bool| if done { StepResult::Done } else { StepResult::Failed };
    match step {
        WithdrawStep::ReportCritical => {
            // An app that has ended takes no requests.
            let is_running = !drain.skip_waits.is_cancelled();
            timeout_at(until, registrant.report_critical(is_running))
                .await
                .map_or(StepResult::TimedOut, result_of)
        }
        WithdrawStep::AwaitCritical => {
            let result =
                timeout_at(until, propagation.wait_until_critical()).await.unwrap_or(StepResult::TimedOut);
            match result {
                StepResult::Done => sleep(MIN_CRITICAL_TIME.min(propagation.remaining_margin())).await,
                // The agent took the report and the watch has not seen it: there may be no leader.
                StepResult::Failed | StepResult::TimedOut if propagation.is_measured() => {
                    registrant.expect_stall()
                }
                StepResult::Failed | StepResult::TimedOut | StepResult::Skipped => {}
            }
            result
        }
        WithdrawStep::Deregister => match timeout_at(until, registrant.deregister()).await {
            Ok(done) => result_of(done),
            Err(_) => {
                warn!(
                    "gave up deregistering the app after {WITHDRAW_TIMEOUT:?}; the registry removes it after deregister_after"
                );
                StepResult::TimedOut
            }
        },
        WithdrawStep::AwaitRemoved => propagation.wait_until_removed().await,
        WithdrawStep::WaitMargin => {
            sleep(propagation.remaining_margin()).await;
            StepResult::Done
        }
        WithdrawStep::WaitUnobserved => {
            sleep(propagation.unobserved_wait()).await;
            StepResult::Done
        }
        WithdrawStep::Safe => StepResult::Done,
    }
}
