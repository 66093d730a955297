//! The right to send one request, and the duty to say how it went.

use std::time::Instant;

use super::Breaker;
use crate::outcome::Verdict;

/// One admitted request. A request that is tried again keeps its permit.
///
/// Dropped without a verdict it was cancelled: nothing is counted, and a probe's place is free again.
#[must_use = "a permit dropped at once judges nothing"]
#[derive(Debug)]
pub struct Permit<'a> {
    /// `None`: the breaker is off, or the verdict was given.
    breaker: Option<&'a Breaker>,
    /// The generation it was given in.
    epoch: u64,
    probe: bool,
}

impl<'a> Permit<'a> {
    pub(super) fn uncounted() -> Self {
        Self { breaker: None, epoch: 0, probe: false }
    }

    pub(super) fn counted(breaker: &'a Breaker, epoch: u64) -> Self {
        Self { breaker: Some(breaker), epoch, probe: false }
    }

    pub(super) fn probe(breaker: &'a Breaker, epoch: u64) -> Self {
        Self { breaker: Some(breaker), epoch, probe: true }
    }

    /// Says how the request went, as the app saw it. Once per request, after its last attempt.
    pub fn record(mut self, now: Instant, verdict: Verdict) {
        match self.breaker.take() {
            Some(breaker) if self.probe => breaker.record_probe(self.epoch, now, verdict),
            Some(breaker) => breaker.record_closed(self.epoch, now, verdict),
            None => {}
        }
    }

    /// It is one of the few requests on which a half-open breaker decides.
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(breaker) = self.breaker.take()
            && self.probe
        {
            breaker.release_probe(self.epoch);
        }
    }
}
