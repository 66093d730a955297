//! An endpoint's standing as one word that every pick reads: a generation, and what it allows.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// How far an endpoint is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EjectionState {
    /// It may be chosen.
    Healthy,
    /// It may not.
    Ejected,
    /// One request at a time may choose it, and decides.
    Probation,
    /// It is not trusted, but neither is any other: it may be chosen.
    Panic,
}

impl EjectionState {
    /// Every value, for metrics that make their series at start.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Ejected, Self::Probation, Self::Panic];

    /// The word for it in metrics and on pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Healthy => "trusted",
            Self::Ejected => "ejected",
            Self::Probation => "probation",
            Self::Panic => "panic",
        }
    }
}

/// What a word allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndpointState {
    Healthy,
    Ejected,
    /// Panic; it was out for its answers.
    PanicSoft,
    /// Panic; it was out for not accepting connections.
    PanicHard,
    /// For a request on which a retry is allowed.
    Probation,
    /// For any request.
    ProbationAny,
    /// A request is out that decides.
    ProbationTaken,
}

impl EndpointState {
    /// May a request choose it? `retryable`: a retry is allowed on it.
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

    fn bits(self) -> u64 {
        match self {
            Self::Healthy => 0,
            Self::Ejected => 1,
            Self::PanicSoft => 2,
            Self::PanicHard => 3,
            Self::Probation => 4,
            Self::ProbationAny => 5,
            Self::ProbationTaken => 6,
        }
    }
}

/// The bits of a word that hold its standing.
const STATE_WIDTH: u32 = 3;

/// A word's value.
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
        Self((self.epoch() << STATE_WIDTH) | state.bits())
    }
}

/// The word itself. Generations are begun by the judge alone, under its lock; within one, a probation's
/// place is taken and given back by whoever comes.
#[derive(Debug)]
pub(super) struct StateCell(AtomicU64);

impl StateCell {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(EndpointState::Healthy.bits()))
    }

    #[inline]
    pub(super) fn load(&self) -> StateBits {
        StateBits(self.0.load(Acquire))
    }

    /// Begins a generation with this standing.
    pub(super) fn start_epoch(&self, state: EndpointState) {
        let epoch = StateBits(self.0.load(Relaxed)).epoch() + 1;
        self.0.store((epoch << STATE_WIDTH) | state.bits(), Release);
    }

    /// Takes a probation's place; false when somebody was faster or it has ended.
    pub(super) fn take_probation(&self, seen: StateBits) -> bool {
        self.0
            .compare_exchange(seen.0, seen.with_state(EndpointState::ProbationTaken).0, Relaxed, Relaxed)
            .is_ok()
    }

    /// Gives it back, unless the probation has ended. `seen` is the word from before it was taken.
    pub(super) fn release_probation(&self, seen: StateBits) {
        // It fails when a new generation has begun, to which the place does not belong.
        let _ = self.0.compare_exchange(
            seen.with_state(EndpointState::ProbationTaken).0,
            seen.0,
            Relaxed,
            Relaxed,
        );
    }
}
