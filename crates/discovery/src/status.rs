//! What the admin pages show of a watched service.

use std::{sync::Arc, time::Duration};

use outrigger_registry::{InstanceId, Query};

use crate::{InstanceCounts, Knowledge, WatchReason};

/// Whether the registry answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryContact {
    /// Time since it last answered any query. `None`: not since the process started.
    pub answered_ago: Option<Duration>,
    /// The last failure, with its causes, while the registry as a whole gives no usable answer. `None`: it does, or no query has
    /// ended yet.
    pub error: Option<String>,
}

/// The state of one service's watch at the moment of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Which service.
    pub query: Query,
    /// [`WatchReason::Declared`] while any follower declared it.
    pub reason: WatchReason,
    /// Followers that share the watch.
    pub followers: usize,
    /// Whether the registry has answered.
    pub knowledge: Knowledge,
    /// The snapshot's version.
    pub version: u64,
    /// The instances by health.
    pub instances: InstanceCounts,
    /// Age of the snapshot. `None` before the first answer.
    pub learned_ago: Option<Duration>,
    /// Time since the snapshot was last confirmed: since the last good answer, plus the age that a stale
    /// answer reports. `None` before the first answer. An unchanged service is confirmed only once per
    /// blocking query, so values up to a little more than the registry's longest wait are usual.
    pub confirmed_ago: Option<Duration>,
    /// The registry's index in the last good answer; 0 when the registry has none.
    pub index: u64,
    /// Why the last query failed, with its causes. `None`: it did not fail.
    pub error: Option<String>,
    /// Consecutive failed queries. Stale reads in between neither count nor reset this.
    pub failures: u32,
    /// Whether the server that gave the last good answer knew a leader.
    pub known_leader: bool,
    /// When the last good answer is empty: a possible cause, if the registry knows one.
    pub empty_hint: Option<&'static str>,
    /// Instances that are kept although the registry no longer lists them, because their loss is not
    /// accepted yet; sorted.
    pub suspects: Arc<[InstanceId]>,
    /// Instances that were presumed gone in the last 10 min: only the registry said so, and they still
    /// answered. How many, and how long ago the last one.
    pub presumed_gone: Option<(usize, Duration)>,
}
