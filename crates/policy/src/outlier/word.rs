//! An endpoint's standing as one word that every pick reads: a generation, and what it allows.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// How far an endpoint is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// It may be chosen.
    Trusted,
    /// It may not.
    Ejected,
    /// One request at a time may choose it, and decides.
    Probation,
    /// It is not trusted, but neither is any other: it may be chosen.
    Panic,
}

impl Trust {
    /// Every value, for metrics that make their series at start.
    pub const ALL: [Self; 4] = [Self::Trusted, Self::Ejected, Self::Probation, Self::Panic];

    /// The word for it in metrics and on pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Ejected => "ejected",
            Self::Probation => "probation",
            Self::Panic => "panic",
        }
    }
}

/// What a word allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Trusted,
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
    Taken,
}

impl Standing {
    /// May a request choose it? `retryable`: a retry is allowed on it.
    pub(super) fn admits(self, retryable: bool) -> bool {
        match self {
            Self::Trusted | Self::PanicSoft | Self::PanicHard | Self::ProbationAny => true,
            Self::Probation => retryable,
            Self::Ejected | Self::Taken => false,
        }
    }

    pub(super) fn is_probation(self) -> bool {
        matches!(self, Self::Probation | Self::ProbationAny | Self::Taken)
    }

    pub(super) fn trust(self) -> Trust {
        match self {
            Self::Trusted => Trust::Trusted,
            Self::Ejected => Trust::Ejected,
            Self::PanicSoft | Self::PanicHard => Trust::Panic,
            Self::Probation | Self::ProbationAny | Self::Taken => Trust::Probation,
        }
    }

    fn from_bits(bits: u64) -> Self {
        match bits {
            0 => Self::Trusted,
            2 => Self::PanicSoft,
            3 => Self::PanicHard,
            4 => Self::Probation,
            5 => Self::ProbationAny,
            6 => Self::Taken,
            _ => Self::Ejected,
        }
    }

    fn bits(self) -> u64 {
        match self {
            Self::Trusted => 0,
            Self::Ejected => 1,
            Self::PanicSoft => 2,
            Self::PanicHard => 3,
            Self::Probation => 4,
            Self::ProbationAny => 5,
            Self::Taken => 6,
        }
    }
}

/// The bits of a word that hold its standing.
const STANDING: u32 = 3;

/// A word's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen(u64);

impl Seen {
    pub(super) fn standing(self) -> Standing {
        Standing::from_bits(self.0 & ((1 << STANDING) - 1))
    }

    pub(super) fn generation(self) -> u64 {
        self.0 >> STANDING
    }

    fn with(self, standing: Standing) -> Self {
        Self((self.generation() << STANDING) | standing.bits())
    }
}

/// The word itself. Generations are begun by the judge alone, under its lock; within one, a probation's
/// place is taken and given back by whoever comes.
#[derive(Debug)]
pub(super) struct Word(AtomicU64);

impl Word {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(Standing::Trusted.bits()))
    }

    #[inline]
    pub(super) fn load(&self) -> Seen {
        Seen(self.0.load(Acquire))
    }

    /// Begins a generation with this standing.
    pub(super) fn begin(&self, standing: Standing) {
        let generation = Seen(self.0.load(Relaxed)).generation() + 1;
        self.0.store((generation << STANDING) | standing.bits(), Release);
    }

    /// Takes a probation's place; false when somebody was faster or it has ended.
    pub(super) fn take(&self, seen: Seen) -> bool {
        self.0.compare_exchange(seen.0, seen.with(Standing::Taken).0, Relaxed, Relaxed).is_ok()
    }

    /// Gives it back, unless the probation has ended. `seen` is the word from before it was taken.
    pub(super) fn give_back(&self, seen: Seen) {
        // It fails when a new generation has begun, to which the place does not belong.
        let _ = self.0.compare_exchange(seen.with(Standing::Taken).0, seen.0, Relaxed, Relaxed);
    }
}
