//! `/locks`: what this sidecar holds for the app, what waits here, and why.

use std::collections::BTreeMap;

use outrigger_locks::{HeldHere, LocksOverview, WaitingHere};
use serde::Serialize;

/// The page.
#[derive(Debug, Serialize)]
pub(in crate::admin) struct LocksPage {
    /// No lock is acquired any more.
    draining: bool,
    held: usize,
    max_held: usize,
    waiting: usize,
    max_waiters: usize,
    /// In the order of their names.
    locks: Vec<LockRow>,
}

/// A lock of one name and limit.
#[derive(Debug, Serialize)]
struct LockRow {
    name: String,
    kind: &'static str,
    limit: u32,
    held_here: Vec<HoldRow>,
    waiters_here: Vec<WaiterRow>,
}

#[derive(Debug, Serialize)]
struct HoldRow {
    by: &'static str,
    token: u64,
    session: String,
    held_ms: u128,
    /// Until the loss is told, unless the registry answers a renewal before.
    certain_ms: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u128>,
    /// Until the lease ends, unless the app renews it before.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u128>,
}

#[derive(Debug, Serialize)]
struct WaiterRow {
    waited_ms: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// Why its last attempt failed. Absent: it has its first attempt before it, after other requests of this sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl LocksPage {
    pub(in crate::admin) fn of(overview: &LocksOverview) -> Self {
        let mut rows = BTreeMap::<(&str, u32), LockRow>::new();
        for hold in &overview.held {
            row(&mut rows, hold.name.as_str(), hold.limit).held_here.push(HoldRow::of(hold));
        }
        for waiter in &overview.waiting {
            let waiting = &waiter.waiting;
            row(&mut rows, waiting.name.as_str(), waiting.limit).waiters_here.push(WaiterRow::of(waiter));
        }
        Self {
            draining: overview.is_draining,
            held: overview.held.len(),
            max_held: overview.max_held,
            waiting: overview.waiting.len(),
            max_waiters: overview.max_waiters,
            locks: rows.into_values().collect(),
        }
    }
}

fn row<'a, 'b>(
    rows: &'a mut BTreeMap<(&'b str, u32), LockRow>,
    name: &'b str,
    limit: u32,
) -> &'a mut LockRow {
    rows.entry((name, limit)).or_insert_with(|| LockRow {
        name: name.to_owned(),
        kind: if limit == 1 { "mutex" } else { "semaphore" },
        limit,
        held_here: Vec::new(),
        waiters_here: Vec::new(),
    })
}

impl HoldRow {
    fn of(hold: &HeldHere) -> Self {
        Self {
            by: if hold.lease.is_some() { "lease" } else { "connection" },
            token: hold.token,
            session: hold.session.clone(),
            held_ms: hold.held_for.as_millis(),
            certain_ms: hold.certain_for.as_millis(),
            owner: hold.lease.as_ref().and_then(|lease| lease.owner.clone()),
            ttl_ms: hold.lease.as_ref().map(|lease| lease.ttl.as_millis()),
            expires_in_ms: hold.lease.as_ref().map(|lease| lease.expires_in.as_millis()),
        }
    }
}

impl WaiterRow {
    fn of(waiter: &WaitingHere) -> Self {
        let (reason, detail) = waiter.waiting.last_failure.clone().unzip();
        let owner = waiter.waiting.owner.clone();
        Self { waited_ms: waiter.waited.as_millis(), owner, reason, detail }
    }
}
