//! Measurements, not tests: what a pick, an update and a request cost, and how soon a change is known.
//!
//! | module | its question |
//! |---|---|
//! | [`picks`] | how long does choosing an instance take? |
//! | [`update`] | how long does an update take, and does it matter how many services there are? |
//! | [`peers`] | what does a request cost, beside nginx, HAProxy and Envoy? |
//! | [`propagation`] | how soon does a change in Consul reach the table? |
//! | [`stats`], [`clock`], [`machine`] | medians; whose time; where it was measured and how quiet it was |
//! | [`report`] | the table, and its place in `benches/README.md` |
//!
//! It judges nothing: a missed target is a line in the table, not a failure. It sends traffic to
//! loopback only, and ends only processes that it started.

pub mod clock;
mod error;
pub mod machine;
pub mod peers;
pub mod picks;
pub mod propagation;
pub mod report;
pub mod stats;
pub mod update;

pub use error::Error;

/// How thoroughly to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Enough to see that it works: seconds, and figures of no worth.
    Quick,
    /// Enough rounds for a median.
    Full,
}

impl Effort {
    /// One of two values.
    pub fn choose<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}
