//! Decides whether an answer in which many instances are gone may be believed.

mod guard;
mod liveness;
mod presumed_gone;

pub(crate) use guard::{AcceptedLoss, Findings, MassLossGuard, Review, ReviewedAnswer, SuspectReason};
#[cfg(test)]
pub(crate) use liveness::ConnectProbe;
pub use liveness::{Liveness, ProbeFuture};
pub(crate) use liveness::{LivenessProber, SuspectToProbe};
pub(crate) use presumed_gone::{PRESUMED_GONE_TTL, PresumedGone};
