//! Settings of services in the registry's KV: applied while requests run, kept across a restart without the registry.

use std::{net::SocketAddr, time::Duration};

use outrigger::App;
use outrigger_config as config;
use outrigger_registry::{Kv, consul::Consul};
use outrigger_tests::{
    client::{self, Client},
    consul,
    instance::{Answer, Instance},
    registry::ConsulAgent,
    wait,
};
use tokio::time::Instant;

use crate::{
    app::{load_text, router_settings, start_router},
    registered::dev_registry,
};

fn client_of(addr: SocketAddr) -> Consul {
    let address = config::ConsulAddress { tls: false, host: addr.ip().to_string(), port: addr.port() };
    Consul::new(&config::ConsulSettings { address, ..config::ConsulSettings::default() }).unwrap()
}

async fn put(kv: &Consul, name: &str, text: &str) {
    assert!(kv.put_kv(&format!("team/settings/{name}"), text.as_bytes(), 0, None).await.unwrap());
}

async fn delete(kv: &Consul, name: &str) {
    assert!(kv.delete_kv(&format!("team/settings/{name}"), None).await.unwrap());
}

/// The line of `/config` with this text.
async fn config_line(app: &App, text: &str) -> Option<String> {
    let page = client::get(app.admin_addr().unwrap(), "localhost", "/config").await.text();
    page.lines().find(|line| line.contains(text)).map(|line| line.trim().to_owned())
}

fn timeout_of_defaults(app: &App) -> Duration {
    app.config().defaults.timeout
}

const PREFIX: &str = "dynamic_config: {prefix: team, bounds: {timeout: 50ms..60s}}";

async fn documents_apply_at_once_and_a_bad_one_changes_nothing(registry: SocketAddr) {
    let kv = client_of(registry);
    let slow = Instance::scripted("slow", |_| Answer::no_answer()).await;
    ConsulAgent(registry).register("orders", &slow).await;
    put(&kv, ".outrigger", "").await;
    let (app, outbound) = start_router(registry, &format!("{PREFIX}\ndefaults: {{timeout: 10m}}")).await;
    // A request that begins with the old settings keeps them.
    let mut early = Client::connect(outbound).await;
    early.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    slow.wait_requests(1).await;
    put(&kv, "services/orders", "timeout: 100ms\nretry: off\n").await;
    let since = Instant::now();
    wait::until_true("the document applies", || {
        app.config().tuned.first().is_some_and(|tuned| tuned.policy.timeout == Duration::from_millis(100))
    })
    .await;
    let late = client::get(outbound, "orders", "/").await;
    assert_eq!((late.status, late.reason()), (504, "timeout"), "{late:?}");
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    let line = config_line(&app, "kv:team/settings/services/orders@").await.unwrap();
    assert!(line.starts_with("- service: orders"), "{line}");
    // Out of bounds, and another one that applies beside it.
    put(&kv, "services/orders", "timeout: 40ms\n").await;
    put(&kv, "defaults", "max_pending: 7\n").await;
    wait::until_true("the other document applies", || app.config().defaults.max_pending == 7).await;
    assert_eq!(app.config().tuned[0].policy.timeout, Duration::from_millis(100));
    let page =
        client::get(app.admin_addr().unwrap(), "localhost", "/events?kind=document_refused").await.text();
    assert!(page.contains("outside of dynamic_config.bounds"), "{page}");
    // Gone: the file's settings, after a second.
    delete(&kv, "services/orders").await;
    wait::until_true("the document is gone", || app.config().tuned.is_empty()).await;
    // Its time-out is that of its beginning.
    wait::until_true("only the early request is under way", || slow.in_flight() == 1).await;
    drop(early);
    app.shutdown().await;
}

#[tokio::test]
async fn documents_apply_at_once_and_a_bad_one_changes_nothing_on_the_dev_registry() {
    let (_registry, agent) = dev_registry().await;
    documents_apply_at_once_and_a_bad_one_changes_nothing(agent.0).await;
}

#[tokio::test]
async fn documents_apply_at_once_and_a_bad_one_changes_nothing_on_consul() {
    if consul::available("settings in the KV of a real Consul") {
        let server = consul::Consul::server().await.expect("a server");
        documents_apply_at_once_and_a_bad_one_changes_nothing(server.http_addr()).await;
    }
}

#[tokio::test]
async fn the_last_good_documents_are_there_at_a_start_without_the_registry() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, ConsulAgent(addr)) = dev_registry().await;
    let kv = client_of(addr);
    // The name of the file has the port of the listener.
    let port = outrigger_net::reserve_addr().port();
    let settings = |prefix: &str| {
        load_text(&format!(
            "registry: {{consul: {{address: \"http://{addr}\"}}}}\noutbound: {{listen: \"127.0.0.1:{port}\"}}\n\
             admin: {{listen: \"127.0.0.1:0\"}}\nstate_dir: {}\ndynamic_config: {{prefix: {prefix}}}\n",
            folder.path().display()
        ))
    };
    let start = async |prefix: &str| {
        App::start(settings(prefix), outrigger_proxy::Workers::CurrentRuntime).await.expect("start the app")
    };
    put(&kv, "defaults", "timeout: 7s\n").await;
    let app = start("team").await;
    wait::until_true("it applies", || timeout_of_defaults(&app) == Duration::from_secs(7)).await;
    put(&kv, "defaults", "timeout: never\n").await;
    put(&kv, "services/orders", "timeout: 3s\n").await;
    let file = folder.path().join(format!("documents-{port}.json"));
    let is_saved = || std::fs::read_to_string(&file).is_ok_and(|text| text.contains("timeout: 3s"));
    wait::until_true("the other one is saved", is_saved).await;
    app.shutdown().await;
    drop(registry);
    let app = start("team").await;
    assert_eq!(timeout_of_defaults(&app), Duration::from_secs(7), "before anything was asked");
    assert_eq!(app.config().tuned[0].policy.timeout, Duration::from_secs(3));
    // Another prefix has nothing of it, in a reload as at a start.
    app.apply(settings("other")).await.unwrap();
    assert_eq!(timeout_of_defaults(&app), Duration::from_secs(15));
    app.apply(settings("off")).await.unwrap();
    assert_eq!(app.config().tuned, []);
    app.shutdown().await;
}

#[tokio::test]
async fn what_is_in_effect_stays_whatever_other_keys_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let (_registry, ConsulAgent(addr)) = dev_registry().await;
    let (kv, port) = (client_of(addr), outrigger_net::reserve_addr().port());
    let start = async || {
        let settings = load_text(&format!(
            "registry: {{consul: {{address: \"http://{addr}\"}}}}\noutbound: {{listen: \"127.0.0.1:{port}\"}}\n\
             admin: {{listen: \"127.0.0.1:0\"}}\nstate_dir: {}\ndynamic_config: {{prefix: team}}\n",
            folder.path().display()
        ));
        App::start(settings, outrigger_proxy::Workers::CurrentRuntime).await.expect("start the app")
    };
    put(&kv, "defaults", "timeout: 7s\n").await;
    put(&kv, "services/orders", "timeout: 3s\n").await;
    let timeout_of_orders = |app: &App| {
        let orders = app.config().tuned.iter().find(|tuned| tuned.service == "orders").cloned();
        orders.map(|orders| orders.policy.timeout.as_secs())
    };
    let app = start().await;
    wait::until_true("they apply", || timeout_of_orders(&app) == Some(3)).await;
    // Keys that are no documents, more documents than there is room for, and a twin of a name.
    let large = "x".repeat(400_000);
    for n in 0..4 {
        put(&kv, &format!("junk/{n}"), &large).await;
    }
    let padding = format!("max_pending: 3 # {}\n", "x".repeat(60_000));
    for n in 0..18 {
        put(&kv, &format!("services/s{n:02}"), &padding).await;
    }
    put(&kv, "services/Orders", "timeout: 4s\n").await;
    put(&kv, "services/last", "timeout: 8s\n").await;
    let is_applied = |app: &App, name: &str| app.config().tuned.iter().any(|tuned| tuned.service == name);
    wait::until_true("the last one applies", || is_applied(&app, "last")).await;
    assert!(is_applied(&app, "s16") && !is_applied(&app, "s17"));
    assert_eq!((timeout_of_defaults(&app).as_secs(), timeout_of_orders(&app)), (7, Some(3)));
    let page =
        client::get(app.admin_addr().unwrap(), "localhost", "/events?kind=document_refused").await.text();
    for text in ["services/Orders@", "names have no case", "services/s17@", "all documents together"] {
        assert!(page.contains(text), "no {text} in {page}");
    }
    let file = folder.path().join(format!("documents-{port}.json"));
    let is_saved = || std::fs::read_to_string(&file).is_ok_and(|text| text.contains("timeout: 8s"));
    wait::until_true("it is saved", is_saved).await;
    app.shutdown().await;
    // The same after a restart, before and after the registry has answered.
    let app = start().await;
    put(&kv, "services/last", "timeout: 9s\n").await;
    let timeout_of_last = || app.config().tuned.iter().find(|one| one.service == "last").cloned();
    wait::until_true("the registry has answered", || {
        timeout_of_last().is_some_and(|last| last.policy.timeout.as_secs() == 9)
    })
    .await;
    assert!(is_applied(&app, "s16") && !is_applied(&app, "s17"));
    assert_eq!((timeout_of_defaults(&app).as_secs(), timeout_of_orders(&app)), (7, Some(3)));
    app.shutdown().await;
}

#[tokio::test]
async fn other_settings_of_the_file_keep_the_documents_over_them() {
    let (_registry, agent) = dev_registry().await;
    let kv = client_of(agent.0);
    put(&kv, "defaults", "timeout: 7s\n").await;
    put(&kv, "services/orders", "max_pending: 9\n").await;
    let (app, _) = start_router(agent.0, PREFIX).await;
    wait::until_true("they apply", || !app.config().tuned.is_empty()).await;
    let load = |more: &str| router_settings(&format!("address: \"http://{}\"", agent.0), more);
    let more =
        format!("{PREFIX}\ndefaults: {{timeout: 2s, body_idle: 5s}}\nupstreams: [{{service: orders}}]");
    app.apply(load(&more)).await.unwrap();
    let config = app.config();
    assert_eq!((config.defaults.timeout.as_secs(), config.defaults.body_idle.as_secs()), (7, 5));
    assert_eq!((config.upstreams[0].policy.max_pending, config.tuned.len()), (9, 0));
    // Narrower bounds refuse what was good, and its last good version with it.
    app.apply(load(&more.replace("50ms..60s", "1s..5s"))).await.unwrap();
    assert_eq!(timeout_of_defaults(&app), Duration::from_secs(2));
    app.apply(load(&more)).await.unwrap();
    assert_eq!(timeout_of_defaults(&app), Duration::from_secs(7));
    app.shutdown().await;
}
