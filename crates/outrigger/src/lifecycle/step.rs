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

use super::drain::Phase;

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Tell the registry that the app is critical.
    Report,
    /// Wait until callers see that.
    HearCritical,
    /// Take the app out of the registry.
    Deregister,
    /// Wait until callers see that.
    HearGone,
    /// Wait a little more, for callers that ask other servers.
    Margin,
    /// Wait, where there is nothing to see.
    Blind,
    /// Nothing is left to do: the app may be stopped.
    Safe,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// It did what it is for.
    Done,
    /// It could not: the registry does not answer, or shows nothing.
    Failed,
    /// It could have, and did not within its time.
    OutOfTime,
    /// There is nobody left to wait for: the app has ended, or somebody insists.
    Hurried,
}

impl Step {
    /// Every step, in the order of a leave in which all goes well; `Blind` stands for `Margin`.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 7] = [
        Self::Report,
        Self::HearCritical,
        Self::Deregister,
        Self::HearGone,
        Self::Margin,
        Self::Blind,
        Self::Safe,
    ];

    /// The step after this one ended so.
    pub(crate) fn after(self, end: End) -> Self {
        match (self, end) {
            (Self::Report, End::Done) => Self::HearCritical,
            (Self::Report, _) | (Self::HearCritical, _) => Self::Deregister,
            (Self::Deregister, End::Done) => Self::HearGone,
            (Self::Deregister, End::Failed | End::OutOfTime) => Self::Blind,
            (Self::HearGone, End::Done) => Self::Margin,
            (Self::HearGone, End::Failed) => Self::Blind,
            (Self::HearGone, End::OutOfTime) => Self::Safe,
            (Self::Deregister | Self::HearGone, End::Hurried) => Self::Safe,
            (Self::Margin | Self::Blind | Self::Safe, _) => Self::Safe,
        }
    }

    /// Whether hurry cuts it short. What tells the registry is not cut: it is the point of leaving,
    /// and a call that was cut off may still arrive.
    pub(super) fn yields_to_hurry(self) -> bool {
        matches!(self, Self::HearCritical | Self::HearGone | Self::Margin | Self::Blind)
    }

    /// What the pages say meanwhile.
    pub(super) fn phase(self) -> Phase {
        match self {
            Self::Report | Self::HearCritical | Self::Deregister => Phase::Leaving,
            Self::HearGone | Self::Margin | Self::Blind => Phase::Propagating,
            Self::Safe => Phase::Safe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: [End; 4] = [End::Done, End::Failed, End::OutOfTime, End::Hurried];

    /// The steps of a leave in which each ends as `ends` says.
    fn walk(ends: impl Fn(Step) -> End) -> Vec<Step> {
        let mut steps = vec![Step::Report];
        while let Some(step) = steps.last().filter(|step| **step != Step::Safe) {
            steps.push(step.after(ends(*step)));
            assert!(steps.len() < 10, "it never ends: {steps:?}");
        }
        steps
    }

    #[test]
    fn the_order_of_leaving_by_what_goes_wrong() {
        use Step::{Blind, Deregister, HearCritical, HearGone, Margin, Report, Safe};
        type Ends = fn(Step) -> End;
        let cases: [(&str, Ends, &[Step]); 8] = [
            ("nothing", |_| End::Done, &[Report, HearCritical, Deregister, HearGone, Margin, Safe]),
            ("the registry is gone", |_| End::Failed, &[Report, Deregister, Blind, Safe]),
            ("the registry stalls", |_| End::OutOfTime, &[Report, Deregister, Blind, Safe]),
            (
                "the report fails and the rest does not",
                |step| if step == Report { End::Failed } else { End::Done },
                &[Report, Deregister, HearGone, Margin, Safe],
            ),
            (
                "the watch shows nothing of us",
                |step| if matches!(step, HearCritical | HearGone) { End::Failed } else { End::Done },
                &[Report, HearCritical, Deregister, HearGone, Blind, Safe],
            ),
            (
                "callers hear of it too late",
                |step| if matches!(step, HearCritical | HearGone) { End::OutOfTime } else { End::Done },
                &[Report, HearCritical, Deregister, HearGone, Safe],
            ),
            (
                "the registry goes away after the report",
                |step| if matches!(step, Report | HearCritical) { End::Done } else { End::Failed },
                &[Report, HearCritical, Deregister, Blind, Safe],
            ),
            ("the app is gone already", |_| End::Hurried, &[Report, Deregister, Safe]),
        ];
        for (wrong, ends, expected) in cases {
            assert_eq!(walk(ends), expected, "{wrong}");
        }
    }

    #[test]
    fn however_it_goes_the_app_is_deregistered_once_and_the_end_is_reached() {
        // Every combination of ends of the six steps that have one.
        for n in 0..ENDS.len().pow(6) {
            let ends = |step: Step| {
                let place = Step::ALL.iter().position(|each| *each == step).unwrap();
                ENDS[n / ENDS.len().pow(place as u32) % ENDS.len()]
            };
            let steps = walk(ends);
            let deregistered = steps.iter().filter(|step| **step == Step::Deregister).count();
            assert_eq!(deregistered, 1, "{steps:?}");
            assert!(steps.windows(2).all(|pair| pair[0].phase() <= pair[1].phase()), "{steps:?}");
        }
    }

    #[test]
    fn hurry_cuts_waits_and_never_what_tells_the_registry() {
        for step in Step::ALL {
            let tells = matches!(step, Step::Report | Step::Deregister | Step::Safe);
            assert_eq!(step.yields_to_hurry(), !tells, "{step:?}");
        }
    }
}
