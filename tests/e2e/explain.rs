//! `/explain` and `outrigger explain`: what is told of a request is what then happens to it, and telling it changes nothing.

use std::net::SocketAddr;

use outrigger::App;
use outrigger_tests::{
    client::{self, Response},
    consul,
    instance::{Instance, Kill},
    process::run_outrigger,
    registry::ConsulAgent,
    wait,
};
use serde_json::{Value, json};

use crate::{app::start_router, receipts::TestKv};

on_both_registries! {
    rules: a_request_goes_where_its_explanation_says;
    names: a_name_is_explained_as_it_is_read;
    origins: settings_have_their_origin_also_in_the_kv;
    elsewhere: an_explanation_follows_the_failover;
    near: an_explanation_has_the_shares_of_the_zones;
}

async fn register(registry: SocketAddr, service: &str, instance: &Instance, more: Value) {
    let addr = instance.addr();
    let mut body = json!({"Name": service, "ID": instance.name(), "Address": addr.ip().to_string(), "Port": addr.port()});
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    ConsulAgent(registry).put("/v1/agent/service/register", &body).await;
}

/// A request: method, URL, fields.
pub(crate) type Asked<'a> = (&'a str, &'a str, &'a [&'a str]);

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn page(app: &App, (method, url, fields): Asked<'_>, more: &str) -> Response {
    let fields: String = fields.iter().map(|field| format!("&header={}", encode(field))).collect();
    let path = format!("/explain?url={}&method={method}{fields}{more}", encode(url));
    client::get(app.admin_addr().unwrap(), "localhost", &path).await
}

pub(crate) async fn explain(app: &App, asked: Asked<'_>) -> Value {
    let response = page(app, asked, "").await;
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

pub(crate) async fn send(outbound: SocketAddr, (method, url, fields): Asked<'_>) -> Response {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    client::exchange(outbound, format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await
}

/// The ids of the instances of the only destination that the first attempt may take.
pub(crate) fn taken(explanation: &Value) -> Vec<String> {
    let [only] = explanation["destinations"].as_array().unwrap().as_slice() else { panic!("{explanation}") };
    let mut all: Vec<&Value> = only["candidates"].as_array().unwrap().iter().collect();
    for target in only["failover"]["targets"].as_array().into_iter().flatten() {
        all.extend(target["candidates"].as_array().unwrap());
    }
    let taken = all.into_iter().filter(|one| one["takes"] == true);
    taken.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

async fn wait_usable(app: &App, asked: Asked<'_>, usable: usize) {
    wait::until(&format!("{usable} usable for {asked:?}"), wait::TIMEOUT, async || {
        taken(&explain(app, asked).await).len() == usable
    })
    .await;
}

/// Counters and gauges that requests move, and those of watches.
async fn counts(app: &App) -> Vec<String> {
    let page = client::get(app.admin_addr().unwrap(), "localhost", "/metrics").await.text();
    let is_counted = |line: &&str| {
        line.starts_with("outrigger_")
            && !line.contains("_seconds")
            && !line.starts_with("outrigger_watch")
            && !line.starts_with("outrigger_registry")
    };
    page.lines().filter(is_counted).map(str::to_owned).collect()
}

const RULES: &str = r#"
upstreams:
  - service: orders
    subsets:
      v1: {tags: [v1]}
      v2: {meta: {version: "2.*"}}
      canary: {tags: [canary]}
    split: [{subset: v1, weight: 75}, {subset: v2, weight: 25}]
    sticky: {header: x-user}
    mirror: {to: {service: shadow}, share: 50%}
    routes:
      - match: {headers: {x-canary: "1"}}
        to: {subset: canary}
      - match: {headers: {x-any: {present: true}}, methods: [GET]}
        to: {subset: canary}
        on_empty: any
      - match: {path: {prefix: /reports/}}
        to: {service: reports}
        rewrite: {prefix: /}
        headers: {set: {x-from: orders}, remove: [x-secret]}
        timeout: 3s
  - service: reports
    timeout: 9s
  - service: shadow
"#;

async fn a_request_goes_where_its_explanation_says(registry: SocketAddr) {
    let one = Instance::start("one").await;
    register(registry, "orders", &one, json!({"Tags": ["v1"]})).await;
    let two = Instance::start("two").await;
    register(registry, "orders", &two, json!({"Meta": {"version": "2.1"}})).await;
    let reports = Instance::start("reports").await;
    register(registry, "reports", &reports, Value::Null).await;
    let (app, outbound) = start_router(registry, RULES).await;
    let any: Asked<'_> = ("GET", "http://orders/", &["x-any: 1"]);
    wait_usable(&app, any, 2).await;
    wait_usable(&app, ("GET", "http://reports/", &[]), 1).await;

    // A route to an empty subset: the refusal that it would get.
    let canary: Asked<'_> = ("GET", "http://orders/", &["X-Canary: 1"]);
    let told = explain(&app, canary).await;
    let (rules, to) = (&told["rules"][0], &told["destinations"][0]);
    assert_eq!(rules["route"]["key"], "upstreams[0].routes[0]", "{told}");
    assert_eq!(rules["route"]["origin"], "test.yaml:15", "{told}");
    assert_eq!((&to["subset"]["name"], &to["subset"]["origin"]), (&json!("canary"), &json!("test.yaml:10")));
    assert_eq!((&to["refused"]["reason"], &to["refused"]["status"]), (&json!("subset_empty"), &json!(503)));
    assert_eq!(to["pick"]["from"], "none");
    assert_eq!(to["candidates"][0]["why_not"], "not in the subset canary", "{told}");
    let refused = send(outbound, canary).await;
    assert_eq!((refused.status, refused.reason()), (503, "subset_empty"));
    assert!(refused.text().contains("in the subset canary"), "{}", refused.text());

    // on_empty.
    let told = explain(&app, any).await;
    let route = &told["rules"][0]["route"];
    assert_eq!((&route["is_empty"], &route["on_empty"]), (&json!(true), &json!("any instance")), "{told}");
    let passed = &told["rules"][0]["passed"][0];
    assert_eq!(passed["why_not"], "the header x-canary does not match {exact: 1}", "{told}");
    assert_eq!(told["destinations"][0]["subset"], Value::Null);
    let post = explain(&app, ("POST", "http://orders/", &["x-any: 1"])).await;
    assert_eq!(post["rules"][0]["passed"][1]["why_not"], "the method is none of GET", "{post}");
    assert_eq!(post["mirror"]["why_not"], "its method is none of mirror.methods");

    // To another service, with what the route changes.
    let report: Asked<'_> = ("GET", "http://orders/reports/7?x=1", &["x-secret: 1"]);
    let told = explain(&app, report).await;
    let to = &told["destinations"][0];
    assert_eq!((&to["service"], taken(&told)), (&json!("reports"), vec!["reports".to_owned()]), "{told}");
    assert_eq!(told["sent"], json!({"target": "/7?x=1", "host": "orders"}));
    assert_eq!(told["rules"][0]["route"]["sets_headers"], json!(["x-from"]));
    let timeout = to["settings"].as_array().unwrap().iter().find(|one| one["key"] == "timeout").unwrap();
    assert_eq!((&timeout["value"], &timeout["of_route"]), (&json!("3s"), &json!(true)), "{timeout}");
    assert_eq!(timeout["origin"], "test.yaml:24, over test.yaml:26");
    assert_eq!(to["limits"]["timeout_ms"], 3000);
    assert_eq!(send(outbound, report).await.instance(), "reports");
    assert_eq!(reports.only_request().request.target(), "/7?x=1");

    // The split: in turn, and by the value of a user.
    let plain: Asked<'_> = ("GET", "http://orders/", &[]);
    let told = explain(&app, plain).await;
    let shares = |told: &Value| -> Vec<(f64, String)> {
        let share = |one: &Value| {
            (one["share"].as_f64().unwrap(), one["subset"]["name"].as_str().unwrap().to_owned())
        };
        told["destinations"].as_array().unwrap().iter().map(share).collect()
    };
    assert_eq!(shares(&told), [(0.75, "v1".to_owned()), (0.25, "v2".to_owned())], "{told}");
    assert_eq!(told["mirror"]["why_not"], "no instance of the service is usable");
    for user in 0..8 {
        let field = format!("x-user: {user}");
        let fields = [field.as_str()];
        let asked: Asked<'_> = ("GET", "http://orders/", &fields);
        let told = explain(&app, asked).await;
        assert_eq!(told["rules"][0]["split"]["is_known"], true, "{told}");
        assert_eq!(taken(&told), [send(outbound, asked).await.instance()], "{told}");
    }
    let before = (one.count(), two.count());
    let counted = counts(&app).await;
    for _ in 0..7 {
        explain(&app, plain).await;
    }
    assert_eq!(counts(&app).await, counted, "nothing is counted");
    assert_eq!((one.count(), two.count()), before, "nothing is sent");
    for n in 0..8 {
        // Each explanation between two requests leaves the turn to the next request.
        explain(&app, plain).await;
        assert_eq!(send(outbound, plain).await.status, 200, "request {n}");
    }
    assert_eq!((one.count() - before.0, two.count() - before.1), (6, 2));

    // An empty entry: its share goes to the other one.
    ConsulAgent(registry).deregister("two").await;
    wait::until("two is gone", wait::TIMEOUT, async || {
        let told = explain(&app, plain).await;
        told["rules"][0]["split"]["entries"][1]["usable"] == false
    })
    .await;
    let told = explain(&app, plain).await;
    assert_eq!(shares(&told), [(1.0, "v1".to_owned())], "{told}");
    let text = page(&app, plain, "&format=text").await.text();
    for line in [
        "name       the Host names the service orders\n",
        "no match   upstreams[0].routes[0] (test.yaml:15): the header x-canary does not match {exact: 1}\n",
        "split      of orders, upstreams[0].split (test.yaml:11): in turn, because the request has not the header x-user\n",
        "              0%  the subset v2 (weight 25, no usable instance)\n",
        "orders, the subset v1 (upstreams[0].subsets.v1, test.yaml:8)\n",
        "  pick       round_robin among 1 instance of orders, which are healthy\n",
        "  retries    up to 2, after a failed connection and the statuses 502, 503, 504; the budget pays for ",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    app.shutdown().await;
}

async fn a_name_is_explained_as_it_is_read(registry: SocketAddr) {
    let one = Instance::start("one").await;
    register(registry, "orders", &one, json!({"Tags": ["v1"]})).await;
    let settings = "upstreams: [{service: orders, listen: \"127.0.0.1:0\"}]";
    let (app, outbound) = start_router(registry, settings).await;
    wait_usable(&app, ("GET", "http://orders/", &[]), 1).await;
    let own = app.upstream_addrs()[0].1;
    for (url, by, service) in [
        ("http://orders/".to_owned(), "host", "orders"),
        ("http://v1.orders.service/".to_owned(), "host", "orders[v1]"),
        (format!("http://{outbound}/svc/orders/x"), "path", "orders"),
        (format!("http://{own}/x"), "listener", "orders"),
    ] {
        let told = explain(&app, ("GET", &url, &[])).await;
        assert_eq!((&told["name"]["by"], &told["name"]["service"]), (&json!(by), &json!(service)), "{told}");
    }
    // A refusal is the one that the request gets.
    for (url, fields) in [
        (format!("http://{outbound}/x"), &[][..]),
        ("http://example.com/".to_owned(), &[]),
        ("http://orders/".to_owned(), &["Host: a b"]),
        ("http://orders/".to_owned(), &["Host:"]),
        ("http://orders/".to_owned(), &["Transfer-Encoding: gzip"]),
        ("http://orders.virtual.consul/".to_owned(), &[]),
    ] {
        let told = explain(&app, ("GET", &url, fields)).await;
        let mut head = format!("GET {} HTTP/1.1\r\n", &url[url.rfind('/').unwrap()..]);
        if !fields.iter().any(|field| field.starts_with("Host")) {
            head.push_str(&format!("Host: {}\r\n", url[7..].split('/').next().unwrap()));
        }
        fields
            .iter()
            .filter(|field| **field != "Host:")
            .for_each(|field| head.push_str(&format!("{field}\r\n")));
        let got = client::exchange(outbound, format!("{head}\r\n")).await;
        let refused = &told["refused"];
        assert_eq!(
            (&refused["reason"], &refused["status"]),
            (&json!(got.reason()), &json!(got.status)),
            "{told}"
        );
        assert_eq!(refused["detail"], got.json()["detail"], "{url}");
    }
    // A service that is not open stays so.
    let missing: Asked<'_> = ("GET", "http://missing/", &[]);
    let told = explain(&app, missing).await;
    let to = &told["destinations"][0];
    assert_eq!((&to["registry"]["state"], &to["refused"]), (&json!("not_open"), &Value::Null), "{told}");
    assert_eq!(to["settings_at"], "defaults");
    let services = client::get(app.admin_addr().unwrap(), "localhost", "/services").await.text();
    assert!(!services.contains("missing"), "{services}");
    assert_eq!(send(outbound, missing).await.reason(), "unknown_service");
    let told = explain(&app, missing).await;
    assert_eq!(told["destinations"][0]["refused"]["reason"], "unknown_service", "{told}");
    for (url, sentence) in
        [("https://orders/", "asks for TLS"), ("http:///", "has no host"), ("ws://orders/", "a WebSocket")]
    {
        let response = page(&app, ("GET", url, &[]), "").await;
        assert!(response.status == 400 && response.text().contains(sentence), "{response:?}");
    }
    // The command.
    let admin = app.admin_addr().unwrap().to_string();
    let run = async |arguments: &[&str]| {
        let all: Vec<&str> =
            ["explain"].iter().chain(arguments).copied().chain(["--admin", &admin]).collect();
        let end = run_outrigger(&all).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (end.status.code(), text(&end.stdout), text(&end.stderr))
    };
    let (code, text, _) = run(&["http://orders/x", "-H", "x-a: 1", "-X", "POST"]).await;
    assert_eq!(code, Some(0));
    assert!(text.starts_with("request    POST /x, Host orders, to the listener 127.0.0.1:"), "{text}");
    assert!(text.contains("only where nothing was sent: the method may not be repeated"), "{text}");
    let (code, text, _) = run(&["http://missing/", "--json"]).await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &told["destinations"][0]["refused"]["status"]),
        (Some(0), &json!(404)),
        "refused, and explained"
    );
    let (code, _, error) = run(&["https://orders/"]).await;
    assert!(code == Some(2) && error.contains("asks for TLS"), "{code:?} {error}");
    app.shutdown().await;
}

async fn settings_have_their_origin_also_in_the_kv(registry: SocketAddr) {
    let one = Instance::start("one").await;
    register(registry, "orders", &one, json!({"Tags": ["v1"]})).await;
    let kv = TestKv::new(registry, None);
    kv.put("team/settings/.outrigger", "").await;
    let settings = "dynamic_config: {prefix: team, allow: [tuning, routing]}\nupstreams:\n  - {service: orders, timeout: 5s}\n";
    let (app, outbound) = start_router(registry, settings).await;
    let orders: Asked<'_> = ("GET", "http://orders/a", &[]);
    wait_usable(&app, orders, 1).await;
    let document = "timeout: 2s\nsubsets: {v1: {tags: [v1]}}\nroutes: [{match: {path: {prefix: /a}}, to: {subset: v1}}]\n";
    kv.put("team/settings/services/orders", document).await;
    let index = kv.index("team/settings/services/orders").await;
    wait::until("the document is in place", wait::TIMEOUT, async || {
        explain(&app, orders).await["rules"][0]["route"]["to"] == "the subset v1"
    })
    .await;
    let told = explain(&app, orders).await;
    let origin = format!("kv:team/settings/services/orders@{index}");
    assert_eq!(told["rules"][0]["route"]["origin"], origin, "{told}");
    let to = &told["destinations"][0];
    assert_eq!((&to["subset"]["origin"], &to["settings_at"]), (&json!(origin), &json!("upstreams[0]")));
    let timeout = to["settings"].as_array().unwrap().iter().find(|one| one["key"] == "timeout").unwrap();
    assert_eq!(timeout["origin"], format!("{origin}, over test.yaml:6 (\"5s\")"), "{timeout}");
    assert_eq!(taken(&told), [send(outbound, orders).await.instance()]);
    app.shutdown().await;
}

async fn an_explanation_follows_the_failover(registry: SocketAddr) {
    let own = Instance::start("own").await;
    register(registry, "orders", &own, Value::Null).await;
    let other = Instance::start("other").await;
    register(registry, "orders-fallback", &other, Value::Null).await;
    let settings = "upstreams: [{service: orders, failover: [{service: orders-fallback}], return_after: 1s}]";
    let (app, outbound) = start_router(registry, settings).await;
    let orders: Asked<'_> = ("GET", "http://orders/", &[]);
    wait_usable(&app, orders, 1).await;
    wait_usable(&app, ("GET", "http://orders-fallback/", &[]), 1).await;
    let told = explain(&app, orders).await;
    let to = &told["destinations"][0];
    assert_eq!((&to["pick"]["from"], taken(&told)), (&json!("own"), vec!["own".to_owned()]), "{told}");
    assert_eq!(
        (&to["failover"]["active"], &to["failover"]["targets"][0]["usable"]),
        (&json!(false), &json!(1))
    );
    let first = to["without_instance"][0].as_str().unwrap();
    assert!(first.starts_with("it goes to orders-fallback, by the failover"), "{first}");
    own.kill(Kill::Reset).await;
    assert_eq!(send(outbound, orders).await.instance(), "other");
    let told = explain(&app, orders).await;
    let to = &told["destinations"][0];
    assert_eq!((&to["pick"]["from"], taken(&told)), (&json!("failover"), vec!["other".to_owned()]), "{told}");
    assert_eq!((&to["pick"]["service"], &to["refused"]), (&json!("orders-fallback"), &Value::Null));
    assert!(to["candidates"][0]["why_not"].as_str().unwrap().contains("ejected"), "{told}");
    // Requests are there from the next one on, which finds no own instance.
    assert_eq!(send(outbound, orders).await.instance(), "other");
    let told = explain(&app, orders).await;
    assert_eq!(told["destinations"][0]["failover"]["active"], true, "{told}");
    other.kill(Kill::Reset).await;
    let got = send(outbound, orders).await;
    assert!(got.status >= 500, "{got:?}");
    app.shutdown().await;
}

async fn an_explanation_has_the_shares_of_the_zones(registry: SocketAddr) {
    let near = Instance::start("near").await;
    register(registry, "orders", &near, json!({"Meta": {"zone": "a"}})).await;
    let far = Instance::start("far").await;
    register(registry, "orders", &far, json!({"Meta": {"zone": "b"}})).await;
    let settings = "upstreams: [{service: orders, zone: {own: a, min_instances: 2}}]";
    let (app, outbound) = start_router(registry, settings).await;
    let orders: Asked<'_> = ("GET", "http://orders/", &[]);
    wait_usable(&app, orders, 2).await;
    let zones = json!([{"zone": "a", "share": 1.0}, {"zone": "b", "share": 0.0}]);
    wait::until("the shares are worked out", wait::TIMEOUT, async || {
        explain(&app, orders).await["destinations"][0]["pick"]["zones"] == zones
    })
    .await;
    let told = explain(&app, orders).await;
    let zone_of = |id: &str| {
        let candidates = told["destinations"][0]["candidates"].as_array().unwrap();
        candidates.iter().find(|one| one["id"] == id).unwrap()["zone"].clone()
    };
    assert_eq!((zone_of("near"), zone_of("far")), (json!("a"), json!("b")), "{told}");
    for _ in 0..4 {
        assert_eq!(send(outbound, orders).await.instance(), "near");
    }
    app.shutdown().await;
}
