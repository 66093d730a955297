//! What a request would meet, by the same code as a request: read, routed, its rules, the instances. Nothing is sent, opened, asked
//! or counted, and no turn is taken.
//!
//! | module | its part |
//! |---|---|
//! | `request` | the URL, and the head that a client would send for it |
//! | `model` | what is told |
//! | `inquiry` | what the parts share |
//! | `walk` | the name, the rules, and where they lead |
//! | `destination` | the instances there, and what a pick would do |

mod destination;
mod inquiry;
mod model;
mod request;
mod walk;

pub use model::{
    ExplainedBreaker, ExplainedBulkhead, ExplainedCandidate, ExplainedChain, ExplainedDestination,
    ExplainedEntry, ExplainedFailover, ExplainedHead, ExplainedKnowledge, ExplainedLimits, ExplainedMirror,
    ExplainedName, ExplainedPick, ExplainedRefusal, ExplainedRequest, ExplainedRoute, ExplainedRules,
    ExplainedSetting, ExplainedSplit, ExplainedSubset, ExplainedTarget, ExplainedZone, Explanation,
    PassedRoute,
};
pub(crate) use request::RequestUrl;
pub use request::{ExplainError, ExplainRequest};
pub(crate) use walk::explain;
