//! What the admin pages show of a watched service.

use std::{sync::Arc, time::Duration};

use outrigger_registry::{InstanceId, Query};

use crate::{InstanceCounts, Knowledge, WatchReason};

/// Where the watch of one service stands, at the moment of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Which service.
    pub query: Query,
    /// [`WatchReason::Declared`] while any follower declared it.
    pub reason: WatchReason,
    /// How many followers share its watch.
    pub followers: usize,
    /// Whether the registry has answered at all.
    pub knowledge: Knowledge,
    /// The snapshot's version.
    pub version: u64,
    /// Its instances by health.
    pub instances: InstanceCounts,
    /// Age of the content. `None` before the first answer.
    pub learned_ago: Option<Duration>,
    /// Time for which the content has not been confirmed: since the last good answer, plus the age
    /// that a stale answer admitted to. `None` before the first answer. Up to the registry's
    /// longest wait and a little is usual, for an unchanged service is confirmed that rarely.
    pub confirmed_ago: Option<Duration>,
    /// The registry's index in the last good answer; 0 when it has none.
    pub index: u64,
    /// Why the last question failed, with its causes. `None`: it did not.
    pub error: Option<String>,
    /// Questions in a row that failed with the default consistency. The stale reads made meanwhile
    /// neither count nor end the row.
    pub failures: u32,
    /// Whether the server of the last good answer knew a leader.
    pub known_leader: bool,
    /// While the last good answer was empty: what may be wrong, as far as the registry can tell.
    pub empty_hint: Option<&'static str>,
    /// Instances that are known although the registry no longer lists them, sorted: their loss is
    /// not believed yet.
    pub suspects: Arc<[InstanceId]>,
    /// How many were believed gone within the last minutes by the registry's word alone, while they
    /// still answered, and how long ago that was.
    pub presumed_gone: Option<(usize, Duration)>,
}
