//! Chooses an endpoint by its place in a View, in constant time and without a lock.
//!
//! A [`LoadBalancer`] is built with the View it chooses from and never changes; what does change is the
//! [`Cursor`], which outlives Views so that an update does not send everybody back to the first
//! endpoint. It is told which endpoints will not do by a closure and knows nothing else about them: no
//! health, no load, no addresses.
//!
//! A turn that falls on an endpoint that will not do is forfeited: the pick takes the next turn *of the
//! cursor*. Going on from there without moving the cursor would be the obvious way, and would give
//! every forfeited turn to the same neighbour, which then carries twice its share. So the others keep
//! their shares exactly, and a cycle's forfeited turns cost its picks one increment each.
//!
//! The kinds are a closed enum: a `match` inlines, and no generic spreads through the callers.

mod cursor;
mod cycle;
mod random;
mod round_robin;
mod weighted;

use outrigger_config::Balance;

pub use cursor::Cursor;
use random::Random;
use round_robin::RoundRobin;
use weighted::Weighted;

/// Chooses among the endpoints of one View.
#[derive(Debug)]
pub struct LoadBalancer {
    algorithm: Algorithm,
}

#[derive(Debug)]
enum Algorithm {
    RoundRobin(RoundRobin),
    Random(Random),
    Weighted(Weighted),
}

impl LoadBalancer {
    /// A balancer over as many endpoints as there are weights, known by their places.
    ///
    /// An endpoint of weight 0 is never chosen. `RoundRobin` and `Random` take every other weight as 1.
    pub fn new(kind: Balance, weights: &[u32]) -> Self {
        let kind = match kind {
            Balance::RoundRobin => Algorithm::RoundRobin(RoundRobin::new(weights)),
            Balance::Random => Algorithm::Random(Random::new(weights)),
            Balance::Weighted => Algorithm::Weighted(Weighted::new(weights)),
        };
        Self { algorithm: kind }
    }

    /// The endpoint for a request's first attempt; `None` when none is `ok`.
    ///
    /// `ok` should answer the same for every request (is the endpoint trusted?): an endpoint that is
    /// not loses the turn it would have had. `random` is uniform over all of `u64`.
    #[inline]
    pub fn pick_first(&self, cursor: &Cursor, random: u64, ok: impl Fn(usize) -> bool) -> Option<usize> {
        match &self.algorithm {
            Algorithm::RoundRobin(kind) => kind.pick(cursor.first(), random, ok),
            Algorithm::Random(kind) => kind.pick(random, ok),
            Algorithm::Weighted(kind) => kind.pick(cursor.first(), random, ok),
        }
    }

    /// The endpoint for another attempt; `ok` also says no to those this request has tried.
    ///
    /// Turns are taken from a cursor of their own, so that retries leave the order of first picks
    /// alone.
    #[inline]
    pub fn pick_retry(&self, cursor: &Cursor, random: u64, ok: impl Fn(usize) -> bool) -> Option<usize> {
        match &self.algorithm {
            Algorithm::RoundRobin(kind) => kind.pick(cursor.retry(), random, ok),
            Algorithm::Random(kind) => kind.pick(random, ok),
            Algorithm::Weighted(kind) => kind.pick(cursor.retry(), random, ok),
        }
    }

    /// The greatest relative error of a share that scaling down has cost; 0 when shares are exact.
    pub fn weight_error(&self) -> f64 {
        match &self.algorithm {
            Algorithm::RoundRobin(_) | Algorithm::Random(_) => 0.0,
            Algorithm::Weighted(kind) => kind.error(),
        }
    }

    /// The kind it was built as.
    pub fn kind(&self) -> Balance {
        match &self.algorithm {
            Algorithm::RoundRobin(_) => Balance::RoundRobin,
            Algorithm::Random(_) => Balance::Random,
            Algorithm::Weighted(_) => Balance::Weighted,
        }
    }
}
