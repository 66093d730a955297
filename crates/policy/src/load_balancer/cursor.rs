//! Where the turns have got to: the only thing about balancing that changes, kept outside the View.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The next turns of one cluster: one for first picks, one for retries.
#[derive(Debug)]
pub struct Cursor {
    first: TurnCounter,
    retry: TurnCounter,
}

impl Cursor {
    /// Starts at `start`, which should be random: sidecars that start together must not all begin
    /// with the same endpoint.
    ///
    /// The highest bit is dropped. A cycle's length seldom divides 2⁶⁴, so at a wrap the order would
    /// break once; this way there are 2⁶³ turns before it, 290 years of a billion a second.
    pub fn new(start: u64) -> Self {
        let start = start & (u64::MAX >> 1);
        Self { first: TurnCounter::new(start), retry: TurnCounter::new(start) }
    }

    #[inline]
    pub(super) fn first(&self) -> &TurnCounter {
        &self.first
    }

    #[inline]
    pub(super) fn retry(&self) -> &TurnCounter {
        &self.retry
    }
}

/// Hands out turns. On a pair of cache lines of its own (processors fetch them in pairs), so that
/// retries do not slow first picks down.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct TurnCounter(AtomicU64);

impl TurnCounter {
    fn new(start: u64) -> Self {
        Self(AtomicU64::new(start))
    }

    /// The next turn. Nobody else gets it.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
}
