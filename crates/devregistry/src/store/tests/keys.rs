//! Keys, locks and sessions: what holds after any sequence of commands, and what only time shows.

use bytes::Bytes;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn op(verb: KvVerb, key: &str) -> KvOp {
    KvOp { verb, key: key.to_owned(), value: Bytes::new(), flags: 0, session: String::new(), index: 0 }
}

fn set(store: &mut Store, key: &str, value: &'static str, now: Instant) {
    let op = KvOp { value: Bytes::from_static(value.as_bytes()), ..op(KvVerb::Set, key) };
    assert_eq!(store.kv_write(op, now), Ok(true));
}

fn delete(store: &mut Store, verb: KvVerb, key: &str, now: Instant) {
    assert_eq!(store.kv_write(op(verb, key), now), Ok(true));
}

fn lock(store: &mut Store, verb: KvVerb, key: &str, session: &str, now: Instant) -> bool {
    store.kv_write(KvOp { session: session.to_owned(), ..op(verb, key) }, now).unwrap()
}

fn new_session(lock_delay: Duration, behavior: SessionBehavior) -> Session {
    Session {
        id: String::new(),
        name: String::new(),
        node: "dev".to_owned(),
        lock_delay: lock_delay.as_nanos().try_into().unwrap(),
        behavior,
        ttl: String::new(),
        node_checks: Some(Vec::new()),
        service_checks: None,
        checks: Vec::new(),
        create_index: 0,
        modify_index: 0,
    }
}

fn session(store: &mut Store, ttl: Option<Duration>, lock_delay: Duration, now: Instant) -> String {
    store.create_session(new_session(lock_delay, SessionBehavior::Release), ttl, now).unwrap()
}

/// Lets time pass as the clock task does: to each due moment in turn.
fn run_until(store: &mut Store, end: Instant) {
    while let Some(due) = store.next_tick().filter(|due| *due <= end) {
        store.tick(due);
    }
}

#[test]
fn a_session_ends_after_twice_its_time_to_live_without_a_renewal() {
    let start = start_time();
    let mut store = store(start);
    let id = session(&mut store, Some(10 * SECOND), Duration::ZERO, start);
    let endless = session(&mut store, None, Duration::ZERO, start);
    assert!(lock(&mut store, KvVerb::Lock, "k", &id, start));
    run_until(&mut store, start + 19 * SECOND);
    assert!(store.renew_session(&id, start + 19 * SECOND).unwrap().is_some());
    run_until(&mut store, start + 38 * SECOND);
    assert!(store.session(&id).unwrap().is_some());
    run_until(&mut store, start + 39 * SECOND);
    assert!(store.session(&id).unwrap().is_none());
    assert_eq!(store.kv_entry("k").map(|entry| entry.session.as_str()), Some(""));
    assert!(store.renew_session(&id, start + 39 * SECOND).unwrap().is_none());
    run_until(&mut store, start + 600 * MINUTE);
    assert!(store.session(&endless).unwrap().is_some());
}

#[test]
fn a_lock_delay_begins_with_the_end_of_the_session_and_lasts_a_minute_at_most() {
    for (delay, lasts) in
        [(Duration::ZERO, Duration::ZERO), (15 * SECOND, 15 * SECOND), (10 * MINUTE, MINUTE)]
    {
        let now = start_time();
        let mut store = store(now);
        let held = session(&mut store, None, delay, now);
        let next = session(&mut store, None, Duration::ZERO, now);
        assert!(lock(&mut store, KvVerb::Lock, "k", &held, now));
        let end = now + 3 * MINUTE;
        store.destroy_session(&held, end).unwrap();
        if !lasts.is_zero() {
            assert!(
                !lock(&mut store, KvVerb::Lock, "k", &next, end + lasts - Duration::from_millis(1)),
                "{delay:?}"
            );
        }
        assert!(lock(&mut store, KvVerb::Lock, "k", &next, end + lasts), "{delay:?}");
        assert!(lock(&mut store, KvVerb::Unlock, "k", &next, end + lasts), "{delay:?}");
        assert!(lock(&mut store, KvVerb::Lock, "k", &next, end + lasts), "no lock-delay after a release");
    }
}

#[test]
fn a_refused_lock_and_a_failed_transaction_leave_everything_as_it_was() {
    let now = start_time();
    let mut store = store(now);
    let id = session(&mut store, None, 15 * SECOND, now);
    set(&mut store, "a", "1", now);
    let before: Vec<_> = store.kv_list("").map(|(key, entry)| (key.clone(), entry.clone())).collect();
    let index = store.topic_index(&Topic::Keys(String::new()));
    let ops = |last: KvOp| {
        vec![
            TxnOp::Kv(op(KvVerb::DeleteTree, "")),
            TxnOp::Kv(KvOp { session: id.clone(), ..op(KvVerb::Lock, "b") }),
            TxnOp::Kv(last),
        ]
    };
    assert!(store.transact(ops(op(KvVerb::Get, "a")), now).is_err(), "it was deleted before");
    let after: Vec<_> = store.kv_list("").map(|(key, entry)| (key.clone(), entry.clone())).collect();
    assert_eq!((after, store.topic_index(&Topic::Keys(String::new()))), (before, index));
    assert_eq!(store.transact(ops(op(KvVerb::Get, "b")), now).unwrap().len(), 2);
}

#[test]
fn the_index_of_a_prefix_goes_back_when_its_tombstones_are_reaped_and_wakes_no_watcher() {
    let start = start_time();
    let mut store = store(start);
    set(&mut store, "p/a", "1", start);
    set(&mut store, "p/b", "1", start);
    let kept = store.topic_index(&Topic::Key("p/a".to_owned()));
    let topic = Topic::Keys("p/".to_owned());
    delete(&mut store, KvVerb::Delete, "p/b", start + SECOND);
    set(&mut store, "other", "1", start + SECOND);
    let deleted = store.topic_index(&topic);
    assert!(deleted.index > kept.index);
    // A tombstone is kept for 15 minutes, and then to the next half minute.
    run_until(&mut store, start + 15 * MINUTE + 29 * SECOND);
    assert_eq!(store.topic_index(&topic), deleted);
    run_until(&mut store, start + 15 * MINUTE + 30 * SECOND);
    let reaped = store.topic_index(&topic);
    assert_eq!(reaped.index, kept.index);
    assert!(!reaped.has_woken(deleted));
    assert_eq!(store.next_tick(), None, "nothing is left to reap");
    // A prefix without keys has the index of the table then.
    delete(&mut store, KvVerb::DeleteTree, "p/", start + 20 * MINUTE);
    set(&mut store, "other", "2", start + 20 * MINUTE);
    let table = store.topic_index(&Topic::Key("missing".to_owned())).index;
    assert!(store.topic_index(&topic).index < table);
    run_until(&mut store, start + 40 * MINUTE);
    assert_eq!(store.topic_index(&topic).index, table);
}

/// A change of a key.
#[derive(Debug, Clone)]
enum KeyCommand {
    Set(String, &'static str),
    Delete(String),
    DeleteTree(String),
    Lock(String),
    EndSession,
}

/// Names that share much of their beginnings.
fn any_key() -> impl Strategy<Value = String> {
    "[ab/]{1,4}"
}

fn any_key_command() -> impl Strategy<Value = KeyCommand> {
    prop_oneof![
        4 => (any_key(), prop_oneof![Just("1"), Just("2")]).prop_map(|(key, value)| KeyCommand::Set(key, value)),
        2 => any_key().prop_map(KeyCommand::Delete),
        1 => "[ab/]{0,2}".prop_map(KeyCommand::DeleteTree),
        2 => any_key().prop_map(KeyCommand::Lock),
        1 => Just(KeyCommand::EndSession),
    ]
}

proptest! {
    /// A watcher is woken by every change of what it sees, and its index grows then. What it sees does not change
    /// otherwise, and a key that exists wakes its watchers for nothing else.
    #[test]
    fn watchers_of_keys_miss_nothing(
        commands in vec(any_key_command(), 0..30),
        watched in vec(any_key(), 1..6),
    ) {
        let now = start_time();
        let mut store = store(now);
        let mut id = session(&mut store, None, Duration::ZERO, now);
        let topics: Vec<(Topic, String, bool)> = watched
            .iter()
            .flat_map(|key| [(Topic::Key(key.clone()), key.clone(), false), (Topic::Keys(key.clone()), key.clone(), true)])
            .chain([(Topic::Keys(String::new()), String::new(), true)])
            .collect();
        let view = |store: &Store, key: &str, tree: bool| -> Vec<(String, KvEntry)> {
            let rows = store.kv_list(key).filter(|(found, _)| tree || *found == key);
            rows.map(|(key, entry)| (key.clone(), entry.clone())).collect()
        };
        for command in commands {
            let before: Vec<_> = topics
                .iter()
                .map(|(topic, key, tree)| (store.topic_index(topic), view(&store, key, *tree)))
                .collect();
            match command.clone() {
                KeyCommand::Set(key, value) => set(&mut store, &key, value, now),
                KeyCommand::Delete(key) => delete(&mut store, KvVerb::Delete, &key, now),
                KeyCommand::DeleteTree(prefix) => delete(&mut store, KvVerb::DeleteTree, &prefix, now),
                KeyCommand::Lock(key) => assert!(lock(&mut store, KvVerb::Lock, &key, &id, now)),
                KeyCommand::EndSession => {
                    store.destroy_session(&id, now).unwrap();
                    prop_assert!(store.kv_list("").all(|(_, entry)| entry.session.is_empty()));
                    id = session(&mut store, None, Duration::ZERO, now);
                }
            }
            for ((topic, key, tree), (was, seen)) in topics.iter().zip(before) {
                let (is, sees) = (store.topic_index(topic), view(&store, key, *tree));
                let changed = sees != seen;
                // As in Consul: the tombstone of a deleted tree does not count for the prefixes below its own, so that
                // their index may go back to that of an older one. Their watchers read again, and go on to block.
                if matches!(&command, KeyCommand::DeleteTree(tree) if *tree != *key && key.starts_with(tree)) {
                    prop_assert!(!changed || is.has_woken(was), "{topic:?} after {command:?}: {was:?} {is:?}");
                    continue;
                }
                let woken = is.has_woken(was) && is.index > was.index;
                prop_assert!(is.index >= was.index, "{topic:?} after {command:?}: {was:?} {is:?}");
                prop_assert!(woken || !changed, "{topic:?} after {command:?}: {was:?} {is:?}");
                if !seen.is_empty() {
                    prop_assert_eq!(woken, changed, "{:?} after {:?}: {:?} {:?}", topic, command, was, is);
                }
            }
        }
    }
}
