//! The ring and its readers, on tokio's paused clock.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::{Instant, advance, sleep, timeout};

use super::*;

const LONG: Duration = Duration::from_secs(3600);

fn joined(name: impl ToString) -> Event {
    Event::new(EventKind::InstanceJoined, "passing")
        .of_service("orders")
        .of_instance(name.to_string())
        .on_node("n1")
}

fn record_many(events: &Events, names: std::ops::RangeInclusive<u64>) {
    names.for_each(|name| events.record(joined(name)));
}

/// The names of the instances, with the counts above 1.
fn names(events: &[RecordedEvent]) -> Vec<String> {
    let name = |one: &RecordedEvent| match one.count {
        1 => one.instance().unwrap_or("-").to_owned(),
        count => format!("{} x{count}", one.instance().unwrap_or("-")),
    };
    events.iter().map(name).collect()
}

fn describe(delivered: &[Delivery]) -> Vec<String> {
    let one = |delivery: &Delivery| match delivery {
        Delivery::Event(one) => names(std::slice::from_ref(one)).remove(0),
        Delivery::Repeated(one) => format!("repeated {}", names(std::slice::from_ref(one))[0]),
        Delivery::Lost(Some(count)) => format!("lost {count}"),
        Delivery::Lost(None) => "lost some".to_owned(),
    };
    delivered.iter().map(one).collect()
}

fn all() -> EventFilter {
    EventFilter::default()
}

fn page_names(events: &Events, since: Option<EventId>, limit: usize) -> Vec<String> {
    names(&events.page(&all(), since, limit).events)
}

/// The id of the event with this number.
fn id_of(events: &Events, number: u64) -> EventId {
    EventId { number, ..events.page(&all(), None, 0).position }
}

#[tokio::test(start_paused = true)]
async fn the_same_event_within_ten_seconds_of_the_first_is_counted_and_no_new_one() {
    let events = Events::default();
    events.record(joined("a"));
    advance(Duration::from_secs(6)).await;
    events.record(joined("b"));
    events.record(joined("a"));
    assert_eq!(page_names(&events, None, 100), ["a x2", "b"]);
    // The time counts from the first one: a lasting repetition is one event every 10 s.
    advance(COALESCE_WITHIN - Duration::from_secs(6)).await;
    events.record(joined("a"));
    events.record(joined("b"));
    assert_eq!(page_names(&events, None, 100), ["a x2", "b x2", "a"]);
    events.record(joined("a"));
    assert_eq!(page_names(&events, None, 100), ["a x2", "b x2", "a x2"]);
}

#[test]
fn events_that_differ_in_any_part_are_not_coalesced() {
    let event =
        || Event::new(EventKind::InstanceLeft, "why").of_service("orders").of_instance("a").on_node("n1");
    let different = [
        Event { kind: EventKind::InstanceJoined, ..event() },
        Event { reason: "other".into(), ..event() },
        event().of_service("payments"),
        event().of_instance("b").on_node("n1"),
        event().of_instance("a").on_node("n2"),
        Event { service: None, ..event() },
    ];
    let events = Events::default();
    events.record(event());
    different.into_iter().for_each(|other| events.record(other));
    events.record(event());
    let counts: Vec<_> = events.page(&all(), None, 100).events.iter().map(|one| one.count).collect();
    assert_eq!(counts, [2, 1, 1, 1, 1, 1, 1]);
}

#[test]
fn the_ring_holds_the_newest_thousand_and_nothing_of_the_others() {
    let events = Events::default();
    record_many(&events, 1..=3500);
    let page = events.page(&all(), None, usize::MAX);
    assert_eq!(page.events.len(), CAPACITY);
    assert_eq!(names(&page.events[..2]), ["2501", "2502"]);
    assert_eq!(page.position, id_of(&events, 3500));
    // One that has left is no longer coalesced with.
    events.record(joined(2500));
    events.record(joined(2502));
    let ends = events.page(&all(), None, 1).events;
    assert_eq!(names(&ends), ["2500"]);
    events.with_ring(|ring| assert_eq!(ring.by_event_len(), CAPACITY));
}

#[test]
fn a_page_is_the_newest_events_or_those_that_follow_a_position() {
    let events = Events::default();
    assert_eq!(
        events.page(&all(), None, 9),
        EventPage { position: id_of(&events, 0), lost: Some(0), events: vec![] }
    );
    record_many(&events, 1..=5);
    assert_eq!(page_names(&events, None, 2), ["4", "5"]);
    let (mut position, mut seen) = (id_of(&events, 0), Vec::new());
    while position != id_of(&events, 5) {
        let page = events.page(&all(), Some(position), 2);
        assert_eq!(page.lost, Some(0));
        seen.push(names(&page.events));
        position = page.position;
    }
    assert_eq!(seen, [vec!["1", "2"], vec!["3", "4"], vec!["5"]]);
    assert_eq!(events.page(&all(), Some(position), 2).position, position);
    // What the filter passes over is not asked for again.
    let none = EventFilter { service: Some("payments".into()), kinds: Vec::new() };
    assert_eq!(events.page(&none, Some(id_of(&events, 1)), 2).position, id_of(&events, 5));
}

#[test]
fn a_page_after_an_old_or_foreign_position_says_what_is_lost() {
    let events = Events::default();
    record_many(&events, 1..=1010);
    let lost = |since| events.page(&all(), Some(since), 1).lost;
    assert_eq!(lost(id_of(&events, 0)), Some(10));
    assert_eq!(lost(id_of(&events, 9)), Some(1));
    assert_eq!(lost(id_of(&events, 10)), Some(0));
    assert_eq!(lost(id_of(&events, 1010)), Some(0));
    // Another process, and a number that this one has not given yet: everything is new.
    let other = Events::default();
    record_many(&other, 1..=20);
    for foreign in [id_of(&other, 20), id_of(&events, 1011), id_of(&events, u64::MAX)] {
        let page = events.page(&all(), Some(foreign), 2);
        assert_eq!(
            (page.lost, names(&page.events)),
            (None, vec!["11".to_owned(), "12".to_owned()]),
            "{foreign}"
        );
    }
}

#[test]
fn two_processes_that_start_at_the_same_time_have_two_epochs() {
    let epochs: std::collections::HashSet<_> =
        (0..100).map(|_| id_of(&Events::new(|| Duration::from_secs(1_800_000_000)), 0)).collect();
    assert!(epochs.len() > 90, "{}", epochs.len());
}

#[test]
fn an_id_is_read_as_it_is_written() {
    let events = Events::new(|| Duration::from_millis(1_796_083_199_123));
    for number in [0, 1, u64::MAX] {
        let id = id_of(&events, number);
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    let epoch = "0123456789abcdef";
    for text in [
        "",
        "-",
        "5",
        epoch,
        "0123456789abcde-1",
        "0123456789abcdef0-1",
        "+123456789abcdef-1",
        "0123456789abcdef-",
        "0123456789abcdef-+1",
        "0123456789abcdef--1",
        "0123456789abcdef-1 ",
        "0123456789abcdeg-1",
        "0123456789abcdef-18446744073709551616",
        "äääääääää-1",
    ] {
        assert_eq!(text.parse::<EventId>(), Err(NotAnEventId), "{text:?}");
    }
}

#[test]
fn an_event_is_an_object_without_the_fields_that_it_does_not_have() {
    let events = Events::new(|| Duration::from_secs(951_782_399));
    events.record(Event::new(EventKind::RegistryLost, "refused"));
    events.record(joined("a"));
    events.record(joined("a"));
    let page = serde_json::to_value(events.page(&all(), None, 9)).unwrap();
    let (first, second) = (id_of(&events, 1), id_of(&events, 2));
    let time = "2000-02-28T23:59:59.000Z";
    assert_eq!(
        page,
        serde_json::json!({
            "position": second.to_string(),
            "lost": 0,
            "events": [
                {"id": first.to_string(), "time": time, "kind": "registry_lost", "reason": "refused", "count": 1},
                {"id": second.to_string(), "time": time, "kind": "instance_joined", "service": "orders",
                 "instance": "a", "node": "n1", "reason": "passing", "count": 2, "last_time": time},
            ],
        })
    );
}

#[test]
fn each_kind_has_a_name_of_its_own_in_snake_case() {
    for kind in EventKind::ALL {
        assert_eq!(kind.label().parse(), Ok(*kind));
        assert!(kind.label().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{kind}");
    }
    assert!("nothing".parse::<EventKind>().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_what_is_there_and_then_each_event_when_it_happens() {
    let events = Events::default();
    record_many(&events, 1..=3);
    let mut reader = events.reader(all(), ReadFrom::Newest(2)).unwrap();
    assert_eq!(describe(&reader.next().await), ["2", "3"]);
    assert!(timeout(LONG, reader.next()).await.is_err(), "nothing new");
    let recorder = events.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(5)).await;
        recorder.record(joined(4));
    });
    assert_eq!(describe(&reader.next().await), ["4"]);
    assert_eq!(reader.position(), id_of(&events, 4));
    // Another one goes on after a position, and a third one begins with what is new.
    let mut other = events.reader(all(), ReadFrom::After(id_of(&events, 2))).unwrap();
    assert_eq!(describe(&other.take()), ["3", "4"]);
    let mut new = events.reader(all(), ReadFrom::Newest(0)).unwrap();
    assert_eq!((describe(&new.take()), new.position()), (Vec::<String>::new(), id_of(&events, 4)));
}

#[tokio::test(start_paused = true)]
async fn a_reader_is_told_of_repetitions_once_their_time_is_over() {
    let events = Events::default();
    let mut reader = events.reader(all(), ReadFrom::Newest(0)).unwrap();
    events.record(joined("a"));
    events.record(joined("b"));
    assert_eq!(describe(&reader.next().await), ["a", "b"]);
    let start = Instant::now();
    advance(Duration::from_secs(3)).await;
    (0..4).for_each(|_| events.record(joined("a")));
    let position = reader.position();
    assert_eq!(describe(&reader.next().await), ["repeated a x5"]);
    assert_eq!((start.elapsed(), reader.position()), (COALESCE_WITHIN, position));
    assert!(timeout(LONG, reader.next()).await.is_err(), "once");
    // A reader that comes later gets the count with the event.
    let mut later = events.reader(all(), ReadFrom::Newest(9)).unwrap();
    assert_eq!(describe(&later.next().await), ["a x5", "b"]);
    assert!(timeout(LONG, later.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_behind_the_ring_is_told_how_many_it_lost() {
    let events = Events::default();
    record_many(&events, 1..=2);
    let mut reader = events.reader(all(), ReadFrom::Newest(9)).unwrap();
    assert_eq!(describe(&reader.next().await), ["1", "2"]);
    record_many(&events, 3..=1500);
    let got = describe(&reader.next().await);
    assert_eq!((&got[..2], got.len()), (&["lost 498".to_owned(), "501".to_owned()][..], 64));
    let mut rest = Vec::new();
    while rest.last().map(String::as_str) != Some("1500") {
        rest.extend(describe(&reader.next().await));
    }
    assert_eq!(rest.len(), CAPACITY - 63);
    // The same for one that comes back after the ring has passed it.
    let mut back = events.reader(all(), ReadFrom::After(id_of(&events, 400))).unwrap();
    assert_eq!(describe(&back.take())[..2], ["lost 100", "501"]);
    // What is held for repetitions is bounded by the ring.
    record_many(&events, 2000..=9000);
    while !reader.take().is_empty() {
        assert!(reader.open.len() <= CAPACITY + 64, "{}", reader.open.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_another_process_begins_with_the_oldest_and_is_told_so() {
    let (events, other) = (Events::default(), Events::default());
    record_many(&events, 1..=2);
    record_many(&other, 1..=2);
    for from in [ReadFrom::After(id_of(&other, 1)), ReadFrom::After(id_of(&events, 3)), ReadFrom::Unknown] {
        let mut reader = events.reader(all(), from).unwrap();
        assert_eq!(describe(&reader.take()), ["lost some", "1", "2"], "{from:?}");
        assert_eq!(describe(&reader.take()), Vec::<String>::new());
    }
    // Also before the first event of this process.
    let mut reader = Events::default().reader(all(), ReadFrom::After(id_of(&other, 1))).unwrap();
    assert_eq!(describe(&reader.next().await), ["lost some"]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_passes_over_what_its_filter_does_not_ask_for() {
    let events = Events::default();
    let filter = EventFilter { service: None, kinds: vec![EventKind::RegistryLost] };
    let mut reader = events.reader(filter, ReadFrom::Newest(9)).unwrap();
    record_many(&events, 1..=70);
    assert_eq!(reader.take(), []);
    assert_eq!(reader.position(), id_of(&events, 70), "it loses none of them when the ring passes it");
    events.record(Event::new(EventKind::RegistryLost, "refused"));
    assert_eq!(describe(&reader.next().await), ["-"]);
}

#[test]
fn the_number_of_readers_is_bounded_and_a_dropped_one_makes_room() {
    let events = Events::default();
    let mut readers: Vec<_> =
        (0..MAX_READERS).map(|_| events.reader(all(), ReadFrom::Newest(0)).unwrap()).collect();
    assert_eq!(events.reader(all(), ReadFrom::Newest(0)).err(), Some(TooManyReaders));
    readers.pop();
    assert!(events.reader(all(), ReadFrom::Newest(0)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is recorded and whenever a reader looks: it gets each entry once and in order, but those that it is told it lost; and
    /// with the repetitions the counts are those of the ring.
    #[test]
    fn a_reader_gets_or_misses_each_event_once(
        steps in prop::collection::vec((0_u64..400, 0_u64..12, prop::bool::weighted(0.05)), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let events = Events::default();
            let mut reader = events.reader(all(), ReadFrom::Newest(0)).unwrap();
            let (mut next, mut counted) = (1, std::collections::BTreeMap::new());
            for (recorded, seconds, looks) in steps {
                // Each other one repeats one of five names, the others are new.
                (0..recorded).for_each(|n| match n % 2 {
                    0 => events.record(joined(n % 5)),
                    _ => events.record(joined(format!("{:?} {n}", Instant::now()))),
                });
                advance(Duration::from_secs(seconds)).await;
                loop {
                    let got = if looks { reader.take() } else { Vec::new() };
                    if got.is_empty() {
                        break;
                    }
                    for delivery in got {
                        match delivery {
                            Delivery::Event(one) => {
                                assert_eq!(one.id.number, next);
                                (next, _) = (next + 1, counted.insert(one.id.number, one.count));
                            }
                            Delivery::Repeated(one) => {
                                let before = counted.insert(one.id.number, one.count);
                                assert!(before < Some(one.count), "{before:?} {one:?}");
                            }
                            Delivery::Lost(lost) => next += lost.unwrap(),
                        }
                    }
                }
            }
            advance(COALESCE_WITHIN).await;
            loop {
                let got = reader.take();
                if got.is_empty() {
                    break;
                }
                for delivery in got {
                    match delivery {
                        Delivery::Event(one) | Delivery::Repeated(one) => {
                            counted.insert(one.id.number, one.count);
                        }
                        Delivery::Lost(_) => {}
                    }
                }
            }
            for one in events.page(&all(), None, usize::MAX).events {
                assert_eq!(counted.get(&one.id.number), Some(&one.count), "{one:?}");
            }
        });
    }
}
