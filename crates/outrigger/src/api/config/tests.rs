//! The answers of a configuration that the test sets, without a registry and without a listener.

use std::{collections::BTreeMap, time::Duration};

use axum::{Router, body::Body, http::Request, routing::any};
use http_body_util::BodyExt as _;
use outrigger_app_config::{PrefixStore, PrefixView};
use outrigger_config::{ConfigContext, KvLayout};
use outrigger_events::Events;
use outrigger_registry::KvEntry;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{advance, timeout},
};
use tower::ServiceExt as _;

use super::*;

/// One part, with a key for each property.
struct ConfigRig {
    watch: Arc<ConfigWatch>,
    prefix: watch::Sender<Arc<PrefixView>>,
    draining: CancellationToken,
    control: ConnectionControl,
}

impl ConfigRig {
    fn new() -> Self {
        let events = Events::new(|| Duration::from_secs(2_000_000_000));
        let watch = ConfigWatch::new(PrefixStore::none(), events, &prometheus::Registry::new()).unwrap();
        Self {
            watch: Arc::new(watch),
            prefix: watch::Sender::default(),
            draining: CancellationToken::new(),
            control: ConnectionControl::default(),
        }
    }

    fn known(all: &[(&str, &str)]) -> Self {
        let rig = Self::new();
        rig.set(all);
        rig.follow();
        rig
    }

    fn follow(&self) {
        let context = ConfigContext { prefix: "config/orders/".into(), layout: KvLayout::Keys };
        self.watch.follow(vec![(context, self.prefix.subscribe())], false);
    }

    fn set(&self, all: &[(&str, &str)]) {
        let entry = |(number, (name, value)): (u64, &(&str, &str))| {
            let key = format!("config/orders/{name}");
            let entry = KvEntry {
                key: key.clone(),
                value: value.as_bytes().to_vec(),
                flags: 0,
                session: None,
                lock_index: 0,
                create_index: 1,
                modify_index: number,
            };
            (key, Arc::new(entry))
        };
        let entries: BTreeMap<_, _> = (1..).zip(all).map(entry).collect();
        let entries = Some(Arc::new(entries));
        self.prefix.send_replace(Arc::new(PrefixView {
            answered: entries.clone(),
            entries,
            ..PrefixView::default()
        }));
    }

    fn fail(&self) {
        self.prefix.send_modify(|view| {
            *view = Arc::new(PrefixView { failure: Some("refused".into()), ..PrefixView::clone(view) });
        });
    }

    async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        let drain = DrainSignal::Token(self.draining.clone());
        let backend = ConfigBackend { watch: Some(self.watch.clone()), prefixes: None, drain };
        let router = Router::new()
            .route("/v1/config", any(answer))
            .route("/v1/config/stream", any(answer))
            .with_state(backend);
        let mut request = Request::builder().method(method).uri(path).extension(self.control.clone());
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[]).await
    }
}

async fn text(answer: Response) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn field<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn refusal(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body: Value = serde_json::from_str(&text(answer).await).unwrap();
    (status, body["reason"].as_str().unwrap().to_owned())
}

/// The next chunk of a stream; an hour without one fails the test.
async fn next(answer: &mut Response) -> Option<String> {
    let frame = timeout(Duration::from_secs(3600), answer.body_mut().frame()).await.expect("a chunk")?;
    Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn each_format_has_its_type_and_a_strong_tag() {
    let rig = ConfigRig::known(&[("db/url", "a b"), ("hosts[0]", "x")]);
    for (path, accept, kind, expected) in [
        (
            "/v1/config",
            "",
            "application/json",
            "{\n  \"db\": {\n    \"url\": \"a b\"\n  },\n  \"hosts\": [\n    \"x\"\n  ]\n}\n",
        ),
        ("/v1/config?format=yaml", "", "application/yaml", "db:\n  url: \"a b\"\nhosts:\n  - x\n"),
        ("/v1/config", "text/yaml", "application/yaml", "db:\n  url: \"a b\"\nhosts:\n  - x\n"),
        ("/v1/config?format=env", "text/yaml", "text/plain; charset=utf-8", "DB_URL='a b'\nHOSTS_0=x\n"),
        ("/v1/config?format=env&quote=never", "", "text/plain; charset=utf-8", "DB_URL=a b\nHOSTS_0=x\n"),
        (
            "/v1/config",
            "text/x-java-properties",
            "text/x-java-properties; charset=us-ascii",
            "db.url=a b\nhosts[0]=x\n",
        ),
    ] {
        let fields: Vec<_> =
            Some(("accept", accept)).into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let answer = rig.ask("GET", path, &fields).await;
        assert_eq!(
            (answer.status().as_u16(), field(&answer, "content-type")),
            (200, kind),
            "{path} {accept}"
        );
        assert_eq!(field(&answer, "cache-control"), "private, no-cache");
        assert_eq!((field(&answer, "age"), field(&answer, "x-outrigger-stale")), ("", ""));
        let tag = field(&answer, "etag").to_owned();
        assert!(tag.starts_with('"') && tag.len() == 34, "{tag}");
        assert_eq!(text(answer).await, expected, "{path} {accept}");
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            let again = rig.ask("GET", path, &[&fields[..], &[("if-none-match", &known)]].concat()).await;
            assert_eq!((again.status().as_u16(), field(&again, "etag")), (304, tag.as_str()), "{known}");
            assert_eq!(text(again).await, "");
        }
        let other = rig.ask("GET", path, &[&fields[..], &[("if-none-match", "\"x\"")]].concat()).await;
        assert_eq!(other.status().as_u16(), 200);
    }
    let tag = |answer: Response| field(&answer, "etag").to_owned();
    let before = tag(rig.get("/v1/config?format=env").await);
    rig.set(&[("db/url", "c")]);
    let mut state = rig.watch.state();
    state
        .wait_for(|state| state.known.as_ref().is_some_and(|known| known.json.contains("\"c\"")))
        .await
        .unwrap();
    assert_ne!(tag(rig.get("/v1/config?format=env").await), before);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_answered_says_why() {
    let rig = ConfigRig::new();
    assert_eq!(refusal(rig.get("/v1/config").await).await, (404, "no_sources".into()));
    assert_eq!(refusal(rig.get("/v1/config/stream").await).await, (404, "no_sources".into()));
    rig.follow();
    let answer = rig.get("/v1/config").await;
    assert_eq!(field(&answer, "retry-after"), "1");
    let body: Value = serde_json::from_str(&text(answer).await).unwrap();
    assert_eq!((&body["status"], &body["reason"]), (&503.into(), &"config_unknown".into()));
    assert_eq!(body["missing"][0]["prefix"], "config/orders/");
    rig.set(&[]);
    rig.follow();
    for (path, accept, expected) in [
        ("/v1/config?format=xml", "*/*", (400, "bad_request")),
        ("/v1/config?nonsense", "*/*", (400, "bad_request")),
        ("/v1/config/stream?format=env", "*/*", (400, "bad_request")),
        ("/v1/config", "text/html", (406, "not_acceptable")),
    ] {
        let answer = rig.ask("GET", path, &[("accept", accept)]).await;
        assert_eq!(refusal(answer).await, (expected.0, expected.1.into()), "{path}");
    }
    let answer = rig.ask("POST", "/v1/config", &[]).await;
    assert_eq!((answer.status().as_u16(), field(&answer, "allow")), (405, "GET, HEAD"));
    assert_eq!(rig.ask("HEAD", "/v1/config", &[]).await.status().as_u16(), 200);
    let drain = DrainSignal::Token(CancellationToken::new());
    let none = ConfigBackend { watch: None, prefixes: None, drain };
    let control = ConnectionControl::default();
    let refused = answer_or_refuse(&none, &Method::GET, "", &HeaderMap::new(), false, control).await;
    assert_eq!(refusal(refused.unwrap_err().into_response()).await, (501, "no_kv".into()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_the_last_good_entries_has_its_age() {
    let rig = ConfigRig::known(&[("a", "1")]);
    rig.fail();
    let mut state = rig.watch.state();
    state.wait_for(|state| state.is_stale()).await.unwrap();
    for path in ["/v1/config", "/v1/config?format=env", "/v1/config?origins"] {
        let answer = rig.get(path).await;
        assert_eq!((answer.status().as_u16(), field(&answer, "x-outrigger-stale")), (200, "true"), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_origins_name_the_key_of_each_property_and_what_is_wrong() {
    let rig = ConfigRig::known(&[("a-b", "1"), ("ab", "2"), ("l[1]", "x")]);
    let answer = rig.get("/v1/config?origins&format=env").await;
    assert_eq!(field(&answer, "x-outrigger-config-problems"), "2");
    assert_eq!(field(&answer, "content-type"), "application/json");
    let body: Value = serde_json::from_str(&text(answer).await).unwrap();
    assert_eq!(
        body["properties"]["a-b"],
        serde_json::json!({"key": "config/orders/a-b", "index": 1, "value": "1"})
    );
    assert_eq!(body["parts"][0], serde_json::json!({"prefix": "config/orders/", "as": "keys", "keys": 3}));
    let reasons: Vec<_> =
        body["problems"].as_array().unwrap().iter().map(|one| one["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["list_gap", "name_taken"]);
    let plain = rig.get("/v1/config?format=env").await;
    assert_eq!(field(&plain, "x-outrigger-config-problems"), "2");
    assert_eq!(text(plain).await, "AB=1\nL_1=x\n");
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_the_whole_configuration_at_once_and_after_each_change() {
    let rig = ConfigRig::known(&[("a", "1")]);
    let mut stream = rig.get("/v1/config/stream").await;
    assert_eq!((stream.status().as_u16(), field(&stream, "content-type")), (200, "text/event-stream"));
    let version = rig.watch.state().borrow().known.as_ref().unwrap().version.clone();
    let config = |version: &str, json: &str| format!("id: {version}\nevent: config\ndata: {json}\n\n");
    let first = next(&mut stream).await.unwrap();
    assert_eq!(first, format!("retry: 1000\n\n{}", config(&version, r#"{"a":"1"}"#)));
    // The tag of the JSON answer is the id.
    assert_eq!(field(&rig.get("/v1/config").await, "etag"), format!("\"{version}\""));
    assert_eq!(next(&mut stream).await.as_deref(), Some(": no change\n\n"));
    // Two changes while the client reads nothing: it gets the newest alone.
    for value in ["2", "3"] {
        rig.set(&[("a", value)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let version = rig.watch.state().borrow().known.as_ref().unwrap().version.clone();
    assert_eq!(next(&mut stream).await.unwrap(), config(&version, r#"{"a":"3"}"#));
    // A client that has this version gets nothing at first.
    let mut again =
        rig.ask("GET", "/v1/config", &[("accept", "text/event-stream"), ("last-event-id", &version)]).await;
    assert_eq!(next(&mut again).await.as_deref(), Some("retry: 1000\n\n"));
    assert_eq!(next(&mut again).await.as_deref(), Some(": no change\n\n"));
    rig.fail();
    assert_eq!(next(&mut again).await.as_deref(), Some("event: stale\ndata: {\"stale\":true}\n\n"));
    rig.set(&[("a", "4")]);
    let mut later = String::new();
    while !later.contains(r#"{"a":"4"}"#) {
        later.push_str(&next(&mut again).await.unwrap());
    }
    assert!(later.contains("event: stale\ndata: {\"stale\":false}\n\n"), "{later}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_what_it_waits_for() {
    let rig = ConfigRig::new();
    rig.follow();
    let mut stream = rig.get("/v1/config/stream").await;
    let first = next(&mut stream).await.unwrap();
    assert_eq!(first, "retry: 1000\n\nevent: unknown\ndata: {\"missing\":[\"config/orders/\"]}\n\n");
    rig.set(&[("a", "1")]);
    let mut later = String::new();
    while !later.contains("event: config") {
        later.push_str(&next(&mut stream).await.unwrap());
    }
    assert!(later.ends_with("data: {\"a\":\"1\"}\n\n"), "{later}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_told_and_ends_the_stream() {
    let rig = ConfigRig::known(&[("a", "1")]);
    let mut stream = rig.get("/v1/config/stream").await;
    next(&mut stream).await.unwrap();
    rig.draining.cancel();
    assert!(next(&mut stream).await.unwrap().starts_with("event: draining\n"));
    assert_eq!(next(&mut stream).await.as_deref(), Some(": no change\n\n"), "once");
    rig.control.stop();
    assert_eq!(next(&mut stream).await, None);
    // Settings without sources end it, too.
    let rig = ConfigRig::known(&[("a", "1")]);
    let mut stream = rig.get("/v1/config/stream").await;
    next(&mut stream).await.unwrap();
    rig.watch.follow(Vec::new(), false);
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_does_not_keep_its_connection() {
    let rig = ConfigRig::known(&[("a", "1")]);
    let mut stream = rig.get("/v1/config/stream").await;
    for _ in 0..100 {
        next(&mut stream).await.unwrap();
        assert!(!rig.control.is_outlived().await);
    }
    advance(Duration::from_secs(31)).await;
    assert!(rig.control.is_outlived().await);
}
