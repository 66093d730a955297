//! Measurements, not tests: what a pick, an update and a request cost, and how soon a change arrives.
//!
//! | module | question |
//! |---|---|
//! | [`picks`] | how long does choosing an instance take? |
//! | [`update`] | how long does an update take, and does it matter how many services there are? |
//! | [`scrape`] | how long does a scrape of many services take, and how large is it? |
//! | [`peers`] | what does a request cost, beside nginx, HAProxy and Envoy? |
//! | [`propagation`] | how soon does a change in Consul reach a follower? |
//! | [`settings`] | how soon is a document in Consul's KV in effect, and what do many sidecars ask? |
//! | [`names`] | what does an answer of the DNS listener cost? |
//! | [`balancers`] | how long do requests take by each balancer while one instance is slow? |
//! | [`zones`] | what stays in a zone, and how evenly are the instances used? |
//! | [`locks`] | what does a lock cost, alone, contended and held? |
//! | [`stats`], [`clock`], [`machine`] | medians; wall time and processor time; the machine and the load of other processes |
//! | [`report`], [`chart`] | the tables, and the chart |
//!
//! A missed target is a line in the table, not a failure. The benches send traffic to loopback only,
//! and end only processes that they started.

pub mod balancers;
pub mod chart;
pub mod clock;
mod error;
pub mod locks;
pub mod machine;
pub mod names;
pub mod peers;
pub mod picks;
pub mod propagation;
pub mod report;
pub mod scrape;
pub mod settings;
pub mod stats;
pub mod update;
pub mod zones;

pub use error::Error;

/// How thoroughly to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Few and short rounds. The peers' ratios are good to a few percent; the figures of the other parts mean nothing.
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
