//! What several workers do to the connections and permits of one endpoint at the same time, in every order: loom, a model checker, runs
//! each test once for each order of their steps, and with each value that the memory model lets a load see.
//!
//! The file under test is the crate's, compiled once more with loom's atomics and lock in `crate::sync`. Loom's own bound: orders
//! with more than three forced switches of threads are left out, which keeps each test within seconds ("bounds of two or three find
//! most bugs", says its documentation).
#![allow(dead_code, reason = "the models use a part of what the file defines")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod close;
mod permits;
mod sync;

#[path = "../../src/transport/pool.rs"]
mod pool;

/// Checks `model` in every order.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(model);
}
