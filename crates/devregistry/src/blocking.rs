//! Blocking queries: a reader that has seen an index waits until its topic is past it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{
    shared_store::SharedStore,
    store::{Store, Topic, TopicIndex},
    wire::duration::GoDuration,
};

/// How long a query blocks unless the client says otherwise.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);
/// The longest that a client may ask for; more is taken as this.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Up to one part in this many is added at random, so that a crowd does not come back at once.
const JITTER_PART: u32 = 16;

/// How long a query with this `wait` parameter blocks at the longest, jitter included. Nothing,
/// zero and less all mean the default.
pub(crate) fn block_time(wait: Option<GoDuration>) -> Duration {
    let wait = wait.and_then(GoDuration::positive).unwrap_or(DEFAULT_WAIT).min(MAX_WAIT);
    wait + (wait / JITTER_PART).mul_f64(fastrand::f64())
}

/// What `look` sees, and where `topic` stands, once it is past `index`, or after `patience`, or when
/// the registry stops. An index above the topic's blocks to the end even when the topic changes, and
/// what is seen at the end is what was seen at the last wake, both as the real one does it. 0 does
/// not block.
pub(crate) async fn wait_past_index<T>(
    store: &SharedStore,
    topic: &Topic,
    index: u64,
    patience: Duration,
    look: impl Fn(&Store) -> T,
) -> (T, TopicIndex) {
    // Before the first look, so that no change falls between.
    let mut changes = store.subscribe();
    // One look for both, or the index would not be the content's.
    let look = |store: &Store| (look(store), store.topic_index(topic));
    let mut seen = store.read(look);
    let end = Instant::now() + patience;
    while index > 0 && seen.1.index <= index {
        tokio::select! {
            () = store.stopping.cancelled() => break,
            () = sleep_until(end) => break,
            changed = changes.changed() => if changed.is_err() { break },
        }
        if store.read(|store| store.topic_index(topic).wake) != seen.1.wake {
            seen = store.read(look);
        }
    }
    seen
}

/// Returns when `changed` says so of the state, after `patience`, or when the registry stops.
pub(crate) async fn wait_until(
    store: &SharedStore,
    patience: Duration,
    mut changed: impl FnMut(&Store) -> bool,
) {
    let mut changes = store.subscribe();
    let end = Instant::now() + patience;
    while !store.read(&mut changed) {
        tokio::select! {
            () = store.stopping.cancelled() => return,
            () = sleep_until(end) => return,
            told = changes.changed() => if told.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_the_wait_and_at_most_a_sixteenth_more() {
        let cases = [
            (None, DEFAULT_WAIT),
            (Some(GoDuration(0)), DEFAULT_WAIT),
            (Some(GoDuration(-1_000_000_000)), DEFAULT_WAIT),
            (Some(GoDuration(1_000_000_000)), Duration::from_secs(1)),
            (Some(GoDuration(900_000_000_000)), MAX_WAIT),
        ];
        for (wait, least) in cases {
            for _ in 0..100 {
                let patience = block_time(wait);
                assert!(
                    patience >= least && patience <= least + least / JITTER_PART,
                    "{wait:?}: {patience:?}"
                );
            }
        }
    }
}
