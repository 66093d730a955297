//! Subsets, splits, routes and mirrors of a service, from the file and from the KV: which instances get the requests, also while
//! the rules change under load.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use outrigger::App;
use outrigger_registry::{Kv, consul::Consul};
use outrigger_tests::{
    client::{self, Client, Response},
    consul,
    instance::{Answer, Instance, Kill},
    load::{Load, LoadPlan},
    registry::ConsulAgent,
    wait,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::app::{router_settings, start_router};

on_both_registries! {
    a_grey_release: requests_go_where_subsets_split_and_routes_say;
    a_filter_for_the_registry: a_filter_that_only_the_registry_can_evaluate_has_a_watch_of_its_own;
    retries_keep_the_shares: the_shares_are_exact_while_instances_fail_and_others_come_and_go;
    changes_under_load: rules_that_change_under_load_cost_no_request_and_move_the_shares_at_once;
    breakers_of_subsets: a_subset_that_fails_opens_its_own_breaker_alone;
    killed_subsets: the_request_that_finds_a_subset_dead_goes_where_the_rules_say;
    sticky_users: the_users_of_a_sticky_split_have_its_shares_and_stay;
    copies_in_a_split: copies_for_another_service_go_where_its_split_says;
    copies_of_requests: a_mirror_gets_copies_and_no_request_waits_for_them;
}

/// Registers an instance of `service` with more keys of its registration.
async fn register(registry: SocketAddr, service: &str, instance: &Instance, more: Value) {
    let addr = instance.addr();
    let mut body = json!({"Name": service, "ID": instance.name(), "Address": addr.ip().to_string(), "Port": addr.port()});
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    ConsulAgent(registry).put("/v1/agent/service/register", &body).await;
}

/// An instance of the version, by its tag and its metadata.
async fn version(registry: SocketAddr, name: &str, version: &str, tag: &str) -> Instance {
    let instance = Instance::start(name).await;
    register(registry, "orders", &instance, json!({"Tags": [tag], "Meta": {"version": version}})).await;
    instance
}

/// What `count` requests, one after the other, were answered by.
async fn shares(outbound: SocketAddr, count: usize, head: &str) -> BTreeMap<String, usize> {
    let mut client = Client::connect(outbound).await;
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        let response = client.exchange(format!("{head}\r\n\r\n")).await;
        assert_eq!(response.status, 200, "{response:?}");
        *shares.entry(response.instance().to_owned()).or_default() += 1;
    }
    shares
}

async fn send(outbound: SocketAddr, head: &str) -> Response {
    client::exchange(outbound, format!("{head}\r\n\r\n")).await
}

/// Waits until a subset has so many usable instances, by the page `/services`.
async fn wait_usable(app: &App, service: &str, subset: &str, usable: u64) {
    wait::until(&format!("{usable} in the subset {subset}"), wait::TIMEOUT, async || {
        subset_of(app, service, subset).await.is_some_and(|found| found["usable"] == usable)
    })
    .await;
}

async fn subset_of(app: &App, service: &str, subset: &str) -> Option<Value> {
    let page = client::get(app.admin_addr().unwrap(), "localhost", "/services").await.json();
    let found = page["services"].as_array()?.iter().find(|one| one["service"] == service)?;
    found["subsets"].as_array()?.iter().find(|one| one["name"] == subset).cloned()
}

/// Users of a sticky split.
const USERS: usize = 1000;
const GET: &str = "GET / HTTP/1.1\r\nHost: orders";

const GREY: &str = r#"
upstreams:
  - service: orders
    subsets:
      v1: {tags: [V1]}
      v2: {meta: {version: "2.*"}}
      canary: {filter: 'Service.Meta.canary == "true"'}
    split: [{subset: v1, weight: 95}, {subset: v2, weight: 5}]
    routes:
      - match: {headers: {x-canary: "1"}}
        to: {subset: canary}
      - match: {headers: {x-any: {present: true}}}
        to: {subset: canary}
        on_empty: any
      - match: {path: {prefix: /reports/}}
        to: {service: reports}
        rewrite: {prefix: /}
        headers: {set: {x-from: orders}, remove: [x-secret]}
  - service: reports
"#;

async fn requests_go_where_subsets_split_and_routes_say(registry: SocketAddr) {
    let _v1 = version(registry, "one", "1.0", "v1").await;
    let _v2 = version(registry, "two", "2.1", "x").await;
    let _v3 = version(registry, "three", "3.0", "v3").await;
    let reports = Instance::start("reports").await;
    register(registry, "reports", &reports, Value::Null).await;
    let (app, outbound) = start_router(registry, GREY).await;
    wait_usable(&app, "orders", "v1", 1).await;
    wait_usable(&app, "orders", "v2", 1).await;
    let expected = |list: &[(&str, usize)]| -> BTreeMap<String, usize> {
        list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    assert_eq!(shares(outbound, 200, GET).await, expected(&[("one", 190), ("two", 10)]));
    // A route with an empty subset.
    let canary = format!("{GET}\r\nX-Canary: 1");
    let refused = send(outbound, &canary).await;
    assert_eq!((refused.status, refused.reason()), (503, "subset_empty"), "{refused:?}");
    assert!(refused.text().contains("in the subset canary"), "{}", refused.text());
    let any = shares(outbound, 30, &format!("{GET}\r\nx-any: ")).await;
    assert_eq!(any, expected(&[("one", 10), ("two", 10), ("three", 10)]));
    // It joins.
    let canaries = Instance::start("canary").await;
    register(registry, "orders", &canaries, json!({"Meta": {"canary": "true"}})).await;
    wait_usable(&app, "orders", "canary", 1).await;
    assert_eq!(shares(outbound, 5, &canary).await, expected(&[("canary", 5)]));
    assert_eq!(shares(outbound, 20, GET).await, expected(&[("one", 19), ("two", 1)]), "no entry names it");
    // Its metadata change.
    register(registry, "orders", &canaries, json!({"Meta": {"canary": "false"}})).await;
    wait_usable(&app, "orders", "canary", 0).await;
    assert_eq!(send(outbound, &canary).await.reason(), "subset_empty");
    // To another service, rewritten.
    let head = "GET /reports/a%2Fb?x=/reports/ HTTP/1.1\r\nHost: orders\r\nX-Secret: 1\r\nX-Stays: 1";
    assert_eq!(send(outbound, head).await.instance(), "reports");
    let seen = reports.only_request();
    assert_eq!(seen.request.target(), "/a%2Fb?x=/reports/");
    let names: Vec<_> = seen.request.head.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Host", "X-Stays", "x-from"], "{seen:?}");
    // An empty entry: its share goes to the others.
    ConsulAgent(registry).deregister("one").await;
    wait_usable(&app, "orders", "v1", 0).await;
    assert_eq!(shares(outbound, 20, GET).await, expected(&[("two", 20)]));
    let subset = subset_of(&app, "orders", "v2").await.unwrap();
    assert_eq!((&subset["instances"], &subset["responses"]["2xx"]), (&json!(1), &json!(31)), "{subset}");
    let page = client::get(app.admin_addr().unwrap(), "localhost", "/metrics").await.text();
    let line = "outrigger_subset_responses_total{class=\"2xx\",service=\"orders\",subset=\"v2\"} 31";
    assert!(page.contains(line), "{page}");
    let text = client::get(app.admin_addr().unwrap(), "localhost", "/services?format=text").await.text();
    assert!(text.contains("  subset v2: 1 instance, 1 usable, breaker closed, 31 responses\n"), "{text}");
    app.shutdown().await;
}

const CANARY: &str = r#"
upstreams:
  - service: orders
    subsets: {v1: {tags: [v1]}, v2: {tags: [v2]}}
    split: [{subset: v1, weight: 100}]
    routes: [{match: {headers: {x-canary: "1"}}, to: {subset: v2}}]
defaults: {outlier: off}
"#;

async fn a_subset_that_fails_opens_its_own_breaker_alone(registry: SocketAddr) {
    let _v1 = version(registry, "one", "1", "v1").await;
    let v2 = version(registry, "two", "2", "v2").await;
    v2.set_script(|_| Answer::status(503, "no"));
    let (app, outbound) = start_router(registry, CANARY).await;
    wait_usable(&app, "orders", "v1", 1).await;
    wait_usable(&app, "orders", "v2", 1).await;
    let canary = format!("{GET}\r\nx-canary: 1");
    let mut refused = send(outbound, &canary).await;
    for _ in 0..40 {
        refused = send(outbound, &canary).await;
    }
    assert_eq!(refused.reason(), "circuit_open", "{refused:?}");
    assert!(refused.text().contains("breaker of the subset v2 is open"), "{refused:?}");
    assert_eq!(shares(outbound, 50, GET).await, BTreeMap::from([("one".to_owned(), 50)]));
    let subset = async |name| subset_of(&app, "orders", name).await.unwrap();
    assert_eq!(subset("v2").await["breaker_trips"], 1);
    assert_eq!(
        (&subset("v1").await["breaker"], &subset("v1").await["breaker_trips"]),
        (&json!("closed"), &json!(0))
    );
    let scrape = client::get(app.admin_addr().unwrap(), "localhost", "/metrics").await.text();
    for (what, subset, value) in [("state", "", 0), ("state", "v1", 0), ("trips_total", "v2", 1)] {
        let line = format!("outrigger_breaker_{what}{{service=\"orders\",subset=\"{subset}\"}} {value}");
        assert!(scrape.lines().any(|one| one == line), "{line}\n{scrape}");
    }
    v2.set_script(|_| Answer::ok("two"));
    wait::until("the canary is back", wait::TIMEOUT, async || {
        send(outbound, &canary).await.status == 200 && subset("v2").await["breaker"] == "closed"
    })
    .await;
    app.shutdown().await;
}

const STICKY: &str = r#"
upstreams:
  - service: orders
    subsets: {v1: {tags: [v1]}, v2: {tags: [v2]}, v3: {tags: [v3]}}
    split: [{subset: v1, weight: 70}, {subset: v2, weight: 20}, {subset: v3, weight: 10}]
    sticky: {header: x-user}
"#;

async fn the_users_of_a_sticky_split_have_its_shares_and_stay(registry: SocketAddr) {
    let _v1 = version(registry, "one", "1", "v1").await;
    let _v2 = version(registry, "two", "2", "v2").await;
    let _v3 = version(registry, "three", "3", "v3").await;
    let (app, outbound) = start_router(registry, STICKY).await;
    for subset in ["v1", "v2", "v3"] {
        wait_usable(&app, "orders", subset, 1).await;
    }
    let mut client = Client::connect(outbound).await;
    let mut users = Vec::new();
    for at in 0..2 * USERS {
        let user = at % USERS;
        let response = client.exchange(format!("{GET}\r\nx-user: user-{user}\r\n\r\n")).await;
        assert_eq!(response.status, 200, "{response:?}");
        match users.get(user) {
            None => users.push(response.instance().to_owned()),
            Some(before) => assert_eq!(before, response.instance(), "user {user}"),
        }
    }
    let squares = [("one", 0.7), ("two", 0.2), ("three", 0.1)].map(|(name, share)| {
        let (count, expected) =
            (users.iter().filter(|one| *one == name).count() as f64, share * USERS as f64);
        (count - expected).powi(2) / expected
    });
    // Chi-square with two degrees of freedom: above in one of a million sets of names. These names are always the same.
    assert!(squares.iter().sum::<f64>() < 27.6, "{squares:?}");
    app.shutdown().await;
}

const SPLIT_MIRROR: &str = r#"
upstreams:
  - service: orders
    mirror: {to: {service: shadow}}
  - service: shadow
    subsets: {new: {tags: [new]}, old: {tags: [old]}}
    split: [{subset: new, weight: 1}, {subset: old, weight: 0}]
"#;

async fn copies_for_another_service_go_where_its_split_says(registry: SocketAddr) {
    let _orders = version(registry, "one", "1", "v1").await;
    let (new, old) = (Instance::start("new").await, Instance::start("old").await);
    register(registry, "shadow", &new, json!({"Tags": ["new"]})).await;
    register(registry, "shadow", &old, json!({"Tags": ["old"]})).await;
    let (app, outbound) = start_router(registry, SPLIT_MIRROR).await;
    wait_usable(&app, "shadow", "new", 1).await;
    assert_eq!(shares(outbound, 12, GET).await, BTreeMap::from([("one".to_owned(), 12)]));
    new.wait_requests(12).await;
    assert_eq!((new.count(), old.count()), (12, 0));
    app.shutdown().await;
}

const ELSEWHERE: &str = r#"
upstreams:
  - service: orders
    subsets: {v1: {tags: [v1]}, v2: {tags: [v2]}}
    split: [{subset: v1, weight: 50}, {subset: v2, weight: 50}]
    routes:
      - {match: {headers: {x-any: "1"}}, to: {subset: v2}, on_empty: any}
      - {match: {headers: {x-fail: "1"}}, to: {subset: v2}}
"#;

async fn the_request_that_finds_a_subset_dead_goes_where_the_rules_say(registry: SocketAddr) {
    let _v1 = version(registry, "one", "1", "v1").await;
    let v2 = version(registry, "two", "2", "v2").await;
    let (app, outbound) = start_router(registry, ELSEWHERE).await;
    for (head, goes_on) in
        [(GET.to_owned(), true), (format!("{GET}\r\nx-any: 1"), true), (format!("{GET}\r\nx-fail: 1"), false)]
    {
        wait::until("both subsets are usable", wait::TIMEOUT, async || {
            let (one, two) = (subset_of(&app, "orders", "v1").await, subset_of(&app, "orders", "v2").await);
            one.is_some_and(|one| one["usable"] == 1) && two.is_some_and(|two| two["usable"] == 1)
        })
        .await;
        v2.kill(Kill::Reset).await;
        for at in 0..6 {
            let response = send(outbound, &head).await;
            if goes_on {
                assert_eq!((response.status, response.instance()), (200, "one"), "{at}: {response:?}");
            } else {
                let expected = if at == 0 { (502, "connect_failed") } else { (503, "subset_empty") };
                assert_eq!((response.status, response.reason()), expected, "{at}: {response:?}");
            }
        }
        v2.listen_again().await;
    }
    app.shutdown().await;
}

async fn a_filter_that_only_the_registry_can_evaluate_has_a_watch_of_its_own(registry: SocketAddr) {
    let one = Instance::start("one").await;
    register(registry, "orders", &one, json!({"EnableTagOverride": true})).await;
    let two = Instance::start("two").await;
    register(registry, "orders", &two, Value::Null).await;
    let settings = "
upstreams:
  - service: orders
    subsets: {open: {filter: 'Service.EnableTagOverride == true'}}
    split: [{subset: open, weight: 1}]
";
    let (app, outbound) = start_router(registry, settings).await;
    wait_usable(&app, "orders", "open", 1).await;
    assert_eq!(shares(outbound, 10, GET).await, BTreeMap::from([("one".to_owned(), 10)]));
    let page = client::get(app.admin_addr().unwrap(), "localhost", "/services").await.json();
    let filters: Vec<_> = page["services"].as_array().unwrap().iter().map(|one| &one["filter"]).collect();
    assert_eq!(filters, [&Value::Null, &json!("Service.EnableTagOverride == true")], "{page}");
    // The data of the instances change, and nothing else.
    register(registry, "orders", &two, json!({"EnableTagOverride": true})).await;
    wait_usable(&app, "orders", "open", 2).await;
    register(registry, "orders", &one, Value::Null).await;
    wait_usable(&app, "orders", "open", 1).await;
    assert_eq!(shares(outbound, 10, GET).await, BTreeMap::from([("two".to_owned(), 10)]));
    // Each reload brings a filter, and a name, that nothing is known of yet.
    let load = Load::start(outbound, LoadPlan::get("orders"));
    for round in 0..5 {
        let next = settings.replace("== true'", &format!("== true and Node.ID != \"{round}\"'"));
        let next = next.replace("open", &format!("open-{round}"));
        app.apply(router_settings(&format!("address: \"http://{registry}\""), &next)).await.unwrap();
        load.wait_successes(20).await;
    }
    load.stop().await.assert_clean(100);
    app.shutdown().await;
}

async fn the_shares_are_exact_while_instances_fail_and_others_come_and_go(registry: SocketAddr) {
    let _one = version(registry, "one", "1.0", "v1").await;
    let two = version(registry, "two", "2.0", "v2").await;
    let broken = Instance::scripted("broken", |_| Answer::status(503, "no")).await;
    register(registry, "orders", &broken, json!({"Tags": ["v2"]})).await;
    let settings = "
defaults: {outlier: off, retry: {budget: {ratio: 1, min_per_second: 100}}}
upstreams:
  - service: orders
    subsets: {v1: {tags: [v1]}, v2: {tags: [v2]}}
    split: [{subset: v1, weight: 3}, {subset: v2, weight: 1}]
";
    let (app, outbound) = start_router(registry, settings).await;
    wait_usable(&app, "orders", "v1", 1).await;
    wait_usable(&app, "orders", "v2", 2).await;
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..10 {
        // Neither an instance that joins nor one that leaves takes a turn of the split.
        let guest = Instance::start(&format!("guest-{round}")).await;
        register(registry, "orders", &guest, json!({"Tags": ["v2"]})).await;
        wait_usable(&app, "orders", "v2", 3).await;
        for (name, count) in shares(outbound, 40, GET).await {
            *all.entry(name).or_default() += count;
        }
        ConsulAgent(registry).deregister(guest.name()).await;
        wait_usable(&app, "orders", "v2", 2).await;
    }
    assert_eq!((all["one"], all.values().sum::<usize>()), (300, 400), "{all:?}");
    assert!(two.count() > 0 && broken.count() > 10, "{} {}", two.count(), broken.count());
    app.shutdown().await;
}

const SPLIT: &str = "
  - service: orders
    subsets: {v1: {tags: [v1]}, v2: {tags: [v2]}}
    split: [{subset: v1, weight: WEIGHT}, {subset: v2, weight: 100}]
";

/// How long it takes until `two` gets every request, or none, from now on.
async fn until_all_go(outbound: SocketAddr, two: bool) -> Duration {
    let (begun, mut client) = (Instant::now(), Client::connect(outbound).await);
    let mut moved = None;
    let mut same = 0;
    // Of equal shares, no more than two requests in a row go to one subset.
    while same < 8 {
        assert!(begun.elapsed() < wait::TIMEOUT, "the shares did not move");
        let response = client.get("orders", "/").await;
        assert_eq!(response.status, 200, "{response:?}");
        if (response.instance() == "two") == two {
            moved = moved.or_else(|| Some(begun.elapsed()));
            same += 1;
        } else {
            (moved, same) = (None, 0);
        }
    }
    moved.unwrap_or_default()
}

async fn rules_that_change_under_load_cost_no_request_and_move_the_shares_at_once(registry: SocketAddr) {
    let _one = version(registry, "one", "1.0", "v1").await;
    let _two = version(registry, "two", "2.0", "v2").await;
    let address = outrigger_config::ConsulAddress {
        tls: false,
        host: registry.ip().to_string(),
        port: registry.port(),
    };
    let kv = Consul::new(&outrigger_config::ConsulSettings { address, ..Default::default() }).unwrap();
    assert!(kv.put_kv("team/settings/.outrigger", b"", 0, None).await.unwrap());
    let settings = |weight: &str| {
        format!(
            "dynamic_config: {{prefix: team, allow: [tuning, routing]}}\nupstreams:{}",
            SPLIT.replace("WEIGHT", weight)
        )
    };
    let (app, outbound) = start_router(registry, &settings("100")).await;
    wait_usable(&app, "orders", "v1", 1).await;
    wait_usable(&app, "orders", "v2", 1).await;
    let load = Load::start(outbound, LoadPlan::mixed("orders", 300));
    load.wait_successes(100).await;
    let mut moved = Vec::new();
    for round in 0..6 {
        let all_to_two = round % 2 == 0;
        let split = if all_to_two { "v2" } else { "v1" };
        let text = format!("split: [{{subset: {split}, weight: 1}}]\n");
        assert!(kv.put_kv("team/settings/services/orders", text.as_bytes(), 0, None).await.unwrap());
        moved.push(until_all_go(outbound, all_to_two).await);
        // Longer than changes are gathered for.
        load.wait_successes(90).await;
    }
    moved.sort_unstable();
    assert!(moved[moved.len() / 2] < Duration::from_millis(100), "{moved:?}");
    // By a reload, with the document gone.
    assert!(kv.delete_kv("team/settings/services/orders", None).await.unwrap());
    for round in 0..4 {
        let weight = if round % 2 == 0 { "0" } else { "9900" };
        let consul = format!("address: \"http://{registry}\"");
        app.apply(router_settings(&consul, &settings(weight))).await.unwrap();
        if round % 2 == 0 {
            until_all_go(outbound, true).await;
        }
        load.wait_successes(100).await;
    }
    load.stop().await.assert_clean(300);
    app.shutdown().await;
}

async fn a_mirror_gets_copies_and_no_request_waits_for_them(registry: SocketAddr) {
    let one = Instance::start("one").await;
    register(registry, "orders", &one, Value::Null).await;
    let shadow = Instance::scripted("shadow", |_| Answer::no_answer()).await;
    register(registry, "shadow", &shadow, Value::Null).await;
    let settings = "
upstreams:
  - service: orders
    mirror: {to: {service: shadow}, methods: [GET, POST], max_in_flight: 3, timeout: 30s}
  - service: shadow
";
    let (app, outbound) = start_router(registry, settings).await;
    let mut client = Client::connect(outbound).await;
    let begun = Instant::now();
    for target in ["/1", "/2", "/3", "/4", "/5"] {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: orders\r\nAuthorization: Bearer x\r\nCookie: a=b\r\n\
             Proxy-Authorization: y\r\nX-Stays: 1\r\n\r\n"
        );
        assert_eq!(client.exchange(head).await.instance(), "one");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    shadow.wait_requests(3).await;
    let left_out = async || metric(&app, "outrigger_mirrored_requests_total{result=\"limit\"").await;
    wait::until("two copies were left out", wait::TIMEOUT, async || left_out().await == Some(2.0)).await;
    for seen in shadow.seen() {
        let names: Vec<_> = seen.request.head.fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["Host", "X-Stays", "x-outrigger-mirror", "Connection"], "{seen:?}");
        assert_eq!(seen.request.head.get("x-outrigger-mirror"), Some("1"));
    }
    assert_eq!(shadow.count(), 3, "of five requests only three at once");
    let original = one.seen();
    assert_eq!(original[0].request.head.get("authorization"), Some("Bearer x"));
    assert_eq!(original[0].request.head.get("x-outrigger-mirror"), None);
    // The copies that hang hold up no stop.
    let begun = Instant::now();
    app.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // The body too; another method not.
    shadow.set_script(|_| Answer::status(500, "no"));
    shadow.take_seen();
    let (app, outbound) = start_router(registry, settings).await;
    let mut client = Client::connect(outbound).await;
    assert_eq!(client.post("orders", "/body", "what is copied").await.status, 200);
    shadow.wait_requests(1).await;
    wait::until_true("the body of the copy", || shadow.only_request().body().text() == "what is copied")
        .await;
    let failed = async || metric(&app, "outrigger_mirrored_requests_total{result=\"5xx\"").await;
    wait::until("it is counted", wait::TIMEOUT, async || failed().await == Some(1.0)).await;
    let put = "PUT /put HTTP/1.1\r\nHost: orders\r\nContent-Length: 0";
    assert_eq!(send(outbound, put).await.status, 200);
    assert_eq!(client.get("orders", "/after").await.status, 200);
    shadow.wait_requests(2).await;
    assert_eq!(shadow.seen()[1].request.target(), "/after", "the PUT before has no copy");
    // Nothing of it is the service's own: neither failures nor ejections.
    let page = client::get(app.admin_addr().unwrap(), "localhost", "/services").await.json();
    let shadow = page["services"].as_array().unwrap().iter().find(|one| one["service"] == "shadow").unwrap();
    assert_eq!(
        (&shadow["calls"]["requests"], &shadow["calls"]["failures"]),
        (&json!(0), &json!(0)),
        "{shadow}"
    );
    assert_eq!(
        (&shadow["instances"][0]["failures"], &shadow["instances"][0]["trust"]),
        (&json!(0), &json!("trusted"))
    );
    app.shutdown().await;
}

/// The value of the first series that begins so.
async fn metric(app: &App, series: &str) -> Option<f64> {
    let page = client::get(app.admin_addr().unwrap(), "localhost", "/metrics").await.text();
    let line = page.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}
