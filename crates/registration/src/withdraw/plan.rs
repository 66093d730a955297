//! The order of the steps that withdraw the app, as a table.
//!
//! ```text
//! ReportCritical ─→ AwaitCritical ─→ Deregister ─→ AwaitRemoved ─→ WaitMargin ─→ Safe
//!    └─failed────────────────────────↑   └─failed──↴   ├─failed─→ WaitUnobserved ─→ Safe
//!                                    WaitUnobserved    └─timed out────────────────────↗
//! ```
//!
//! The app is shown as critical before it is deregistered: a caller that sees an instance vanish has to find out
//! whether the registry lost it, and a caller that saw it critical first drops it at once. The app is deregistered
//! after any failure of the other steps, and also when the waits are skipped.

use crate::drain::DrainPhase;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum WithdrawStep {
    /// Report the app as critical.
    ReportCritical,
    /// Wait until callers see the app critical.
    AwaitCritical,
    /// Deregister the app.
    Deregister,
    /// Wait until callers see the app no more.
    AwaitRemoved,
    /// Wait `drain.margin` for callers that query other servers.
    WaitMargin,
    /// Wait a fixed time, because nothing can be observed.
    WaitUnobserved,
    /// The app may be stopped.
    Safe,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum StepResult {
    /// The step succeeded.
    Done,
    /// The registry does not answer, or does not show the app.
    Failed,
    /// The time of the step ran out.
    TimedOut,
    /// The wait was skipped: the app has ended, or a second signal came.
    Skipped,
}

impl StepResult {
    /// The name in events.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::Skipped => "skipped",
        }
    }
}

impl WithdrawStep {
    /// The step that follows this one.
    pub(super) fn next(self, result: StepResult) -> Self {
        match (self, result) {
            (Self::ReportCritical, StepResult::Done) => Self::AwaitCritical,
            (Self::ReportCritical, _) | (Self::AwaitCritical, _) => Self::Deregister,
            (Self::Deregister, StepResult::Done) => Self::AwaitRemoved,
            (Self::Deregister, StepResult::Failed | StepResult::TimedOut) => Self::WaitUnobserved,
            (Self::AwaitRemoved, StepResult::Done) => Self::WaitMargin,
            (Self::AwaitRemoved, StepResult::Failed) => Self::WaitUnobserved,
            (Self::AwaitRemoved, StepResult::TimedOut) => Self::Safe,
            (Self::Deregister | Self::AwaitRemoved, StepResult::Skipped) => Self::Safe,
            (Self::WaitMargin | Self::WaitUnobserved | Self::Safe, _) => Self::Safe,
        }
    }

    /// Whether the step may be skipped. Calls to the registry are not: an aborted call may still arrive later.
    pub(super) fn is_skippable(self) -> bool {
        matches!(self, Self::AwaitCritical | Self::AwaitRemoved | Self::WaitMargin | Self::WaitUnobserved)
    }

    /// The name in events.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::ReportCritical => "report_critical",
            Self::AwaitCritical => "await_critical",
            Self::Deregister => "deregister",
            Self::AwaitRemoved => "await_removed",
            Self::WaitMargin => "wait_margin",
            Self::WaitUnobserved => "wait_unobserved",
            Self::Safe => "safe",
        }
    }

    /// The phase of the drain during the step.
    pub(super) fn drain_phase(self) -> DrainPhase {
        match self {
            Self::ReportCritical | Self::AwaitCritical | Self::Deregister => DrainPhase::Leaving,
            Self::AwaitRemoved | Self::WaitMargin | Self::WaitUnobserved => DrainPhase::Propagating,
            Self::Safe => DrainPhase::Safe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every step, in order.
    const STEPS: [WithdrawStep; 7] = [
        WithdrawStep::ReportCritical,
        WithdrawStep::AwaitCritical,
        WithdrawStep::Deregister,
        WithdrawStep::AwaitRemoved,
        WithdrawStep::WaitMargin,
        WithdrawStep::WaitUnobserved,
        WithdrawStep::Safe,
    ];

    const RESULTS: [StepResult; 4] =
        [StepResult::Done, StepResult::Failed, StepResult::TimedOut, StepResult::Skipped];

    /// The steps, when each ends as `results` says.
    fn walk(results: impl Fn(WithdrawStep) -> StepResult) -> Vec<WithdrawStep> {
        let mut steps = vec![WithdrawStep::ReportCritical];
        while let Some(step) = steps.last().filter(|step| **step != WithdrawStep::Safe) {
            steps.push(step.next(results(*step)));
            assert!(steps.len() < 10, "no end: {steps:?}");
        }
        steps
    }

    #[test]
    fn each_failure_has_its_order_of_steps() {
        use WithdrawStep::{
            AwaitCritical, AwaitRemoved, Deregister, ReportCritical, Safe, WaitMargin, WaitUnobserved,
        };
        type StepResults = fn(WithdrawStep) -> StepResult;
        let cases: [(&str, StepResults, &[WithdrawStep]); 8] = [
            (
                "nothing",
                |_| StepResult::Done,
                &[ReportCritical, AwaitCritical, Deregister, AwaitRemoved, WaitMargin, Safe],
            ),
            (
                "the registry is gone",
                |_| StepResult::Failed,
                &[ReportCritical, Deregister, WaitUnobserved, Safe],
            ),
            (
                "the registry stalls",
                |_| StepResult::TimedOut,
                &[ReportCritical, Deregister, WaitUnobserved, Safe],
            ),
            (
                "the report fails and the rest does not",
                |step| if step == ReportCritical { StepResult::Failed } else { StepResult::Done },
                &[ReportCritical, Deregister, AwaitRemoved, WaitMargin, Safe],
            ),
            (
                "the watch does not show the app",
                |step| {
                    if matches!(step, AwaitCritical | AwaitRemoved) {
                        StepResult::Failed
                    } else {
                        StepResult::Done
                    }
                },
                &[ReportCritical, AwaitCritical, Deregister, AwaitRemoved, WaitUnobserved, Safe],
            ),
            (
                "callers do not see it in time",
                |step| {
                    if matches!(step, AwaitCritical | AwaitRemoved) {
                        StepResult::TimedOut
                    } else {
                        StepResult::Done
                    }
                },
                &[ReportCritical, AwaitCritical, Deregister, AwaitRemoved, Safe],
            ),
            (
                "the registry goes away after the report",
                |step| {
                    if matches!(step, ReportCritical | AwaitCritical) {
                        StepResult::Done
                    } else {
                        StepResult::Failed
                    }
                },
                &[ReportCritical, AwaitCritical, Deregister, WaitUnobserved, Safe],
            ),
            ("the app is gone already", |_| StepResult::Skipped, &[ReportCritical, Deregister, Safe]),
        ];
        for (wrong, results, expected) in cases {
            assert_eq!(walk(results), expected, "{wrong}");
        }
    }

    #[test]
    fn any_results_deregister_the_app_once_and_end_at_safe() {
        // Every combination of results of the six steps before Safe.
        for n in 0..RESULTS.len().pow(6) {
            let results = |step: WithdrawStep| {
                let index = STEPS.iter().position(|each| *each == step).unwrap();
                RESULTS[n / RESULTS.len().pow(index as u32) % RESULTS.len()]
            };
            let steps = walk(results);
            let deregistered = steps.iter().filter(|step| **step == WithdrawStep::Deregister).count();
            assert_eq!(deregistered, 1, "{steps:?}");
            assert!(steps.windows(2).all(|pair| pair[0].drain_phase() <= pair[1].drain_phase()), "{steps:?}");
        }
    }

    #[test]
    fn only_waits_can_be_skipped() {
        for step in STEPS {
            let is_call =
                matches!(step, WithdrawStep::ReportCritical | WithdrawStep::Deregister | WithdrawStep::Safe);
            assert_eq!(step.is_skippable(), !is_call, "{step:?}");
        }
    }
}
