//! When the next question is asked. Pure: `now` is an argument.
//!
//! | after | the next question |
//! |---|---|
//! | a change | at once, and waits for the next one; at most one every [`GATHER`](crate::believed::GATHER) |
//! | nothing new, after a proper wait | at once, and waits |
//! | nothing new, at once | after 250 ms, then twice the last pause, up to 15 s: the registry does not block |
//! | no key below the prefix | after about 30 s, without waiting: a question about no keys is answered at every write of any key |
//! | entries that are gone, and no key | after 200 ms: they may be written again |
//! | an error | after a random pause that grows to 15 s |
//! | the registry answers others again | at once, and the pauses after errors begin anew |

use std::time::Duration;

use outrigger_policy::Backoff;
use outrigger_registry::Cursor;
use tokio::time::Instant;

use crate::believed::GATHER;

const EMPTY_INTERVAL: Duration = Duration::from_secs(30);
/// Part of [`EMPTY_INTERVAL`] by which it differs, in both directions.
const EMPTY_JITTER: f64 = 0.2;
const DOUBTFUL_INTERVAL: Duration = Duration::from_millis(200);
const EARLY_INTERVAL: Duration = Duration::from_millis(250);
const EARLY_INTERVAL_MAX: Duration = Duration::from_secs(15);
/// An unchanged answer that took longer is not early, whatever wait was asked for.
const NEVER_EARLY_AFTER: Duration = Duration::from_millis(900);
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(15) };

/// The next question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextQuestion {
    pub(crate) at: Instant,
    pub(crate) cursor: Cursor,
}

/// What an answer is for the pace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerTraits {
    pub(crate) cursor: Cursor,
    /// It differs from the answer before.
    pub(crate) is_new: bool,
    /// There is no key below the prefix.
    pub(crate) is_empty: bool,
    /// Some entry that counts is gone.
    pub(crate) is_doubtful: bool,
    /// From question to answer.
    pub(crate) took: Duration,
    /// The wait that was asked for; zero where the question did not wait.
    pub(crate) wait: Duration,
}

/// The state of the loop.
#[derive(Debug, Default)]
pub(crate) struct QuestionPace {
    early: Duration,
    failures: u32,
    /// Those of them that make the pause longer.
    step: u32,
}

impl QuestionPace {
    pub(crate) fn first(now: Instant) -> NextQuestion {
        NextQuestion { at: now, cursor: Cursor::START }
    }

    /// `random` is uniform in 0 to 1.
    pub(crate) fn after_answer(&mut self, answer: AnswerTraits, now: Instant, random: f64) -> NextQuestion {
        (self.failures, self.step) = (0, 0);
        let is_early = !answer.is_new && answer.took < (answer.wait / 2).min(NEVER_EARLY_AFTER);
        self.early = match is_early {
            true => (self.early * 2).clamp(EARLY_INTERVAL, EARLY_INTERVAL_MAX),
            false => Duration::ZERO,
        };
        match (answer.is_empty, answer.is_doubtful) {
            (true, true) => NextQuestion { at: now + DOUBTFUL_INTERVAL, cursor: Cursor::START },
            (true, false) => {
                let factor = 1.0 + EMPTY_JITTER * (2.0 * random - 1.0);
                NextQuestion { at: now + EMPTY_INTERVAL.mul_f64(factor), cursor: Cursor::START }
            }
            (false, _) => {
                let pause = self.early.max(GATHER.saturating_sub(answer.took));
                NextQuestion { at: now + pause, cursor: answer.cursor }
            }
        }
    }

    /// `random` is uniform over all of `u64`.
    pub(crate) fn after_failure(&mut self, now: Instant, random: u64) -> NextQuestion {
        let pause = BACKOFF.pause(self.step, random);
        self.step = self.step.saturating_add(1);
        self.failures = self.failures.saturating_add(1);
        NextQuestion { at: now + pause, cursor: Cursor::START }
    }

    /// The pauses after errors begin anew.
    pub(crate) fn forget_pauses(&mut self) {
        self.step = 0;
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}
