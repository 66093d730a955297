//! An endpoint's epoch and state in one word, which every pick reads.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::sync::AtomicU64;

/// An endpoint's state, for pages and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EjectionState {
    /// It may be chosen.
    Healthy,
    /// It may not be chosen.
    Ejected,
    /// One request at a time may choose it, and its result decides.
    Probation,
    /// It is not healthy and no other endpoint is: it may be chosen.
    Panic,
}

impl EjectionState {
    /// The label in metrics and on pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Healthy => "trusted",
            Self::Ejected => "ejected",
            Self::Probation => "probation",
            Self::Panic => "panic",
        }
    }
}

/// The state in the word, by its number: what a pick may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndpointState {
    Healthy = 0,
    Ejected = 1,
    /// Panic mode; ejected for its responses.
    PanicSoft = 2,
    /// Panic mode; it accepts no connections.
    PanicHard = 3,
    /// A request on which a retry is allowed may decide.
    Probation = 4,
    /// Any request may decide.
    ProbationAny = 5,
    /// The deciding request is in flight.
    ProbationTaken = 6,
}

impl EndpointState {
    /// Whether a request may choose the endpoint. `retryable`: a retry is allowed on the request.
    pub(super) fn admits(self, retryable: bool) -> bool {
        match self {
            Self::Healthy | Self::PanicSoft | Self::PanicHard | Self::ProbationAny => true,
            Self::Probation => retryable,
            Self::Ejected | Self::ProbationTaken => false,
        }
    }

    pub(super) fn is_probation(self) -> bool {
        matches!(self, Self::Probation | Self::ProbationAny | Self::ProbationTaken)
    }

    pub(super) fn ejection_state(self) -> EjectionState {
        match self {
            Self::Healthy => EjectionState::Healthy,
            Self::Ejected => EjectionState::Ejected,
            Self::PanicSoft | Self::PanicHard => EjectionState::Panic,
            Self::Probation | Self::ProbationAny | Self::ProbationTaken => EjectionState::Probation,
        }
    }

    fn from_bits(bits: u64) -> Self {
        match bits {
            0 => Self::Healthy,
            2 => Self::PanicSoft,
            3 => Self::PanicHard,
            4 => Self::Probation,
            5 => Self::ProbationAny,
            6 => Self::ProbationTaken,
            _ => Self::Ejected,
        }
    }
}

/// Bits of the word that hold the state.
const STATE_WIDTH: u32 = 3;

/// A value of the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StateBits(u64);

impl StateBits {
    pub(super) fn state(self) -> EndpointState {
        EndpointState::from_bits(self.0 & ((1 << STATE_WIDTH) - 1))
    }

    pub(super) fn epoch(self) -> u64 {
        self.0 >> STATE_WIDTH
    }

    fn with_state(self, state: EndpointState) -> Self {
        Self((self.epoch() << STATE_WIDTH) | state as u64)
    }
}

/// The word. Only the detector begins epochs, under its lock; within an epoch any request takes and frees
/// the slot of a probation.
#[derive(Debug)]
pub(super) struct StateCell(AtomicU64);

impl StateCell {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(EndpointState::Healthy as u64))
    }

    #[inline]
    pub(super) fn load(&self) -> StateBits {
        StateBits(self.0.load(Acquire))
    }

    /// Begins an epoch with this state.
    pub(super) fn start_epoch(&self, state: EndpointState) {
        let epoch = StateBits(self.0.load(Relaxed)).epoch() + 1;
        self.0.store((epoch << STATE_WIDTH) | state as u64, Release);
    }

    /// Takes the slot of a probation; false when another request has it or the probation has ended.
    pub(super) fn take_probation(&self, seen: StateBits) -> bool {
        // A load that sees it taken also sees the number of the take.
        self.0
            .compare_exchange(seen.0, seen.with_state(EndpointState::ProbationTaken).0, Release, Relaxed)
            .is_ok()
    }

    /// Begins an epoch with a free slot, unless the word has changed since it was `taken`.
    pub(super) fn pass_probation_on(&self, taken: StateBits, state: EndpointState) -> bool {
        let next = ((taken.epoch() + 1) << STATE_WIDTH) | state as u64;
        self.0.compare_exchange(taken.0, next, Release, Relaxed).is_ok()
    }

    /// Frees the slot, unless the probation has ended. `seen` is the word from before it was taken.
    pub(super) fn release_probation(&self, seen: StateBits) {
        // The exchange fails when a new epoch has begun, which has its own slot.
        let _ = self.0.compare_exchange(
            seen.with_state(EndpointState::ProbationTaken).0,
            seen.0,
            Relaxed,
            Relaxed,
        );
    }
}
