//! Leaves the registry, step by step: see [`super::step`] for their order.
//!
//! What our own watch has seen, a busier one may not have: so the app is shown as critical for a moment
//! before it goes.
//!
//! It stops nothing and carries nothing: [`super::drain`] says what follows.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    callers::Callers,
    drain::{Drain, Phase},
    keeper::Keeper,
    step::{End, Step},
};

/// Longest time until the app is deregistered, in all; then `deregister_after` has to do it.
pub(super) const LEAVE: Duration = Duration::from_secs(20);

/// For how long an app is shown as critical that our own watch has seen so, before it is deregistered; at most
/// `drain.margin`. Callers whose watch is held up meanwhile would only see it vanish.
const SHOWN: Duration = Duration::from_millis(500);

/// Walks the table to `Safe`. Bounded: [`LEAVE`], then `drain.cap` or `drain.blind`.
pub(crate) async fn run(mut keeper: Keeper, callers: &mut Callers, drain: &Drain, hurry: &CancellationToken) {
    let until = Instant::now() + LEAVE;
    drain.enter(Phase::Leaving);
    // Meanwhile, so that it has seen the app well before it can see it leave.
    callers.begin(&keeper.wanted());
    let asked = timeout_at(until, keeper.stop()).await;
    if let Ok(false) = asked {
        return; // never registered: there is nothing to tell, and nobody to hear it
    }
    callers.told();
    let mut step = Step::Report;
    while step != Step::Safe {
        drain.enter(step.phase());
        let end = tokio::select! {
            biased;
            () = hurry.cancelled(), if step.yields_to_hurry() => End::Hurried,
            end = take(step, &mut keeper, callers, until) => end,
        };
        let hurried = hurry.is_cancelled() && step == Step::Deregister;
        step = step.after(if hurried { End::Hurried } else { end });
    }
}

async fn take(step: Step, keeper: &mut Keeper, callers: &mut Callers, until: Instant) -> End {
    let told = |done: bool| if done { End::Done } else { End::Failed };
    match step {
        Step::Report => timeout_at(until, keeper.report_critical()).await.map_or(End::OutOfTime, told),
        Step::HearCritical => {
            let end = timeout_at(until, callers.hear_critical()).await.unwrap_or(End::OutOfTime);
            match end {
                End::Done => sleep(SHOWN.min(callers.margin())).await,
                // The agent took the report and nobody has heard it: there may be no leader.
                End::Failed | End::OutOfTime if callers.are_measured() => keeper.expect_no_answer(),
                End::Failed | End::OutOfTime | End::Hurried => {}
            }
            end
        }
        Step::Deregister => match timeout_at(until, keeper.deregister()).await {
            Ok(done) => told(done),
            Err(_) => {
                warn!("gave up leaving the registry after {LEAVE:?}; deregister_after will remove the app");
                End::OutOfTime
            }
        },
        Step::HearGone => callers.hear_gone().await,
        Step::Margin => {
            sleep(callers.margin()).await;
            End::Done
        }
        Step::Blind => {
            sleep(callers.blind()).await;
            End::Done
        }
        Step::Safe => End::Done,
    }
}
