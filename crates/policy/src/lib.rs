//! Decides: which endpoint takes a request, whether a failed attempt is made again, when an endpoint is
//! not chosen, when a service is not called at all.
//!
//! Nothing here acts. There is no I/O, no clock, no log and no source of randomness: `now` and
//! `random` are arguments, so every decision can be repeated in a test and explained afterwards.
//! Settings arrive checked (`outrigger_config`); inside, a value is already right.
//!
//! | module | its question |
//! |---|---|
//! | [`load_balancer`] | which endpoint is next? |
//! | [`outcome`] | what became of an attempt, and whom does it blame? |
//! | [`retry`] | is it made again? |
//! | [`backoff`] | after how long? |
//! | [`budget`] | can the service afford it? |
//! | [`hedge`] | how long does the service usually take? |
//! | [`deadline`] | until when may the app be kept waiting? |
//! | [`circuit_breaker`] | is the service called at all? |
//! | [`outlier_detection`] | is this endpoint chosen at all? |

pub mod backoff;
pub mod budget;
pub mod circuit_breaker;
pub mod deadline;
pub mod hedge;
pub mod load_balancer;
pub mod outcome;
pub mod outlier_detection;
pub mod retry;
mod sliding_window;

pub use backoff::Backoff;
pub use budget::RetryBudget;
pub use circuit_breaker::Breaker;
pub use deadline::Deadline;
pub use hedge::LatencyHistogram;
pub use load_balancer::{Cursor, LoadBalancer};
pub use outcome::{Outcome, Sent, Verdict};
