//! The next turns: the only state of load balancing, kept outside the View.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The next turns of one cluster, for first picks and for retries.
#[derive(Debug)]
pub struct Cursor {
    first: TurnCounter,
    retry: TurnCounter,
}

impl Cursor {
    /// Starts at `start`, which should be random: sidecars that start together must not all begin
    /// with the same endpoint.
    ///
    /// The highest bit is dropped, because the order breaks once when the counter wraps: that leaves 2⁶³
    /// turns, 290 years of a billion per second.
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

/// Counts turns. It has its own pair of cache lines (processors fetch them in pairs), so that retries do
/// not slow first picks down.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct TurnCounter(AtomicU64);

impl TurnCounter {
    fn new(start: u64) -> Self {
        Self(AtomicU64::new(start))
    }

    /// The next turn, for this caller alone.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
}
