//! What several workers do to the breaker, the budget and an endpoint's state at the same time, in every order: loom, a model
//! checker, runs each test once for each order of their steps, and with each value that the memory model lets a load see.
//!
//! The files under test are those of the crate, compiled once more with loom's atomics and lock in `crate::sync`. Loom's own
//! bounds: orders with more than two or three forced switches of threads are left out, which keeps each test within seconds
//! ("bounds of two or three find most bugs", says its documentation). Time is an argument, and does not pass within a model.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the models use a part of what the files define"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod half_open;
mod probation;
mod sync;
mod withdrawals;

#[path = "../../src/backoff.rs"]
mod backoff;
#[path = "../../src/budget.rs"]
mod budget;
#[path = "../../src/circuit_breaker/mod.rs"]
mod circuit_breaker;
#[path = "../../src/outcome.rs"]
mod outcome;
#[path = "../../src/outlier_detection/mod.rs"]
mod outlier_detection;
#[path = "../../src/probe_slot.rs"]
mod probe_slot;
#[path = "../../src/sliding_window.rs"]
mod sliding_window;

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// Some moment to count from.
fn origin() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an `Instant` has no other source; it is an origin only")]
    Instant::now()
}

/// Checks `model` in every order with up to `preemptions` forced switches.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}
