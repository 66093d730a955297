//! Locks by the sidecar's API: the app needs an HTTP client alone.

use std::{net::SocketAddr, time::Duration};

use http::{Method, Request, StatusCode};
use outrigger::App;
use outrigger_tests::{
    consul::{self, http::exchange},
    process::Process,
    registry_proxy::{RegistryMode, RegistryProxy},
    wait,
};
use serde_json::{Value, json};

use crate::{
    app::{start_router, start_router_by},
    event_stream::EventStream,
    receipts::{ACL, DENY_KEYS, create_token},
};

const LONG: Duration = Duration::from_secs(60);

/// A sidecar with the API.
struct Api {
    app: App,
    addr: SocketAddr,
}

impl Api {
    async fn start(consul: SocketAddr, more: &str) -> Self {
        let (app, _) = start_router(consul, &format!("api: {{listen: \"127.0.0.1:0\"{more}}}")).await;
        let addr = app.api_addrs()[0];
        Self { app, addr }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.to_owned().into()).unwrap();
        let response = exchange(self.addr, request, LONG).await.unwrap();
        (response.status(), serde_json::from_slice(response.body()).unwrap_or(Value::Null))
    }

    async fn post(&self, path: &str, body: &str) -> (StatusCode, Value) {
        self.send(Method::POST, path, &[], body).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send(Method::GET, path, &[], "").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }
}

on_both_registries! {
    connection: super::a_connection_holds_a_lock_for_as_long_as_it_is_open;
    lease: super::a_lease_is_renewed_given_back_and_lost;
    state: super::the_state_of_a_lock_is_read_and_watched;
    drain: super::a_drain_tells_holders_and_refuses_new_ones;
    refusals: super::requests_that_are_wrong_or_foreign_are_refused;
    reads: super::a_read_never_acquires_and_says_since_when;
    restart: super::a_restart_keeps_leases_and_ends_what_connections_held;
    replaced: super::a_replaced_sidecar_lets_the_locks_of_connections_end_first;
    together: super::requests_that_come_at_once_get_every_free_place_and_an_owner_one_lease;
    silent: super::a_silent_registry_is_told_at_the_end_of_the_wait;
}

async fn a_connection_holds_a_lock_for_as_long_as_it_is_open(consul: SocketAddr) {
    let (one, two) = (Api::start(consul, "").await, Api::start(consul, "").await);
    let mut first = EventStream::hold(one.addr, "/v1/locks/jobs/nightly/hold?value=one").await;
    let token = first.next("acquired").await["token"].as_u64().unwrap();
    let (status, body) = two.post("/v1/locks/jobs/nightly/hold", "").await;
    assert_eq!((status, &body["reason"]), (StatusCode::CONFLICT, &json!("lock_held")), "{body}");

    let waits =
        tokio::spawn(
            async move { EventStream::hold(two.addr, "/v1/locks/jobs/nightly/hold?wait=60s").await },
        );
    let state = one.get("/v1/locks/jobs/nightly").await;
    assert_eq!((&state["held"], &state["kind"]), (&json!(true), &json!("mutex")), "{state}");
    assert_eq!((&state["holders"][0]["value"], &state["holders"][0]["here"]), (&json!("one"), &json!(true)));
    first.read_until(": held").await;
    drop(first);
    let mut second = waits.await.unwrap();
    let next = second.next("acquired").await["token"].as_u64().unwrap();
    assert!(next > token, "{next} after {token}");
    let session = one.get("/v1/locks/jobs/nightly").await["holders"][0]["session"].clone();
    consul::http::put(consul, &format!("/v1/session/destroy/{}", session.as_str().unwrap()), "")
        .await
        .unwrap();
    assert_eq!(second.next("lost").await["reason"], json!("session_invalidated"));
    drop(one.app);
}

async fn a_lease_is_renewed_given_back_and_lost(consul: SocketAddr) {
    let api = Api::start(consul, ", locks: {lock_delay: 1s}").await;
    let ask = r#"{"ttl": "30s", "owner": "worker-1", "value": "a"}"#;
    let (status, lease) = api.post("/v1/locks/jobs", ask).await;
    assert_eq!((status, &lease["ttl_ms"]), (StatusCode::CREATED, &json!(30_000)), "{lease}");
    let (status, again) = api.post("/v1/locks/jobs", ask).await;
    assert_eq!(status, StatusCode::CREATED, "the answer was lost: {again}");
    for member in ["lease", "token", "ttl_ms"] {
        assert_eq!(again[member], lease[member], "{again}");
    }
    let id = lease["lease"].as_str().unwrap();
    let (status, renewed) = api.post(&format!("/v1/locks/jobs/{id}/renew"), "{}").await;
    assert_eq!((status, &renewed["token"]), (StatusCode::OK, &lease["token"]));
    let (status, body) = api.post("/v1/locks/jobs?ttl=10s&owner=worker-2", "").await;
    assert_eq!((status, &body["reason"]), (StatusCode::CONFLICT, &json!("lock_held")));
    for (name, lease) in [("other", id), ("jobs", "00000000000000000000000000000000")] {
        for (method, path) in [(Method::POST, "/renew"), (Method::DELETE, "")] {
            let (status, body) = api.send(method, &format!("/v1/locks/{name}/{lease}{path}"), &[], "").await;
            assert_eq!((status, &body["loss"]), (StatusCode::GONE, &json!("unknown_lease")), "{body}");
        }
    }
    let release = format!("/v1/locks/jobs/{id}");
    assert_eq!(api.send(Method::DELETE, &release, &[], "").await.0, StatusCode::NO_CONTENT);
    let (status, body) = api.post(&format!("/v1/locks/jobs/{id}/renew"), "").await;
    assert_eq!((status, &body["reason"]), (StatusCode::GONE, &json!("lock_lost")), "{body}");

    // A ttl below Consul's shortest is kept by the sidecar.
    let (_, short) = api.post("/v1/locks/jobs?ttl=1s", "").await;
    let renew = format!("/v1/locks/jobs/{}/renew", short["lease"].as_str().unwrap());
    wait::until("the lease is lost", LONG, async || api.get("/v1/locks/jobs").await["held"] == json!(false))
        .await;
    let (status, body) = api.post(&renew, "").await;
    assert_eq!((status, &body["loss"]), (StatusCode::GONE, &json!("lease_expired")), "{body}");
    let (status, again) = api.post("/v1/locks/jobs?ttl=30s&wait=30s", "").await;
    assert_eq!(status, StatusCode::CREATED, "{again}");
    assert!(again["token"].as_u64() > short["token"].as_u64());
}

async fn the_state_of_a_lock_is_read_and_watched(consul: SocketAddr) {
    let api = Api::start(consul, "").await;
    let free = api.get("/v1/leader/orders").await;
    assert_eq!((&free["held"], &free["kind"]), (&json!(false), &json!("unused")), "{free}");
    let mut watch =
        EventStream::open(api.addr, "GET /v1/leader/orders HTTP/1.1\r\nAccept: text/event-stream").await;
    assert_eq!(watch.next("state").await, free);
    let held = EventStream::hold(api.addr, "/v1/leader/orders/hold?value=me").await;
    let told = watch.next("state").await;
    assert_eq!((&told["holders"][0]["value"], &told["waiters_here"]), (&json!("me"), &json!(0)), "{told}");
    let read = api.get("/v1/leader/orders").await;
    for member in ["session", "session_name", "node", "here"] {
        assert!(!told["holders"][0][member].is_null(), "{member}: {told}");
        assert_eq!(told["holders"][0][member], read["holders"][0][member], "{told}");
    }
    drop(held);
    assert_eq!(watch.next("state").await["held"], json!(false));
    // Of a semaphore.
    let _held = EventStream::hold(api.addr, "/v1/locks/pool/hold?limit=2").await;
    let pool = api.get("/v1/locks/pool").await;
    assert_eq!((&pool["kind"], &pool["limit"]), (&json!("semaphore"), &json!(2)), "{pool}");
    let (status, body) = api.post("/v1/locks/pool/hold?limit=3", "").await;
    assert_eq!(
        (status, &body["reason"], &body["limit"]),
        (StatusCode::CONFLICT, &json!("limit_mismatch"), &json!(2))
    );
    let (status, body) = api.post("/v1/locks/pool/hold", "").await;
    assert_eq!((status, &body["reason"]), (StatusCode::CONFLICT, &json!("lock_kind_mismatch")));
}

async fn a_drain_tells_holders_and_refuses_new_ones(consul: SocketAddr) {
    let Api { app, addr } = Api::start(consul, "}\ndrain: {timeout: 2s").await;
    let mut held = EventStream::hold(addr, "/v1/locks/jobs/hold").await;
    held.next("acquired").await;
    let stops = tokio::spawn(app.shutdown());
    held.next("draining").await;
    let lost = held.next("lost").await;
    assert_eq!(lost["reason"], json!("drained"), "{lost}");
    stops.await.unwrap();
    // Its session was ended, so the lock-delay protects it.
    let other = Api::start(consul, "").await;
    let (status, body) = other.post("/v1/locks/jobs/hold", "").await;
    assert_eq!((status, &body["reason"]), (StatusCode::CONFLICT, &json!("lock_delay")), "{body}");
}

async fn requests_that_are_wrong_or_foreign_are_refused(consul: SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "s3cret\n").unwrap();
    let api = Api::start(consul, &format!(", token_file: \"{}\"", file.display())).await;
    let (status, body) = api.post("/v1/locks/jobs?ttl=10s", "").await;
    assert_eq!((status, &body["reason"]), (StatusCode::UNAUTHORIZED, &json!("token_required")), "{body}");
    let token = ("x-outrigger-token", "s3cret");
    for (headers, reason) in [
        (&[token, ("origin", "http://localhost")][..], "foreign_origin"),
        (&[token, ("sec-fetch-site", "same-origin")], "foreign_origin"),
        (&[token, ("host", "evil.example")], "foreign_host"),
    ] {
        for method in [Method::GET, Method::POST] {
            let (status, body) = api.send(method, "/v1/locks/jobs", headers, "").await;
            assert_eq!((status, &body["reason"]), (StatusCode::FORBIDDEN, &json!(reason)), "{headers:?}");
        }
    }
    for (method, path, body, words) in [
        (Method::POST, "/v1/locks/jobs", "", "a lease needs a ttl"),
        (Method::POST, "/v1/locks/jobs?ttl=soon", "", "ttl \"soon\""),
        (Method::POST, "/v1/locks/jobs?ttl=10s&value=%zz", "", "value in the query has a %"),
        (Method::POST, "/v1/locks/jobs?ttl=10ms", "", "out of range"),
        (Method::POST, "/v1/locks/jobs?ttl=10s&limit=0", "", "limit must be 1 to 1000"),
        (Method::POST, "/v1/locks/jobs?ttl=10s&ttl=20s", "", "ttl is in the query twice"),
        (Method::POST, "/v1/locks/jobs?tll=10s", "", "there is no parameter \"tll\""),
        (
            Method::POST,
            "/v1/locks/jobs",
            r#"{"ttl": "10s", "waits": "1s"}"#,
            "no parameter \"waits\", as in the body",
        ),
        (
            Method::POST,
            "/v1/locks/jobs",
            r#"{"ttl": "10s", "limit": "3"}"#,
            "limit in the body must be a whole number",
        ),
        (Method::POST, "/v1/locks/jobs?limit=x&ttl=10s", "", "limit in the query must be a whole number"),
        (
            Method::POST,
            "/v1/locks/jobs",
            r#"{"ttl": 10}"#,
            "ttl in the body must be a duration, as \"30s\"; it is 10",
        ),
        (Method::POST, "/v1/locks/jobs", r#"{"ttl": "10s", "ttl": "20s"}"#, "ttl is in the body twice"),
        (Method::POST, "/v1/locks/jobs", r#"{"ttl": "10 years"}"#, "it is in the body"),
        (Method::POST, "/v1/locks/jobs", "{", "no JSON"),
        // Not its values by their places.
        (Method::POST, "/v1/locks/jobs", r#"["0s", "30s"]"#, "expected an object, as {\"ttl\": \"30s\"}"),
        (Method::POST, "/v1/locks/jobs/hold", "[]", "expected an object"),
        (Method::GET, "/v1/locks/jobs?foo=1", "", "there is no parameter \"foo\""),
        (Method::GET, "/v1/leader/jobs?wait=1s", "", "there is no parameter \"wait\""),
        (
            Method::POST,
            "/v1/locks/jobs/00000000000000000000000000000000/renew?ttl=1h",
            "",
            "no parameter \"ttl\"",
        ),
        (
            Method::POST,
            "/v1/locks/jobs/00000000000000000000000000000000/renew",
            r#"{"ttl": "1h"}"#,
            "take no body",
        ),
        (Method::DELETE, "/v1/leader/jobs/00000000000000000000000000000000", "now", "take no body"),
        (Method::POST, "/v1/locks/../config?ttl=10s", "", "must not be empty"),
        (Method::POST, "/v1/locks/%2e%2e/config?ttl=10s", "", "must not be empty"),
        (Method::POST, "/v1/locks/a/b/renew", "", "a renewal is"),
        (Method::POST, "/v1/locks/jobs/hold?owner=a", "", "is for leases"),
        (Method::DELETE, "/v1/locks/jobs", "", "given back by DELETE"),
    ] {
        let (status, answer) = api.send(method, path, &[token], body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {answer}");
        assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{path}: {answer}");
    }
    // An error that repeats a value cuts it.
    let long = "x".repeat(60_000);
    for body in [
        json!({"ttl": long}),
        json!({"ttl": [long]}),
        json!({long.as_str(): 1}),
        json!(long),
        json!({"ttl": "10s", "owner": long}),
    ] {
        let (status, answer) = api.send(Method::POST, "/v1/locks/jobs", &[token], &body.to_string()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(answer["detail"].as_str().is_some_and(|detail| detail.len() < 400), "{answer}");
    }
    // A renewal without its last segment acquires nothing.
    let path = "/v1/locks/jobs/00000000000000000000000000000000?ttl=10s";
    let (status, answer) = api.send(Method::POST, path, &[token], "").await;
    assert_eq!((status, &answer["reason"]), (StatusCode::METHOD_NOT_ALLOWED, &json!("method_not_allowed")));
    assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains("/renew")), "{answer}");
    let (status, _) = api.send(Method::PUT, "/v1/locks/jobs", &[token], "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, _) = api.send(Method::GET, "/v1/session/list", &[token], "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // The token is read again.
    std::fs::write(&file, "other").unwrap();
    assert_eq!(api.send(Method::GET, "/v1/locks/jobs", &[token], "").await.0, StatusCode::UNAUTHORIZED);
    let other = [("x-outrigger-token", "other")];
    wait::within("the new token is taken", async {
        assert_eq!(api.send(Method::GET, "/v1/locks/jobs", &other, "").await.0, StatusCode::OK);
    })
    .await;
}

async fn a_read_never_acquires_and_says_since_when(consul: SocketAddr) {
    let (one, two) = (Api::start(consul, "").await, Api::start(consul, "").await);
    let head = one.send(Method::HEAD, "/v1/locks/jobs", &[], "").await;
    assert_eq!(head, (StatusCode::OK, Value::Null));
    // Whatever a read says.
    assert_eq!(one.send(Method::GET, "/v1/locks/jobs", &[], r#"{"ttl": "10s"}"#).await.0, StatusCode::OK);
    let (status, body) = one.send(Method::GET, "/v1/locks/jobs/hold", &[], "").await;
    assert_eq!((status, &body["reason"]), (StatusCode::BAD_REQUEST, &json!("bad_request")), "{body}");
    assert_eq!(one.get("/v1/leader/jobs").await["kind"], json!("unused"));

    let (status, body) = one.post("/v1/locks/jobs?ttl=20s&owner=a", r#"{"ttl": "30s"}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    assert_eq!(body["detail"], json!("ttl is both in the query and in the body; write it in one of them"));
    let (status, lease) = one.post("/v1/locks/jobs?ttl=30s&owner=a", r#"{"value": "body"}"#).await;
    assert_eq!((status, &lease["ttl_ms"]), (StatusCode::CREATED, &json!(30_000)), "{lease}");
    let certain = lease["certain_ms"].as_u64().unwrap();
    assert!((10_000..=27_000).contains(&certain) && lease["draining"] == json!(false), "{lease}");

    let seen = |state: &Value| state["holders"][0]["seen_ms"].as_u64().unwrap();
    let elsewhere = two.get("/v1/locks/jobs").await;
    assert_eq!(
        (&elsewhere["holders"][0]["value"], &elsewhere["holders"][0]["here"]),
        (&json!("body"), &json!(false))
    );
    assert_eq!(elsewhere["holders"][0]["held_ms"], Value::Null, "only its own sidecar knows: {elsewhere}");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (status, refused) = two.post("/v1/locks/jobs?ttl=10s", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(seen(&refused) >= seen(&elsewhere) + 20, "{refused}");
    assert_eq!(refused["holders"][0]["value"], json!("body"));
    let elsewhere = two.get("/v1/locks/jobs").await;
    for member in ["session", "session_name", "node", "here"] {
        assert!(!elsewhere["holders"][0][member].is_null(), "{elsewhere}");
        assert_eq!(refused["holders"][0][member], elsewhere["holders"][0][member], "{refused}");
    }
    let here = one.get("/v1/locks/jobs").await;
    assert!(here["holders"][0]["held_ms"].is_u64() && here["holders"][0]["here"] == json!(true), "{here}");
}

async fn a_restart_keeps_leases_and_ends_what_connections_held(consul: SocketAddr) {
    let (api, outbound) = (outrigger_net::reserve_addr(), outrigger_net::reserve_addr());
    let state = tempfile::tempdir().unwrap();
    let settings = format!(
        "registry: {{consul: {{address: \"http://{consul}\"}}}}\napi: {{listen: \"{api}\"}}\n\
         outbound: {{listen: \"{outbound}\"}}\nstate_dir: {}\n",
        state.path().display()
    );
    let mut first = Process::run(&settings).await;
    let send = async |method, path: &str| {
        let request = Request::builder().method(method).uri(path).body("".into()).unwrap();
        // A process that ends closes connections that it has not read.
        let Ok(response) = exchange(api, request, LONG).await else {
            return (StatusCode::BAD_GATEWAY, Value::Null);
        };
        (response.status(), serde_json::from_slice::<Value>(response.body()).unwrap_or(Value::Null))
    };
    let mut lease = Value::Null;
    wait::until("a lease", LONG, async || {
        let (status, answer) = send(Method::POST, "/v1/locks/leased?ttl=60s&owner=a").await;
        lease = answer;
        status == StatusCode::CREATED
    })
    .await;
    let mut held = EventStream::hold(api, "/v1/locks/connected/hold").await;
    let token = held.next("acquired").await["token"].as_u64().unwrap();
    let page = first.admin_json("/locks").await;
    assert_eq!((&page["held"], &page["locks"][0]["name"]), (&json!(2), &json!("connected")), "{page}");
    let row = &page["locks"][1]["held_here"][0];
    assert_eq!((&row["by"], &row["owner"], &row["token"]), (&json!("lease"), &json!("a"), &lease["token"]));
    assert!(row["expires_in_ms"].as_u64().is_some_and(|left| left <= 60_000), "{page}");
    assert!(!page.to_string().contains(lease["lease"].as_str().unwrap()), "the id is a secret: {page}");

    first.signal("KILL");
    first.wait_exit(LONG).await;
    let second = Process::run(&settings).await;
    // The lock of the connection opens before its session would have expired.
    wait::until("the lock of the connection is free", LONG, async || {
        send(Method::GET, "/v1/locks/connected").await.1["held"] == json!(false)
    })
    .await;
    let renew = format!("/v1/locks/leased/{}/renew", lease["lease"].as_str().unwrap());
    let mut renewed = send(Method::POST, &renew).await;
    wait::until("the lease is taken over", LONG, async || {
        renewed = send(Method::POST, &renew).await;
        renewed.0 != StatusCode::BAD_GATEWAY && renewed.1["reason"] != json!("restoring")
    })
    .await;
    assert_eq!((renewed.0, &renewed.1["token"]), (StatusCode::OK, &lease["token"]), "{renewed:?}");
    let (_, again) = send(Method::POST, "/v1/locks/leased?ttl=60s&owner=a").await;
    assert_eq!(again["lease"], lease["lease"], "{again}");
    let (status, next) = send(Method::POST, "/v1/locks/connected?ttl=10s&wait=30s").await;
    assert_eq!(status, StatusCode::CREATED, "{next}");
    assert!(next["token"].as_u64() > Some(token));
    // A process that takes its place has the leases too.
    let third = second.replace().await;
    let mut moved = (StatusCode::OK, Value::Null);
    wait::until("the leases have moved", LONG, async || {
        moved = send(Method::POST, &renew).await;
        moved.0 == StatusCode::OK && third.admin_json("/locks").await["held"] == json!(2)
    })
    .await;
    assert_eq!(moved.1["token"], lease["token"], "{moved:?}");
}

async fn a_replaced_sidecar_lets_the_locks_of_connections_end_first(consul: SocketAddr) {
    let (api, outbound) = (outrigger_net::reserve_addr(), outrigger_net::reserve_addr());
    let state = tempfile::tempdir().unwrap();
    let mut old = Process::run(&format!(
        "registry: {{consul: {{address: \"http://{consul}\"}}}}\napi: {{listen: \"{api}\"}}\n\
         outbound: {{listen: \"{outbound}\"}}\nstate_dir: {}\n",
        state.path().display()
    ))
    .await;
    let send = async |method, path: &str| {
        let request = Request::builder().method(method).uri(path).body("".into()).unwrap();
        let Ok(response) = exchange(api, request, LONG).await else {
            return (StatusCode::BAD_GATEWAY, Value::Null);
        };
        (response.status(), serde_json::from_slice::<Value>(response.body()).unwrap_or(Value::Null))
    };
    let mut held = EventStream::hold(api, "/v1/locks/connected/hold").await;
    held.next("acquired").await;
    let (_, lease) = send(Method::POST, "/v1/locks/leased?ttl=60s&owner=a").await;
    let new = old.replace().await;
    held.next("draining").await;
    // The new process has read the record: it has the lease.
    wait::until("the lease has moved", LONG, async || new.admin_json("/locks").await["held"] == json!(1))
        .await;
    let renew = format!("/v1/locks/leased/{}/renew", lease["lease"].as_str().unwrap());
    // A connection may still reach the old process, which says that the lease is being taken over.
    wait::until("it is renewed", LONG, async || send(Method::POST, &renew).await.0 == StatusCode::OK).await;
    held.read.clear();
    held.read_until(": held").await;
    held.read.clear();
    held.read_until(": held").await;
    let state = send(Method::GET, "/v1/locks/connected").await.1;
    assert_eq!((&state["held"], &state["holders"][0]["here"]), (&json!(true), &json!(false)), "{state}");
    drop(held);
    let (status, next) = send(Method::POST, "/v1/locks/connected?ttl=10s&wait=10s").await;
    assert_eq!(status, StatusCode::CREATED, "given back, without a lock-delay: {next}");
    old.wait_exit(LONG).await;
}

async fn requests_that_come_at_once_get_every_free_place_and_an_owner_one_lease(consul: SocketAddr) {
    let sidecars = [Api::start(consul, "").await, Api::start(consul, "").await, Api::start(consul, "").await];
    let asked = (0..30).map(|number| sidecars[number % 3].post("/v1/locks/pool?limit=30&ttl=30s", ""));
    for (status, body) in futures_util::future::join_all(asked).await {
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
    let (status, body) = sidecars[0].post("/v1/locks/pool?limit=30&ttl=30s", "").await;
    assert_eq!((status, &body["reason"]), (StatusCode::CONFLICT, &json!("lock_held")));
    assert_eq!(body["holders"].as_array().map(Vec::len), Some(30), "{body}");
    let asked = (0..8).map(|_| sidecars[0].post("/v1/locks/one?ttl=30s&owner=a", ""));
    let leases = futures_util::future::join_all(asked).await;
    for (status, lease) in &leases {
        assert_eq!((*status, &lease["lease"]), (StatusCode::CREATED, &leases[0].1["lease"]), "{lease}");
    }
}

async fn a_silent_registry_is_told_at_the_end_of_the_wait(consul: SocketAddr) {
    let proxy = RegistryProxy::start(consul).await;
    let api = Api::start(proxy.addr(), "").await;
    let (_, lease) = api.post("/v1/locks/jobs?ttl=30s", "").await;
    assert!(lease["token"].is_u64(), "{lease}");
    let mut watch =
        EventStream::open(api.addr, "GET /v1/leader/jobs HTTP/1.1\r\nAccept: text/event-stream").await;
    assert_eq!(watch.next("state").await["held"], json!(true));
    proxy.set(RegistryMode::Hang);
    let stale = watch.next("stale").await;
    assert_eq!(
        (&stale["stale"], &stale["reason"]),
        (&json!(true), &json!("registry_unavailable")),
        "{stale}"
    );
    assert!(stale["detail"].is_string(), "{stale}");
    for wait in [0, 2] {
        let at = tokio::time::Instant::now();
        let (status, body) = api.post(&format!("/v1/locks/other?ttl=30s&wait={wait}s"), "").await;
        assert_eq!(
            (status, &body["reason"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("registry_unavailable")),
            "{body}"
        );
        // Two seconds later at most, and as much again for a slow machine.
        assert!(at.elapsed() < Duration::from_secs(wait + 4), "a wait of {wait} s: {:?}", at.elapsed());
    }
    for accept in ["*/*", "text/event-stream"] {
        let at = tokio::time::Instant::now();
        let (status, body) = api.send(Method::GET, "/v1/leader/jobs", &[("accept", accept)], "").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        assert!(at.elapsed() < Duration::from_secs(4), "{accept}: {:?}", at.elapsed());
    }
    proxy.set(RegistryMode::Pass);
    assert_eq!(watch.next("stale").await, json!({"stale": false}));
}

#[tokio::test]
async fn a_lock_that_the_token_may_not_read_is_not_shown_as_free() {
    if !consul::available("the rights of a token to a lock") {
        return;
    }
    let server = consul::Consul::server_with(ACL).await.expect("a server");
    let token = create_token(&server, "blind", DENY_KEYS).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, token).unwrap();
    let registry = format!("address: \"http://{}\", token_file: {}", server.http_addr(), file.display());
    let (app, _) = start_router_by(&registry, "api: {listen: \"127.0.0.1:0\"}").await;
    let api = Api { addr: app.api_addrs()[0], app };
    for (method, path, accept) in [
        (Method::POST, "/v1/locks/jobs?ttl=10s", "*/*"),
        (Method::GET, "/v1/locks/jobs", "*/*"),
        (Method::GET, "/v1/leader/jobs", "*/*"),
        (Method::GET, "/v1/leader/jobs", "text/event-stream"),
    ] {
        let (status, body) = api.send(method, path, &[("accept", accept)], "").await;
        let expected = (StatusCode::SERVICE_UNAVAILABLE, &json!("registry_unavailable"));
        assert_eq!((status, &body["reason"]), expected, "{path} {accept}: {body}");
        assert!(body["detail"].as_str().is_some_and(|detail| detail.contains("answered 403")), "{body}");
    }
    api.app.shutdown().await;
}

#[tokio::test]
async fn a_semaphore_of_which_the_token_may_not_read_the_holders_is_not_shown_as_free() {
    if !consul::available("the rights of a token to the holders of a semaphore") {
        return;
    }
    let server = consul::Consul::server_with(ACL).await.expect("a server");
    let folder = tempfile::tempdir().unwrap();
    let start = async |name: &str, rules: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, create_token(&server, name, rules).await).unwrap();
        let registry = format!("address: \"http://{}\", token_file: {}", server.http_addr(), file.display());
        let (app, _) = start_router_by(&registry, "api: {listen: \"127.0.0.1:0\"}").await;
        Api { addr: app.api_addrs()[0], app }
    };
    let holder = start(
        "holder",
        "key_prefix \"\" { policy = \"write\" }\nsession_prefix \"\" { policy = \"write\" }\n",
    )
    .await;
    let reader =
        start("reader", &format!("{DENY_KEYS}key \"locks/pool/.lock\" {{ policy = \"read\" }}\n")).await;
    let ask = r#"{"ttl": "10m", "limit": 1000}"#;
    let (_, lease) = holder.post("/v1/locks/pool", ask).await;
    for accept in ["*/*", "text/event-stream"] {
        let (status, body) = reader.send(Method::GET, "/v1/locks/pool", &[("accept", accept)], "").await;
        let expected = (StatusCode::SERVICE_UNAVAILABLE, &json!("registry_unavailable"));
        assert_eq!((status, &body["reason"]), expected, "{accept}: {body}");
    }
    // Its list has no holder then, so there is none that is hidden.
    let path = format!("/v1/locks/pool/{}", lease["lease"].as_str().unwrap());
    assert_eq!(holder.send(Method::DELETE, &path, &[], "").await.0, StatusCode::NO_CONTENT);
    assert_eq!(reader.get("/v1/locks/pool").await["held"], json!(false));
    holder.app.shutdown().await;
    reader.app.shutdown().await;
}
