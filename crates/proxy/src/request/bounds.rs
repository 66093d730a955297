//! The bounds of an attempt, and how it can end.

use std::time::Duration;

use outrigger_http1::Framing;
use outrigger_policy::{Deadline, Outcome, Sent, deadline::TimeoutCause, retry::RetryEligibility};
use tokio::time::Instant;

use crate::{
    reason::Reason,
    transport::{exchange::Exchange, upload::Upload},
};

/// What bounds an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds<'a> {
    /// The request's time.
    pub(crate) deadline: Deadline,
    /// When this attempt began.
    pub(crate) begun: Instant,
    /// This attempt's time, counted as the service's time-out is.
    pub(crate) per_try: Option<Duration>,
    /// What may follow this attempt.
    pub(crate) retry: RetryEligibility<'a>,
    /// Longest silence in the request's body.
    pub(crate) body_idle: Duration,
}

/// The bound that is reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The service's `timeout`.
    Timeout,
    /// The deadline, the app's or the service's.
    Deadline,
    /// `per_try_timeout`.
    PerTry,
    /// `body_idle`.
    BodyIdle,
}

impl Bounds<'_> {
    /// The bound that `exchange` reaches next, and when.
    pub(crate) fn next(&self, upload: &Upload, exchange: &Exchange) -> (Instant, Bound) {
        let last = exchange.last_upload(upload);
        // While a body is held back nothing of it is waited for.
        if !exchange.is_upload_done() && upload.exists() && upload.held_since().is_none() {
            return self.moving(last.max(self.begun));
        }
        let last = last_byte(upload).map(|_| last);
        let from = last.map_or(self.begun, |last| last.max(self.begun));
        self.sooner(self.whole(last), from)
    }

    /// The bound of a body that moves, of which the last byte moved at `last`.
    pub(crate) fn moving(&self, last: Instant) -> (Instant, Bound) {
        let idle = last + self.body_idle;
        match self.deadline.cap().map(Instant::from_std) {
            Some(cap) if cap < idle => (cap, Bound::Deadline),
            _ => (idle, Bound::BodyIdle),
        }
    }

    /// Until when a permit and a connection may be waited for.
    pub(crate) fn opening(&self, upload: &Upload) -> (Instant, Bound) {
        self.sooner(self.whole(last_byte(upload)), self.begun)
    }

    /// The end of the request's time, as far as it is known now.
    pub(crate) fn ends(&self, upload: &Upload) -> Instant {
        self.whole(last_byte(upload)).0
    }

    fn whole(&self, last_byte: Option<Instant>) -> (Instant, Bound) {
        let (at, cause) = self.deadline.expires_at(last_byte.map(Instant::into_std));
        let bound = match cause {
            TimeoutCause::Timeout => Bound::Timeout,
            TimeoutCause::Deadline => Bound::Deadline,
        };
        (at.into(), bound)
    }

    /// The attempt's end, when its own time is over before `whole`.
    fn sooner(&self, whole: (Instant, Bound), from: Instant) -> (Instant, Bound) {
        match self.per_try.map(|limit| from + limit) {
            Some(one) if one < whole.0 => (one, Bound::PerTry),
            _ => whole,
        }
    }
}

fn last_byte(upload: &Upload) -> Option<Instant> {
    (upload.exists() && upload.held_since().is_none()).then(|| upload.last_byte())
}

/// A response that an attempt brought; the exchange has its head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Response {
    pub(crate) framing: Framing,
    pub(crate) outcome: Outcome,
}

/// An attempt that brought no usable response.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) outcome: Outcome,
    pub(crate) sent: Sent,
    pub(crate) detail: String,
    /// The reason that the app gets, where the outcome does not tell it.
    pub(crate) reason: Option<Reason>,
}

/// How an attempt ended.
pub(crate) type AttemptResult = Result<Response, Failed>;

/// The outcome of an attempt.
pub(crate) fn outcome_of(result: &AttemptResult) -> Outcome {
    match result {
        Ok(response) => response.outcome,
        Err(failed) => failed.outcome,
    }
}

impl Failed {
    /// The instance takes no chunks, and the body is longer than what is kept to learn its length.
    pub(crate) fn without_length(most: usize) -> Self {
        let detail = format!(
            "the instance speaks HTTP/1.0, and the chunked body is longer than the {most} bytes that are kept of it"
        );
        Self { reason: Some(Reason::LengthUnknown), ..Self::unsent(Outcome::BadRequest, detail) }
    }

    /// Nothing of the request was sent.
    pub(crate) fn unsent(outcome: Outcome, detail: String) -> Self {
        Self { outcome, sent: Sent::Nothing, detail, reason: None }
    }
}
