//! The merged configuration of the app: its formats, its stream, wrong documents, outages and restarts.

use std::{net::SocketAddr, path::Path, time::Duration};

use http::{Method, Request, Response, StatusCode};
use outrigger::App;
use outrigger_proxy::Workers;
use outrigger_tests::{
    client,
    consul::{
        self,
        http::{exchange, put},
    },
    registry_proxy::{RegistryMode, RegistryProxy},
    wait,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{app::load_text, event_stream::EventStream};

const LONG: Duration = Duration::from_secs(60);

const SOURCES: &str = "[{prefix: blobs/orders, as: yaml}, {spring: {app: orders, profiles: [prod]}}, {prefix: repo/, as: files}]";

/// A sidecar with the API. Its name, which its files have, is that of the outbound port.
struct ConfigApi {
    app: App,
    addr: SocketAddr,
}

impl ConfigApi {
    async fn start(consul: SocketAddr, port: u16, state_dir: &Path, sources: &str) -> Self {
        let settings = load_text(&format!(
            "registry: {{consul: {{address: \"http://{consul}\"}}}}\noutbound: {{listen: \"127.0.0.1:{port}\"}}\n\
             admin: {{listen: \"127.0.0.1:0\"}}\nstate_dir: {}\n\
             api: {{listen: \"127.0.0.1:0\", config: {{sources: {sources}}}}}\n",
            state_dir.display()
        ));
        let app = App::start(settings, Workers::CurrentRuntime).await.expect("start the app");
        let addr = app.api_addrs()[0];
        Self { app, addr }
    }

    async fn ask(&self, path: &str, fields: &[(&str, &str)]) -> Response<bytes::Bytes> {
        let mut request = Request::builder().method(Method::GET).uri(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        exchange(self.addr, request.body(bytes::Bytes::new()).unwrap(), LONG).await.unwrap()
    }

    async fn text(&self, path: &str) -> String {
        let answer = self.ask(path, &[]).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}: {answer:?}");
        String::from_utf8(answer.body().to_vec()).unwrap()
    }

    async fn json(&self) -> Value {
        serde_json::from_str(&self.text("/v1/config").await).unwrap()
    }

    async fn wait_for(&self, what: &str, expected: &Value) {
        wait::until(what, LONG, async || {
            let answer = self.ask("/v1/config", &[]).await;
            answer.status() == StatusCode::OK
                && serde_json::from_slice::<Value>(answer.body()).is_ok_and(|json| json == *expected)
        })
        .await;
    }

    async fn wait_for_stale(&self, is_stale: bool) {
        wait::until("it is stale, or not", LONG, async || {
            let answer = self.ask("/v1/config", &[]).await;
            answer.headers().get("x-outrigger-stale").is_some_and(|stale| stale == "true") == is_stale
        })
        .await;
    }

    async fn stream(&self) -> EventStream {
        EventStream::open(self.addr, "GET /v1/config/stream HTTP/1.1").await
    }

    async fn refused(&self, path: &str) -> (u16, Value) {
        let answer = self.ask(path, &[]).await;
        (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap())
    }
}

async fn write(consul: SocketAddr, key: &str, value: &str) {
    let answer = put(consul, &format!("/v1/kv/{key}"), value).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{key}");
}

async fn fill(consul: SocketAddr) {
    for (key, value) in [
        ("blobs/orders", "pool: {max: 10}\nfeatures: [a, b]\n"),
        ("config/orders,prod/db/url", "jdbc:prod"),
        ("config/orders/db/url", "jdbc:any"),
        ("config/orders/features[0]", "hidden"),
        ("config/application,prod/region", "eu 1"),
        ("config/application/region", "none"),
        ("config/application/log", "info"),
        ("repo/10-base.properties", "log=debug\nbase=yes\n"),
        ("repo/20-more.json", "{\"base\": 2}"),
        ("repo/README.md", "# nothing"),
    ] {
        write(consul, key, value).await;
    }
}

fn filled() -> Value {
    json!({
        "base": 2, "db": {"url": "jdbc:prod"}, "features": ["a", "b"], "log": "info", "pool": {"max": 10}, "region": "eu 1",
    })
}

on_both_registries! {
    view: super::the_merged_configuration_in_each_format;
    stream: super::a_change_is_seen_by_the_stream;
    wrong_document: super::a_wrong_document_keeps_its_last_good_version;
    outage: super::an_outage_is_served_stale_also_after_a_restart;
    replacement: super::after_a_replacement_that_failed_a_stream_is_told_of_no_stop;
}

async fn the_merged_configuration_in_each_format(consul: SocketAddr) {
    fill(consul).await;
    let folder = tempfile::tempdir().unwrap();
    let api = ConfigApi::start(consul, outrigger_net::reserve_addr().port(), folder.path(), SOURCES).await;
    api.wait_for("all parts", &filled()).await;
    assert_eq!(
        api.text("/v1/config?format=env").await,
        "BASE=2\nDB_URL=jdbc:prod\nFEATURES_0=a\nFEATURES_1=b\nLOG=info\nPOOL_MAX=10\nREGION='eu 1'\n"
    );
    assert_eq!(
        api.text("/v1/config?format=yaml").await,
        "base: 2\ndb:\n  url: \"jdbc:prod\"\nfeatures:\n  - a\n  - b\nlog: info\npool:\n  max: 10\nregion: \"eu 1\"\n"
    );
    assert_eq!(
        api.text("/v1/config?format=properties").await,
        "base=2\ndb.url=jdbc\\:prod\nfeatures[0]=a\nfeatures[1]=b\nlog=info\npool.max=10\nregion=eu 1\n"
    );
    let yaml = api.ask("/v1/config", &[("accept", "application/yaml")]).await;
    assert_eq!(yaml.headers()["content-type"], "application/yaml");
    let tag = yaml.headers()["etag"].to_str().unwrap().to_owned();
    let again = api.ask("/v1/config?format=yaml", &[("if-none-match", &tag)]).await;
    assert_eq!((again.status(), again.body().len()), (StatusCode::NOT_MODIFIED, 0));
    // Where each is from.
    let origins: Value = serde_json::from_str(&api.text("/v1/config?origins").await).unwrap();
    let key = |name: &str| origins["properties"][name]["key"].as_str().unwrap_or_default().to_owned();
    assert_eq!(key("db.url"), "config/orders,prod/db/url");
    assert_eq!(key("pool.max"), "blobs/orders");
    assert_eq!(key("base"), "repo/20-more.json");
    let hidden: Vec<_> = origins["hidden"].as_array().unwrap().iter().map(|one| &one["key"]).collect();
    assert!(
        hidden.contains(&&json!("config/orders/features[0]"))
            && hidden.contains(&&json!("config/orders/db/url"))
    );
    assert_eq!(origins["problems"][0]["reason"], "unknown_ending");
    let index = origins["properties"]["db.url"]["index"].as_u64().unwrap();
    let of_consul: Value = serde_json::from_slice(
        consul::http::get(consul, "/v1/kv/config/orders,prod/db/url").await.unwrap().body(),
    )
    .unwrap();
    assert_eq!(of_consul[0]["ModifyIndex"], index);
    // Other settings.
    let none = format!(
        "registry: {{consul: {{address: \"http://{consul}\"}}}}\napi: {{listen: \"127.0.0.1:0\", config: {{sources: []}}}}"
    );
    let stream = api.stream().await;
    let settings = load_text(&format!(
        "outbound: {{listen: \"127.0.0.1:0\"}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n{none}"
    ));
    api.app.apply(settings).await.unwrap();
    let ended = stream.rest().await;
    assert!(ended.ends_with("\r\n0\r\n\r\n"), "{ended}");
    let addr = api.app.api_addrs()[0];
    let api = ConfigApi { addr, ..api };
    let (status, problem) = api.refused("/v1/config").await;
    assert_eq!((status, &problem["reason"]), (404, &json!("no_sources")));
    api.app.shutdown().await;
}

async fn a_change_is_seen_by_the_stream(consul: SocketAddr) {
    fill(consul).await;
    let folder = tempfile::tempdir().unwrap();
    let api = ConfigApi::start(consul, outrigger_net::reserve_addr().port(), folder.path(), SOURCES).await;
    let mut stream = api.stream().await;
    assert_eq!(stream.next("config").await, filled());
    write(consul, "config/orders,prod/db/url", "jdbc:new").await;
    let changed = stream.next("config").await;
    assert_eq!(changed["db"]["url"], "jdbc:new");
    assert_eq!(changed, api.json().await);
    let tag = api.ask("/v1/config", &[]).await.headers()["etag"].to_str().unwrap().to_owned();
    let id = tag.trim_matches('"');
    assert!(stream.read.is_empty() || !stream.read.contains("event: config"), "{}", stream.read);
    // A client that has this version hears of the next one.
    let head = format!("GET /v1/config HTTP/1.1\r\nAccept: text/event-stream\r\nLast-Event-ID: {id}");
    let mut again = EventStream::open(api.addr, &head).await;
    write(consul, "config/application/log", "warn").await;
    assert_eq!(again.next("config").await["log"], "warn");
    assert_eq!(stream.next("config").await["log"], "warn");
    // A key that is deleted, after the second in which it may be written again.
    let delete = Request::delete("/v1/kv/config/application,prod/region").body(bytes::Bytes::new()).unwrap();
    assert_eq!(exchange(consul, delete, LONG).await.unwrap().status(), StatusCode::OK);
    write(consul, "config/application,prod/other", "x").await;
    let mut last = stream.next("config").await;
    while last["region"] != "none" {
        last = stream.next("config").await;
    }
    let ended = tokio::spawn(stream.rest());
    api.app.shutdown().await;
    let ended = ended.await.unwrap();
    assert!(ended.contains("event: draining\n") && ended.ends_with("\r\n0\r\n\r\n"), "{ended}");
}

async fn a_wrong_document_keeps_its_last_good_version(consul: SocketAddr) {
    fill(consul).await;
    let folder = tempfile::tempdir().unwrap();
    let port = outrigger_net::reserve_addr().port();
    let api = ConfigApi::start(consul, port, folder.path(), SOURCES).await;
    api.wait_for("all parts", &filled()).await;
    write(consul, "blobs/orders", "pool: {max: [").await;
    write(consul, "config/application/log", "warn").await;
    let mut expected = filled();
    expected["log"] = "warn".into();
    api.wait_for("the other change, with the last good document", &expected).await;
    wait::until("the problem", LONG, async || {
        let answer = api.ask("/v1/config", &[]).await;
        answer.headers().get("x-outrigger-config-problems").is_some_and(|count| count == "2")
    })
    .await;
    let origins: Value = serde_json::from_str(&api.text("/v1/config?origins").await).unwrap();
    let problem = &origins["problems"][0];
    assert_eq!((&problem["key"], &problem["reason"]), (&json!("blobs/orders"), &json!("wrong_document")));
    assert_eq!(problem["in_effect"], origins["properties"]["pool.max"]["index"]);
    let admin = api.app.admin_addr().unwrap();
    let events = client::get(admin, "localhost", "/events?kind=app_config_refused").await.text();
    assert!(events.contains("blobs/orders, version ") && events.contains(" stays"), "{events}");
    let metrics = client::get(admin, "localhost", "/metrics").await.text();
    assert!(metrics.contains("outrigger_app_config_problems{reason=\"wrong_document\"} 1\n"), "{metrics}");
    api.app.shutdown().await;
    // The last good version outlives the process.
    let api = ConfigApi::start(consul, port, folder.path(), SOURCES).await;
    api.wait_for("the same after a restart", &expected).await;
    write(consul, "blobs/orders", "pool: {max: 20}\nfeatures: [c]\n").await;
    expected["pool"]["max"] = 20.into();
    expected["features"] = json!(["c"]);
    api.wait_for("the document that is right again", &expected).await;
    api.app.shutdown().await;
}

async fn an_outage_is_served_stale_also_after_a_restart(consul: SocketAddr) {
    fill(consul).await;
    let front = RegistryProxy::start(consul).await;
    let folder = tempfile::tempdir().unwrap();
    let port = outrigger_net::reserve_addr().port();
    front.set(RegistryMode::Refuse);
    let api = ConfigApi::start(front.addr(), port, folder.path(), SOURCES).await;
    // Nothing is known, also not in part.
    let (status, problem) = api.refused("/v1/config").await;
    assert_eq!((status, &problem["reason"]), (503, &json!("config_unknown")));
    assert_eq!(problem["missing"].as_array().unwrap().len(), 6);
    let mut stream = api.stream().await;
    assert_eq!(stream.next("unknown").await["missing"].as_array().unwrap().len(), 6);
    front.set(RegistryMode::Pass);
    assert_eq!(stream.next("config").await, filled());
    api.wait_for_stale(false).await;
    // The questions of the watches say nothing for most of a minute.
    front.set(RegistryMode::Hang);
    let since = Instant::now();
    api.wait_for_stale(true).await;
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    assert_eq!(stream.next("stale").await, json!({"stale": true}));
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    front.set(RegistryMode::Pass);
    assert_eq!(stream.next("stale").await, json!({"stale": false}));
    front.set(RegistryMode::Refuse);
    api.wait_for_stale(true).await;
    let stale = api.ask("/v1/config", &[]).await;
    assert!(stale.headers().contains_key("age"), "{stale:?}");
    assert_eq!(serde_json::from_slice::<Value>(stale.body()).unwrap(), filled());
    assert_eq!(stream.next("stale").await, json!({"stale": true}));
    drop(stream);
    api.app.shutdown().await;
    // The next process has it before the registry answers.
    let api = ConfigApi::start(front.addr(), port, folder.path(), SOURCES).await;
    let stale = api.ask("/v1/config", &[]).await;
    assert_eq!(
        (stale.status(), &stale.headers()["x-outrigger-stale"]),
        (StatusCode::OK, &"true".parse().unwrap())
    );
    assert!(stale.headers().contains_key("age"), "{stale:?}");
    assert_eq!(serde_json::from_slice::<Value>(stale.body()).unwrap(), filled());
    front.set(RegistryMode::Pass);
    api.wait_for_stale(false).await;
    write(consul, "config/application/log", "error").await;
    let mut expected = filled();
    expected["log"] = "error".into();
    api.wait_for("a change after the outage", &expected).await;
    api.app.shutdown().await;
}

async fn after_a_replacement_that_failed_a_stream_is_told_of_no_stop(consul: SocketAddr) {
    fill(consul).await;
    let folder = tempfile::tempdir().unwrap();
    let api = ConfigApi::start(consul, outrigger_net::reserve_addr().port(), folder.path(), SOURCES).await;
    api.wait_for("all parts", &filled()).await;
    let mut before = api.stream().await;
    api.app.leave_registrations(Default::default()).await;
    before.next("draining").await;
    api.app.take_registration_back().await;
    let mut stream = api.stream().await;
    stream.read_until(": no change").await;
    assert!(stream.read.contains("event: config\n") && !stream.read.contains("draining"), "{}", stream.read);
    api.app.shutdown().await;
}

#[tokio::test]
async fn a_registry_of_files_has_no_keys() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.yaml");
    std::fs::write(&file, "services: {}\n").unwrap();
    let settings = load_text(&format!(
        "registry: {{file: {}}}\noutbound: {{listen: \"127.0.0.1:0\"}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
         api: {{listen: \"127.0.0.1:0\", config: {{sources: [{{prefix: config/orders/}}]}}}}\n",
        file.display()
    ));
    let app = App::start(settings, Workers::CurrentRuntime).await.expect("start the app");
    let api = ConfigApi { addr: app.api_addrs()[0], app };
    for path in ["/v1/config", "/v1/config/stream"] {
        let (status, problem) = api.refused(path).await;
        assert_eq!((status, &problem["reason"]), (501, &json!("no_kv")), "{path}");
    }
    api.app.shutdown().await;
}
