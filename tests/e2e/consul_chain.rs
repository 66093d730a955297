//! Consul's service-resolver, service-splitter, service-router and service-defaults, as a real Consul compiles them: each row of the
//! table has the entries of one service and the requests that prove them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use ::http::Method;
use outrigger::App;
use outrigger_proxy::Workers;
use outrigger_tests::{
    client,
    consul::{self, Consul, ConsulDatacenters, http},
    instance::{Answer, Instance, Kill},
    load::{Load, LoadPlan},
    registry::ConsulAgent,
    wait,
};
use serde_json::{Value, json};

use crate::{
    app::{load_text, start_router_by},
    explain::{explain, send, taken},
};

mod more;
mod table;

use table::Row;

/// The settings of the sidecars here: services are called at once, each for the first time.
const SETTINGS: &str = "
routing: {consul: true}
discovery: {max_services: 1000, max_unknown: 1000, max_new_per_second: 1000, first_answer: 20s}
defaults: {retry: {budget: {ratio: 1, min_per_second: 100}}, outlier: off}
";

async fn register(agent: ConsulAgent, service: &str, instance: &Instance, more: Value) {
    let addr = instance.addr();
    let id = format!("{}-{service}", instance.name());
    let mut body = json!({"Name": service, "ID": id, "Address": addr.ip().to_string(), "Port": addr.port()});
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    agent.put("/v1/agent/service/register", &body).await;
}

/// Writes a config entry. Consul refuses one that goes with no other, so each is of a chain that is right.
async fn write_entry(agent: ConsulAgent, entry: &Value) {
    let answer = http::put(agent.0, "/v1/config", &entry.to_string()).await.expect("an answer");
    let text = String::from_utf8_lossy(answer.body());
    assert!(answer.status() == 200 && text.trim() == "true", "{entry}: {} {text}", answer.status());
}

async fn delete_entry(agent: ConsulAgent, kind: &str, name: &str) {
    let path = format!("/v1/config/{kind}/{name}");
    let answer = http::call(agent.0, Method::DELETE, &path, "").await.expect("an answer");
    assert_eq!(answer.status(), 200, "{path}");
}

/// The instances that the services of the table share. Each answers with its name.
struct Instances {
    v1: Instance,
    v2: Instance,
    warned: Instance,
    api: Instance,
    others: [Instance; 2],
    /// Answers with the target of the request.
    echo: Instance,
    /// Answers after 700 ms.
    slow: Instance,
    /// Answers 503 to the first request for each target, 500 to those for `/500`, and then with its name.
    flaky: Instance,
    elsewhere: Instance,
}

impl Instances {
    async fn start() -> Self {
        let seen = parking_lot::Mutex::new(BTreeMap::<String, usize>::new());
        let flaky = Instance::scripted("flaky", move |request| {
            let mut seen = seen.lock();
            let count = seen.entry(request.target().to_owned()).or_default();
            *count += 1;
            match *count {
                1 if request.target().starts_with("/500") => Answer::status(500, "first"),
                1 => Answer::status(503, "first"),
                _ => Answer::ok("flaky"),
            }
        });
        Self {
            v1: Instance::start("v1").await,
            v2: Instance::start("v2").await,
            warned: Instance::start("warned").await,
            api: Instance::start("api").await,
            others: [Instance::start("o1").await, Instance::start("o2").await],
            echo: Instance::scripted("echo", |request| Answer::ok(request.target())).await,
            slow: Instance::scripted("slow", |_| Answer::ok("slow").delayed(Duration::from_millis(700)))
                .await,
            flaky: flaky.await,
            elsewhere: Instance::start("elsewhere").await,
        }
    }

    /// Registers those of one service of the table, in both datacenters.
    async fn register_own(&self, dc1: ConsulAgent, dc2: ConsulAgent, service: &str) {
        let version = |version: &str| json!({"Meta": {"version": version}, "Tags": [format!("t{version}")]});
        register(dc1, service, &self.v1, version("1")).await;
        register(dc1, service, &self.v2, version("2")).await;
        let check = json!({"Meta": {"version": "3"}, "Check": {"TTL": "1h", "Status": "warning"}});
        register(dc1, service, &self.warned, check).await;
        // Without tags: a filter may tell it from `v1`.
        register(dc2, service, &self.elsewhere, json!({"Meta": {"version": "1"}})).await;
    }
}

/// What the response of one request is in the table: the first word of the body, or status and reason.
async fn ask(outbound: SocketAddr, service: &str, head: &str) -> String {
    let (line, fields) = head.split_once('\n').unwrap_or((head, ""));
    let fields: String = fields.lines().map(|line| format!("{}\r\n", line.trim())).collect();
    let request = format!("{line} HTTP/1.1\r\nHost: {service}\r\nContent-Length: 0\r\n{fields}\r\n");
    let response = client::exchange(outbound, request).await;
    match response.status {
        200 => response.text().split(' ').next().unwrap_or_default().to_owned(),
        status => format!("{status} {}", response.reason()).trim_end().to_owned(),
    }
}

/// What is wrong with the responses of a row.
async fn check_row(outbound: SocketAddr, service: &str, row: &Row) -> Vec<String> {
    let mut wrong = Vec::new();
    for (head, expected) in row.requests {
        let total: usize = expected.iter().map(|(_, count)| count).sum();
        let mut got = BTreeMap::new();
        for _ in 0..total {
            *got.entry(ask(outbound, service, head).await).or_insert(0_usize) += 1;
        }
        let is_met = got.keys().all(|name| expected.iter().any(|(known, _)| known == name))
            && expected.iter().all(|(name, count)| {
                got.get(*name).copied().unwrap_or_default().abs_diff(*count) <= row.slack
            });
        if !is_met {
            wrong.push(format!("{service} ({}): {head:?}: expected {expected:?}, got {got:?}", row.what));
        }
    }
    wrong
}

async fn entry_of(app: &App, service: &str) -> Value {
    let page = client::get(app.admin_addr().expect("an admin side"), "localhost", "/services").await.json();
    let all = page["services"].as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|one| one["service"] == service && one["datacenter"].is_null());
    found.unwrap_or_else(|| panic!("{service} is not on the page"))
}

#[tokio::test]
async fn entries_of_a_real_consul_are_honoured() {
    if !consul::available("entries of a real Consul are honoured") {
        return;
    }
    let consul = ConsulDatacenters::start().await.expect("two datacenters");
    let (dc1, dc2) = (ConsulAgent(consul.dc1.http_addr()), ConsulAgent(consul.dc2.http_addr()));
    let all = Instances::start().await;
    for service in ["api", "other", "echo", "slow", "flaky", "mid", "none", "moved", "parted"] {
        write_entry(dc1, &json!({"Kind": "service-defaults", "Name": service, "Protocol": "http"})).await;
    }
    register(dc1, "api", &all.api, Value::Null).await;
    register(dc2, "api", &all.elsewhere, Value::Null).await;
    for (instance, version) in all.others.iter().zip(["1", "2"]) {
        register(dc1, "other", instance, json!({"Meta": {"version": version}})).await;
    }
    register(dc1, "echo", &all.echo, Value::Null).await;
    register(dc1, "slow", &all.slow, Value::Null).await;
    register(dc1, "flaky", &all.flaky, Value::Null).await;
    let moved = json!({"Kind": "service-resolver", "Name": "moved", "Redirect": {"Service": "api"}});
    write_entry(dc1, &moved).await;
    let subsets = json!({"one": {"Filter": "Service.Meta.version == 1"}, "two": {"Filter": "Service.Meta.version == 2"}});
    write_entry(dc1, &json!({"Kind": "service-resolver", "Name": "other", "Subsets": subsets})).await;
    let halves = ["one", "two"].map(|name| json!({"Weight": 50, "Service": "other", "ServiceSubset": name}));
    write_entry(dc1, &json!({"Kind": "service-splitter", "Name": "parted", "Splits": halves})).await;
    let routes = json!([{"Match": {"HTTP": {"PathPrefix": "/p"}}, "Destination": {"Service": "api"}}]);
    write_entry(dc1, &json!({"Kind": "service-router", "Name": "parted", "Routes": routes})).await;
    let rows: Vec<&Row> = table::ROWS.iter().chain(more::ROWS).collect();
    let names: Vec<_> = (0..rows.len()).map(|n| format!("t{n:02}")).collect();
    for (service, row) in names.iter().zip(&rows) {
        all.register_own(dc1, dc2, service).await;
        write_entry(dc1, &json!({"Kind": "service-defaults", "Name": service, "Protocol": row.protocol}))
            .await;
        for (kind, more) in row.entries {
            let mut entry: Value =
                serde_json::from_str(more).unwrap_or_else(|error| panic!("{}: {error}: {more}", row.what));
            entry["Kind"] = json!(format!("service-{kind}"));
            if entry["Name"].is_null() {
                entry["Name"] = json!(service);
            }
            write_entry(dc1, &entry).await;
        }
    }
    let own = rows.iter().position(|row| row.what == table::OWN_RULES).expect("the row");
    let settings = format!(
        "{SETTINGS}upstreams: [{{service: {}, subsets: {{one: {{meta: {{version: 1}}}}}}, split: [{{subset: one, weight: 1}}]}}]",
        names[own]
    );
    let consul_keys = format!("address: \"http://{}\", max_connections: 180", dc1.0);
    let (app, outbound) = start_router_by(&consul_keys, &settings).await;
    let mut wrong = Vec::new();
    for (service, row) in names.iter().zip(&rows) {
        wrong.extend(check_row(outbound, service, row).await);
    }
    assert_eq!(wrong, [] as [String; 0], "\n{}", wrong.join("\n"));
    for (service, row) in names.iter().zip(&rows) {
        let chain = &entry_of(&app, service).await["chain"];
        assert_eq!(chain["state"], row.state, "{}: {chain}", row.what);
        let protocol = Some(row.protocol).filter(|name| *name != "tcp" && row.state != "ignored");
        assert_eq!(chain["protocol"].as_str(), protocol, "{}: {chain}", row.what);
        let kinds: Vec<_> =
            chain["problems"].as_array().into_iter().flatten().map(|one| one["kind"].clone()).collect();
        let expected: Vec<_> = row.problems.iter().map(|kind| json!(kind)).collect();
        assert_eq!(kinds, expected, "{}: {chain}", row.what);
    }
    let metrics = client::get(app.admin_addr().expect("an admin side"), "localhost", "/metrics").await.text();
    let bad = rows.iter().position(|row| row.problems == ["filter"]).expect("a row");
    let line = format!("outrigger_chain_problems{{kind=\"filter\",service=\"{}\"}} 1", names[bad]);
    assert!(metrics.contains(&line), "{line}");
    let settings = client::get(app.admin_addr().expect("an admin side"), "localhost", "/config").await.text();
    let line = format!("# Consul's chain of {}: the filter of the subset bad", names[bad]);
    assert!(settings.contains(&line), "{settings}");
    app.shutdown().await;
}

/// One Consul, a service `web` of two versions, `api`, and a sidecar with a load on `web`.
struct ChainSite {
    consul: Consul,
    agent: ConsulAgent,
    v1: Instance,
    v2: Instance,
    api: Instance,
    app: App,
    outbound: SocketAddr,
}

impl ChainSite {
    async fn start(settings: &str) -> Self {
        let consul = Consul::server_with("connect { enabled = true }").await.expect("a Consul");
        let agent = ConsulAgent(consul.http_addr());
        let (v1, v2, api) =
            (Instance::start("v1").await, Instance::start("v2").await, Instance::start("api").await);
        register(agent, "web", &v1, json!({"Meta": {"version": "1"}})).await;
        register(agent, "web", &v2, json!({"Meta": {"version": "2"}})).await;
        register(agent, "api", &api, Value::Null).await;
        for service in ["web", "api"] {
            write_entry(agent, &json!({"Kind": "service-defaults", "Name": service, "Protocol": "http"}))
                .await;
        }
        let (app, outbound) = start_router_by(&format!("address: \"http://{}\"", agent.0), settings).await;
        Self { consul, agent, v1, v2, api, app, outbound }
    }

    async fn write(&self, kind: &str, more: Value) {
        let mut entry = more;
        entry["Kind"] = json!(kind);
        entry["Name"] = json!("web");
        write_entry(self.agent, &entry).await;
    }

    /// Waits until each of these gets requests, and no other does.
    async fn wait_taken_by(&self, names: &[&str]) {
        let all = [&self.v1, &self.v2, &self.api];
        let what = format!("{names:?} take the requests");
        wait::until(&what, wait::TIMEOUT, async || {
            let before = all.map(Instance::count);
            for _ in 0..12 {
                assert_eq!(client::get(self.outbound, "web", "/").await.status, 200);
            }
            let after = all.map(Instance::count);
            let mut changed = all.iter().zip(before.iter().zip(&after)).filter(|(_, (a, b))| b > a);
            let taken: Vec<_> = changed.by_ref().map(|(one, _)| one.name()).collect();
            taken == names
        })
        .await;
    }
}

#[tokio::test]
async fn entries_that_change_under_load_cost_no_request() {
    if !consul::available("entries that change under load cost no request") {
        return;
    }
    let mut site = ChainSite::start(SETTINGS).await;
    let load = Load::start(site.outbound, LoadPlan::get("web"));
    load.wait_successes(50).await;
    site.wait_taken_by(&["v1", "v2"]).await;
    let subsets = json!({
        "one": {"Filter": "Service.Meta.version == 1"}, "two": {"Filter": "Service.Meta.version == 2"},
    });
    site.write("service-resolver", json!({"Subsets": subsets, "DefaultSubset": "one"})).await;
    site.wait_taken_by(&["v1"]).await;
    let half = json!([{"Weight": 50, "ServiceSubset": "one"}, {"Weight": 50, "ServiceSubset": "two"}]);
    site.write("service-splitter", json!({"Splits": half})).await;
    site.wait_taken_by(&["v1", "v2"]).await;
    // A service that was not in use.
    let routes = json!([{"Match": {"HTTP": {"PathPrefix": "/"}}, "Destination": {"Service": "api"}}]);
    site.write("service-router", json!({"Routes": routes})).await;
    site.wait_taken_by(&["api"]).await;
    delete_entry(site.agent, "service-router", "web").await;
    site.wait_taken_by(&["v1", "v2"]).await;
    delete_entry(site.agent, "service-splitter", "web").await;
    site.wait_taken_by(&["v1"]).await;
    // A filter that the sidecar does not evaluate itself.
    let asked =
        json!({"one": {"Filter": "Service.Meta.version == 1 and Service.EnableTagOverride == false"}});
    site.write("service-resolver", json!({"Subsets": asked, "DefaultSubset": "one"})).await;
    wait::until("it is in effect", wait::TIMEOUT, async || {
        let page = client::get(site.app.admin_addr().expect("an admin side"), "localhost", "/services").await;
        page.text().contains("EnableTagOverride")
    })
    .await;
    site.wait_taken_by(&["v1"]).await;
    // A filter that Consul takes and cannot evaluate: the last good one stays.
    let wrong = json!({"one": {"Filter": "Service.Meta.version = 1"}});
    site.write("service-resolver", json!({"Subsets": wrong, "DefaultSubset": "one"})).await;
    wait::until("it is named", wait::TIMEOUT, async || {
        entry_of(&site.app, "web").await["chain"]["problems"][0]["kind"] == "filter"
    })
    .await;
    site.wait_taken_by(&["v1"]).await;
    // Consul is away: the last chain stays.
    site.consul.kill().expect("kill it");
    load.run_for(Duration::from_secs(2)).await;
    site.wait_taken_by(&["v1"]).await;
    site.consul.start().await.expect("start it again");
    register(site.agent, "web", &site.v1, json!({"Meta": {"version": "1"}})).await;
    register(site.agent, "web", &site.v2, json!({"Meta": {"version": "2"}})).await;
    delete_entry(site.agent, "service-resolver", "web").await;
    site.wait_taken_by(&["v1", "v2"]).await;
    load.stop().await.assert_clean(500);
    site.app.shutdown().await;
}

#[tokio::test]
async fn a_chain_fails_over_and_returns() {
    if !consul::available("a chain fails over and returns") {
        return;
    }
    let site = ChainSite::start("routing: {consul: true}").await;
    let subsets = json!({"one": {"Filter": "Service.Meta.version == 1"}});
    let failover = json!({"*": {"Service": "api"}});
    let resolver = json!({"Subsets": subsets, "DefaultSubset": "one", "Failover": failover});
    site.write("service-resolver", resolver).await;
    site.wait_taken_by(&["v1"]).await;
    let load = Load::start(site.outbound, LoadPlan::get("web"));
    load.wait_successes(50).await;
    // It is watched from the first request on, which does not wait for it.
    wait::until("the target is known", wait::TIMEOUT, async || {
        entry_of(&site.app, "api").await["instances"].as_array().is_some_and(|all| !all.is_empty())
    })
    .await;
    site.v1.kill(Kill::Reset).await;
    site.wait_taken_by(&["api"]).await;
    wait::until("it is shown", wait::TIMEOUT, async || {
        entry_of(&site.app, "web").await["chain"]["targets"][0]["failover_active"] == true
    })
    .await;
    let metrics =
        client::get(site.app.admin_addr().expect("an admin side"), "localhost", "/metrics").await.text();
    for line in [
        "outrigger_failover_active{service=\"web\",subset=\"one\"} 1",
        "outrigger_failover_attempts_total{service=\"web\",target=\"api\"} ",
        "outrigger_subset_usable_instances{service=\"web\",subset=\"one\"} ",
        "outrigger_subset_responses_total{class=\"2xx\",service=\"web\",subset=\"one\"} ",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    site.v1.listen_again().await;
    wait::until("requests return", Duration::from_secs(60), async || {
        let before = site.v1.count();
        load.wait_successes(20).await;
        site.v1.count() > before + 10
    })
    .await;
    load.stop().await.assert_clean(100);
    site.app.shutdown().await;
}

#[tokio::test]
async fn chains_are_not_asked_for_unless_routing_is_on_and_a_reload_turns_it_on_and_off() {
    if !consul::available("a reload turns routing on and off") {
        return;
    }
    let site = ChainSite::start(SETTINGS).await;
    let subsets = json!({"one": {"Filter": "Service.Meta.version == 1"}});
    site.write("service-resolver", json!({"Subsets": subsets, "DefaultSubset": "one"})).await;
    site.wait_taken_by(&["v1"]).await;
    let keys = format!("address: \"http://{}\"", site.agent.0);
    site.app.apply(crate::app::router_settings(&keys, "defaults: {outlier: off}")).await.expect("a reload");
    site.wait_taken_by(&["v1", "v2"]).await;
    assert!(entry_of(&site.app, "web").await["chain"].is_null());
    site.app.apply(crate::app::router_settings(&keys, SETTINGS)).await.expect("a reload");
    site.wait_taken_by(&["v1"]).await;
    site.app.shutdown().await;
}

#[tokio::test]
async fn a_request_by_a_chain_is_explained() {
    if !consul::available("a request by a chain is explained") {
        return;
    }
    let settings = "routing: {consul: true}\nupstreams: [{service: own, split: [{service: api, weight: 1}]}]";
    let site = ChainSite::start(settings).await;
    let ill = Instance::scripted("ill", |_| Answer::status(503, "ill")).await;
    register(site.agent, "own", &ill, Value::Null).await;
    let subsets = json!({
        "one": {"Filter": "Service.Meta.version == 1"}, "two": {"Filter": "Service.Meta.version == 2"},
    });
    let failover = json!({"two": {"Service": "api"}});
    site.write(
        "service-resolver",
        json!({"Subsets": subsets, "Failover": failover, "ConnectTimeout": "250ms"}),
    )
    .await;
    let half = json!([{"Weight": 75, "ServiceSubset": "one"}, {"Weight": 25, "ServiceSubset": "two"}]);
    site.write("service-splitter", json!({"Splits": half})).await;
    let to_two = json!({"ServiceSubset": "two", "RequestTimeout": "3s"});
    let matcher = json!({"HTTP": {"Header": [{"Name": "x-two", "Present": true}]}});
    site.write("service-router", json!({"Routes": [{"Match": matcher, "Destination": to_two}]})).await;

    let told = explain(&site.app, ("GET", "http://web/", &[])).await;
    assert_eq!(
        (&told["chains"][0]["service"], &told["chains"][0]["state"]),
        (&json!("web"), &json!("unasked"))
    );
    assert_eq!(told["destinations"][0]["registry"]["state"], "not_open");
    site.wait_taken_by(&["v1", "v2"]).await;

    let two = ("GET", "http://web/", &["x-two: 1"] as &[&str]);
    let told = explain(&site.app, two).await;
    assert_eq!(told["chains"][0]["state"], "in_effect");
    let route = &told["rules"][0]["route"];
    assert_eq!(
        (&route["key"], &route["origin"]),
        (&json!("chain.routes[0]"), &json!("Consul's chain")),
        "{told}"
    );
    assert_eq!(route["to"], "the target two.web.default.dc1");
    let there = &told["destinations"][0];
    assert_eq!(there["target"], "chain.targets[two.web.default.dc1]");
    assert_eq!(
        (&there["subset"]["name"], &there["subset"]["origin"]),
        (&json!("two"), &json!("Consul's chain"))
    );
    let settings = there["settings"].as_array().expect("settings");
    for (key, value) in [("timeout", "3s"), ("connect_timeout", "250ms")] {
        let one = settings.iter().find(|one| one["key"] == key).expect("the setting");
        assert_eq!((&one["value"], &one["origin"]), (&json!(value), &json!("Consul's chain, over default")));
    }
    assert_eq!(there["limits"]["timeout_ms"], 3000);
    assert_eq!(
        (&there["failover"]["targets"][0]["service"], there["failover"]["active"].as_bool()),
        (&json!("api"), Some(false))
    );
    assert_eq!(taken(&told), ["v2-web"]);
    assert_eq!(send(site.outbound, two).await.text(), "v2");

    let told = explain(&site.app, ("GET", "http://web/", &[])).await;
    assert_eq!(told["rules"][0]["passed"][0]["key"], "chain.routes[0]");
    assert_eq!(
        (&told["rules"][0]["split"]["key"], &told["rules"][0]["split"]["origin"]),
        (&json!("chain.split"), &json!("Consul's chain"))
    );
    let shares: Vec<_> =
        told["destinations"].as_array().expect("two").iter().map(|one| one["share"].as_f64()).collect();
    assert_eq!(shares, [Some(0.75), Some(0.25)]);

    // Without an instance there, it is the failover's.
    site.v2.kill(Kill::Reset).await;
    wait::until("it fails over", wait::TIMEOUT, async || {
        send(site.outbound, two).await.text() == "api" && taken(&explain(&site.app, two).await) == ["api-api"]
    })
    .await;

    let told = explain(&site.app, ("GET", "http://own/", &[])).await;
    assert_eq!(told["chains"][0]["state"], "ignored", "{told}");
    assert_eq!(told["chains"][1]["state"], "default", "{told}");
    let page = client::get(
        site.app.admin_addr().expect("an admin side"),
        "localhost",
        "/explain?url=http://web/&format=text",
    )
    .await;
    assert!(page.text().contains("Consul's, of web: in_effect, protocol http, 1 route"), "{}", page.text());
    site.app.shutdown().await;
}

#[tokio::test]
async fn a_restart_while_consul_is_away_goes_on_with_the_last_chain() {
    if !consul::available("a restart while Consul is away") {
        return;
    }
    let mut site = ChainSite::start(SETTINGS).await;
    // The file of answers is found by the port.
    let (folder, outbound) = (tempfile::tempdir().expect("a folder"), outrigger_net::reserve_addr());
    let settings = format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\noutbound: {{listen: \"{outbound}\"}}\n\
         admin: {{listen: \"127.0.0.1:0\"}}\nstate_dir: {}\n{SETTINGS}",
        site.agent.0,
        folder.path().display()
    );
    let start = async || App::start(load_text(&settings), Workers::CurrentRuntime).await.expect("it starts");
    std::mem::replace(&mut site.app, start().await).shutdown().await;
    site.outbound = outbound;
    let subsets = json!({"one": {"Filter": "Service.Meta.version == 1"}});
    let failover = json!({"*": {"Service": "api"}});
    site.write("service-resolver", json!({"Subsets": subsets, "DefaultSubset": "one", "Failover": failover}))
        .await;
    site.wait_taken_by(&["v1"]).await;
    wait::until("the target is known", wait::TIMEOUT, async || {
        entry_of(&site.app, "api").await["instances"].as_array().is_some_and(|all| !all.is_empty())
    })
    .await;
    site.consul.kill().expect("kill it");
    site.app.shutdown().await;
    let app = start().await;
    for _ in 0..12 {
        assert_eq!(client::get(outbound, "web", "/").await.text(), "v1");
    }
    assert_eq!(entry_of(&app, "web").await["chain"]["state"], "in_effect");
    site.v1.kill(Kill::Reset).await;
    wait::until("it fails over", wait::TIMEOUT, async || {
        client::get(outbound, "web", "/").await.text() == "api"
    })
    .await;
    app.shutdown().await;
}
