//! What the agent keeps beside the catalog's rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::model::{Check, Probe};

/// The services and checks of the agent.
#[derive(Debug, Default)]
pub(super) struct Agent {
    /// Ids of the services that clients registered.
    pub(super) services: BTreeSet<String>,
    /// Its checks, by id. Each has a row in the catalog.
    pub(super) checks: BTreeMap<String, AgentCheckState>,
    /// Counts the probes that were started, so that a late result of an old probe is recognised.
    pub(super) generation: u64,
}

/// What the agent keeps of a check beside the catalog's row.
#[derive(Debug)]
pub(super) struct AgentCheckState {
    /// The newest output; the catalog's may be older.
    pub(super) output: String,
    /// The service's tags when the check was registered; the catalog's are the service's newest.
    pub(super) tags: Vec<String>,
    /// The latest time at which the catalog gets the newest output.
    pub(super) output_sync_due: Option<Instant>,
    pub(super) source: StatusSource,
    /// Remove the service when critical for this long.
    pub(super) deregister_after: Option<Duration>,
    /// Since when the check is critical, counted from its first update, not from its registration.
    pub(super) critical_since: Option<Instant>,
}

impl AgentCheckState {
    /// A check that was never updated.
    pub(super) fn new(check: &Check, source: StatusSource) -> Self {
        Self {
            output: String::new(),
            tags: check.service_tags.clone(),
            output_sync_due: None,
            source,
            deregister_after: None,
            critical_since: None,
        }
    }
}

/// Where a check's status comes from.
#[derive(Debug)]
pub(super) enum StatusSource {
    Ttl {
        ttl: Duration,
        /// When it expires; `None` once it did.
        expires: Option<Instant>,
    },
    Probe {
        generation: u64,
        probe: Probe,
        successes: u32,
        failures: u32,
        succeeded: u32,
        failed: u32,
        /// No answer has counted yet: the first success counts at once.
        awaits_first_result: bool,
    },
    /// A maintenance request.
    Maintenance,
}
