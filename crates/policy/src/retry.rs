//! Decides whether another attempt follows one that did not succeed.
//!
//! Safety comes before usefulness. A request of which no byte reached a socket may be sent again in any
//! case; any other request only when repeating it is harmless (RFC 9110 §9.2.2, an `Idempotency-Key`, or
//! the setting `non_idempotent`). Then come the limits: attempts, the replay of the body, the deadline
//! and, when something was sent, the service's [`RetryBudget`]. The budget comes last, so that only a
//! retry that will be made is paid for.
//!
//! [`RetryEligibility`] is computed once per attempt, before it begins; [`decide_retry`] completes it
//! with the attempt's end.
//!
//! An instance that fails a request may say when to retry ([`Pushback`]). `Retry-After` describes one
//! instance, so another instance is tried at once; when a second instance sends it too, or there is no
//! other, it describes the service and the retry waits for it. gRPC's pushback describes the call (gRFC
//! A6): the retry waits for it at any instance. No retry waits for more than `max_retry_after`, nor
//! beyond the deadline: the app gets the response, and can do something better than wait.
//!
//! The keep-alive race (a reused connection that closes before the first byte of a response) is not a
//! retry: the proxy takes another connection, once, and pays nothing.

use std::time::{Duration, Instant};

use outrigger_config::RetryPolicy;

use crate::{
    backoff::Backoff,
    budget::RetryBudget,
    outcome::{Outcome, Sent},
};

/// The facts of a request that decide whether it may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestTraits {
    /// Repeating it is harmless: by its method ([`is_idempotent`]) or an `Idempotency-Key`.
    pub idempotent: bool,
    /// It may be sent to two instances at once: by its method ([`is_safe`]).
    pub safe: bool,
    /// The app did not forbid it (`x-outrigger-retry: off`).
    pub allowed: bool,
}

/// Whether repeating a method has no further effect (RFC 9110 §9.2.2). Case matters, as in the RFC; an
/// unknown method is not idempotent.
pub fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

/// Whether a request of this method changes nothing, so that two instances may execute it at once (RFC 9110
/// §9.2.1). TRACE is not for instances, and not one of them.
pub fn is_safe(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS")
}

/// What may follow one attempt: known before the attempt begins.
#[derive(Debug, Clone, Copy)]
pub struct RetryEligibility<'a> {
    settings: &'a RetryPolicy,
    request: RequestTraits,
    retries: u32,
    body_kept: bool,
}

impl<'a> RetryEligibility<'a> {
    /// `retries`: counted retries before this attempt. `body_kept`: the whole body fits in the replay
    /// buffer, or there is none.
    pub fn new(settings: &'a RetryPolicy, request: RequestTraits, retries: u32, body_kept: bool) -> Self {
        Self { settings, request, retries, body_kept }
    }

    /// The request may be sent again although an instance may have acted on it.
    pub fn is_repeatable(&self) -> bool {
        (self.request.idempotent || self.settings.non_idempotent) && self.request.allowed
    }

    /// The request may be sent again after a keep-alive race. `non_idempotent` does not count here.
    pub fn is_repeatable_after_race(&self) -> bool {
        self.request.idempotent && self.request.allowed
    }

    /// The request may take an idle connection of any age: [`is_repeatable_after_race`] with its body.
    ///
    /// [`is_repeatable_after_race`]: Self::is_repeatable_after_race
    pub fn accepts_race(&self) -> bool {
        self.is_repeatable_after_race() && self.body_kept
    }

    /// Another attempt can follow a failure of this one, whatever was sent.
    pub fn allows_retry(&self) -> bool {
        self.is_repeatable() && self.retries < self.settings.max_retries && self.body_kept
    }

    /// No other counted attempt can follow.
    pub fn is_last(&self) -> bool {
        !self.request.allowed || self.retries >= self.settings.max_retries
    }

    /// A second attempt may start beside this one because it is slow.
    pub fn allows_hedge(&self) -> bool {
        self.retries == 0 && self.is_repeatable()
    }

    /// A second attempt may start beside this one because its endpoint is stalled. A slow endpoint may be taken for a
    /// stalled one, and then two instances execute the request at once: only a safe request, or one of a service for
    /// which that was allowed (`hedges`: its `hedge` is on).
    pub fn allows_race_when_stalled(&self, hedges: bool) -> bool {
        let may_run_twice = self.request.safe || hedges;
        self.settings.stalled && may_run_twice && self.is_repeatable() && self.settings.max_retries > 0
    }

    /// The status is one that is retried.
    pub fn is_retried(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Status(status) => self.settings.statuses.contains(&status),
            // UNAVAILABLE: of a call that is safe to repeat.
            Outcome::Grpc(14) => self.is_repeatable(),
            _ => false,
        }
    }

    /// Retries that were counted before this attempt.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// Why another attempt is not allowed, if it is not. `reason_if_unsafe` is the reason when repeating
    /// the request could do harm; it comes first, because a reader of the log looks for it.
    fn reason_not_to_retry(&self, attempt: &LastAttempt, reason_if_unsafe: GiveUp) -> Option<GiveUp> {
        let idempotent = self.request.idempotent || self.settings.non_idempotent;
        if attempt.sent != Sent::Nothing && !idempotent {
            Some(reason_if_unsafe)
        } else if !self.request.allowed || self.settings.max_retries == 0 {
            Some(GiveUp::Off)
        } else if self.is_last() && !attempt.is_uncounted() {
            Some(GiveUp::Attempts)
        } else if !attempt.replayable {
            Some(GiveUp::BodyGone)
        } else {
            None
        }
    }
}

/// Attempts of a request up to which one that the instance did not process is not counted.
const MAX_LEFT_OUT: u32 = 10;

/// The end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastAttempt {
    /// The part of the request that the attempt sent.
    pub sent: Sent,
    /// How it ended.
    pub outcome: Outcome,
    /// The body can still be sent from its start, or nothing of it was taken.
    pub replayable: bool,
    /// When the instance said to retry, if it did.
    pub pushback: Option<Pushback>,
    /// An instance that this request has not tried could take it.
    pub has_other_instance: bool,
    /// Attempts of the request so far.
    pub attempts: u32,
    /// Another instance has asked this request before to retry later.
    pub earlier_pushback: bool,
}

impl LastAttempt {
    /// The next attempt is not counted as a retry, because no connection was made, or nothing was processed, and another instance may
    /// accept one. Nothing was sent, the attempt costs no instance anything, and the dead one is ejected by
    /// now; if it counted, the death of most instances would fail requests that the others could serve.
    /// The deadline and the number of instances bound such attempts.
    fn is_uncounted(&self) -> bool {
        let refused = matches!(
            self.outcome,
            Outcome::ConnectRefused
                | Outcome::ConnectFailed
                | Outcome::TlsFailed
                | Outcome::ConnectTimeout
                | Outcome::UnreachableFromHere
                | Outcome::Unprocessed
                | Outcome::Http1Instance
        );
        // Each connection of an instance that ends its connections in order may leave out the same request.
        let is_left_out = self.outcome == Outcome::Unprocessed && self.attempts < MAX_LEFT_OUT;
        self.sent == Sent::Nothing && (refused && self.has_other_instance || is_left_out)
    }
}

/// When an instance that fails a request asks to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// `Retry-After`: this instance, not before.
    Instance(Duration),
    /// `grpc-retry-pushback-ms`: any instance, not before.
    Call(Duration),
    /// The same header, negative or not a number: not at all.
    Never,
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// The app gets this response.
    Done,
    /// Another attempt.
    Retry {
        /// The pause before it; zero when nothing was sent.
        after: Duration,
        /// It does not count as a retry of the request.
        uncounted: bool,
    },
    /// No other attempt: the app gets the instance's response if there is one, else the sidecar's error.
    GiveUp(GiveUp),
}

/// Why there is no other attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GiveUp {
    /// Another attempt could not help, or the instance responded to a request that may not be repeated.
    NotRetryable,
    /// Retries are off: by the app's header, or by `max_retries: 0`.
    Off,
    /// `max_retries` were made.
    Attempts,
    /// The retry budget is spent.
    Budget,
    /// No time is left for another attempt.
    Deadline,
    /// More of the body was streamed than the replay buffer holds.
    BodyGone,
    /// The instance asked not to retry, or not within `max_retry_after`.
    Pushback,
    /// Something was sent, no response came, and the request may not be repeated: the instance may or may
    /// not have acted on it.
    SentUnknown,
}

impl GiveUp {
    /// Every reason, in the order of the discriminants.
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

    /// The label in metrics and log.
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
/// [`RetryDecision::Retry`] is already paid for from the budget, at `now`, if something was sent: [`RetryBudget::refund`] when it
/// is not made.
pub fn decide_retry(
    eligibility: &RetryEligibility<'_>,
    budget: &RetryBudget,
    attempt: &LastAttempt,
    now: Instant,
    deadline: Instant,
    random: u64,
) -> RetryDecision {
    let settings = eligibility.settings;
    let gave_up = match classify_outcome(eligibility, attempt.outcome) {
        Retryability::Done => return RetryDecision::Done,
        Retryability::Never(why) => Some(why),
        Retryability::RetryableStatus => eligibility.reason_not_to_retry(attempt, GiveUp::NotRetryable),
        Retryability::NoResponse => eligibility.reason_not_to_retry(attempt, GiveUp::SentUnknown),
    };
    if let Some(why) = gave_up {
        return RetryDecision::GiveUp(why);
    }
    let sent = attempt.sent != Sent::Nothing;
    let pause =
        if sent { Backoff::from(settings).pause(eligibility.retries, random) } else { Duration::ZERO };
    let left = deadline.saturating_duration_since(now);
    let is_too_long = |wait: Duration| wait > settings.max_retry_after;
    let after = match attempt.pushback {
        None => pause,
        Some(Pushback::Never) => return RetryDecision::GiveUp(GiveUp::Pushback),
        Some(Pushback::Call(wait)) if is_too_long(wait) => return RetryDecision::GiveUp(GiveUp::Pushback),
        Some(Pushback::Call(wait)) => wait,
        Some(Pushback::Instance(asked)) => {
            // Clients with the same `Retry-After` should not return at the same moment.
            let wait = asked.saturating_add(pause);
            // Only one instance has asked, or for too long: another instance first.
            let is_first_choice = !attempt.earlier_pushback || is_too_long(asked) || wait >= left;
            if attempt.has_other_instance && is_first_choice {
                pause
            } else if is_too_long(asked) {
                return RetryDecision::GiveUp(GiveUp::Pushback);
            } else {
                wait
            }
        }
    };
    if left <= after {
        return RetryDecision::GiveUp(GiveUp::Deadline);
    }
    if sent && !budget.withdraw(&settings.budget, now) {
        return RetryDecision::GiveUp(GiveUp::Budget);
    }
    RetryDecision::Retry { after, uncounted: attempt.is_uncounted() }
}

/// What an outcome means for another attempt.
enum Retryability {
    /// A response for the app.
    Done,
    /// No other attempt can help.
    Never(GiveUp),
    /// A status that is retried.
    RetryableStatus,
    /// No response.
    NoResponse,
}

fn classify_outcome(eligibility: &RetryEligibility<'_>, outcome: Outcome) -> Retryability {
    match outcome {
        Outcome::Status(_) | Outcome::Grpc(_) if eligibility.is_retried(outcome) => {
            Retryability::RetryableStatus
        }
        Outcome::Status(_) | Outcome::Grpc(_) | Outcome::SidecarError(_) | Outcome::Connected => {
            Retryability::Done
        }
        // Also an invalid response: none of it reached the app, and another instance may do better.
        Outcome::ConnectRefused
        | Outcome::ConnectTimeout
        | Outcome::ConnectFailed
        | Outcome::TlsFailed
        | Outcome::UnreachableFromHere
        | Outcome::Unprocessed
        | Outcome::Http1Instance
        | Outcome::Closed
        | Outcome::ClosedMidHead
        | Outcome::BadResponse
        | Outcome::PerTryTimeout => Retryability::NoResponse,
        // Another endpoint has its own queue, idle connections and ports.
        Outcome::Overloaded | Outcome::Resource => Retryability::NoResponse,
        Outcome::Timeout | Outcome::Deadline => Retryability::Never(GiveUp::Deadline),
        Outcome::BadRequest | Outcome::ClientGone => Retryability::Never(GiveUp::NotRetryable),
    }
}
