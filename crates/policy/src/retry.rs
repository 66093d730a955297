//! Whether an attempt that did not succeed is made again.
//!
//! Safety comes before usefulness. A request of which nothing reached a socket may be made again
//! whatever it is; one of which something did only when repeating it is harmless (RFC 9110 §9.2.2, an
//! `Idempotency-Key`, or a word in the configuration). Then come the limits: attempts, the body's
//! replay, the deadline and, for what was sent, the service's [`RetryBudget`]. The budget is asked last, so
//! that only a retry that will be made is paid for.
//!
//! An instance that fails a request may say when to come back ([`Pushback`]). `Retry-After` is the word
//! of one instance about itself, so it does not keep the request from another one; when a second one
//! says it too, or there is no other, it is the service's word and is waited for, up to the deadline.
//! gRPC's pushback is about the call (gRFC A6), whoever it goes to: it is waited for as it is.
//!
//! The keep-alive race (a reused connection that closes before any byte of an answer) is not a retry
//! and is not judged here: the proxy takes another connection, once, at nobody's cost.

use std::time::{Duration, Instant};

use outrigger_config::RetryPolicy;

use crate::{
    backoff::Backoff,
    budget::RetryBudget,
    outcome::{Outcome, Sent},
};

/// What of a request matters to whether it may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestTraits {
    /// Repeating it is harmless: its method is ([`is_idempotent`]), or it has an `Idempotency-Key`.
    pub idempotent: bool,
    /// The app did not forbid it (`x-outrigger-retry: off`).
    pub allowed: bool,
}

/// Methods that may be repeated without changing what they mean (RFC 9110 §9.2.2). Case matters, as
/// in the RFC; a method nobody has heard of is not one of them.
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// The attempt just made, and those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastAttempt {
    /// Attempts made again so far; 0 after the first.
    pub retries: u32,
    /// What of the request this attempt had sent.
    pub sent: Sent,
    /// How it ended.
    pub outcome: Outcome,
    /// The body can still be sent from its start, or nothing of it was taken.
    pub replayable: bool,
    /// When the instance said to come back, if it said so.
    pub pushback: Option<Pushback>,
    /// An instance that this request has not tried could take it.
    pub has_other_instance: bool,
    /// Another instance has told this request before to come back later.
    pub earlier_pushback: bool,
}

impl LastAttempt {
    /// Whether the next attempt is not counted as a retry: nobody accepted there, and
    /// somebody else may. Nothing was sent, nobody has more to do for it, and the dead one is out by
    /// now; counted, the death of most instances would fail requests that those left could carry.
    /// Bounded by the deadline, and by the number of instances.
    pub fn is_uncounted(&self) -> bool {
        let refused = matches!(
            self.outcome,
            Outcome::ConnectRefused | Outcome::ConnectFailed | Outcome::ConnectTimeout
        );
        refused && self.sent == Sent::Nothing && self.has_other_instance
    }
}

/// What an instance that does not carry out a request says about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// `Retry-After`: this instance, not before.
    Instance(Duration),
    /// `grpc-retry-pushback-ms`: nobody, not before.
    Call(Duration),
    /// The same, negative or no number: not at all.
    Never,
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// The app gets this answer.
    Done,
    /// Another attempt.
    Retry {
        /// The pause before it; none when nothing had been sent.
        after: Duration,
        /// It was paid for from the budget.
        budgeted: bool,
    },
    /// The attempt did not succeed, and there is no other: the app gets the instance's answer if it
    /// gave one, else an error of ours.
    GiveUp(GiveUp),
}

/// Why there is no other attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GiveUp {
    /// Another attempt could not help, or the instance answered a request that may not be repeated.
    NotRetryable,
    /// Retries are off: by the app's header, or by `max_retries: 0`.
    Off,
    /// As many were made as are allowed.
    Attempts,
    /// The service has no retries left to spend.
    Budget,
    /// There is no time for another.
    Deadline,
    /// More of the body was streamed than is kept.
    BodyGone,
    /// The instance said that the call is not to be made again.
    Pushback,
    /// Something was sent, no answer came, and the request may not be repeated: the instance may or
    /// may not have acted on it.
    SentUnknown,
}

impl GiveUp {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::NotRetryable,
        Self::Off,
        Self::Attempts,
        Self::Budget,
        Self::Deadline,
        Self::BodyGone,
        Self::Pushback,
        Self::SentUnknown,
    ];

    /// The word for it in metrics and log: a closed list.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotRetryable => "not_retryable",
            Self::Off => "off",
            Self::Attempts => "attempts",
            Self::Budget => "budget",
            Self::Deadline => "deadline",
            Self::BodyGone => "body_gone",
            Self::Pushback => "pushback",
            Self::SentUnknown => "sent_unknown",
        }
    }
}

/// Decides what follows an attempt that ended at `now`. `random` is uniform over all of `u64`.
///
/// [`RetryDecision::Retry`] with `budgeted` has already been paid for: make it.
pub fn decide_retry(
    settings: &RetryPolicy,
    budget: &RetryBudget,
    request: &RequestTraits,
    attempt: &LastAttempt,
    now: Instant,
    deadline: Instant,
    random: u64,
) -> RetryDecision {
    let gave_up = match classify_outcome(settings, attempt.outcome) {
        Retryability::Done => return RetryDecision::Done,
        Retryability::Never(why) => Some(why),
        Retryability::RetryableStatus => {
            reason_not_to_retry(settings, request, attempt, GiveUp::NotRetryable)
        }
        Retryability::NoResponse => reason_not_to_retry(settings, request, attempt, GiveUp::SentUnknown),
    };
    if let Some(why) = gave_up {
        return RetryDecision::GiveUp(why);
    }
    let sent = attempt.sent != Sent::Nothing;
    let pause = if sent { Backoff::from(settings).pause(attempt.retries, random) } else { Duration::ZERO };
    let left = deadline.saturating_duration_since(now);
    let after = match attempt.pushback {
        None => pause,
        Some(Pushback::Never) => return RetryDecision::GiveUp(GiveUp::Pushback),
        Some(Pushback::Call(wait)) => wait,
        Some(Pushback::Instance(wait)) => {
            // Those who were told the same do not come back in the same instant.
            let wait = wait.saturating_add(pause);
            // Alone with its wish, or too long away: the others are asked first.
            let use_other_instance =
                attempt.has_other_instance && (!attempt.earlier_pushback || wait >= left);
            if use_other_instance { pause } else { wait }
        }
    };
    if left <= after {
        return RetryDecision::GiveUp(GiveUp::Deadline);
    }
    if sent && !budget.withdraw(now) {
        return RetryDecision::GiveUp(GiveUp::Budget);
    }
    RetryDecision::Retry { after, budgeted: sent }
}

/// What an outcome means for another attempt.
enum Retryability {
    /// An answer for the app.
    Done,
    /// No other attempt can help.
    Never(GiveUp),
    /// An answer that says "not here, not now".
    RetryableStatus,
    /// No answer.
    NoResponse,
}

fn classify_outcome(settings: &RetryPolicy, outcome: Outcome) -> Retryability {
    match outcome {
        Outcome::Status(status) if settings.statuses.contains(&status) => Retryability::RetryableStatus,
        Outcome::Status(_) | Outcome::SidecarError(_) => Retryability::Done,
        // Also an unusable answer: nothing of it reached the app, and it may be one instance's alone.
        Outcome::ConnectRefused
        | Outcome::ConnectTimeout
        | Outcome::ConnectFailed
        | Outcome::Closed
        | Outcome::ClosedMidHead
        | Outcome::BadResponse
        | Outcome::PerTryTimeout => Retryability::NoResponse,
        // Another endpoint has its own queue, and its own idle connections and ports.
        Outcome::Overloaded | Outcome::Resource => Retryability::NoResponse,
        Outcome::Timeout | Outcome::Deadline => Retryability::Never(GiveUp::Deadline),
        Outcome::BadRequest | Outcome::ClientGone => Retryability::Never(GiveUp::NotRetryable),
    }
}

/// Why another attempt is not allowed, if it is not; `reason_if_unsafe` is the reason when repeating the
/// request could do harm. That one comes first: it is the fact a person looks for.
fn reason_not_to_retry(
    settings: &RetryPolicy,
    request: &RequestTraits,
    attempt: &LastAttempt,
    reason_if_unsafe: GiveUp,
) -> Option<GiveUp> {
    let safe = attempt.sent == Sent::Nothing || request.idempotent || settings.non_idempotent;
    if !safe {
        Some(reason_if_unsafe)
    } else if !request.allowed || settings.max_retries == 0 {
        Some(GiveUp::Off)
    } else if attempt.retries >= settings.max_retries && !attempt.is_uncounted() {
        Some(GiveUp::Attempts)
    } else if !attempt.replayable {
        Some(GiveUp::BodyGone)
    } else {
        None
    }
}
