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

/// The longest time that `event/list` blocks: without jitter, and the most that is allowed by default.
pub(crate) fn exact_block_time(wait: Option<GoDuration>) -> Duration {
    wait.and_then(GoDuration::positive).unwrap_or(MAX_WAIT).min(MAX_WAIT)
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
    // Both under one lock, so that the index belongs to the content.
    let look = |store: &Store| (look(store), store.topic_index(topic));
    let mut seen = store.read(look);
    if index > 0 && seen.1.index <= index {
        let sees_higher = |store: &Store| {
            if store.topic_index(topic).has_woken(seen.1) {
                seen = look(store);
            }
            seen.1.index > index
        };
        wait_until(store, longest, sees_higher).await;
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
    use std::{net::SocketAddr, sync::Arc};

    use bytes::Bytes;

    use super::*;
    use crate::{
        DevRegistryOptions, checks,
        store::{KvOp, KvVerb, Session, SessionBehavior},
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// A store and its clock task, which runs by the paused clock of the test.
    fn running_store() -> Arc<SharedStore> {
        let addr = SocketAddr::from(([127, 0, 0, 1], 8500));
        let store = Arc::new(SharedStore::new(&DevRegistryOptions::default(), addr));
        tokio::spawn(checks::run_clock(Arc::clone(&store)));
        store
    }

    fn write(store: &SharedStore, verb: KvVerb, key: &str, session: &str) {
        let (key, session) = (key.to_owned(), session.to_owned());
        let op = KvOp { verb, key, value: Bytes::new(), flags: 0, session, index: 0 };
        assert_eq!(store.write(|store, now| store.kv_write(op, now)), Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_session_that_is_not_renewed_wakes_the_watchers_of_its_lock() {
        let store = running_store();
        let begun = Instant::now();
        let new = Session {
            id: String::new(),
            name: String::new(),
            node: "dev".to_owned(),
            lock_delay: 0,
            behavior: SessionBehavior::Release,
            ttl: "10s".to_owned(),
            node_checks: None,
            service_checks: None,
            checks: Vec::new(),
            create_index: 0,
            modify_index: 0,
        };
        let id = store.write(|store, now| store.create_session(new, Some(10 * SECOND), now)).unwrap();
        write(&store, KvVerb::Lock, "k", &id);
        let topic = Topic::Key("k".to_owned());
        let index = store.read(|store| store.topic_index(&topic)).index;
        let holder = |store: &Store| store.kv_entry("k").map(|entry| entry.session.clone());
        let (seen, at) = wait_past_index(&store, &topic, index, 600 * SECOND, holder).await;
        assert_eq!(seen.as_deref(), Some(""));
        assert!(at.index > index);
        // The clock of tokio counts in milliseconds.
        assert!((begun.elapsed().as_secs_f64() - 20.0).abs() < 0.01, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_query_sleeps_while_the_index_of_its_prefix_goes_back_and_the_next_one_sees_it() {
        let store = running_store();
        ["p/a", "p/b"].iter().for_each(|key| write(&store, KvVerb::Set, key, ""));
        write(&store, KvVerb::Delete, "p/b", "");
        let topic = Topic::Keys("p/".to_owned());
        let index = store.read(|store| store.topic_index(&topic)).index;
        let (_, seen) = wait_past_index(&store, &topic, index, 20 * 60 * SECOND, |_| ()).await;
        assert_eq!(seen.index, index, "what was seen before");
        let (_, fresh) = wait_past_index(&store, &topic, 0, SECOND, |_| ()).await;
        assert!(fresh.index < index, "{fresh:?}");
        // A client that keeps the old index still sees the next change: indexes of writes only grow.
        let change = async {
            tokio::time::sleep(SECOND).await;
            write(&store, KvVerb::Set, "p/c", "");
        };
        let ((_, changed), ()) =
            tokio::join!(wait_past_index(&store, &topic, index, 60 * SECOND, |_| ()), change);
        assert!(changed.index > index, "{changed:?}");
    }

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
