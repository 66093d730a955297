//! Decides which endpoint takes a request, whether a failed attempt is retried, when an endpoint is
//! ejected, and when a service is not called at all.
//!
//! There is no I/O, no clock, no log and no source of randomness: `now` and `random` are arguments, so a
//! test can repeat every decision. Settings are arguments too: a reload changes nothing here. They are
//! checked by `outrigger_config`.
//!
//! | module | question |
//! |---|---|
//! | [`load_balancer`] | which endpoint is next? |
//! | [`outcome`] | how did an attempt end, and what does that say about the service? |
//! | [`retry`] | does another attempt follow? |
//! | [`backoff`] | after how long? |
//! | [`budget`] | does the service have retries left? |
//! | [`hedge`] | how long does the service usually take? |
//! | [`deadline`] | until when may the app wait? |
//! | [`circuit_breaker`] | is the service called at all? |
//! | [`outlier_detection`] | may this endpoint be chosen? |
//! | [`zone`] | which zone do requests go to? |

pub mod backoff;
pub mod budget;
pub mod circuit_breaker;
pub mod deadline;
pub mod hedge;
pub mod load_balancer;
pub mod outcome;
pub mod outlier_detection;
mod peak_ewma;
mod probe_slot;
pub mod retry;
mod sliding_window;
mod sync;
pub mod zone;

pub use backoff::Backoff;
pub use budget::RetryBudget;
pub use circuit_breaker::Breaker;
pub use deadline::Deadline;
pub use hedge::LatencyHistogram;
pub use load_balancer::{Cursor, LoadBalancer, LoadMeasure};
pub use outcome::{Outcome, Sent, Verdict};
pub use peak_ewma::PeakEwma;
