//! Properties of the store that hold after any sequence of commands.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use proptest::{collection::vec, prelude::*};

use super::{index::TopicIndex, *};
use crate::options::DevRegistryOptions;

mod coordinates;
mod keys;

const SECOND: Duration = Duration::from_secs(1);

/// The start of the time that the tests count.
fn start_time() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A registry that has told its own coordinate: nothing is due.
fn store(now: Instant) -> Store {
    let mut store = fresh_store(now);
    store.tick(now + 15 * SECOND);
    store.tick(now + 20 * SECOND);
    store
}

fn fresh_store(now: Instant) -> Store {
    Store::new(&DevRegistryOptions::default(), SocketAddr::from(([127, 0, 0, 1], 8500)), now)
}

fn service(name: &str, id: &str, port: i64) -> Service {
    Service {
        id: id.to_owned(),
        name: name.to_owned(),
        tags: Vec::new(),
        address: String::new(),
        tagged_addresses: BTreeMap::new(),
        meta: BTreeMap::new(),
        port,
        weights: Weights { passing: 1, warning: 1 },
        enable_tag_override: false,
    }
}

fn ttl_check(ttl: Duration, status: Option<Status>, deregister_after: Option<Duration>) -> NewCheck {
    NewCheck {
        id: None,
        name: String::new(),
        notes: String::new(),
        status,
        kind: CheckKind::Ttl(ttl),
        successes: 0,
        failures: 0,
        deregister_after,
    }
}

fn registration(name: &str, id: &str, port: i64, checks: Vec<NewCheck>) -> NewService {
    NewService { service: service(name, id, port), checks }
}

fn status(store: &Store, check: &str) -> Option<Status> {
    store.agent_checks().find(|held| held.id == check).map(|held| held.status)
}

/// One command. Ids are never moved to another service: see
/// `a_service_renamed_wakes_the_watchers_of_both_names`.
#[derive(Debug, Clone)]
enum StoreCommand {
    Register { name: &'static str, nth: u8, port: u8, check: bool, replace: bool },
    Deregister { name: &'static str, nth: u8 },
    Report { name: &'static str, nth: u8, status: Status, output: &'static str },
    MaintainService { name: &'static str, nth: u8, on: bool },
    MaintainNode { on: bool },
    NodeCheck { on: bool },
    Wait { seconds: u8 },
    OtherNode { name: &'static str, port: u8, on: bool },
}

fn any_name() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("c")]
}

fn any_command() -> impl Strategy<Value = StoreCommand> {
    let status = prop_oneof![Just(Status::Passing), Just(Status::Warning), Just(Status::Critical)];
    prop_oneof![
        4 => (any_name(), 0..2_u8, 0..3_u8, any::<bool>(), any::<bool>()).prop_map(
            |(name, nth, port, check, replace)| StoreCommand::Register { name, nth, port, check, replace }
        ),
        2 => (any_name(), 0..2_u8).prop_map(|(name, nth)| StoreCommand::Deregister { name, nth }),
        4 => (any_name(), 0..2_u8, status, prop_oneof![Just(""), Just("note")]).prop_map(
            |(name, nth, status, output)| StoreCommand::Report { name, nth, status, output }
        ),
        1 => (any_name(), 0..2_u8, any::<bool>())
            .prop_map(|(name, nth, on)| StoreCommand::MaintainService { name, nth, on }),
        1 => any::<bool>().prop_map(|on| StoreCommand::MaintainNode { on }),
        1 => any::<bool>().prop_map(|on| StoreCommand::NodeCheck { on }),
        2 => (0..200_u8).prop_map(|seconds| StoreCommand::Wait { seconds }),
        1 => (any_name(), 0..3_u8, any::<bool>()).prop_map(|(name, port, on)| StoreCommand::OtherNode { name, port, on }),
    ]
}

fn apply(store: &mut Store, command: &StoreCommand, now: &mut Instant) {
    let id = |name: &str, nth: u8| format!("{name}-{nth}");
    match *command {
        StoreCommand::Register { name, nth, port, check, replace } => {
            let check = check.then(|| ttl_check(20 * SECOND, None, Some(60 * SECOND)));
            let new = registration(name, &id(name, nth), port.into(), check.into_iter().collect());
            store.register(new, replace, *now);
        }
        StoreCommand::Deregister { name, nth } => store.deregister(&id(name, nth), *now),
        StoreCommand::Report { name, nth, status, output } => {
            let _ = store.report(&format!("service:{}", id(name, nth)), status, output, *now);
        }
        StoreCommand::MaintainService { name, nth, on } => {
            let _ = store.set_service_maintenance(&id(name, nth), on.then_some("why"), *now);
        }
        StoreCommand::MaintainNode { on } => store.set_node_maintenance(on.then_some("why"), *now),
        StoreCommand::NodeCheck { on: true } => {
            let check = NewCheck { name: "mem".to_owned(), ..ttl_check(20 * SECOND, None, None) };
            store.register_check(check, None, *now).unwrap();
        }
        StoreCommand::NodeCheck { on: false } => store.deregister_check("mem", *now),
        StoreCommand::Wait { seconds } => {
            *now += Duration::from_secs(seconds.into());
            store.tick(*now);
        }
        StoreCommand::OtherNode { name, port, on: true } => {
            let about = NodeInfo {
                id: String::new(),
                name: "elsewhere".to_owned(),
                address: "127.0.0.9".to_owned(),
                tagged_addresses: None,
                meta: BTreeMap::new(),
            };
            store.catalog_register(about, Some(service(name, &id(name, 9), port.into())), Vec::new(), *now);
        }
        StoreCommand::OtherNode { name, on: false, .. } => {
            store.catalog_deregister("elsewhere", Some(&id(name, 9)), None, *now);
        }
    }
}

/// What a watcher of a service sees: its instances, and each one's checks.
fn watcher_view(store: &Store, name: &str) -> Vec<(Service, Vec<Check>)> {
    let seen = store.instances(name).map(|(node, row)| {
        let of = |check: &&Row<Check>| ["", &row.value.id].contains(&check.value.service_id.as_str());
        let checks = node.checks.values().filter(of).map(|row| row.value.clone()).collect();
        (row.value.clone(), checks)
    });
    seen.collect()
}

fn topics() -> Vec<Topic> {
    let mut topics = vec![Topic::Nodes, Topic::Services, Topic::Checks];
    for name in ["a", "b", "c"] {
        topics.extend([Topic::Instances(name.to_owned()), Topic::Health(name.to_owned())]);
    }
    topics
}

proptest! {
    #[test]
    fn no_index_ever_decreases(commands in vec(any_command(), 1..60)) {
        let mut now = start_time();
        let mut store = store(now);
        for command in &commands {
            let before: Vec<TopicIndex> = topics().iter().map(|topic| store.topic_index(topic)).collect();
            apply(&mut store, command, &mut now);
            for (topic, before) in topics().iter().zip(before) {
                let after = store.topic_index(topic);
                prop_assert!(after.index >= before.index, "{topic:?} after {command:?}: {before:?} {after:?}");
                prop_assert!(after.wake >= before.wake, "{topic:?} after {command:?}: {before:?} {after:?}");
            }
        }
    }

    /// For names with instances before or after: names without instances share an index, and may wake without a
    /// change.
    #[test]
    fn a_watcher_is_woken_when_what_it_sees_changed_and_only_then(commands in vec(any_command(), 1..60)) {
        let mut now = start_time();
        let mut store = store(now);
        for command in &commands {
            let look = |store: &Store| ["a", "b", "c"].map(|name| {
                (name, watcher_view(store, name), store.topic_index(&Topic::Health(name.to_owned())))
            });
            let before = look(&store);
            apply(&mut store, command, &mut now);
            for ((name, seen, was), (_, sees, is)) in before.into_iter().zip(look(&store)) {
                if seen.is_empty() && sees.is_empty() {
                    continue;
                }
                let woken = is.wake != was.wake && is.index > was.index;
                prop_assert_eq!(woken, seen != sees, "{} after {:?}", name, command);
            }
        }
    }

    #[test]
    fn a_ttl_expires_at_its_end_and_not_before(ttl_ms in 1..100_000_u64, renewed_ms in 0..100_000_u64) {
        let (ttl_of, renewed) = (Duration::from_millis(ttl_ms), Duration::from_millis(renewed_ms % ttl_ms));
        let begin = start_time();
        let mut store = store(begin);
        store.register(registration("a", "a", 1, vec![ttl_check(ttl_of, Some(Status::Passing), None)]), false, begin);
        store.report("service:a", Status::Passing, "well", begin + renewed).unwrap();
        let end = begin + renewed + ttl_of;
        prop_assert_eq!(store.next_tick(), Some(end));

        store.tick(end - Duration::from_nanos(1));
        prop_assert_eq!(status(&store, "service:a"), Some(Status::Passing));
        store.tick(end);
        prop_assert_eq!(status(&store, "service:a"), Some(Status::Critical));
        prop_assert_eq!(store.next_tick(), None);
        let output = store.agent_checks().next().map(|check| check.output);
        prop_assert_eq!(output.as_deref(), Some("TTL expired (last output before timeout follows): well"));
    }

    #[test]
    fn a_critical_service_is_removed_after_its_time_within_one_interval(
        after_s in 1..300_u64, failed_s in 0..100_u64,
    ) {
        let begin = start_time();
        let mut store = store(begin);
        let check = ttl_check(1000 * SECOND, Some(Status::Passing), Some(Duration::from_secs(after_s)));
        store.register(registration("a", "a", 1, vec![check]), false, begin);
        let failed = begin + Duration::from_secs(failed_s);
        store.report("service:a", Status::Critical, "", failed).unwrap();

        let least = Duration::from_secs(after_s.max(60));
        let mut gone = None;
        for second in 0..500 {
            let now = begin + Duration::from_secs(second);
            store.tick(now);
            if store.agent_service("a").is_none() {
                gone = Some(now);
                break;
            }
        }
        let gone = gone.ok_or_else(|| TestCaseError::fail("it was not removed"))?;
        let took = gone - failed;
        prop_assert!(took >= least && took < least + 30 * SECOND, "after {took:?}");
        prop_assert_eq!(store.agent_checks().count(), 0);
    }
}

#[test]
fn a_service_renamed_wakes_the_watchers_of_both_names() {
    let now = start_time();
    let mut store = store(now);
    store.register(registration("old", "x", 1, Vec::new()), false, now);
    let (old, new) = (Topic::Health("old".to_owned()), Topic::Health("new".to_owned()));
    let before = [store.topic_index(&old), store.topic_index(&new)];
    store.register(registration("new", "x", 1, Vec::new()), false, now);
    let after = [store.topic_index(&old), store.topic_index(&new)];
    assert!(
        before.iter().zip(after).all(|(before, after)| after.index > before.index),
        "{before:?} {after:?}"
    );
    assert_eq!(watcher_view(&store, "old"), []);
}

#[test]
fn a_check_registered_critical_counts_as_critical_from_its_first_update() {
    let now = start_time();
    let mut store = store(now);
    let check = ttl_check(600 * SECOND, None, Some(60 * SECOND));
    store.register(registration("a", "a", 1, vec![check.clone()]), false, now);
    store.tick(now + 300 * SECOND);
    assert!(store.agent_service("a").is_some());
    store.report("service:a", Status::Critical, "", now + 300 * SECOND).unwrap();
    // A new registration resets the count.
    store.register(registration("a", "a", 1, vec![check]), false, now + 350 * SECOND);
    store.tick(now + 390 * SECOND);
    assert!(store.agent_service("a").is_some());
}

#[test]
fn registering_again_keeps_status_and_output_and_restarts_the_ttl() {
    let now = start_time();
    let mut store = store(now);
    let check = ttl_check(3 * SECOND, Some(Status::Critical), None);
    store.register(registration("a", "a", 1, vec![check.clone()]), false, now);
    store.report("service:a", Status::Passing, "well", now).unwrap();
    store.register(registration("a", "a", 2, vec![check]), false, now + 2 * SECOND);
    let held = store.agent_checks().next().unwrap();
    assert_eq!((held.status, held.output.as_str()), (Status::Passing, "well"));
    assert_eq!(store.next_tick(), Some(now + 5 * SECOND));
}

#[test]
fn an_output_alone_reaches_the_catalog_late_and_with_a_status_at_once() {
    let now = start_time();
    let mut store = store(now);
    let check = ttl_check(1000 * SECOND, Some(Status::Passing), None);
    store.register(registration("a", "a", 1, vec![check]), false, now);
    let listed =
        |store: &Store| watcher_view(store, "a")[0].1.iter().find(|check| check.id == "service:a").cloned();
    let output = |store: &Store| listed(store).map(|check| check.output).unwrap_or_default();

    store.report("service:a", Status::Passing, "one", now).unwrap();
    assert_eq!(output(&store), "");
    assert_eq!(store.next_tick(), Some(now + 300 * SECOND));
    store.tick(now + 300 * SECOND);
    assert_eq!(output(&store), "one");
    store.report("service:a", Status::Warning, "two", now).unwrap();
    assert_eq!(output(&store), "two");
}

#[test]
fn a_probe_needs_the_configured_number_of_equal_results_in_a_row() {
    let now = start_time();
    let mut store = store(now);
    let probe = Probe {
        target: ProbeTarget::Tcp("127.0.0.1:1".to_owned()),
        interval: SECOND,
        timeout: SECOND,
        output_max: 10,
    };
    let check = NewCheck {
        kind: CheckKind::Probe(probe),
        successes: 2,
        failures: 2,
        ..ttl_check(SECOND, None, None)
    };
    store.register(registration("a", "a", 1, vec![check]), false, now);
    let generation = store.probes().next().unwrap().1;
    use Status::{Critical, Passing, Warning};
    let answers = [
        (Passing, Passing), // the first success counts at once
        (Critical, Passing),
        (Passing, Passing),
        (Critical, Passing),
        (Critical, Critical),
        (Warning, Critical),
        (Passing, Passing),
    ];
    for (nth, (answer, expected)) in answers.into_iter().enumerate() {
        store.record_probe("service:a", generation, answer, String::new(), now);
        assert_eq!(status(&store, "service:a"), Some(expected), "answer {nth}");
    }
    store.record_probe("service:a", generation + 1, Critical, String::new(), now);
    store.record_probe("service:a", generation + 1, Critical, String::new(), now);
    assert_eq!(status(&store, "service:a"), Some(Passing), "an answer of another registration counted");
}

#[test]
fn a_check_id_taken_by_another_service_moves_there_with_its_status() {
    let now = start_time();
    let mut store = store(now);
    let check = NewCheck { id: Some("dup".to_owned()), ..ttl_check(SECOND, Some(Status::Warning), None) };
    store.register(registration("a", "a", 1, vec![check.clone()]), false, now);
    store.register(
        registration("b", "b", 1, vec![NewCheck { status: Some(Status::Passing), ..check }]),
        false,
        now,
    );
    let held: Vec<Check> = store.agent_checks().collect();
    assert_eq!(held.len(), 1);
    assert_eq!((held[0].service_id.as_str(), held[0].status), ("b", Status::Warning));
}

#[test]
fn replacing_removes_the_other_checks_and_maintenance() {
    let now = start_time();
    let mut store = store(now);
    let checks = vec![ttl_check(SECOND, None, None), ttl_check(SECOND, None, None)];
    store.register(registration("a", "a", 1, checks), false, now);
    store.set_service_maintenance("a", Some("why"), now).unwrap();
    store.register(registration("a", "a", 1, vec![ttl_check(SECOND, None, None)]), true, now);
    let ids: Vec<String> = store.agent_checks().map(|check| check.id).collect();
    assert_eq!(ids, ["service:a"]);
}
