//! Which step of leaving comes after which, a pure table.
//!
//! ```text
//! Report ─→ HearCritical ─→ Deregister ─→ HearGone ─→ Margin ─→ Safe
//!    └─failed──────────────────↑   └─failed──↴   ├─nothing to see─→ Blind ─→ Safe
//!                                          Blind └─out of time────────────────↗
//! ```
//!
//! Critical is waited for before the registration goes, because a caller that only ever sees an
//! instance vanish has to wonder whether the registry lost it; one that saw it turn critical first
//! lets it go at once. The app is deregistered whatever else fails, and however much somebody hurries.

use super::super::drain::DrainPhase;

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WithdrawStep {
    /// Tell the registry that the app is critical.
    ReportCritical,
    /// Wait until callers see that.
    AwaitCritical,
    /// Take the app out of the registry.
    Deregister,
    /// Wait until callers see that.
    AwaitRemoved,
    /// Wait a little more, for callers that ask other servers.
    WaitMargin,
    /// Wait, where there is nothing to see.
    WaitUnobserved,
    /// Nothing is left to do: the app may be stopped.
    Safe,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum StepResult {
    /// It did what it is for.
    Done,
    /// It could not: the registry does not answer, or shows nothing.
    Failed,
    /// It could have, and did not within its time.
    TimedOut,
    /// There is nobody left to wait for: the app has ended, or somebody insists.
    Skipped,
}

impl WithdrawStep {
    /// Every step, in the order of a leave in which all goes well; `Blind` stands for `Margin`.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 7] = [
        Self::ReportCritical,
        Self::AwaitCritical,
        Self::Deregister,
        Self::AwaitRemoved,
        Self::WaitMargin,
        Self::WaitUnobserved,
        Self::Safe,
    ];

    /// The step after this one ended so.
    pub(crate) fn next(self, result: StepResult) -> Self {
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

    /// Whether hurry cuts it short. What tells the registry is not cut: it is the point of leaving,
    /// and a call that was cut off may still arrive.
    pub(super) fn is_skippable(self) -> bool {
        matches!(self, Self::AwaitCritical | Self::AwaitRemoved | Self::WaitMargin | Self::WaitUnobserved)
    }

    /// What the pages say meanwhile.
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

    const RESULTS: [StepResult; 4] =
        [StepResult::Done, StepResult::Failed, StepResult::TimedOut, StepResult::Skipped];

    /// The steps of a leave in which each ends as `ends` says.
    fn walk(results: impl Fn(WithdrawStep) -> StepResult) -> Vec<WithdrawStep> {
        let mut steps = vec![WithdrawStep::ReportCritical];
        while let Some(step) = steps.last().filter(|step| **step != WithdrawStep::Safe) {
            steps.push(step.next(results(*step)));
            assert!(steps.len() < 10, "it never ends: {steps:?}");
        }
        steps
    }

    #[test]
    fn the_order_of_leaving_by_what_goes_wrong() {
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
                "the watch shows nothing of us",
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
                "callers hear of it too late",
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
    fn however_it_goes_the_app_is_deregistered_once_and_the_end_is_reached() {
        // Every combination of ends of the six steps that have one.
        for n in 0..RESULTS.len().pow(6) {
            let results = |step: WithdrawStep| {
                let place = WithdrawStep::ALL.iter().position(|each| *each == step).unwrap();
                RESULTS[n / RESULTS.len().pow(place as u32) % RESULTS.len()]
            };
            let steps = walk(results);
            let deregistered = steps.iter().filter(|step| **step == WithdrawStep::Deregister).count();
            assert_eq!(deregistered, 1, "{steps:?}");
            assert!(steps.windows(2).all(|pair| pair[0].drain_phase() <= pair[1].drain_phase()), "{steps:?}");
        }
    }

    #[test]
    fn hurry_cuts_waits_and_never_what_tells_the_registry() {
        for step in WithdrawStep::ALL {
            let tells =
                matches!(step, WithdrawStep::ReportCritical | WithdrawStep::Deregister | WithdrawStep::Safe);
            assert_eq!(step.is_skippable(), !tells, "{step:?}");
        }
    }
}
