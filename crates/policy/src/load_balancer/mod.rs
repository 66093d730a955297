//! Chooses an endpoint by its index in a View, in constant time and without a lock.
//!
//! A [`LoadBalancer`] is built with its View and never changes. The [`Cursor`] changes; it outlives
//! Views, so that an update does not send all requests back to the first endpoint. A closure says which
//! endpoints are usable, and another one their load; the balancer knows nothing else about them: no health, no addresses.
//!
//! When a turn falls on an unusable endpoint, the pick takes the next turn *of the cursor*. Taking the
//! neighbour without moving the cursor would be simpler, and would give every such turn to the same
//! neighbour, which then gets twice its share. This way the others keep their exact shares, and each
//! skipped turn costs one increment.
//!
//! The algorithms are a closed enum: a `match` inlines, and the callers need no generics.

mod cursor;
mod cycle;
mod random;
mod two_choices;
mod weighted;

use outrigger_config::Balance;

pub use cursor::Cursor;
use cycle::Cycle;
use random::Random;
use two_choices::TwoChoices;

/// Chooses among the endpoints of one View.
#[derive(Debug)]
pub struct LoadBalancer {
    algorithm: Algorithm,
}

#[derive(Debug)]
enum Algorithm {
    Cycle(Cycle),
    Random(Random),
    TwoChoices(TwoChoices, LoadMeasure),
}

/// What the load of an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMeasure {
    /// Its requests in flight.
    InFlight,
    /// How long one more request would take ([`crate::PeakEwma`]).
    ResponseTime,
}

/// Apart from its caller, which is on the path of every request: round robin does not pay for it.
#[inline(never)]
fn pick_of_two(
    balancer: &TwoChoices,
    measure: LoadMeasure,
    random: u64,
    usable: impl Fn(usize) -> bool,
    load: impl Fn(usize, LoadMeasure) -> u64,
) -> Option<usize> {
    balancer.pick(random, usable, |at| load(at, measure))
}

impl LoadBalancer {
    /// A balancer over one endpoint per weight; an endpoint is known by its index.
    ///
    /// An endpoint of weight 0 is never chosen. `RoundRobin` and `Random` take every other weight as 1.
    pub fn new(balance: Balance, weights: &[u32]) -> Self {
        let algorithm = match balance {
            // One turn each: within one View the first picks of any two endpoints differ by at most one,
            // also when many threads pick.
            Balance::RoundRobin => Algorithm::Cycle(Cycle::new(cycle::usable_indexes(weights))),
            Balance::Random => Algorithm::Random(Random::new(weights)),
            Balance::Weighted => Algorithm::Cycle(weighted::turns_by_weight(weights)),
            Balance::LeastRequest => {
                Algorithm::TwoChoices(TwoChoices::new(weights, false), LoadMeasure::InFlight)
            }
            Balance::PeakEwma => {
                Algorithm::TwoChoices(TwoChoices::new(weights, true), LoadMeasure::ResponseTime)
            }
        };
        Self { algorithm }
    }

    /// [`LoadBalancer::pick_first_by`] where all endpoints have the same load.
    #[inline]
    pub fn pick_first(&self, cursor: &Cursor, random: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        self.pick_first_by(cursor, random, usable, |_, _| 0)
    }

    /// [`LoadBalancer::pick_retry_by`] where all endpoints have the same load.
    #[inline]
    pub fn pick_retry(&self, cursor: &Cursor, random: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        self.pick_retry_by(cursor, random, usable, |_, _| 0)
    }

    /// The endpoint for a request's first attempt; `None` when none is `usable`.
    ///
    /// `usable` should be the same for every request (is the endpoint ejected?), because an unusable
    /// endpoint loses its turn. `random` is uniform over all of `u64`. `load`: of an endpoint, by a measure.
    #[inline]
    pub fn pick_first_by(
        &self,
        cursor: &Cursor,
        random: u64,
        usable: impl Fn(usize) -> bool,
        load: impl Fn(usize, LoadMeasure) -> u64,
    ) -> Option<usize> {
        match &self.algorithm {
            Algorithm::Cycle(cycle) => cycle.pick(cursor.first(), random, usable),
            Algorithm::Random(balancer) => balancer.pick(random, usable),
            Algorithm::TwoChoices(balancer, measure) => pick_of_two(balancer, *measure, random, usable, load),
        }
    }

    /// The endpoint for another attempt; `usable` excludes the endpoints that the request has tried.
    ///
    /// Retries take their turns from a second counter, so they do not change the order of first picks.
    #[inline]
    pub fn pick_retry_by(
        &self,
        cursor: &Cursor,
        random: u64,
        usable: impl Fn(usize) -> bool,
        load: impl Fn(usize, LoadMeasure) -> u64,
    ) -> Option<usize> {
        match &self.algorithm {
            Algorithm::Cycle(cycle) => cycle.pick(cursor.retry(), random, usable),
            Algorithm::Random(balancer) => balancer.pick(random, usable),
            Algorithm::TwoChoices(balancer, measure) => pick_of_two(balancer, *measure, random, usable, load),
        }
    }
}
