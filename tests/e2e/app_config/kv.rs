//! `GET /v1/kv/…` of the sidecar answers as the agent does.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use outrigger::App;
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_proxy::Workers;
use outrigger_tests::{
    consul::{
        self,
        http::{exchange, get, put},
    },
    registry_proxy::{RegistryMode, RegistryProxy},
    wait,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    app::{router_settings, start_router},
    receipts::{ACL, DENY_KEYS, create_token},
};

const LONG: Duration = Duration::from_secs(60);

/// A sidecar that serves `config/orders/` and the key `config/one`, and its API.
async fn start(consul: SocketAddr) -> (App, SocketAddr) {
    let api = "api: {listen: \"127.0.0.1:0\", config: {allow: [config/orders/, config/one]}}\n\
               dynamic_config: {prefix: team/outrigger}";
    let (app, _) = start_router(consul, api).await;
    let addr = app.api_addrs()[0];
    (app, addr)
}

/// A sidecar that is not ready, because its app does not run.
async fn begin(consul: SocketAddr, more: &str) -> (App, SocketAddr) {
    let settings = router_settings(&format!("address: \"http://{consul}\""), more);
    let app = App::start(settings, Workers::CurrentRuntime).await.expect("start the app");
    let addr = app.api_addrs()[0];
    (app, addr)
}

async fn fill(consul: SocketAddr) {
    for (key, value) in [
        ("config/orders/db/url", "jdbc:<x>&\"y\""),
        ("config/orders/db/pool", ""),
        ("config/orders/a%20b", "space"),
        ("config/orders/uml%C3%A4ut%3Cb%3E", "ü"),
        ("config/orders/flags?flags=42", "x"),
        ("config/orders-secret", "hush"),
        ("config/one", "1"),
        ("config/one-more", "hush"),
        ("team/outrigger/settings/defaults", "timeout: 1s"),
        ("locks/jobs/.lock", "held"),
    ] {
        let put = put(consul, &format!("/v1/kv/{key}"), value).await.unwrap();
        assert_eq!(put.status(), StatusCode::OK, "{key}");
    }
}

async fn ask(addr: SocketAddr, method: &str, target: &str) -> Response<Bytes> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let request = Request::builder().method(method).uri(target).body(Bytes::new()).unwrap();
    exchange(addr, request, LONG).await.unwrap_or_else(|error| panic!("{target}: {error}"))
}

/// What must be equal: status, body, and every field but those of the connection.
fn seen(response: &Response<Bytes>) -> (StatusCode, String, Vec<(String, String)>) {
    let ours = ["date", "connection", "keep-alive"];
    let fields = response.headers().iter().filter(|(name, _)| !ours.contains(&name.as_str()));
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut fields: Vec<_> = fields.map(|(name, value)| (name.to_string(), text(value))).collect();
    fields.sort();
    (response.status(), String::from_utf8_lossy(response.body()).into_owned(), fields)
}

/// The sidecar answers as the agent does. On a busy machine the agent may answer too late: the sidecar then gives its last
/// answer, or none, and says so.
async fn assert_same(consul: SocketAddr, addr: SocketAddr, target: &str) {
    let agent = ask(consul, "GET", target).await;
    let mut sidecar = ask(addr, "GET", target).await;
    wait::until("the sidecar has the agent's answer", LONG, async || {
        let fields = sidecar.headers();
        let is_late = fields.contains_key("x-outrigger-stale")
            || fields.get("x-outrigger-error").is_some_and(|reason| reason == "registry_unavailable");
        if is_late {
            sidecar = ask(addr, "GET", target).await;
        }
        !is_late
    })
    .await;
    assert_eq!(seen(&sidecar), seen(&agent), "{target}");
}

fn index(headers: &HeaderMap) -> u64 {
    headers["x-consul-index"].to_str().unwrap().parse().unwrap()
}

async fn reason(addr: SocketAddr, method: &str, target: &str) -> (u16, String) {
    let response = ask(addr, method, target).await;
    let body: Value = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    let header = response.headers().get("x-outrigger-error").map(|value| value.to_str().unwrap().to_owned());
    let reason = header.unwrap_or_default();
    assert_eq!(body["reason"].as_str().unwrap_or_default(), reason, "{target}: {body}");
    (response.status().as_u16(), reason)
}

on_both_registries! {
    reads: super::reads_are_answered_as_by_the_agent;
    waits: super::a_read_that_waits_ends_with_a_change_and_with_its_time;
    first_keys: super::keys_below_an_empty_prefix_end_a_wait_when_they_appear_and_when_they_change;
    refusals: super::nothing_but_what_is_allowed_is_read;
}

async fn reads_are_answered_as_by_the_agent(consul: SocketAddr) {
    fill(consul).await;
    let (app, addr) = start(consul).await;
    for target in [
        "config/orders/db/url",
        "config/orders/db/url?raw",
        "config/orders/db/pool",
        "config/orders/db/pool?raw",
        "config/orders/a%20b",
        "config/orders/flags",
        "config/orders/uml%C3%A4ut%3Cb%3E",
        "config%2Forders%2Fdb%2Furl",
        "config/one",
        "config/orders/?recurse",
        "config/orders/db?recurse=false",
        "config/orders/?recurse&raw",
        "config/orders/?recurse&keys",
        "config/orders/?keys",
        "config/orders/?keys&separator=/",
        "config/orders/?keys&separator=%2F",
        "config/orders/?keys&separator=",
        "config/orders/d?keys&separator=b",
        "config/orders/db/url?pretty",
        "config/orders/?recurse&pretty",
        "config/orders/?keys&pretty",
        "config/orders/none",
        "config/orders/none?raw",
        "config/orders/none/?recurse",
        "config/orders/none/?keys",
        "config/orders/db/url?stale",
        "config/orders/db/url?consistent",
        "config/orders/db/url?stale=&max_stale=2s",
        "config/orders/db/url?index=1&wait=10ms",
        "config/orders/db/url?index=0&wait=5m",
        "config/orders/db/url?index=&wait=",
        "config/orders/db/url?near=_agent&token=abc",
        // Errors.
        "",
        "?raw",
        "config/orders/db/url?index=abc",
        "config/orders/db/url?index=-1",
        "config/orders/db/url?index=18446744073709551616",
        "config/orders/db/url?wait=abc",
        "config/orders/db/url?wait=1",
        "config/orders/db/url?stale&consistent",
    ] {
        // The dev registry asks no token, and a Consul without ACLs takes any.
        let target = format!("/v1/kv/{target}");
        assert_same(consul, addr, &target).await;
    }
    // As Go's net/http redirects.
    let target = "/v1/kv/config/orders/../orders//db/url";
    for query in ["", "?raw&stale", "?", "?raw&x='1'"] {
        assert_same(consul, addr, &format!("{target}{query}")).await;
    }
    for target in ["/v1/kv?", "/v1/kv?keys"] {
        assert_same(consul, addr, target).await;
    }
    let moved = ask(addr, "GET", &format!("{target}?raw")).await;
    assert_eq!(moved.headers()["location"], "/v1/kv/config/orders/db/url?raw");
    app.shutdown().await;
}

async fn a_read_that_waits_ends_with_a_change_and_with_its_time(consul: SocketAddr) {
    fill(consul).await;
    let (app, addr) = start(consul).await;
    let first = get(addr, "/v1/kv/config/orders/db/url?raw").await.unwrap();
    let known = index(first.headers());
    let begun = Instant::now();
    let same = get(addr, &format!("/v1/kv/config/orders/db/url?raw&index={known}&wait=800ms")).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(800), "{:?}", begun.elapsed());
    assert_eq!((index(same.headers()), same.body()), (known, first.body()));
    // Many clients, and a change.
    let target = format!("/v1/kv/config/orders/db/url?raw&index={known}&wait=50s");
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let target = target.clone();
            tokio::spawn(async move { ask(addr, "GET", &target).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    put(consul, "/v1/kv/config/orders/db/other", "unrelated").await.unwrap();
    put(consul, "/v1/kv/config/orders/db/url", "new").await.unwrap();
    let changed = Instant::now();
    for client in clients {
        let response = client.await.unwrap();
        assert_eq!(&response.body()[..], b"new");
        assert!(index(response.headers()) > known);
    }
    assert!(changed.elapsed() < Duration::from_secs(20), "{:?}", changed.elapsed());
    // A key that is deleted, and one that appears.
    let known = index(get(addr, "/v1/kv/config/one").await.unwrap().headers());
    let target = format!("/v1/kv/config/one?index={known}&wait=50s");
    let (gone, _) = tokio::join!(ask(addr, "GET", &target), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        ask(consul, "DELETE", "/v1/kv/config/one").await
    });
    assert_eq!((gone.status(), gone.body().len()), (StatusCode::NOT_FOUND, 0));
    let known = index(gone.headers());
    let target = format!("/v1/kv/config/one?raw&index={known}&wait=50s");
    let (back, _) = tokio::join!(ask(addr, "GET", &target), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        put(consul, "/v1/kv/config/one", "2").await.unwrap()
    });
    // A write elsewhere may have ended the wait before.
    if back.status() == StatusCode::OK {
        assert_eq!(&back.body()[..], b"2");
    }
    // A stop ends the waits.
    let known = index(get(addr, "/v1/kv/config/orders/db/url").await.unwrap().headers());
    let target = format!("/v1/kv/config/orders/db/url?index={known}&wait=10m");
    let waiting = tokio::spawn(async move { ask(addr, "GET", &target).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    app.shutdown().await;
    let ended = waiting.await.unwrap();
    assert_eq!((ended.status(), index(ended.headers())), (StatusCode::OK, known));
}

async fn keys_below_an_empty_prefix_end_a_wait_when_they_appear_and_when_they_change(consul: SocketAddr) {
    const TARGET: &str = "/v1/kv/config/orders/first";
    let (app, addr) = start(consul).await;
    let none = get(addr, TARGET).await.unwrap();
    assert_eq!(none.status(), StatusCode::NOT_FOUND);
    let mut known = index(none.headers());
    for value in ["1", "2", "3"] {
        let target = format!("{TARGET}?raw&index={known}&wait=50s");
        let write = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            put(consul, TARGET, value).await.unwrap();
            Instant::now()
        };
        let (mut read, written) = tokio::join!(ask(addr, "GET", &target), write);
        // While there is no key, a write elsewhere ends a wait, too.
        while &read.body()[..] != value.as_bytes() && written.elapsed() < LONG {
            let target = format!("{TARGET}?raw&index={}&wait=50s", index(read.headers()));
            read = ask(addr, "GET", &target).await;
        }
        // 2 s as documented, and time for a busy machine; the watch itself asks after 24 s at the earliest.
        assert!(written.elapsed() < Duration::from_secs(12), "{value}: {:?}", written.elapsed());
        assert!(index(read.headers()) > known, "{value}");
        known = index(read.headers());
    }
    app.shutdown().await;
}

async fn nothing_but_what_is_allowed_is_read(consul: SocketAddr) {
    fill(consul).await;
    let (app, addr) = start(consul).await;
    for target in [
        "config/orders-secret",
        "config/orders-secret?raw",
        "config/orders",
        "config/one-more",
        "config%2Forders-secret",
        "CONFIG/orders/db/url",
        "config/Orders/db/url",
        "team/outrigger/settings/defaults",
        "team/outrigger/?recurse",
        "?recurse",
        "?keys",
        "config/?recurse",
        "config/?keys",
        "config/order?recurse",
        "config/on?recurse",
        "locks/jobs/.lock",
        "locks/?recurse",
    ] {
        let refused = reason(addr, "GET", &format!("/v1/kv/{target}")).await;
        assert_eq!(refused, (403, "key_not_allowed".to_owned()), "{target}");
    }
    // Consul looks for every key that begins so; what is not allowed is cut out.
    for (target, expected) in [
        ("config/orders?keys&separator=", "config/orders/a b"),
        ("config/one?keys", "config/one"),
        ("config/one?recurse", "config/one"),
    ] {
        let response = ask(addr, "GET", &format!("/v1/kv/{target}")).await;
        let body = String::from_utf8_lossy(response.body()).into_owned();
        assert!(
            body.contains(expected) && !body.contains("secret") && !body.contains("more"),
            "{target}: {body}"
        );
    }
    // Paths that mean another key are answered with that key's path, which is refused.
    for (target, location) in [
        ("config/orders/../orders-secret", "/v1/kv/config/orders-secret"),
        ("config/orders/%2e%2e/orders-secret", "/v1/kv/config/orders-secret"),
        ("config/orders/%2E%2E%2forders-secret", "/v1/kv/config/orders-secret"),
        ("config/orders//../../team/outrigger/settings/defaults", "/v1/kv/team/outrigger/settings/defaults"),
        ("/config/orders-secret", "/v1/kv/config/orders-secret"),
    ] {
        let response = ask(addr, "GET", &format!("/v1/kv/{target}")).await;
        assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY, "{target}");
        assert_eq!(response.headers()["location"], location, "{target}");
        assert_eq!(reason(addr, "GET", location).await.0, 403);
    }
    for (method, target) in [
        ("PUT", "config/orders/db/url"),
        ("DELETE", "config/orders/?recurse"),
        ("POST", "config/orders/db/url"),
        ("PATCH", "config/orders/db/url"),
        ("OPTIONS", "config/orders/db/url"),
    ] {
        let refused = reason(addr, method, &format!("/v1/kv/{target}")).await;
        assert_eq!(refused, (405, "method_not_allowed".to_owned()), "{method} {target}");
    }
    for target in
        ["/v1/kv/config/%FF", "/v1/kv/config/%zz", "/v1/locks/%FF", "/v1/locks/a%2", "/%ff", "/v1/config%"]
    {
        assert_eq!(reason(addr, "GET", target).await, (400, "bad_request".to_owned()), "{target}");
    }
    for (path, methods) in
        [("kv/config/one", "GET"), ("config", "GET, HEAD"), ("locks/jobs", "GET, HEAD, POST, DELETE")]
    {
        let refused = ask(addr, "PATCH", &format!("/v1/{path}")).await;
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(refused.headers()["allow"], methods, "{path}");
    }
    // As at the agent.
    assert_eq!(
        ask(addr, "HEAD", "/v1/kv/config/orders/db/url").await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    let other = reason(addr, "GET", "/v1/kv/config/orders/db/url?dc=other").await;
    assert_eq!(other, (403, "other_datacenter".to_owned()));
    app.shutdown().await;
}

/// The answer to a request of which the body comes as it is, and then no more.
async fn send(addr: SocketAddr, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!("POST /v1/locks/jobs HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The answer may come before the whole body is sent.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&answer).contains("\"type\":") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
        }
    };
    timeout(LONG, read).await.expect("in time");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_that_is_too_large_or_does_not_come_is_refused_with_its_reason() {
    let registry =
        DevRegistry::bind(([127, 0, 0, 1], 0).into(), DevRegistryOptions::default()).await.unwrap();
    let (app, addr) = start(registry.addr()).await;
    let chunks = format!("{:x}\r\n{}\r\n", 70_000, "x".repeat(70_000));
    for (head, body, expected) in [
        ("Content-Length: 65537", &b""[..], "413 body_too_large"),
        ("Transfer-Encoding: chunked", chunks.as_bytes(), "413 body_too_large"),
        ("Transfer-Encoding: chunked", b"zz\r\n", "400 bad_request"),
        ("Content-Length: 10", b"{", "408 body_timeout"),
    ] {
        let answer = send(addr, head, body).await;
        let (status, reason) = expected.split_once(' ').unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
        assert!(answer.contains(&format!("x-outrigger-error: {reason}\r\n")), "{head}: {answer}");
        assert!(answer.contains("content-type: application/problem+json\r\n"), "{head}: {answer}");
    }
    app.shutdown().await;
}

#[tokio::test]
async fn while_consul_hangs_reads_are_answered_soon_and_waits_keep_their_time() {
    let registry =
        DevRegistry::bind(([127, 0, 0, 1], 0).into(), DevRegistryOptions::default()).await.unwrap();
    fill(registry.addr()).await;
    let proxy = RegistryProxy::start(registry.addr()).await;
    let (app, addr) = start(proxy.addr()).await;
    let target = "/v1/kv/config/orders/db/url";
    let fresh = get(addr, target).await.unwrap();
    assert!(!fresh.headers().contains_key("x-outrigger-stale"));
    wait::until("the watch has an answer, too", LONG, async || {
        get(addr, "/v1/kv/config/orders/?keys").await.is_ok_and(|answer| answer.status() == 200)
            && proxy.requests().keys().any(|kind| kind.contains("blocking"))
    })
    .await;
    proxy.set(RegistryMode::Hang);
    let begun = Instant::now();
    for _ in 0..30 {
        let stale = get(addr, target).await.unwrap();
        assert_eq!(
            (stale.body(), &stale.headers()["x-outrigger-stale"]),
            (fresh.body(), &"true".parse().unwrap())
        );
        assert!(stale.headers().contains_key("age") && index(stale.headers()) == index(fresh.headers()));
    }
    // A second for each of them would be 30.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let waited = get(addr, &format!("{target}?index={}&wait=2s", index(fresh.headers()))).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2) && begun.elapsed() < Duration::from_secs(8));
    assert_eq!(waited.headers()["x-outrigger-stale"], "true");
    let newest = reason(addr, "GET", &format!("{target}?consistent")).await;
    assert_eq!(newest, (503, "registry_unavailable".to_owned()));
    proxy.set(RegistryMode::Pass);
    wait::until("it answers again", LONG, async || {
        !get(addr, target).await.unwrap().headers().contains_key("x-outrigger-stale")
    })
    .await;
    app.shutdown().await;
}

#[tokio::test]
async fn a_token_without_rights_is_told_and_not_an_empty_configuration() {
    if !consul::available("a token without rights is told") {
        return;
    }
    let consul = consul::Consul::server_with(ACL).await.expect("a server");
    let token = create_token(&consul, "none", DENY_KEYS).await;
    let more = "api: {listen: \"127.0.0.1:0\", config: {sources: [{prefix: config/orders/}]}}";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, token).unwrap();
    let registry = format!("address: \"http://{}\", token_file: {}", consul.http_addr(), file.display());
    let settings = router_settings(&registry, more);
    let app = App::start(settings, Workers::CurrentRuntime).await.expect("start the app");
    let addr = app.api_addrs()[0];
    wait::until("the refusal is known", LONG, async || {
        let answer = get(addr, "/v1/config").await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        let body: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(body["reason"], "config_unknown");
        body["missing"][0]["reason"].as_str().is_some_and(|reason| reason.contains("Permission denied"))
    })
    .await;
    app.shutdown().await;
}

#[tokio::test]
async fn while_consul_is_away_the_last_good_answers_are_served_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    // A port that no other test gets when this one gives it back.
    let registry =
        DevRegistry::bind(outrigger_net::reserve_addr(), DevRegistryOptions::default()).await.unwrap();
    let consul = registry.addr();
    fill(consul).await;
    let settings = |cache: &str| {
        format!(
            "state_dir: {}\nservice: {{name: orders, port: 1}}\n\
             api: {{listen: \"127.0.0.1:0\", config: {{allow: [config/orders/], cache: {cache}}}}}",
            folder.path().display()
        )
    };
    let files = || {
        let all = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name());
        // Not one that is being written.
        let is_file = |name: &str| name.starts_with("kv-") && name.ends_with(".json");
        all.filter(|name| is_file(&name.to_string_lossy())).count()
    };
    let (app, addr) = begin(consul, &settings("on")).await;
    let fresh = get(addr, "/v1/kv/config/orders/db/url?raw").await.unwrap();
    assert!(!fresh.headers().contains_key("x-outrigger-stale") && !fresh.headers().contains_key("age"));
    wait::until_true("the entries are on disk", || files() == 1).await;
    drop(registry);
    let stale = get(addr, "/v1/kv/config/orders/db/url?raw").await.unwrap();
    assert_eq!((stale.status(), stale.body()), (StatusCode::OK, fresh.body()));
    assert_eq!(stale.headers()["x-outrigger-stale"], "true");
    assert_eq!(stale.headers()["x-consul-knownleader"], "false");
    assert!(index(stale.headers()) >= index(fresh.headers()));
    let age: u64 = stale.headers()["age"].to_str().unwrap().parse().unwrap();
    assert!(age < 60, "{age}");
    let gone = get(addr, "/v1/kv/config/orders/none").await.unwrap();
    assert_eq!(
        (gone.status(), &gone.headers()["x-outrigger-stale"]),
        (StatusCode::NOT_FOUND, &"true".parse().unwrap())
    );
    app.shutdown().await;
    // The next run has them from the start.
    let (app, addr) = begin(consul, &settings("on")).await;
    let stale = get(addr, "/v1/kv/config/orders/?recurse").await.unwrap();
    assert_eq!(
        (stale.status(), &stale.headers()["x-outrigger-stale"]),
        (StatusCode::OK, &"true".parse().unwrap())
    );
    assert!(String::from_utf8_lossy(stale.body()).contains("config/orders/a b"));
    app.shutdown().await;
    // Without the cache nothing is there, and what was there is removed.
    let (app, addr) = begin(consul, &settings("off")).await;
    let unknown = reason(addr, "GET", "/v1/kv/config/orders/?recurse").await;
    assert_eq!(unknown, (503, "registry_unavailable".to_owned()));
    assert_eq!(files(), 0);
    app.shutdown().await;
}
