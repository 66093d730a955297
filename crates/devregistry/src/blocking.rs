//! Blocking queries: a reader that has seen an index waits until the index of its topic is higher.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{
    shared_store::SharedStore,
    store::{Store, Topic, TopicIndex},
    wire::duration::GoDuration,
};

/// How long a query blocks by default.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);
/// The longest wait that a client may ask for; a longer one counts as this.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// A random share of up to one part in this many is added, so that many clients do not return at once.
const JITTER_PART: u32 = 16;

/// The longest time that a query with this `wait` parameter blocks, jitter included. Absent, zero and negative all
/// mean the default.
pub(crate) fn block_time(wait: Option<GoDuration>) -> Duration {
    let wait = wait.and_then(GoDuration::positive).unwrap_or(DEFAULT_WAIT).min(MAX_WAIT);
    wait + (wait / JITTER_PART).mul_f64(fastrand::f64())
}

/// What `look` returns, and the index of `topic`, once that index is above `index`, or after `longest`, or when the
/// registry stops. As in Consul, an `index` above that of the topic blocks to the end even when the topic changes, and
/// the result at the end is the one of the last wake-up. 0 does not block.
pub(crate) async fn wait_past_index<T>(
    store: &SharedStore,
    topic: &Topic,
    index: u64,
    longest: Duration,
    look: impl Fn(&Store) -> T,
) -> (T, TopicIndex) {
    // Before the first look, so that no change is missed.
    let mut changes = store.subscribe();
    // Both under one lock, so that the index belongs to the content.
    let look = |store: &Store| (look(store), store.topic_index(topic));
    let mut seen = store.read(look);
    let end = Instant::now() + longest;
    while index > 0 && seen.1.index <= index {
        tokio::select! {
            () = store.stopping.cancelled() => break,
            () = sleep_until(end) => break,
            changed = changes.changed() => if changed.is_err() { break },
        }
        if store.read(|store| store.topic_index(topic)).has_woken(seen.1) {
            seen = store.read(look);
        }
    }
    seen
}

/// Returns when `changed` holds, after `longest`, or when the registry stops.
pub(crate) async fn wait_until(
    store: &SharedStore,
    longest: Duration,
    mut changed: impl FnMut(&Store) -> bool,
) {
    let mut changes = store.subscribe();
    let end = Instant::now() + longest;
    while !store.read(&mut changed) {
        tokio::select! {
            () = store.stopping.cancelled() => return,
            () = sleep_until(end) => return,
            change = changes.changed() => if change.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_time_is_the_wait_and_at_most_a_sixteenth_more() {
        let cases = [
            (None, DEFAULT_WAIT),
            (Some(GoDuration(0)), DEFAULT_WAIT),
            (Some(GoDuration(-1_000_000_000)), DEFAULT_WAIT),
            (Some(GoDuration(1_000_000_000)), Duration::from_secs(1)),
            (Some(GoDuration(900_000_000_000)), MAX_WAIT),
        ];
        for (wait, least) in cases {
            for _ in 0..100 {
                let longest = block_time(wait);
                assert!(longest >= least && longest <= least + least / JITTER_PART, "{wait:?}: {longest:?}");
            }
        }
    }
}
