//! What the pages show: plain shapes, filled from the states of the parts.
//!
//! | module | its pages |
//! |---|---|
//! | `services` | `/services`, as JSON and as text |
//! | `events` | `/events`, as JSON and as a stream |
//! | `explain` | `/explain`, as JSON and as text |
//! | `locks` | `/locks` |
//! | `status` | `/readyz`, `/maintenance`, `/drain`, `/reload` |
//! | `registry_status` | the registry's part of `/readyz` |

mod events;
mod explain;
mod locks;
mod registry_status;
mod services;
mod status;

pub(super) use events::{EventsQuery, events_response};
pub(super) use explain::{ExplainQuery, explanation_text};
pub(super) use locks::LocksPage;
pub(super) use services::ServicesPage;
pub(super) use status::{DrainStatus, FilesPart, MaintenanceStatus, Readiness, ReloadStatus};
