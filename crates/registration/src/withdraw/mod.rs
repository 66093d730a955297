//! Takes the app out of the registry, in an order in which callers see no failed request.
//!
//! | module | its job |
//! |---|---|
//! | `plan` | which step follows which, a pure table |
//! | `run` | runs the steps |
//! | `propagation` | whether callers have seen a step |

mod plan;
mod propagation;
mod run;

pub use propagation::PropagationMonitor;
pub(crate) use run::{WITHDRAW_TIMEOUT, run_all};
