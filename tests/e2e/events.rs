//! The events of a sidecar: by its page, its stream and the command, in the order in which they happen.

use std::{
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{
    client,
    instance::{Answer, Instance, Kill},
    process::{self, Process},
    registry::ConsulAgent,
    registry_proxy::{RegistryMode, RegistryProxy},
    sidecar::Sidecar,
    wait,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// `outrigger events -f --json`, killed when it is dropped.
struct Followed {
    child: Child,
    _folder: TempDir,
    output: PathBuf,
}

impl Followed {
    fn start(admin: SocketAddr, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("events");
        let mut command = Command::new(process::binary());
        command.args(["events", "-f", "--json", "--admin", &admin.to_string()]).args(arguments);
        command.stdin(Stdio::null()).stdout(File::create(&output).unwrap());
        Self { child: command.spawn().unwrap(), _folder: folder, output }
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.output).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a line is `wanted`, and returns the number of lines up to it.
    async fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> usize {
        let mut found = None;
        wait::until_true(what, || {
            found = self.lines().iter().position(&wanted);
            found.is_some()
        })
        .await;
        found.unwrap() + 1
    }

    async fn wait_for_kind(&self, kind: &str) -> usize {
        self.wait_for(kind, |line| line["kind"] == kind).await
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn events(process: &Process, query: &str) -> Vec<Value> {
    let page = process.admin_get(&format!("/events?{query}")).await;
    assert_eq!(page.status, 200, "{}", page.text());
    page.json()["events"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_command_follows_a_sidecar_through_an_outage_and_a_restart() {
    let registry =
        DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default()).await.unwrap();
    let front = RegistryProxy::start(registry.addr()).await;
    let all = [Instance::start("a").await, Instance::start("b").await];
    let agent = ConsulAgent(registry.addr());
    agent.register("payments", &all[0]).await;
    let settings = format!(
        "registry: {{consul: {{address: \"http://{}\"}}}}\nadmin: {{listen: \"{}\"}}\nupstreams: [{{service: payments}}]",
        front.addr(),
        outrigger_net::reserve_addr(),
    );
    let mut first = Process::run(&settings).await;
    let followed = Followed::start(first.admin(), &[]);
    followed.wait_for("what was there before", |line| line["instance"] == "a").await;
    agent.register("payments", &all[1]).await;
    followed.wait_for("an instance that comes", |line| line["instance"] == "b").await;
    front.set(RegistryMode::Refuse);
    let lost = followed.wait_for_kind("registry_lost").await;
    front.set(RegistryMode::Pass);
    let back = followed.wait_for_kind("registry_back").await;
    assert!(lost < back, "{:?}", followed.lines());

    // The page and the stream have the same objects.
    let page = events(&first, "service=payments").await;
    let of_stream: Vec<_> =
        followed.lines().into_iter().filter(|line| line["service"] == "payments").collect();
    assert_eq!(
        page.iter().map(|one| &one["id"]).collect::<Vec<_>>(),
        of_stream.iter().map(|one| &one["id"]).collect::<Vec<_>>()
    );
    let printed = process::run_outrigger(&[
        "events",
        "--service",
        "payments",
        "--kind",
        "instance_joined",
        "--limit",
        "1",
        "--admin",
        &first.admin().to_string(),
    ])
    .await;
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(
        printed.lines().count() == 1 && printed.contains("  instance_joined      payments  b on "),
        "{printed}"
    );

    // Another process: its events follow after a line that says so.
    let before = followed.lines().len();
    first.signal("TERM");
    assert!(first.wait_exit(wait::TIMEOUT).await.success());
    let second = Process::run(&settings).await;
    let restarted =
        followed.wait_for("the restart", |line| line["lost"].is_null() && line["kind"].is_null()).await;
    assert!(restarted > before, "{:?}", followed.lines());
    wait::until_true("the events of the new process", || {
        followed.lines()[restarted..].iter().filter(|line| line["kind"] == "instance_joined").count() >= 2
    })
    .await;
    let lines = followed.lines();
    let epoch = |line: &Value| line["id"].as_str().map(|id| id.split_once('-').unwrap().0.to_owned());
    assert_ne!(epoch(&lines[0]), epoch(&lines[restarted]));
    assert_eq!(lines[restarted - 1], json!({"lost": null}));
    drop(second);
}

#[tokio::test]
async fn what_a_breaker_does_is_recorded_once_for_each_change() {
    let settings = "defaults: {retry: {max_retries: 0}, circuit_breaker: {min_requests: 10, open_for: 300ms, max_open_for: 400ms}}";
    let instance = Instance::scripted("a", |_| Answer::status(503, "no")).await;
    let sidecar = Sidecar::orders(settings, &[&instance]).await;
    let of_breaker = || -> Vec<_> {
        sidecar.events("orders").into_iter().filter(|line| line.starts_with("breaker_")).collect()
    };
    for _ in 0..12 {
        sidecar.get("orders", "/").await;
    }
    assert_eq!(of_breaker(), ["breaker_opened -: 10 of the last 10 requests failed"]);
    wait::until("a request is let through", wait::TIMEOUT, async || {
        sidecar.get("orders", "/").await.reason().is_empty()
    })
    .await;
    let half_open = "breaker_half_open -: its time is over, and a request is let through";
    let again = "breaker_opened -: a request that was let through failed";
    assert_eq!(of_breaker()[1..], [half_open, again]);
    instance.set_script(|_| Answer::ok("well"));
    wait::until("the breaker closes", wait::TIMEOUT, async || {
        sidecar.get("orders", "/").await;
        of_breaker().last().is_some_and(|line| line.starts_with("breaker_closed"))
    })
    .await;
    let closed = "breaker_closed -: the requests that were let through succeeded";
    let told = of_breaker();
    assert!(told[1].starts_with(half_open) && told.last().unwrap() == closed, "{told:?}");
}

/// Where each of these kinds stands first with a reason that begins so.
fn positions(lines: &[Value], wanted: &[(&str, &str)]) -> Vec<usize> {
    let find = |(kind, reason): &(&str, &str)| {
        let is = |line: &Value| line["kind"] == *kind && line["reason"].as_str().unwrap().starts_with(reason);
        lines.iter().position(is).unwrap_or_else(|| panic!("no {kind} {reason} in {lines:#?}"))
    };
    wanted.iter().map(find).collect()
}

/// An instance that dies, a registry that goes and comes back, a reload, maintenance and a drain: one after the other, each with its
/// events.
#[tokio::test]
async fn an_ejection_an_outage_and_a_drain_are_told_in_their_order() {
    let registry =
        DevRegistry::bind("127.0.0.1:0".parse().unwrap(), DevRegistryOptions::default()).await.unwrap();
    let front = RegistryProxy::start(registry.addr()).await;
    let app = Instance::start("app").await;
    let all = [Instance::start("a").await, Instance::start("b").await];
    let agent = ConsulAgent(registry.addr());
    for instance in &all {
        agent.register("payments", instance).await;
    }
    let settings = |timeout: &str| {
        format!(
            "registry: {{consul: {{address: \"http://{}\"}}}}\n\
             service: {{name: orders, id: orders-1, port: {}, address: 127.0.0.1}}\n\
             drain: {{margin: 100ms}}\n\
             upstreams: [{{service: payments, timeout: {timeout}}}]",
            front.addr(),
            app.addr().port(),
        )
    };
    let mut process = Process::run(&settings("5s")).await;
    process.wait_ready().await;
    let followed = Followed::start(process.admin(), &[]);
    followed.wait_for_kind("registered").await;

    all[1].kill(Kill::Reset).await;
    let outbound = process.outbound();
    wait::until("the dead instance is ejected", wait::TIMEOUT, async || {
        assert_eq!(client::get(outbound, "payments", "/").await.status, 200);
        followed.lines().iter().any(|line| line["kind"] == "instance_ejected" && line["instance"] == "b")
    })
    .await;
    all[1].listen_again().await;
    followed.wait_for_kind("instance_back").await;
    front.set(RegistryMode::Status(500));
    followed.wait_for_kind("registry_lost").await;
    front.set(RegistryMode::Pass);
    followed.wait_for_kind("registry_back").await;
    process.write_settings(&settings("4s"));
    assert_eq!(process.admin_post("/reload").await.status, 200);
    process.write_settings("nonsense: 1");
    assert_eq!(process.admin_post("/reload").await.status, 422);
    assert_eq!(process.admin_post("/maintenance?enable=true&reason=disk").await.status, 200);
    assert_eq!(process.admin_post("/maintenance?enable=false").await.status, 200);
    assert_eq!(process.admin_post("/drain").await.status, 202);
    followed.wait_for("it is safe to stop the app", |line| line["reason"] == "safe").await;
    process.signal("TERM");
    assert!(process.wait_exit(wait::TIMEOUT).await.success(), "{}", process.log());
    // The stream ends after the last event.
    followed.wait_for("the end", |line| line["reason"] == "gone").await;

    let lines = followed.lines();
    let found = positions(
        &lines,
        &[
            ("registered", "registered the app"),
            ("instance_ejected", "unreachable; for at least "),
            ("instance_back", ""),
            ("registry_lost", ""),
            ("registry_back", "it answers again after "),
            ("reload_applied", "upstreams.payments.timeout"),
            ("reload_refused", ""),
            ("maintenance_on", "requested: disk"),
            ("maintenance_off", "requested"),
            ("drain_requested", "POST /drain"),
            ("drain_phase", "leaving"),
            ("drain_step", "report_critical: done"),
            ("drain_step", "await_critical: done"),
            ("withdrawn", "the registry has confirmed it"),
            ("drain_step", "deregister: done"),
            ("drain_phase", "propagating"),
            ("drain_step", "await_removed: done"),
            ("drain_step", "wait_margin: done"),
            ("drain_phase", "safe"),
            ("drain_requested", "SIGTERM"),
            ("drain_phase", "closing"),
            ("drain_phase", "gone"),
        ],
    );
    assert!(found.is_sorted(), "{found:?} {lines:#?}");
    let of = |number: usize| &lines[found[number]];
    assert_eq!((&of(1)["service"], &of(1)["instance"]), (&json!("payments"), &json!("b")));
    assert_eq!((&of(13)["service"], &of(13)["instance"]), (&json!("orders"), &json!("orders-1")));
}
