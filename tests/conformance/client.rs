//! Outrigger's own Consul client through one life of a registration: register, watch, report,
//! maintenance, deregister.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outrigger_config::{ConsulAddress, ConsulSettings as Settings, Weights};
use outrigger_registry::{
    Consistency, Cursor, Drift, HealthStatus, Query, Registrar as _, Registration, Registry as _, Report,
    ReportedHealth, Seen, WatchAnswer,
    consul::{AgentApi as _, Consul, ServiceChecks},
};
use outrigger_tests::consul::http as plain;

use crate::target::Target;

/// How long a watch may block; what wakes it comes at once.
const WAIT: Duration = Duration::from_secs(10);

pub(crate) async fn run_lifecycle(target: &Target) {
    let consul = client(target);
    let query = Query::new("orders", None);
    let agent = plain::get(target.addr(), "/v1/agent/self").await.unwrap();
    assert!(agent.body().windows(17).any(|text| text == br#""Version":"1.8.7""#), "{agent:?}");
    let leader = plain::get(target.addr(), "/v1/status/leader").await.unwrap();
    assert_ne!(leader.body().trim_ascii(), br#""""#);

    let empty = watch_once(&consul, &query, Cursor::START).await;
    assert_eq!(empty.instances, []);

    consul.register(&registration(8080)).await.unwrap();
    let known = watch_once(&consul, &query, empty.cursor).await;
    let [instance] = known.instances.as_slice() else { panic!("{known:?}") };
    assert_eq!(instance.id.to_string(), "dc1/lab1/orders-1");
    assert_eq!(instance.addr, Ok("127.0.0.7:8080".parse().unwrap()));
    assert_eq!(instance.weights, Weights { passing: 10, warning: 2 });
    assert_eq!(instance.status, HealthStatus::Critical);
    let life = Some(instance.create_index);

    let steps = [
        (ReportedHealth::Passing, HealthStatus::Passing),
        (ReportedHealth::Warning, HealthStatus::Warning),
        (ReportedHealth::Critical, HealthStatus::Critical),
        (ReportedHealth::Passing, HealthStatus::Passing),
    ];
    let mut cursor = known.cursor;
    for (reported, expected) in steps {
        consul.update_check("orders-1", reported, "told by a test").await.unwrap();
        cursor = watch_until(&consul, &query, cursor, expected, life).await;
    }
    consul.set_maintenance("orders-1", true, "a test").await.unwrap();
    cursor = watch_until(&consul, &query, cursor, HealthStatus::Maintenance, life).await;
    consul.set_maintenance("orders-1", false, "").await.unwrap();
    cursor = watch_until(&consul, &query, cursor, HealthStatus::Passing, life).await;

    let held = consul.agent_service("orders-1", None, WAIT).await.unwrap().unwrap();
    assert_eq!((held.name.as_str(), held.port), ("orders", 8080));
    let elsewhere = registration(8081);
    let (changed, registered) = tokio::join!(
        consul.agent_service("orders-1", Some(&held.content_hash), WAIT),
        consul.register(&elsewhere),
    );
    registered.unwrap();
    assert_eq!(changed.unwrap().unwrap().port, 8081);
    let moved = watch_once(&consul, &query, cursor).await;
    assert_eq!(moved.instances[0].addr, Ok("127.0.0.7:8081".parse().unwrap()));
    assert_eq!(moved.instances[0].status, HealthStatus::Passing, "registering again keeps the status");
    assert_eq!(consul.agent_services().await.unwrap().len(), 1);

    put(target, "/v1/agent/service/register", r#"{"Name":"orders","ID":"orders-2","Port":1}"#).await;
    let listed = consul.catalog_entry(&elsewhere, Cursor::START, WAIT).await.unwrap();
    assert_eq!(listed.instances, moved.instances, "the others are none of its business");
    let (gone, deregistered) =
        tokio::join!(consul.catalog_entry(&elsewhere, listed.cursor, WAIT), consul.deregister("orders-1"));
    deregistered.unwrap();
    assert_eq!(gone.unwrap().instances, []);
    put(target, "/v1/agent/service/deregister/orders-2", "").await;

    consul.deregister("orders-1").await.unwrap();
    let gone = watch_once(&consul, &query, moved.cursor).await;
    assert_eq!(gone.instances, []);
    assert_eq!(consul.agent_service("orders-1", None, WAIT).await.unwrap(), None);
}

/// An operator took the instance out; a correction of its registration, and the clearing up of checks
/// that another registrar left, do not put it back.
pub(crate) async fn correct_in_maintenance(target: &Target) {
    let consul = client(target);
    let query = Query::new("orders", None);
    let left = r#"{"Name":"orders","ID":"orders-1","Checks":[{"TTL":"1h","Status":"passing"},
        {"CheckID":"old","TTL":"1h","Status":"passing"}]}"#;
    let put = plain::put(target.addr(), "/v1/agent/service/register", left).await.unwrap();
    assert_eq!(put.status(), 200);
    consul.register(&registration(8080)).await.unwrap();
    consul.update_check("orders-1", ReportedHealth::Passing, "told by a test").await.unwrap();
    let mut cursor = watch_until(&consul, &query, Cursor::START, HealthStatus::Passing, None).await;

    consul.set_maintenance("orders-1", true, "a new disk").await.unwrap();
    cursor = watch_until(&consul, &query, cursor, HealthStatus::Maintenance, None).await;
    let correct = async {
        consul.register(&registration(8081)).await.unwrap();
        let others = consul.service_checks("orders-1").await.unwrap().others;
        assert_eq!(others.len(), 2, "{others:?}");
        for other in &others {
            consul.deregister_check(other).await.unwrap();
        }
        consul.update_check("orders-1", ReportedHealth::Passing, "told by a test").await.unwrap();
        consul.register(&registration(8082)).await.unwrap();
    };
    let watch = async {
        loop {
            let seen = watch_once(&consul, &query, cursor).await;
            assert_eq!(seen.instances[0].status, HealthStatus::Maintenance, "{seen:?}");
            cursor = seen.cursor;
            if seen.instances[0].addr == Ok("127.0.0.7:8082".parse().unwrap()) {
                break;
            }
        }
    };
    tokio::join!(correct, watch);
    let checks = plain::get(target.addr(), "/v1/agent/checks").await.unwrap();
    let checks: serde_json::Value = serde_json::from_slice(checks.body()).unwrap();
    let ids: Vec<_> = checks.as_object().unwrap().keys().collect();
    assert_eq!(ids, ["_service_maintenance:orders-1", "service:orders-1"]);
    assert_eq!(checks["_service_maintenance:orders-1"]["Notes"], "a new disk", "and its reason");
    let held = consul.service_checks("orders-1").await.unwrap();
    assert_eq!((held.others, held.maintenance.as_deref()), (Vec::new(), Some("a new disk")));
    let own = held.own.expect("our check");
    assert!(own.has_our_name, "{own:?}");
    assert_eq!((own.health, &*own.output), (ReportedHealth::Passing, "told by a test"));

    consul.set_maintenance("orders-1", false, "").await.unwrap();
    watch_until(&consul, &query, cursor, HealthStatus::Passing, None).await;
    consul.deregister("orders-1").await.unwrap();
    assert_eq!(
        consul.service_checks("orders-1").await.unwrap(),
        ServiceChecks::default(),
        "nothing is there"
    );
    consul.deregister_check("service:orders-1").await.unwrap();
}

/// The five verbs, and every answer of `drift` that needs no outage.
pub(crate) async fn keep_announced(target: &Target) {
    let consul = Arc::new(client(target));
    let ours = registration(8080);
    let mut seen = Seen::default();
    let drift = async |ours: &Registration, seen: &mut Seen| {
        tokio::time::timeout(WAIT, consul.clone().drift(ours, seen)).await.expect("an answer").unwrap()
    };
    assert_eq!(drift(&ours, &mut seen).await, Drift::Forgotten, "before the announcement");
    consul.announce(&ours, &mut seen).await.unwrap();
    consul.report("orders-1", Report::Health(ReportedHealth::Passing)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(drift(&ours, &mut seen).await, Drift::None, "at once, and after a wait");
    }
    assert!(!seen.has_new_credentials());

    consul.maintain("orders-1", Some("a new disk")).await.unwrap();
    let maintenance = Drift::Maintenance(Some("a new disk".into()));
    for seen in [&mut Seen::default(), &mut seen] {
        assert_eq!(drift(&ours, seen).await, maintenance);
    }
    seen.maintenance = Some("a new disk".into());
    consul.maintain("orders-1", None).await.unwrap();
    assert_eq!(drift(&ours, &mut seen).await, Drift::Maintenance(None));
    seen.maintenance = None;

    // Another client replaces the registration, while the question waits.
    seen.ask_at_once();
    assert_eq!(drift(&ours, &mut seen).await, Drift::None);
    let theirs = r#"{"Name":"orders","ID":"orders-1","Port":9}"#;
    let (changed, ()) =
        tokio::join!(drift(&ours, &mut seen), put(target, "/v1/agent/service/register", theirs));
    assert_eq!(changed, Drift::Changed);
    consul.announce(&ours, &mut seen).await.unwrap();
    assert_eq!(drift(&ours, &mut seen).await, Drift::None);

    consul.report("orders-1", Report::Draining).await.unwrap();
    let checks = consul.service_checks("orders-1").await.unwrap();
    assert_eq!(checks.own.map(|own| own.health), Some(ReportedHealth::Critical));
    let (gone, withdrawn) = tokio::join!(drift(&ours, &mut seen), consul.withdraw("orders-1"));
    withdrawn.unwrap();
    assert_eq!(gone, Drift::Forgotten);
    consul.withdraw("orders-1").await.unwrap();
}

/// The guard against mass losses relies on this: every kind of removal raises the index of the service, in
/// every consistency mode, and changes of other services never lower it. An empty list at the index of the
/// last list is therefore no evidence of a removal.
pub(crate) async fn a_removal_raises_the_index(target: &Target) {
    let consul = client(target);
    let query = Query::new("orders", None);
    let register = "/v1/agent/service/register";
    let one = r#"{"Name":"orders","ID":"orders-1","Port":1}"#;
    let checked = r#"{"Name":"orders","ID":"orders-1","Port":1,"Check":{"TTL":"1h","Status":"passing"}}"#;
    let listed = r#"{"Node":"ext1","Address":"127.0.0.9","Service":{"ID":"orders-1","Service":"orders"}}"#;
    let other = r#"{"Name":"payments","ID":"payments-1","Port":2}"#;
    for (come, body, go, gone) in [
        (register, one, "/v1/agent/service/deregister/orders-1", ""),
        (register, checked, "/v1/agent/service/deregister/orders-1", ""),
        (
            "/v1/catalog/register",
            listed,
            "/v1/catalog/deregister",
            r#"{"Node":"ext1","ServiceID":"orders-1"}"#,
        ),
        ("/v1/catalog/register", listed, "/v1/catalog/deregister", r#"{"Node":"ext1"}"#),
    ] {
        put(target, come, body).await;
        put(target, register, other).await;
        let before = watch_once(&consul, &query, Cursor::START).await;
        assert_eq!(before.instances.len(), 1);
        put(target, go, gone).await;
        put(target, "/v1/agent/service/deregister/payments-1", "").await;
        // Woken by the removal, and so seen by each server and in any consistency.
        watch_once(&consul, &query, before.cursor).await;
        for consistency in [Consistency::Default, Consistency::Consistent, Consistency::Stale] {
            let after = consul.watch(&query, Cursor::START, consistency, WAIT).await.unwrap();
            assert_eq!(after.instances, []);
            let (before, after) = (before.cursor.index(), after.cursor.index());
            assert!(after > before, "{go} {gone}, {consistency:?}: {before} and then {after}");
        }
    }
}

async fn put(target: &Target, path: &str, body: &str) {
    let answer = plain::put(target.addr(), path, body).await.unwrap();
    assert_eq!(answer.status(), 200, "{path} {body}: {:?}", answer.body());
}

fn client(target: &Target) -> Consul {
    let addr = target.addr();
    let settings = Settings {
        address: ConsulAddress { tls: false, host: addr.ip().to_string(), port: addr.port() },
        wait: WAIT,
        max_connections: 10,
        ..Settings::default()
    };
    Consul::new(&settings).unwrap()
}

fn registration(port: u16) -> Registration {
    Registration {
        id: "orders-1".to_owned(),
        name: "orders".to_owned(),
        address: Some("127.0.0.7".to_owned()),
        port,
        tags: vec!["v2".to_owned()],
        meta: BTreeMap::from([("version".to_owned(), "2.3.1".to_owned())]),
        weights: Weights { passing: 10, warning: 2 },
        ttl: Duration::from_secs(30),
        deregister_after: Duration::from_secs(60),
        initial_health: ReportedHealth::Critical,
    }
}

async fn watch_once(consul: &Consul, query: &Query, cursor: Cursor) -> WatchAnswer {
    consul.watch(query, cursor, Consistency::Default, WAIT).await.unwrap()
}

/// Watches until the instance's status is `expected`; one change may come in two answers.
async fn watch_until(
    consul: &Consul,
    query: &Query,
    from: Cursor,
    expected: HealthStatus,
    life: Option<u64>,
) -> Cursor {
    let mut cursor = from;
    for _ in 0..3 {
        let seen = watch_once(consul, query, cursor).await;
        assert!(!seen.index_went_back && seen.cursor.index() >= cursor.index(), "{seen:?}");
        let index = seen.instances[0].create_index;
        assert_eq!(index, life.unwrap_or(index), "the same life");
        if seen.instances[0].status == expected {
            return seen.cursor;
        }
        cursor = seen.cursor;
    }
    panic!("{expected:?} was not seen");
}
