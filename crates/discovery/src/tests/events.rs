//! Which decisions are recorded as events, in which order.

use std::time::Duration;

use outrigger_events::{EventFilter, RecordedEvent};
use outrigger_registry::{Consistency, Error, HealthStatus, Instance, InstanceId, Unusable, testing};
use tokio::time::{Instant, sleep};

use super::{Rig, instance, list, settle, unreachable};

fn recorded(rig: &Rig) -> Vec<RecordedEvent> {
    rig.events.page(&EventFilter::default(), None, usize::MAX).events
}

/// `kind service instance: reason` of the events after the first `skipped` ones.
fn lines(rig: &Rig, skipped: usize) -> Vec<String> {
    let line = |one: &RecordedEvent| {
        let names = [one.service(), one.instance()].map(|name| name.unwrap_or("-"));
        format!("{} {} {}: {}", one.kind(), names[0], names[1], one.reason())
    };
    recorded(rig).iter().skip(skipped).map(line).collect()
}

/// The kinds, without the changes of single instances.
fn kinds(rig: &Rig) -> Vec<&'static str> {
    let kinds = recorded(rig).into_iter().map(|one| one.kind().label());
    kinds.filter(|kind| !kind.starts_with("instance_")).collect()
}

#[tokio::test(start_paused = true)]
async fn each_instance_that_joins_leaves_or_changes_its_health_is_an_event() {
    let mut rig = Rig::new();
    let (_follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b", "c", "d"])).await;
    let joined = lines(&rig, 0);
    assert_eq!(joined.len(), 4);
    assert!(joined[1].starts_with("instance_joined orders b: passing at 127.0.0.1:"), "{joined:?}");
    // `a` leaves, `b` is critical, `c` stays as it is, `d` cannot be used, `e` joins.
    let critical = instance("b", HealthStatus::Critical);
    let unusable = Instance { addr: Err(Unusable::NoAddress), ..instance("d", HealthStatus::Passing) };
    let [c, e] = ["c", "e"].map(|id| instance(id, HealthStatus::Warning));
    let c = Instance { status: HealthStatus::Passing, ..c };
    asked.answer(testing::list(8, vec![e.clone(), unusable, c.clone(), critical]));
    let asked = rig.next().await;
    let at = |one: &Instance| one.addr.clone().unwrap();
    let b_addr = at(&instance("b", HealthStatus::Passing));
    assert_eq!(
        lines(&rig, 4),
        [
            "instance_left orders a: the registry does not list it any more".to_owned(),
            format!("instance_health orders b: critical at {b_addr}; it was passing"),
            "instance_health orders d: unusable: no address; it was passing".to_owned(),
            format!("instance_joined orders e: warning at {}", at(&e)),
        ]
    );
    // Draining, and out of contact, are told apart from other reasons to be critical.
    let draining = Instance { draining: true, ..instance("b", HealthStatus::Critical) };
    let node_lost = Instance { node_lost: true, ..instance("c", HealthStatus::Critical) };
    asked.answer(testing::list(9, vec![draining, node_lost, e]));
    rig.next().await;
    assert_eq!(
        lines(&rig, 8),
        [
            format!("instance_health orders b: draining at {b_addr}; it was critical"),
            format!(
                "instance_health orders c: critical, because contact with its node is lost at {}; it was passing",
                at(&c)
            ),
            "instance_left orders d: the registry does not list it any more".to_owned(),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_large_change_is_a_bounded_number_of_events() {
    let mut rig = Rig::new();
    let ids: Vec<_> = (100..400).map(|n| n.to_string()).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let (_follower, asked) = rig.follow_and_answer("orders", list(7, &ids)).await;
    assert_eq!(recorded(&rig).len(), 21);
    assert_eq!(lines(&rig, 20), ["instance_joined orders -: 280 more instances at the same time"]);
    asked.answer(list(8, &ids[100..]));
    rig.next().await;
    assert_eq!(lines(&rig, 21 + 20), ["instance_left orders -: 80 more instances at the same time"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_from_before_a_restart_is_recorded_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = || crate::DiskCache::open(folder.path(), "test", "here");
    let mut rig = Rig::with_cache(cache());
    let (_follower, _asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    rig.discovery.shutdown().await;
    drop(rig);
    let mut rig = Rig::with_cache(cache());
    let _follower = rig.follow("orders");
    rig.next().await.fail(unreachable());
    let asked = rig.next().await;
    assert_eq!(lines(&rig, 0).len(), 2, "{:?}", lines(&rig, 0));
    asked.answer(list(8, &["a", "b"]));
    rig.next().await;
    let told: Vec<_> =
        recorded(&rig).iter().map(|one| (one.kind().label(), one.instance().map(str::to_owned))).collect();
    let expected = [
        ("instance_joined", Some("a")),
        ("registry_lost", None),
        ("registry_back", None),
        ("instance_joined", Some("b")),
    ];
    assert_eq!(told, expected.map(|(kind, id)| (kind, id.map(str::to_owned))));
}

#[tokio::test(start_paused = true)]
async fn a_mass_loss_is_doubted_and_then_refuted_or_believed() {
    let mut rig = Rig::new();
    let (_follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b", "c"])).await;
    rig.liveness.set_accepting(&["a", "b", "c"]);
    asked.answer(list(8, &[]));
    rig.next().await.answer(list(9, &["a", "b", "c"]));
    let asked = rig.next().await;
    let refuted = [
        "loss_doubted orders -: empty: 3 vanished, 3 that still answer are kept",
        "loss_refuted orders -: 3 are listed again",
    ];
    assert_eq!(lines(&rig, 3), refuted);
    // Some are silent, and the registry insists on the others.
    rig.liveness.set_accepting(&["a"]);
    asked.answer(list(10, &["c"]));
    let mut asked = rig.next().await;
    while asked.consistency == Consistency::Consistent {
        asked.answer(list(10, &["c"]));
        asked = rig.next().await;
    }
    let believed = lines(&rig, 5);
    let expected = [
        "loss_believed orders -: 1 do not answer either; 1 are kept",
        "instance_left orders b: the registry does not list it any more",
        "loss_doubted orders -: collapsed: 2 vanished, 1 that still answer are kept",
        "loss_believed orders -: the registry has confirmed that 1 are gone",
        "instance_left orders a: the registry does not list it any more",
    ];
    assert_eq!(believed, expected);
}

#[tokio::test(start_paused = true)]
async fn suspects_with_addresses_of_others_are_believed_to_be_gone() {
    let mut rig = Rig::new();
    let (_follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b"])).await;
    rig.liveness.set_accepting(&["a", "b"]);
    let again = |id: &str| {
        let one = instance(id, HealthStatus::Passing);
        let new_id = InstanceId { id: format!("{id}-again").into(), ..one.id.clone() };
        Instance { id: new_id, ..one }
    };
    asked.answer(testing::list(8, vec![again("a"), again("b")]));
    rig.next().await;
    assert_eq!(kinds(&rig), ["loss_believed"], "{:?}", lines(&rig, 0));
    assert!(
        lines(&rig, 2)[0].ends_with("the registry lists the addresses of 2 for others"),
        "{:?}",
        lines(&rig, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_many_services_is_one_event_and_so_is_its_end() {
    let mut rig = Rig::new();
    let _followers: Vec<_> = (0..20).map(|n| rig.follow(&format!("s{n}"))).collect();
    let mut blocked = Vec::new();
    while blocked.len() < 20 {
        let asked = rig.next().await;
        if asked.cursor.index() == 0 { asked.answer(list(7, &["a"])) } else { blocked.push(asked) }
    }
    blocked.into_iter().for_each(|asked| asked.fail(unreachable()));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(300) {
        rig.next().await.fail(unreachable());
    }
    for _ in 0..20 {
        rig.next().await.answer(list(7, &["a"]));
    }
    settle().await;
    assert_eq!(kinds(&rig), ["registry_lost", "registry_back"]);
    let [lost, back] = &lines(&rig, 20)[..] else { panic!("{:?}", lines(&rig, 20)) };
    assert_eq!(lost, "registry_lost - -: connect to 127.0.0.1:8500: refused by the test");
    assert!(back.starts_with("registry_back - -: it answers again after 5m"), "{back}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_the_registry_refuses_alone_is_an_event_of_that_service() {
    let mut rig = Rig::new();
    let _followers = [rig.declare("bad"), rig.declare("good")];
    let forbidden = || Error::Refused {
        request: "GET /v1/health/service/bad".into(),
        status: 403,
        text: "Permission denied".into(),
        hint: None,
    };
    let start = Instant::now();
    let answer_until = async |rig: &mut Rig, end: Duration, is_refused: bool| {
        while start.elapsed() < end {
            let asked = rig.next().await;
            match *asked.query.service == *"bad" && is_refused {
                true => asked.fail(forbidden()),
                false if asked.cursor.index() == 0 => asked.answer(list(7, &["a"])),
                false => {
                    tokio::spawn(async move {
                        sleep(asked.wait).await;
                        asked.answer(list(7, &["a"]));
                    });
                }
            }
        }
    };
    answer_until(&mut rig, Duration::from_secs(200), true).await;
    answer_until(&mut rig, Duration::from_secs(400), false).await;
    assert_eq!(kinds(&rig), ["service_lost", "service_back"]);
    let told = lines(&rig, 0);
    let lost = told.iter().find(|line| line.starts_with("service_lost")).unwrap();
    assert!(lost.starts_with("service_lost bad -: ") && lost.contains("Permission denied"), "{lost}");
    assert!(told.contains(&"service_back bad -: the registry answers for it again".to_owned()), "{told:?}");
}
