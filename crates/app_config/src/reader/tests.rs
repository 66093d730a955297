//! The reader against a KV with a clock that stands still.

use tokio::time::sleep;

use super::*;
use rig::{ReaderRig, key, prefix, values};

mod rig;

#[tokio::test(start_paused = true)]
async fn many_clients_that_wait_for_one_key_share_one_question() {
    let rig = ReaderRig::start("a/").await;
    rig.put("a/x", "1");
    let first = rig.read(key("a/x"), 0, 0).await;
    assert_eq!((values(&first).as_str(), first.index, first.stale_for), ("1", 11, None));
    sleep(Duration::from_secs(1)).await;
    let (reads, waiting) = (rig.kv.reads.load(Relaxed), rig.kv.waiting.load(Relaxed));
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let reader = rig.reader.clone();
            let read = KvRead {
                scope: key("a/x"),
                consistency: Consistency::Default,
                index: first.index,
                wait: Duration::from_secs(40),
            };
            tokio::spawn(async move { reader.read(&read, std::future::pending()).await.unwrap() })
        })
        .collect();
    sleep(Duration::from_secs(5)).await;
    let changed = Instant::now();
    let index = rig.put("a/x", "2");
    for client in clients {
        let reading = client.await.unwrap();
        assert_eq!((values(&reading).as_str(), reading.index), ("2", index));
    }
    assert!(changed.elapsed() < Duration::from_millis(20), "{:?}", changed.elapsed());
    let asked = (rig.kv.reads.load(Relaxed) - reads, rig.kv.waiting.load(Relaxed) - waiting);
    assert!(asked.0 <= 6 && asked.1 <= 2, "100 clients made {asked:?} questions");
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_its_time_and_a_sixteenth_at_most() {
    let rig = ReaderRig::start("a/").await;
    let index = rig.put("a/x", "1");
    rig.put("a/y", "1");
    let begun = Instant::now();
    let reading = rig.read(key("a/x"), index, 16).await;
    let range = Duration::from_secs(16)..Duration::from_millis(17_100);
    assert!(range.contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!((values(&reading).as_str(), reading.index), ("1", index));
    // A change elsewhere below the prefix does not end it.
    let (reading, ()) = tokio::join!(rig.read(key("a/x"), index, 16), async {
        sleep(Duration::from_secs(2)).await;
        rig.put("a/y", "2");
    });
    assert_eq!(reading.index, index);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_appears_below_an_empty_prefix_is_seen_within_seconds() {
    let rig = ReaderRig::start("a/").await;
    let none = rig.read(key("a/x"), 0, 0).await;
    assert_eq!((none.entries.len(), none.index), (0, 10));
    let (reading, put) = tokio::join!(rig.read(key("a/x"), none.index, 60), async {
        sleep(Duration::from_secs(3)).await;
        rig.put("a/x", "1");
        Instant::now()
    });
    assert_eq!(values(&reading), "1");
    assert!(put.elapsed() < Duration::from_secs(3), "{:?}", put.elapsed());
    // From then on the watch waits for changes: no pause is left of the time without keys.
    let (reading, put) = tokio::join!(rig.read(key("a/x"), reading.index, 60), async {
        sleep(Duration::from_secs(1)).await;
        rig.put("a/x", "2");
        Instant::now()
    });
    assert_eq!(values(&reading), "2");
    assert!(put.elapsed() < Duration::from_millis(200), "{:?}", put.elapsed());
    let (reading, deleted) = tokio::join!(rig.read(key("a/x"), reading.index, 60), async {
        sleep(Duration::from_secs(1)).await;
        rig.delete("a/x");
        Instant::now()
    });
    assert_eq!(reading.entries.len(), 0);
    assert!(deleted.elapsed() < Duration::from_millis(200), "{:?}", deleted.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_index_of_a_client_never_goes_back() {
    let rig = ReaderRig::start("a/").await;
    rig.put("a/x", "1");
    let mut index = rig.put("a/y", "1");
    assert_eq!(rig.read(prefix("a/"), 0, 0).await.index, index);
    // The tombstones are reaped: the index of the registry is lower, and the content is the same.
    rig.kv.state.send_modify(|state| state.index = 5);
    assert_eq!(rig.read(prefix("a/"), 0, 0).await.index, index);
    // The servers were restored: other contents have lower indexes.
    for value in ["2", "3"] {
        let changed = async {
            sleep(Duration::from_secs(1)).await;
            rig.put("a/x", value);
        };
        let begun = Instant::now();
        let (reading, ()) = tokio::join!(rig.read(prefix("a/"), index, 60), changed);
        assert!(reading.index > index && values(&reading).starts_with(value), "{reading:?} after {index}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        index = reading.index;
    }
    // A client with an index of an earlier run of the sidecar gets an answer at once, and waits then.
    let reading = rig.read(prefix("a/"), 5_000, 60).await;
    assert_eq!(reading.index, 5_000);
    let begun = Instant::now();
    assert_eq!(rig.read(prefix("a/"), 5_000, 10).await.index, 5_000);
    assert!(begun.elapsed() >= Duration::from_secs(10));
    // No registry gives such an index: the wait is over some time.
    assert!(rig.read(prefix("a/"), u64::MAX, 1).await.index < u64::MAX);
}

#[tokio::test(start_paused = true)]
async fn while_the_registry_is_away_the_last_good_entries_are_answered_with_their_age() {
    let rig = ReaderRig::start("a/").await;
    let index = rig.put("a/x", "1");
    rig.wait_until_known("a/").await;
    rig.read(key("a/x"), 0, 0).await;
    rig.kv.state.send_modify(|state| state.is_away = true);
    sleep(Duration::from_secs(60)).await;
    let reading = rig.read(key("a/x"), 0, 0).await;
    assert_eq!((values(&reading).as_str(), reading.index, reading.known_leader), ("1", index, false));
    let age = reading.stale_for.unwrap();
    assert!((50..70).contains(&age.as_secs()), "{age:?}");
    // A client that waits is answered with what is new when the registry is back.
    let (reading, ()) = tokio::join!(rig.read(key("a/x"), index, 120), async {
        sleep(Duration::from_secs(10)).await;
        rig.kv.state.send_modify(|state| state.is_away = false);
        rig.put("a/x", "2");
    });
    assert_eq!((values(&reading).as_str(), reading.stale_for), ("2", None));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_and_an_unknown_state_are_errors() {
    let rig = ReaderRig::start("a/").await;
    assert!(matches!(rig.try_read(key("b"), 0, 0).await, Err(KvReadError::NotAllowed)));
    rig.put("a/x", "1");
    sleep(Duration::from_secs(40)).await;
    rig.kv.state.send_modify(|state| state.is_refused = true);
    let refused = rig.try_read(key("a/x"), 0, 0).await.unwrap_err();
    assert!(matches!(refused, KvReadError::Registry(Error::Refused { status: 403, .. })), "{refused:?}");
    let unknown = ReaderRig::start("c/").await;
    unknown.kv.state.send_modify(|state| state.is_away = true);
    let error = unknown.try_read(key("c/x"), 0, 0).await.unwrap_err();
    assert!(matches!(error, KvReadError::Registry(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_waits_ends_with_the_server_and_with_its_permission() {
    let rig = ReaderRig::start("a/").await;
    let index = rig.put("a/x", "1");
    let wait = Duration::from_secs(600);
    let read = KvRead { scope: key("a/x"), consistency: Consistency::Default, index, wait };
    let begun = Instant::now();
    let reading = rig.reader.read(&read, sleep(Duration::from_secs(2))).await.unwrap();
    assert_eq!((reading.index, begun.elapsed().as_secs()), (index, 2));
    let (denied, ()) = tokio::join!(rig.reader.read(&read, std::future::pending()), async {
        sleep(Duration::from_secs(1)).await;
        rig.reader.allow(AllowedKeys::default());
        rig.watches.follow(&[], true);
    });
    assert!(matches!(denied, Err(KvReadError::NotAllowed)), "{denied:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_indexes_that_are_remembered_are_bounded() {
    let rig = ReaderRig::start("a/").await;
    for n in 0..MAX_TARGETS + 10 {
        rig.read(key(&format!("a/{n}")), 0, 0).await;
    }
    assert_eq!(rig.reader.targets.lock().len(), MAX_TARGETS);
}

#[tokio::test(start_paused = true)]
async fn while_the_registry_hangs_the_first_read_waits_for_a_second_and_the_others_not_at_all() {
    let rig = ReaderRig::start("a/").await;
    let index = rig.put("a/x", "1");
    rig.wait_until_known("a/").await;
    assert_eq!(rig.read(key("a/x"), 0, 0).await.stale_for, None);
    rig.hang(true);
    let begun = Instant::now();
    let newest = rig.read_with(Consistency::Consistent, key("a/x"), 0, 0);
    for scope in [key("a/x"), key("a/x"), prefix("a/"), key("a/none")] {
        let reading = rig.read(scope.clone(), 0, 0).await;
        assert!(reading.stale_for.is_some() && !reading.known_leader, "{scope:?}: {reading:?}");
        assert_eq!(begun.elapsed(), ANSWER_WITHIN, "{scope:?}");
    }
    assert!(newest.await.is_err());
    assert_eq!(begun.elapsed(), ANSWER_WITHIN, "the leader does not answer that either");
    // A read that waits keeps its time.
    let begun = Instant::now();
    let reading = rig.read(key("a/x"), index, 16).await;
    let range = Duration::from_secs(16)..Duration::from_millis(17_001);
    assert!(range.contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!((values(&reading).as_str(), reading.index), ("1", index));
    assert!(reading.stale_for.is_some());
    // One question waits for the end of it, and no more.
    let reads = rig.kv.reads.load(Relaxed);
    for _ in 0..100 {
        rig.read(key("a/x"), 0, 0).await;
    }
    assert_eq!(rig.kv.reads.load(Relaxed), reads);
    let index = rig.put("a/x", "2");
    rig.hang(false);
    sleep(Duration::from_millis(1)).await;
    let reading = rig.read(key("a/x"), 0, 0).await;
    assert_eq!((values(&reading).as_str(), reading.index, reading.stale_for), ("2", index, None));
}

#[tokio::test(start_paused = true)]
async fn the_entries_of_a_server_that_reads_its_log_are_not_taken_for_the_present_ones() {
    let rig = ReaderRig::start("a/").await;
    rig.put("a/x", "1");
    let earlier = rig.kv.state.borrow().clone();
    rig.put("a/x", "2");
    let mut view = rig.watches.view("a/").unwrap();
    let has = |text: &'static [u8]| {
        move |view: &Arc<PrefixView>| view.entries.as_ref().is_some_and(|all| all["a/x"].value == text)
    };
    view.wait_for(has(b"2")).await.unwrap();
    let index = rig.read(key("a/x"), 0, 0).await.index;
    rig.kv.state.send_modify(|state| state.is_away = true);
    view.wait_for(|view| view.failure.is_some()).await.unwrap();
    rig.kv.state.send_modify(|state| {
        (state.is_away, state.earlier) = (false, Some((earlier.index, earlier.entries)));
    });
    for _ in 0..20 {
        sleep(Duration::from_secs(1)).await;
        let reading = rig.read(key("a/x"), 0, 0).await;
        assert_eq!((values(&reading).as_str(), reading.index), ("2", index));
        assert!(reading.stale_for.is_some());
        assert!(has(b"2")(&view.borrow()));
    }
    rig.kv.state.send_modify(|state| state.earlier = None);
    rig.put("a/x", "3");
    view.wait_for(has(b"3")).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let reading = rig.read(key("a/x"), 0, 0).await;
    assert_eq!((values(&reading).as_str(), reading.stale_for), ("3", None));
}

#[tokio::test(start_paused = true)]
async fn what_may_be_older_is_not_waited_for_a_second_time() {
    let rig = ReaderRig::start("a/").await;
    rig.put("a/x", "1");
    rig.wait_until_known("a/").await;
    rig.hang(true);
    rig.read(key("a/x"), 0, 0).await;
    let begun = Instant::now();
    for _ in 0..2 {
        let reading = rig.read_with(Consistency::Stale, key("a/x"), 0, 0).await.unwrap();
        assert!(reading.stale_for.is_some(), "{reading:?}");
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    rig.put("a/x", "2");
    rig.hang(false);
    sleep(Duration::from_millis(2)).await;
    let reading = rig.read_with(Consistency::Stale, key("a/x"), 0, 0).await.unwrap();
    assert_eq!((values(&reading).as_str(), reading.stale_for), ("2", None));
}

#[tokio::test(start_paused = true)]
async fn while_the_leader_alone_is_silent_what_may_be_older_is_that_of_another_server() {
    let rig = ReaderRig::start("a/").await;
    rig.put("a/x", "1");
    rig.wait_until_known("a/").await;
    rig.kv.state.send_modify(|state| state.is_leader_silent = true);
    rig.read(key("a/x"), 0, 0).await;
    rig.put("a/x", "2");
    // The first one does not wait for what it does not know.
    assert!(rig.read_with(Consistency::Stale, key("a/x"), 0, 0).await.unwrap().stale_for.is_some());
    sleep(Duration::from_millis(2)).await;
    for _ in 0..2 {
        let reading = rig.read_with(Consistency::Stale, key("a/x"), 0, 0).await.unwrap();
        assert_eq!((values(&reading).as_str(), reading.stale_for), ("2", None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_what_the_watch_has_learns_in_a_second_that_the_registry_is_away() {
    let rig = ReaderRig::start("a/").await;
    rig.put("a/x", "1");
    rig.wait_until_known("a/").await;
    let mut away = rig.watches.registry_away();
    assert!(!rig.watches.is_registry_away().await);
    // Answered a moment ago.
    let reads = rig.kv.reads.load(Relaxed);
    assert!(!rig.watches.is_registry_away().await);
    assert_eq!(rig.kv.reads.load(Relaxed), reads);
    sleep(Duration::from_secs(1)).await;
    rig.hang(true);
    let begun = Instant::now();
    let both = tokio::join!(rig.watches.is_registry_away(), rig.watches.is_registry_away());
    assert_eq!((both, begun.elapsed(), *away.borrow_and_update()), ((true, true), ANSWER_WITHIN, true));
    tokio::task::yield_now().await;
    assert_eq!(rig.kv.reads.load(Relaxed), reads + 2, "one for both, and one that waits for the end of it");
    // Reads of keys know it, too.
    assert!(rig.read(key("a/x"), 0, 0).await.stale_for.is_some());
    assert!(rig.watches.is_registry_away().await);
    assert_eq!(begun.elapsed(), ANSWER_WITHIN);
    rig.hang(false);
    away.changed().await.unwrap();
    assert!(!*away.borrow() && !rig.watches.is_registry_away().await);
    // An error is no answer, but a refusal is one.
    sleep(Duration::from_secs(1)).await;
    rig.kv.state.send_modify(|state| state.is_away = true);
    assert!(rig.watches.is_registry_away().await);
    rig.kv.state.send_modify(|state| (state.is_away, state.is_refused) = (false, true));
    sleep(Duration::from_secs(1)).await;
    assert!(!rig.watches.is_registry_away().await);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_read_is_not_missing_in_the_last_good_entries() {
    let rig = ReaderRig::start("a/").await;
    // The watch asks again in half a minute.
    assert_eq!(rig.read(key("a/x"), 0, 0).await.entries.len(), 0);
    sleep(Duration::from_secs(5)).await;
    rig.put("a/x", "1");
    assert_eq!(values(&rig.read(key("a/x"), 0, 0).await), "1");
    sleep(Duration::from_secs(1)).await;
    rig.hang(true);
    let reading = rig.read(key("a/x"), 0, 0).await;
    assert_eq!((values(&reading).as_str(), reading.stale_for.is_some()), ("1", true));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_ends_while_the_registry_hangs_is_marked_as_stale() {
    let rig = ReaderRig::start("a/").await;
    let index = rig.put("a/x", "1");
    rig.wait_until_known("a/").await;
    let begun = Instant::now();
    let (reading, ()) = tokio::join!(rig.read(key("a/x"), index, 2), async {
        sleep(Duration::from_secs(1)).await;
        rig.hang(true);
    });
    assert!(begun.elapsed() <= Duration::from_millis(3_126), "{:?}", begun.elapsed());
    assert_eq!((reading.index, reading.stale_for.is_some()), (index, true));
}

#[tokio::test(start_paused = true)]
async fn without_last_good_entries_a_registry_that_hangs_is_an_error_after_ten_seconds_and_then_at_once() {
    let rig = ReaderRig::start("a/").await;
    rig.hang(true);
    for (index, wait, expected) in [(7, 2, 2), (0, 0, 0), (7, 2, 0)] {
        let begun = Instant::now();
        let error = rig.try_read(key("a/x"), index, wait).await.unwrap_err();
        assert!(matches!(error, KvReadError::Registry(Error::Timeout { .. })), "{error:?}");
        assert_eq!(begun.elapsed(), Duration::from_secs(expected), "{index} {wait}");
    }
    rig.hang(false);
    sleep(Duration::from_millis(1)).await;
    let rig = ReaderRig::start("a/").await;
    rig.hang(true);
    let begun = Instant::now();
    assert!(rig.try_read(key("a/x"), 0, 0).await.is_err());
    assert_eq!(begun.elapsed(), ASK_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn what_asks_for_the_newest_entries_gets_no_older_ones() {
    let rig = ReaderRig::start("a/").await;
    rig.put("a/x", "1");
    rig.wait_until_known("a/").await;
    rig.kv.state.send_modify(|state| state.is_away = true);
    let read = rig.read_with(Consistency::Consistent, key("a/x"), 0, 0).await;
    assert!(matches!(read, Err(KvReadError::Registry(Error::Refused { status: 500, .. }))), "{read:?}");
    assert!(rig.read_with(Consistency::Stale, key("a/x"), 0, 0).await.unwrap().stale_for.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_index_of_a_text_goes_back_in_no_form_of_the_question() {
    let rig = ReaderRig::start("a/").await;
    rig.put("a/x", "1");
    rig.put("a/x2", "1");
    let all = [Consistency::Default, Consistency::Stale, Consistency::Consistent];
    let mut last = 0;
    for step in 0..3 {
        for scope in [key("a/x"), prefix("a/x"), key("a/x")] {
            for consistency in all {
                let reading = rig.read_with(consistency, scope.clone(), 0, 0).await.unwrap();
                assert!(
                    reading.index >= last,
                    "{step} {scope:?} {consistency:?}: {} < {last}",
                    reading.index
                );
                last = reading.index;
            }
        }
        // A client that mixes the forms sees the next change of the key all the same.
        let changed = async {
            sleep(Duration::from_secs(1)).await;
            rig.put("a/x", &format!("new {step}"));
        };
        let begun = Instant::now();
        let (reading, ()) = tokio::join!(rig.read(key("a/x"), last, 60), changed);
        assert!(reading.index > last && begun.elapsed() < Duration::from_secs(2), "{step}: {reading:?}");
        last = reading.index;
        // The servers were restored.
        rig.kv.state.send_modify(|state| state.index = 3);
        rig.put("a/x", &format!("restored {step}"));
    }
}
