//! Receipts: each sidecar says in the KV which documents it has applied, and wakes no other sidecar by it.

use std::{net::SocketAddr, time::Duration};

use outrigger::App;
use outrigger_config as config;
use outrigger_registry::{Consistency, Cursor, Kv, KvScope, consul::Consul as ConsulClient};
use outrigger_tests::{
    consul::{self, Consul, http},
    instance::Instance,
    process::Process,
    registry_proxy::{RegistryMode, RegistryProxy},
    scrape::Scrape,
    wait,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::app::{load_text, router_settings, start_router, start_router_by};

const PREFIX: &str = "dynamic_config: {prefix: team}";

/// The KV of a registry, with a token or without.
pub(crate) struct TestKv(pub(crate) ConsulClient);

impl TestKv {
    pub(crate) fn new(addr: SocketAddr, token: Option<&str>) -> Self {
        let address = config::ConsulAddress { tls: false, host: addr.ip().to_string(), port: addr.port() };
        let token = token.map(|token| config::Token::Value(config::Secret::new(token)));
        let settings = config::ConsulSettings { address, token, ..config::ConsulSettings::default() };
        Self(ConsulClient::new(&settings).unwrap())
    }

    pub(crate) async fn put(&self, key: &str, text: &str) {
        assert!(self.0.put_kv(key, text.as_bytes(), 0, None).await.unwrap());
    }

    pub(crate) async fn index(&self, key: &str) -> u64 {
        let scope = KvScope::Key(key);
        let read = self.0.watch_kv(scope, Cursor::START, Consistency::Default, wait::TIMEOUT).await.unwrap();
        read.entries[0].modify_index
    }

    /// Every receipt, by its key below `team/receipts/`.
    pub(crate) async fn receipts(&self) -> Vec<(String, Value)> {
        let scope = KvScope::Prefix("team/receipts/");
        let read = self.0.watch_kv(scope, Cursor::START, Consistency::Default, wait::TIMEOUT).await.unwrap();
        let receipt = |entry: outrigger_registry::KvEntry| {
            let name = entry.key.strip_prefix("team/receipts/").unwrap().to_owned();
            (name, serde_json::from_slice(&entry.value).unwrap())
        };
        read.entries.into_iter().map(receipt).collect()
    }

    /// Waits until there are these receipts and `is_wanted` accepts each.
    async fn wait_receipts(&self, count: usize, is_wanted: impl Fn(&Value) -> bool) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        wait::until("the receipts", wait::TIMEOUT, async || {
            all = self.receipts().await;
            all.len() == count && all.iter().all(|(_, receipt)| is_wanted(receipt))
        })
        .await;
        all
    }
}

/// The sum of a metric of a sidecar over the series with these labels.
fn metric(app: &App, name: &str, labels: &[(&str, &str)]) -> f64 {
    let text = prometheus::TextEncoder::new().encode_to_string(&app.metrics().gather()).unwrap();
    Scrape::parse(&text).sum(name, labels)
}

fn answered_questions(app: &App) -> f64 {
    metric(app, "outrigger_registry_requests_total", &[("operation", "watch")])
}

fn receipt_writes(app: &App) -> f64 {
    metric(app, "outrigger_dynamic_config_receipts_total", &[("result", "written")])
}

on_both_registries! {
    content: super::a_receipt_says_what_became_of_each_document_and_goes_with_its_sidecar;
    wakes: super::writes_elsewhere_wake_no_sidecar_and_a_change_wakes_each_once;
    first_request: super::a_sidecar_is_ready_with_its_settings;
}

async fn a_receipt_says_what_became_of_each_document_and_goes_with_its_sidecar(registry: SocketAddr) {
    let kv = TestKv::new(registry, None);
    let instance = Instance::start("orders").await;
    kv.put("team/settings/defaults", "timeout: 3s\n").await;
    kv.put("team/settings/services/payments", "timeout: 2s\nretry: {max_retries: many}\n").await;
    kv.put("team/settings/services/stock", "rollout: 0%\ntimeout: 1s\n").await;
    kv.put("team/settings/apps/orders/defaults", "max_pending: 5\n").await;
    kv.put("team/settings/apps/web/defaults", "max_pending: 6\n").await;
    let orders = router_settings(
        &format!("address: \"http://{registry}\""),
        &format!(
            "{PREFIX}\nservice: {{name: orders, id: orders-1, address: 127.0.0.1, port: {}}}\n\
             drain: {{propagation: 0s}}\nstate_dir: off",
            instance.addr().port()
        ),
    );
    let orders = App::start(orders, outrigger_proxy::Workers::CurrentRuntime).await.unwrap();
    let (router, outbound) = start_router(registry, PREFIX).await;
    let receipts = kv.wait_receipts(2, |_| true).await;
    let (router_key, of_router) = &receipts[0];
    assert!(
        router_key.starts_with(".router/") && router_key.ends_with(&format!("-{}", outbound.port())),
        "{router_key}"
    );
    let documents =
        |receipt: &Value| receipt["documents"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(documents(of_router), ["defaults", "services/payments", "services/stock"]);
    let (key, receipt) = &receipts[1];
    assert_eq!(key, "orders/orders-1");
    let index = kv.index("team/settings/apps/orders/defaults").await;
    assert_eq!((&receipt["index"], &receipt["version"]), (&json!(index), &json!(env!("CARGO_PKG_VERSION"))));
    let of = &receipt["documents"];
    assert_eq!(of["apps/orders/defaults"], json!({"index": index, "state": "applied"}));
    assert_eq!(of["services/stock"]["state"], "not_selected");
    assert_eq!(of["services/stock"]["rollout"], "0%");
    assert_eq!(of["services/payments"]["state"], "refused");
    let problem = of["services/payments"]["problems"][0].as_str().unwrap();
    assert!(problem.contains(":2:") && problem.contains("retry.max_retries"), "{problem}");
    assert_eq!(of["apps/web/defaults"], Value::Null);

    kv.put("team/settings/services/payments", "timeout: 2s\n").await;
    kv.wait_receipts(2, |receipt| receipt["documents"]["services/payments"]["state"] == "applied").await;
    // Other settings of the file refuse what was good, or follow no documents.
    let load = |more: &str| router_settings(&format!("address: \"http://{registry}\""), more);
    router.apply(load("dynamic_config: {prefix: team, bounds: {timeout: 10s..20s}}")).await.unwrap();
    wait::until("it is refused", wait::TIMEOUT, async || {
        kv.receipts().await[0].1["documents"]["defaults"]["state"] == "refused"
    })
    .await;
    router.apply(load("")).await.unwrap();
    kv.wait_receipts(1, |receipt| receipt["documents"]["apps/orders/defaults"] != Value::Null).await;
    orders.shutdown().await;
    assert_eq!(kv.receipts().await, [], "a stop takes the receipt away");
    router.shutdown().await;
}

async fn writes_elsewhere_wake_no_sidecar_and_a_change_wakes_each_once(registry: SocketAddr) {
    let kv = TestKv::new(registry, None);
    kv.put("team/settings/defaults", "timeout: 3s\n").await;
    let mut apps = Vec::new();
    for _ in 0..4 {
        // The question must not end by its time.
        apps.push(start_router_by(&format!("address: \"http://{registry}\", wait: 10m"), PREFIX).await.0);
    }
    kv.wait_receipts(4, |_| true).await;
    let before: Vec<_> = apps.iter().map(|app| (answered_questions(app), receipt_writes(app))).collect();
    for n in 0..100 {
        kv.put(&format!("other/{n}"), "x").await;
        kv.put("team/else", &n.to_string()).await;
    }
    kv.put("team/settings/defaults", "timeout: 4s\n").await;
    let index = kv.index("team/settings/defaults").await;
    kv.wait_receipts(4, |receipt| receipt["index"] == index).await;
    for (app, (answered, written)) in apps.iter().zip(before) {
        assert_eq!(answered_questions(app) - answered, 1.0, "the change and nothing else wakes it");
        wait::until_true("the write is counted", || receipt_writes(app) - written >= 1.0).await;
        assert_eq!(receipt_writes(app) - written, 1.0);
    }
    for app in apps {
        app.shutdown().await;
    }
}

async fn a_sidecar_is_ready_with_its_settings(registry: SocketAddr) {
    let kv = TestKv::new(registry, None);
    kv.put("team/settings/defaults", "timeout: 3s\n").await;
    for _ in 0..5 {
        let (app, _) = start_router(registry, &format!("{PREFIX}\nstate_dir: off")).await;
        assert_eq!(app.config().defaults.timeout, Duration::from_secs(3));
        app.shutdown().await;
    }
}

#[tokio::test]
async fn a_start_does_not_wait_long_for_settings_that_do_not_come() {
    let folder = tempfile::tempdir().unwrap();
    let (_registry, agent) = crate::registered::dev_registry().await;
    let kv = TestKv::new(agent.0, None);
    kv.put("team/settings/defaults", "timeout: 3s\n").await;
    let proxy = RegistryProxy::start(agent.0).await;
    let port = outrigger_net::reserve_addr().port();
    let settings = || {
        load_text(&format!(
            "registry: {{consul: {{address: \"http://{}\"}}}}\noutbound: {{listen: \"127.0.0.1:{port}\"}}\n\
             admin: {{listen: \"127.0.0.1:0\"}}\nstate_dir: {}\n{PREFIX}\n",
            proxy.addr(),
            folder.path().display()
        ))
    };
    let ready_after = async || {
        let began = Instant::now();
        let app = App::start(settings(), outrigger_proxy::Workers::CurrentRuntime).await.unwrap();
        wait::within("it is ready", app.ready()).await;
        let (took, timeout) = (began.elapsed(), app.config().defaults.timeout.as_secs());
        app.shutdown().await;
        (took, timeout)
    };
    proxy.set(RegistryMode::Hang);
    let (took, timeout) = ready_after().await;
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(15) && timeout == 15, "{took:?}");
    proxy.set(RegistryMode::Pass);
    assert_eq!(ready_after().await.1, 3);
    // The last good version of the run before is enough while the registry does not answer.
    proxy.set(RegistryMode::Refuse);
    let (took, timeout) = ready_after().await;
    assert!(took < Duration::from_secs(3) && timeout == 3, "{took:?}");
}

/// A token with these rules (HCL).
pub(crate) async fn create_token(consul: &Consul, name: &str, rules: &str) -> String {
    let put = async |path: &str, body: Value| {
        let mut answer = None;
        wait::until("the ACLs answer", wait::TIMEOUT, async || {
            let path = format!("/v1/acl/{path}?token=root");
            let made = http::put(consul.http_addr(), &path, &body.to_string()).await;
            answer = made.ok().filter(|made| made.status() == 200);
            answer.is_some()
        })
        .await;
        serde_json::from_slice::<Value>(answer.unwrap().body()).unwrap()
    };
    put("policy", json!({"Name": name, "Rules": rules})).await;
    let token = put("token", json!({"Policies": [{"Name": name}]})).await;
    token["SecretID"].as_str().unwrap().to_owned()
}

/// Replaces the rules of a policy.
async fn change_policy(consul: &Consul, name: &str, rules: &str) {
    let addr = consul.http_addr();
    let listed = http::get(addr, "/v1/acl/policies?token=root").await.unwrap();
    let listed: Value = serde_json::from_slice(listed.body()).unwrap();
    let id = listed.as_array().unwrap().iter().find(|one| one["Name"] == name).unwrap()["ID"].clone();
    let path = format!("/v1/acl/policy/{}?token=root", id.as_str().unwrap());
    let body = json!({"ID": id, "Name": name, "Rules": rules}).to_string();
    let changed = http::put(addr, &path, &body).await.unwrap();
    assert_eq!(changed.status(), 200, "{changed:?}");
}

/// The harness asks without a token. So what a token may not do is written down.
pub(crate) const ACL: &str = "acl { enabled = true default_policy = \"allow\" policy_ttl = \"0s\" token_ttl = \"0s\" role_ttl = \"0s\" \
                   tokens { master = \"root\" } }";
const DENY: &str = "key_prefix \"\" { policy = \"deny\" }\nsession_prefix \"\" { policy = \"deny\" }\n";
pub(crate) const DENY_KEYS: &str = "key_prefix \"\" { policy = \"deny\" }\n";
const READ: &str = "key_prefix \"team/settings/\" { policy = \"read\" }\n";
/// As in docs/dynamic-configuration.md.
const RECEIPT: &str = "key_prefix \"team/receipts/.router/\" { policy = \"write\" }\nsession_prefix \"\" { policy = \"write\" }\n";

fn process_settings(consul: &Consul, token: &str, folder: &std::path::Path) -> String {
    let file = folder.join("token");
    std::fs::write(&file, token).unwrap();
    format!(
        "registry: {{consul: {{address: \"http://{}\", token_file: {}}}}}\n{PREFIX}\n",
        consul.http_addr(),
        file.display()
    )
}

async fn config_page(process: &Process) -> String {
    process.admin_get("/config").await.text()
}

#[tokio::test]
async fn the_policies_of_the_documents_are_enough_and_without_receipts_there_is_one_warning() {
    if !consul::available("the policies of the documents are enough") {
        return;
    }
    let consul = Consul::server_with(ACL).await.expect("a server");
    let folder = tempfile::tempdir().unwrap();
    let reader = create_token(&consul, "reader", &format!("{DENY}{READ}")).await;
    let kv = TestKv::new(consul.http_addr(), Some("root"));
    kv.put("team/settings/defaults", "timeout: 3s\n").await;
    let process = Process::run(&process_settings(&consul, &reader, folder.path())).await;
    let warnings = || process.log().matches("may not write the receipt").count();
    wait::until_true("one warning", || warnings() == 1).await;
    for n in 4..8 {
        kv.put("team/settings/defaults", &format!("timeout: {n}s\n")).await;
        let shown = format!("timeout: {n}s");
        wait::until("settings apply", wait::TIMEOUT, async || config_page(&process).await.contains(&shown))
            .await;
    }
    let refused = process.metric("outrigger_dynamic_config_receipts_total{result=\"forbidden\"}").await;
    assert_eq!((warnings(), refused), (1, 1.0));
    assert_eq!(kv.receipts().await, []);
    drop(process);
    let writer = create_token(&consul, "writer", &format!("{DENY_KEYS}{READ}{RECEIPT}")).await;
    let process = Process::run(&process_settings(&consul, &writer, folder.path())).await;
    kv.wait_receipts(1, |receipt| receipt["documents"]["defaults"]["state"] == "applied").await;
    assert!(!process.log().contains("may not write the receipt"));
}

#[tokio::test]
async fn a_document_that_the_token_may_no_longer_read_is_not_taken_for_deleted() {
    if !consul::available("a document that the token may no longer read is not taken for deleted") {
        return;
    }
    let consul = Consul::server_with(ACL).await.expect("a server");
    let folder = tempfile::tempdir().unwrap();
    let token = create_token(&consul, "sidecar", &format!("{DENY}{READ}")).await;
    let kv = TestKv::new(consul.http_addr(), Some("root"));
    kv.put("team/settings/services/a", "timeout: 3s\n").await;
    kv.put("team/settings/services/b", "timeout: 4s\n").await;
    let settings = process_settings(&consul, &token, folder.path());
    let process = Process::run(&settings).await;
    let shows = async |text: &str| config_page(&process).await.contains(text);
    wait::until("both apply", wait::TIMEOUT, async || {
        shows("services/b@").await && shows("services/a@").await
    })
    .await;
    let one = format!("{DENY}key_prefix \"team/settings/services/a\" {{ policy = \"read\" }}\n");
    change_policy(&consul, "sidecar", &one).await;
    // A question that waits keeps the rights that it began with. Some answer is without the other document.
    let mut n = 10;
    while !process.log().contains("may no longer read these documents") {
        kv.put("team/settings/services/a", &format!("timeout: {n}s\n")).await;
        let shown = format!("timeout: {n}s");
        wait::until("the change applies", wait::TIMEOUT, async || shows(&shown).await).await;
        n += 1;
        assert!(n < 50, "no warning");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    kv.put("team/settings/services/a", "timeout: 6s\n").await;
    wait::until("the next change applies", wait::TIMEOUT, async || shows("timeout: 6s").await).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // It would be believed to be gone by now.
    kv.put("team/settings/services/a", "timeout: 7s\n").await;
    wait::until("the last change applies", wait::TIMEOUT, async || shows("timeout: 7s").await).await;
    assert!(shows("services/b@").await && shows("timeout: 4s").await);
}
