//! The data path on streams in memory, in one thread, on a clock that the tests move: what sockets and a real clock leave to chance
//! takes the same course each time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bounds;
mod early;
mod failover;
mod fairness;
mod interim;
mod leave;
mod path;
mod phases;
mod retries;
mod rules;
mod stop;
mod tunnels;
mod waits;
