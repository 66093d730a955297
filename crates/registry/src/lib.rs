//! Asks a registry one question at a time. No loops, no spawns, no memory of answers.

mod error;
mod model;
mod registry;

pub use error::Error;
pub use model::{Instance, InstanceId, Status, Unusable};
pub use registry::{
    Answer, Consistency, Cursor, Held, Query, Registrar, Registration, Registry, ReportedHealth, Watched,
};
