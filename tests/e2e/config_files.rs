//! Files that the sidecar writes for the app from the registry's KV: before the app starts, and at each change, of which the app is told.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use outrigger_config as config;
use outrigger_registry::{Kv as _, Locks as _, NewSession, consul::Consul};
use outrigger_tests::{
    client::Client,
    consul,
    process::Process,
    registry::ConsulAgent,
    registry_proxy::{RegistryMode, RegistryProxy},
    wait,
    wire::Wire,
};
use serde_json::Value;

/// Far above every expected time.
const LONG: Duration = Duration::from_secs(60);

on_both_registries! {
    first: super::files_are_written_in_each_format_before_the_app_starts;
    missing: super::without_its_required_file_the_app_is_not_started;
    late: super::an_optional_file_that_is_late_is_written_when_there_is_content;
    earlier: super::without_the_registry_the_last_good_content_is_written;
    signal: super::a_change_is_a_signal_to_the_app_alone;
    http: super::a_change_is_posted_to_the_app;
    beside: super::without_an_app_of_its_own_the_sidecar_is_ready_when_the_files_are_written;
    restart: super::a_change_restarts_the_app_as_a_deploy_does;
    ill: super::a_content_that_makes_the_app_ill_stops_at_one_instance_and_the_next_one_heals_all;
    ends: super::an_app_that_ends_after_its_restart_keeps_the_slot_and_the_sidecar;
    operator: super::an_operator_that_holds_the_slots_is_named_soon;
    leaves: super::a_sidecar_that_leaves_in_the_middle_of_a_restart_ends_with_its_app;
    at_once: super::another_number_at_once_takes_effect;
}

fn kv_of(addr: SocketAddr) -> Consul {
    let address = config::ConsulAddress { tls: false, host: addr.ip().to_string(), port: addr.port() };
    Consul::new(&config::ConsulSettings { address, ..config::ConsulSettings::default() }).unwrap()
}

async fn put(addr: SocketAddr, key: &str, value: impl AsRef<[u8]>) {
    assert!(kv_of(addr).put_kv(key, value.as_ref(), 0, None).await.unwrap());
}

/// A sidecar with the app of these tests.
struct Deployed {
    process: Process,
    folder: tempfile::TempDir,
    app: SocketAddr,
    id: String,
}

impl Deployed {
    /// The app reads `config.txt`, the value of `config/orders`. `on_change` and `more` are YAML; FOLDER in them is the folder of the test.
    fn start(registry: SocketAddr, id: &str, on_change: &str, more: &str) -> Self {
        let file = format!(
            "{{prefix: config/orders, path: FOLDER/config.txt, format: value, required: true, on_change: {on_change}}}"
        );
        Self::start_with(registry, id, &[&file], more)
    }

    fn start_with(registry: SocketAddr, id: &str, files: &[&str], more: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("config-files-").tempdir().unwrap();
        Self::start_in(folder, outrigger_net::reserve_addr(), registry, id, files, more)
    }

    fn start_in(
        folder: tempfile::TempDir,
        app: SocketAddr,
        registry: SocketAddr,
        id: &str,
        files: &[&str],
        more: &str,
    ) -> Self {
        let settings = settings(registry, id, app, files, more).replace("FOLDER", &text(folder.path()));
        let this = std::env::current_exe().unwrap();
        let command = [
            "env".to_owned(),
            format!("APP_LISTEN={app}"),
            format!("APP_FOLDER={}", text(folder.path())),
            text(&this),
            "config_files::the_app".to_owned(),
            "--exact".to_owned(),
            "--ignored".to_owned(),
            "--nocapture".to_owned(),
        ];
        let process = Process::start_with_app(&settings, &command.each_ref().map(String::as_str));
        Self { process, folder, app, id: id.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the app says of itself; `None` while it does not answer.
    async fn try_app(&self) -> Option<Value> {
        let stream = tokio::net::TcpStream::connect(self.app).await.ok()?;
        let mut client = Client { wire: Wire::new(stream) };
        // An app that ends meanwhile resets the connection.
        client.try_send("GET /state HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").await.ok()?;
        let answer = client.try_response_to("GET").await.ok()?;
        serde_json::from_str(&answer.text()).ok()
    }

    async fn until_app(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        wait::until(&format!("the app of {}: {what}", self.id), LONG, async || {
            last = self.try_app().await.filter(&is);
            last.is_some()
        })
        .await;
        last.unwrap()
    }

    async fn until_started_with(&self, content: &str) -> Value {
        self.until_app(&format!("it has read {content:?}"), |app| app["read"] == content).await
    }

    async fn until_restart(&self, state: &str) {
        wait::until(&format!("{}: the restart is {state}", self.id), LONG, async || {
            self.restart_state().await == state
        })
        .await;
    }

    async fn restart_state(&self) -> String {
        let page = self.process.admin_json("/readyz").await;
        page["restart"]["state"].as_str().unwrap_or("idle").to_owned()
    }

    /// The reasons of the events of this kind; one that was repeated is there as often.
    async fn events(&self, kind: &str) -> Vec<String> {
        let page = self.process.admin_json(&format!("/events?kind={kind}")).await;
        let all = page["events"].as_array().unwrap().iter().flat_map(|event| {
            let reason = event["reason"].as_str().unwrap().replace(&text(self.folder.path()), "");
            let count = usize::try_from(event["count"].as_u64().unwrap_or(1)).unwrap();
            std::iter::repeat_n(reason, count)
        });
        all.collect()
    }

    /// SIGTERM. Returns the exit code.
    async fn stop(mut self) -> Option<i32> {
        self.process.signal("TERM");
        self.process.wait_exit(LONG).await.code()
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn settings(registry: SocketAddr, id: &str, app: SocketAddr, files: &[&str], more: &str) -> String {
    format!(
        "registry: {{consul: {{address: \"http://{registry}\"}}}}\n\
         service: {{name: orders, id: {id}, port: {port}, address: 127.0.0.1, \
         health: {{http: /health, interval: 100ms, timeout: 100ms}}}}\n\
         api: {{config: {{sources: [{{prefix: config/web/}}], files: [{files}]}}}}\n{drain}\n{more}\n",
        drain = if more.contains("drain:") { "" } else { "drain: {margin: 100ms}" },
        port = app.port(),
        files = files.join(", "),
    )
}

/// The value that a file has; `None`: there is none.
fn content(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

async fn until_content(path: &Path, expected: &str) {
    wait::until(&format!("{} has {expected:?}", path.display()), LONG, async || {
        content(path).as_deref() == Some(expected)
    })
    .await;
}

/// How many sessions hold a slot of the service.
async fn slots(registry: SocketAddr) -> usize {
    let scope = outrigger_registry::KvScope::Prefix("locks/outrigger/restart/orders/");
    let (start, now) = (outrigger_registry::Cursor::START, Duration::from_secs(10));
    let answer = kv_of(registry).watch_kv(scope, start, outrigger_registry::Consistency::Default, now).await;
    answer.unwrap().entries.iter().filter(|entry| entry.session.is_some()).count()
}

async fn files_are_written_in_each_format_before_the_app_starts(registry: SocketAddr) {
    put(registry, "config/orders", "the value\n\0\u{1}").await;
    put(registry, "config/web/db/url", "postgres://db").await;
    put(registry, "config/web/port", "8080").await;
    let files = [
        "{prefix: config/orders, path: FOLDER/config.txt, format: value}",
        "{prefix: config/web/, path: FOLDER/web.json}",
        "{prefix: config/web/, path: FOLDER/web.env, mode: 0644}",
        "{prefix: config/web/, path: FOLDER/web.yaml}",
        "{prefix: config/web/, path: FOLDER/web.properties}",
        "{path: FOLDER/merged.json}",
    ];
    let one = Deployed::start_with(registry, "orders-1", &files, "");
    let app = one.until_app("it answers", |_| true).await;
    assert_eq!(app["read"], "the value\n\0\u{1}", "the app reads it at its start");
    let json: Value = serde_json::from_str(&content(&one.path("web.json")).unwrap()).unwrap();
    assert_eq!(json, serde_json::json!({"db": {"url": "postgres://db"}, "port": "8080"}));
    assert_eq!(content(&one.path("merged.json")), content(&one.path("web.json")));
    assert_eq!(content(&one.path("web.env")).unwrap(), "DB_URL=postgres://db\nPORT=8080\n");
    assert_eq!(content(&one.path("web.properties")).unwrap(), "db.url=postgres\\://db\nport=8080\n");
    assert!(content(&one.path("web.yaml")).unwrap().starts_with("db:\n"));
    let mode = |name: &str| std::fs::metadata(one.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("config.txt"), mode("web.json"), mode("web.env")), (0o600, 0o600, 0o644));
    let page = one.process.admin_json("/readyz").await;
    assert!(page["files"].as_array().unwrap().iter().all(|file| file["state"] == "written"), "{page}");
}

async fn without_its_required_file_the_app_is_not_started(registry: SocketAddr) {
    let file = "{prefix: config/orders, path: FOLDER/config.txt, format: value, required: true, wait: 500ms}";
    let mut one = Deployed::start_with(registry, "orders-1", &[file], "");
    assert_eq!(one.process.wait_exit(LONG).await.code(), Some(1));
    let log = one.process.log();
    let expected = "config.txt, within 500ms: the registry has no key config/orders";
    assert!(log.contains("the app is not started without its files") && log.contains(expected), "{log}");
    assert!(!one.path("started").exists());

    put(registry, "config/orders", "one").await;
    let file = file.replace("FOLDER/config.txt", "FOLDER/missing/config.txt");
    let mut two = Deployed::start_with(registry, "orders-2", &[&file], "");
    assert_eq!(two.process.wait_exit(LONG).await.code(), Some(1));
    let log = two.process.log();
    assert!(log.contains("missing does not exist: create it"), "{log}");
}

async fn an_optional_file_that_is_late_is_written_when_there_is_content(registry: SocketAddr) {
    let file = "{prefix: config/orders, path: FOLDER/config.txt, format: value, wait: 300ms, on_change: {signal: HUP}}";
    let one = Deployed::start_with(registry, "orders-1", &[file], "");
    let app = one.until_app("it is started without the file", |_| true).await;
    assert_eq!(app["read"], Value::Null);
    let page = one.process.admin_json("/readyz").await;
    assert_eq!(page["files"][0]["state"], "missing", "{page}");
    put(registry, "config/orders", "one").await;
    until_content(&one.path("config.txt"), "one").await;
    // It runs without the file, so the first content is a change, too.
    one.until_app("it was told", |app| app["hups"] == 1).await;
    put(registry, "config/orders", "two").await;
    one.until_app("it was told again", |app| app["hups"] == 2).await;
    assert_eq!(content(&one.path("config.txt")).as_deref(), Some("two"));
}

async fn without_the_registry_the_last_good_content_is_written(registry: SocketAddr) {
    put(registry, "config/orders", "one").await;
    let proxy = RegistryProxy::start(registry).await;
    let (file, more) = (
        "{prefix: config/orders, path: FOLDER/config.txt, format: value, required: true}",
        "state_dir: FOLDER/state",
    );
    let first = Deployed::start_with(proxy.addr(), "orders-1", &[file], more);
    first.until_started_with("one").await;
    let (app, path) = (first.app, first.path("config.txt"));
    let Deployed { mut process, folder, .. } = first;
    process.signal("TERM");
    process.wait_exit(LONG).await;
    std::fs::remove_file(&path).unwrap();
    proxy.set(RegistryMode::Refuse);
    let second = Deployed::start_in(folder, app, proxy.addr(), "orders-1", &[file], more);
    second.until_started_with("one").await;
    proxy.set(RegistryMode::Pass);
    put(registry, "config/orders", "two").await;
    until_content(&path, "two").await;
}

async fn a_change_is_a_signal_to_the_app_alone(registry: SocketAddr) {
    put(registry, "config/orders", "one").await;
    let one = Deployed::start(registry, "orders-1", "{signal: HUP}", "");
    let before = one.until_started_with("one").await;
    for (n, value) in [(1, "two"), (2, "three")] {
        put(registry, "config/orders", value).await;
        let app = one.until_app("it was told", |app| app["hups"] == n).await;
        assert_eq!((&app["pid"], &app["now"]), (&before["pid"], &Value::from(value)));
        // The same content is no change.
        put(registry, "config/orders", value).await;
    }
    assert_eq!(one.events("on_change_done").await, ["/config.txt: sent SIGHUP to the app"; 2]);
    let app = one.until_app("it runs", |_| true).await;
    assert_eq!((&app["hups"], &app["hups_of_child"]), (&Value::from(2), &Value::from(0)), "{app}");
}

async fn a_change_is_posted_to_the_app(registry: SocketAddr) {
    put(registry, "config/orders", "one").await;
    let folder = tempfile::Builder::new().prefix("config-files-").tempdir().unwrap();
    let app = outrigger_net::reserve_addr();
    let file = format!(
        "{{prefix: config/orders, path: FOLDER/config.txt, format: value, on_change: {{http: \"http://{app}/reload\"}}}}"
    );
    let one = Deployed::start_in(folder, app, registry, "orders-1", &[&file], "");
    one.until_started_with("one").await;
    put(registry, "config/orders", "two").await;
    let app = one.until_app("it was told", |app| app["posts"] == 1).await;
    assert_eq!(app["now"], "two");
    wait::until("it is an event", LONG, async || one.events("on_change_done").await.len() == 1).await;
    assert!(one.events("on_change_done").await[0].ends_with("/reload has taken it at try 1"));
}

async fn without_an_app_of_its_own_the_sidecar_is_ready_when_the_files_are_written(registry: SocketAddr) {
    let app = outrigger_tests::instance::Instance::start("app").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.txt");
    let file = format!("{{prefix: config/orders, path: {path:?}, format: value, wait: 1m}}");
    let process = Process::run(&settings(registry, "orders-1", app.addr(), &[&file], "")).await;
    ConsulAgent(registry).wait_health("orders", &[("orders-1", "passing")]).await;
    wait::until("the key is missed", LONG, async || {
        let page = process.admin_json("/readyz").await;
        assert_eq!(page["ready"], false, "{page}");
        page["missing"].to_string().contains("config.txt is not written yet: the registry has no key")
    })
    .await;
    put(registry, "config/orders", "one").await;
    // A prefix without keys is asked about every 30 s.
    wait::until("it is ready", LONG, async || process.admin_get("/readyz").await.status == 200).await;
    assert_eq!(content(&path).as_deref(), Some("one"));
    // What needs an app of its own is refused, and nothing changes.
    let restart = file.replace("wait: 1m", "on_change: {restart: true}");
    process.write_settings(&settings(registry, "orders-1", app.addr(), &[&restart], ""));
    let answer = process.admin_post("/reload").await;
    assert!(answer.status != 200 && answer.text().contains("outrigger run -- APP"), "{}", answer.text());
    // A required file that is missing ends the sidecar.
    let missing =
        file.replace("config/orders", "config/none").replace("wait: 1m", "wait: 300ms, required: true");
    let mut other = Process::start(&settings(registry, "orders-2", app.addr(), &[&missing], ""));
    assert_eq!(other.wait_exit(LONG).await.code(), Some(1));
}

async fn a_change_restarts_the_app_as_a_deploy_does(registry: SocketAddr) {
    put(registry, "config/orders", "one").await;
    let agent = ConsulAgent(registry);
    let one = Deployed::start(registry, "orders-1", "{restart: true}", "");
    let before = one.until_started_with("one").await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    put(registry, "config/orders", "two").await;
    let after = one.until_started_with("two").await;
    assert_ne!(before["pid"], after["pid"]);
    one.until_restart("idle").await;
    agent.wait_health("orders", &[("orders-1", "passing")]).await;
    assert_eq!(slots(registry).await, 0);
    assert_eq!(one.events("restart_began").await, ["for /config.txt"]);
    assert_eq!(one.events("restart_ended").await, ["the app is healthy and registered"]);
    // It had left before it was stopped.
    assert_eq!(one.events("withdrawn").await.len(), 1);
    let steps = one.events("drain_step").await;
    assert_eq!(steps[..2], ["report_critical: done", "await_critical: done"], "{steps:?}");
    let ends = std::fs::read_to_string(one.path("ended")).unwrap();
    assert_eq!(ends, "TERM\n", "the app was asked to end");
    assert_eq!(one.process.metric(r#"outrigger_on_change_total{action="restart",result="done"}"#).await, 1.0);
    // The process is the same, and ends with the app as usual.
    assert_eq!(one.stop().await, Some(0));
    agent.wait_health("orders", &[]).await;
}

async fn a_content_that_makes_the_app_ill_stops_at_one_instance_and_the_next_one_heals_all(
    registry: SocketAddr,
) {
    put(registry, "config/orders", "one").await;
    let start = |id| Deployed::start(registry, id, "{restart: true, min_interval: 0s}", "");
    let both = [start("orders-1"), start("orders-2")];
    for each in &both {
        each.until_started_with("one").await;
    }
    let agent = ConsulAgent(registry);
    agent.wait_health("orders", &[("orders-1", "passing"), ("orders-2", "passing")]).await;
    put(registry, "config/orders", "ill").await;
    let states = async || [both[0].restart_state().await, both[1].restart_state().await];
    wait::until("one is ill and the other waits", LONG, async || {
        let mut states = states().await;
        states.sort();
        states == ["held", "waiting"]
    })
    .await;
    let is_held = |states: &[String; 2]| usize::from(states[1] == "held");
    let ill = is_held(&states().await);
    let (ill, well) = (&both[ill], &both[1 - ill]);
    assert_eq!(slots(registry).await, 1);
    let waits = well.events("restart_waits").await;
    assert!(waits.iter().any(|why| why.contains(&ill.id)), "{waits:?}");
    agent.wait_health("orders", &[(&well.id, "passing")]).await;
    assert_eq!(well.until_app("it runs", |_| true).await["read"], "one");
    assert_eq!(content(&well.path("config.txt")).as_deref(), Some("ill"), "the file is there all the same");

    put(registry, "config/orders", "two").await;
    for each in [ill, well] {
        each.until_started_with("two").await;
        each.until_restart("idle").await;
    }
    agent.wait_health("orders", &[("orders-1", "passing"), ("orders-2", "passing")]).await;
    assert_eq!(slots(registry).await, 0);
    assert_eq!(ill.events("restart_held").await.len(), 1);
}

async fn an_operator_that_holds_the_slots_is_named_soon(registry: SocketAddr) {
    put(registry, "config/orders", "one").await;
    let one = Deployed::start(registry, "orders-1", "{restart: true, min_interval: 0s}", "");
    one.until_started_with("one").await;
    one.process.wait_ready().await;
    // As `consul lock locks/outrigger/restart/orders`.
    let consul = kv_of(registry);
    let session = NewSession {
        name: "Consul lock by hand",
        ttl: Duration::from_secs(60),
        lock_delay: Duration::from_secs(1),
        removes_keys: false,
        ends_with_node: false,
    };
    let session = consul.open_session(session).await.unwrap();
    let key =
        format!("/v1/kv/locks/outrigger/restart/orders/.lock?acquire={session}&flags=3304740253564472344");
    let answer = consul::http::put(registry, &key, "").await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.body().trim_ascii()), (200, b"true".as_slice()));
    let from = tokio::time::Instant::now();
    put(registry, "config/orders", "two").await;
    let mut waits = Vec::new();
    wait::until("the holder is named", LONG, async || {
        waits = one.events("restart_waits").await;
        !waits.is_empty()
    })
    .await;
    assert!(waits[0].contains("\"Consul lock by hand\" of node "), "{waits:?}");
    // Far below the longest wait for a slot.
    assert!(from.elapsed() < Duration::from_secs(15), "{:?}", from.elapsed());
    assert_eq!(one.until_app("it runs", |_| true).await["read"], "one");
    consul.close_session(&session).await.unwrap();
    one.until_started_with("two").await;
}

async fn an_app_that_ends_after_its_restart_keeps_the_slot_and_the_sidecar(registry: SocketAddr) {
    put(registry, "config/orders", "one").await;
    let mut one =
        Deployed::start(registry, "orders-1", "{restart: true, min_interval: 0s}", "on_app_exit: exit");
    one.until_started_with("one").await;
    one.process.wait_ready().await;
    put(registry, "config/orders", "end").await;
    one.until_restart("held").await;
    assert_eq!(slots(registry).await, 1);
    assert_eq!(one.events("restart_held").await, ["the app has ended again, or cannot be started"]);
    put(registry, "config/orders", "two").await;
    one.until_started_with("two").await;
    one.until_restart("idle").await;
    assert_eq!(slots(registry).await, 0);
    // From now on its end is that of the sidecar again.
    let app = one.until_app("it runs", |_| true).await;
    outrigger_tests::process::send_signal(u32::try_from(app["pid"].as_u64().unwrap()).unwrap(), "KILL")
        .unwrap();
    assert_eq!(one.process.wait_exit(LONG).await.code(), Some(137));
}

async fn a_sidecar_that_leaves_in_the_middle_of_a_restart_ends_with_its_app(registry: SocketAddr) {
    put(registry, "config/orders", "one").await;
    for state in ["leaving", "stopping"] {
        // The app takes three seconds to end.
        let more = "drain: {propagation: 3s}";
        let mut one = Deployed::start(registry, "orders-1", "{restart: true, min_interval: 0s}", more);
        one.until_app("it runs", |app| app["read"] != "slow").await;
        one.process.wait_ready().await;
        let value = format!("slow to end when {state}");
        put(registry, "config/orders", &value).await;
        one.until_restart("leaving").await;
        one.until_restart(state).await;
        one.process.signal("TERM");
        assert_eq!(one.process.wait_exit(LONG).await.code(), Some(0), "{state}");
        assert!(one.try_app().await.is_none(), "{state}");
        ConsulAgent(registry).wait_health("orders", &[]).await;
        wait::until("the slot is free", LONG, async || slots(registry).await == 0).await;
        let ends = std::fs::read_to_string(one.path("ended")).unwrap();
        assert_eq!(ends, "TERM\n", "{state}: the app was asked to end once, and not started again");
        put(registry, "config/orders", "one").await;
    }
}

async fn another_number_at_once_takes_effect(registry: SocketAddr) {
    put(registry, "config/orders", "one").await;
    let one = Deployed::start(registry, "orders-1", "{restart: true, min_interval: 0s, at_once: 1}", "");
    one.until_started_with("one").await;
    for (at_once, value) in [(2, "two"), (3, "three"), (1, "four")] {
        let file = format!(
            "{{prefix: config/orders, path: FOLDER/config.txt, format: value, on_change: {{restart: true, min_interval: 0s, at_once: {at_once}}}}}"
        );
        let settings = settings(registry, "orders-1", one.app, &[&file], "");
        one.process.write_settings(&settings.replace("FOLDER", &text(one.folder.path())));
        assert_eq!(one.process.admin_post("/reload").await.status, 200);
        put(registry, "config/orders", value).await;
        one.until_started_with(value).await;
        one.until_restart("idle").await;
    }
}

/// The app of these tests, in a process of its own. What it has read at its start decides how it behaves: `ill` (not healthy), `end` (it
/// ends by itself). A file that begins with `slow` makes it take three seconds to end.
#[test]
#[ignore = "an app that the tests start"]
fn the_app() {
    let listen: SocketAddr = std::env::var("APP_LISTEN").unwrap().parse().unwrap();
    let folder = PathBuf::from(std::env::var("APP_FOLDER").unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::process::exit(runtime.block_on(run_app(listen, &folder)));
}

/// The exit code.
async fn run_app(listen: SocketAddr, folder: &Path) -> i32 {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        signal::unix::{SignalKind, signal},
    };
    let note = |file: &str, line: &str| {
        let before = content(&folder.join(file)).unwrap_or_default();
        std::fs::write(folder.join(file), format!("{before}{line}\n")).unwrap();
    };
    let mut hups = signal(SignalKind::hangup()).unwrap();
    let mut term = signal(SignalKind::terminate()).unwrap();
    let parent = std::os::unix::process::parent_id();
    // A process of its group, which no signal for the app may reach.
    let script = "(trap 'echo x >> child' HUP; while kill -0 $PPID; do sleep 0.05; done 2>/dev/null) &";
    let began = std::process::Command::new("sh").args(["-c", script]).current_dir(folder).status();
    assert!(began.unwrap().success());
    note("started", "x");
    let read = content(&folder.join("config.txt"));
    if read.as_deref() == Some("end") {
        return 3;
    }
    let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
    let (mut seen_hups, mut posts) = (0, 0);
    loop {
        tokio::select! {
            _ = hups.recv() => seen_hups += 1,
            _ = term.recv() => {
                note("ended", "TERM");
                let now = content(&folder.join("config.txt")).unwrap_or_default();
                let end = tokio::time::sleep(Duration::from_secs(if now.starts_with("slow") { 3 } else { 0 }));
                tokio::pin!(end);
                loop {
                    tokio::select! {
                        () = &mut end => return 0,
                        _ = term.recv() => note("ended", "TERM again"),
                    }
                }
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                if std::os::unix::process::parent_id() != parent {
                    return 4; // the sidecar was killed
                }
            }
            accepted = listener.accept() => {
                let Ok((mut socket, _)) = accepted else { continue };
                let mut head = vec![0; 4096];
                let Ok(length) = socket.read(&mut head).await else { continue };
                let head = String::from_utf8_lossy(&head[..length]).into_owned();
                posts += i32::from(head.starts_with("POST /reload "));
                let is_ill = head.starts_with("GET /health ") && read.as_deref() == Some("ill");
                let status = if is_ill { "500 Internal Server Error" } else { "200 OK" };
                let hups_of_child = content(&folder.join("child")).unwrap_or_default().lines().count();
                let body = serde_json::json!({
                    "pid": std::process::id(),
                    "read": read,
                    "now": content(&folder.join("config.txt")),
                    "hups": seen_hups,
                    "hups_of_child": hups_of_child,
                    "posts": posts,
                })
                .to_string();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        }
    }
}
