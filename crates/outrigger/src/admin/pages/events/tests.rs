//! The page and the stream, without a listener; `admin/server.rs` tests a stream over a socket.

use std::time::Duration;

use http_body_util::BodyExt as _;
use outrigger_events::{Event, MAX_READERS};
use serde_json::{Value, json};
use tokio::time::{advance, timeout};
use tokio_util::sync::CancellationToken;

use super::*;

fn joined(name: impl ToString) -> Event {
    Event::new(EventKind::InstanceJoined, "passing")
        .of_service("orders")
        .of_instance(name.to_string())
        .on_node("n1")
}

fn ask(events: &Events, query: &str, headers: &[(&str, &str)], connection: ConnectionControl) -> Response {
    let query: Result<axum::extract::Query<EventsQuery>, _> =
        axum::extract::Query::try_from_uri(&format!("/events?{query}").parse().unwrap());
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    events_response(events, &query.unwrap(), Some(connection), &map)
}

async fn page(events: &Events, query: &str) -> (u16, Value) {
    let answer = ask(events, query, &[], ConnectionControl::default());
    let status = answer.status().as_u16();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&text).unwrap_or_else(|_| String::from_utf8_lossy(&text).into()))
}

const STREAM: (&str, &str) = ("accept", "text/event-stream");

/// The next chunk of a stream; an hour without one fails the test.
async fn next(answer: &mut Response) -> Option<String> {
    let frame = timeout(Duration::from_secs(3600), answer.body_mut().frame()).await.expect("a chunk")?;
    Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

/// A stream after its first lines.
async fn open(events: &Events, query: &str, headers: &[(&str, &str)], stop: &CancellationToken) -> Response {
    let connection = ConnectionControl { stop: stop.clone(), ..ConnectionControl::default() };
    let headers: Vec<_> = headers.iter().copied().chain([STREAM]).collect();
    let mut answer = ask(events, query, &headers, connection);
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &STREAM.1.parse().unwrap())
    );
    assert_eq!(next(&mut answer).await.unwrap(), "retry: 1000\n\n");
    answer
}

/// The ids' numbers, the types and the instances of the messages of a chunk.
fn messages(chunk: &str) -> Vec<String> {
    let block = |block: &str| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let number = field("id").map_or("-", |id| id.split_once('-').unwrap().1);
        let data: Value = field("data").map_or(Value::Null, |data| serde_json::from_str(data).unwrap());
        let what = data["instance"].as_str().map_or_else(|| data["lost"].to_string(), str::to_owned);
        format!("{number} {} {what}", field("event").unwrap_or("-"))
    };
    chunk.split_terminator("\n\n").map(block).collect()
}

#[tokio::test(start_paused = true)]
async fn the_page_is_filtered_and_bounded() {
    let events = Events::default();
    events.record(joined("a"));
    events.record(Event::new(EventKind::RegistryLost, "refused"));
    events.record(joined("b"));
    let instances = |page: &Value| -> Vec<Value> {
        page["events"].as_array().unwrap().iter().map(|one| one["instance"].clone()).collect()
    };
    for (query, expected) in [
        ("", json!(["a", null, "b"])),
        ("service=&kind=&since=", json!(["a", null, "b"])),
        ("service=Orders", json!(["a", "b"])),
        ("service=payments", json!([])),
        ("kind=registry_lost", json!([null])),
        ("kind=registry_lost,%20instance_joined&limit=2", json!([null, "b"])),
        ("limit=0", json!([])),
    ] {
        let (status, page) = page(&events, query).await;
        assert_eq!((status, json!(instances(&page))), (200, expected), "{query}");
    }
    let (_, first) = page(&events, "limit=1").await;
    let since = first["events"][0]["id"].as_str().unwrap().replace("-3", "-1");
    let (_, rest) = page(&events, &format!("since={since}&limit=1")).await;
    assert_eq!((json!(instances(&rest)), &rest["lost"]), (json!([null]), &json!(0)));
    let (_, rest) = page(&events, &format!("since={}", rest["position"].as_str().unwrap())).await;
    assert_eq!(json!(instances(&rest)), json!(["b"]));
    let (_, other) = page(&events, "since=0123456789abcdef-1").await;
    assert_eq!((other["events"].as_array().unwrap().len(), &other["lost"]), (3, &Value::Null));
}

#[tokio::test]
async fn a_wrong_query_is_refused_with_its_reason() {
    for (query, reason) in [
        ("kind=registry_los", "instance_joined, instance_left"),
        ("since=5", "EPOCH-N"),
        ("since=0123456789abcdef", "since=\"0123456789abcdef\""),
    ] {
        let (status, text) = page(&Events::default(), query).await;
        assert!(status == 400 && text.as_str().unwrap().contains(reason), "{query}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_with_what_is_there_follows_and_ends_when_the_listener_stops() {
    let (events, stop) = (Events::default(), CancellationToken::new());
    ["a", "b"].into_iter().for_each(|name| events.record(joined(name)));
    let mut stream = open(&events, "limit=1", &[], &stop).await;
    assert_eq!(messages(&next(&mut stream).await.unwrap()), ["2 - b"]);
    events.record(joined("c"));
    let text = next(&mut stream).await.unwrap();
    let (head, data) = text.split_once("\ndata: ").unwrap();
    let page = events.page(&EventFilter::default(), None, 1);
    assert_eq!(head, format!("id: {}", page.events[0].id));
    assert_eq!(data, format!("{}\n\n", serde_json::to_string(&page.events[0]).unwrap()));
    // Silence is filled with comments, and a repetition is told when its time is over.
    assert_eq!(next(&mut stream).await.unwrap(), ":\n\n");
    events.record(joined("c"));
    let mut repeated = String::new();
    while !repeated.starts_with("event: repeated\ndata: {") {
        repeated = next(&mut stream).await.unwrap();
    }
    assert!(repeated.contains("\"instance\":\"c\"") && repeated.contains("\"count\":2"), "{repeated}");
    // What is there when the listener stops is delivered.
    stop.cancel();
    events.record(joined("d"));
    let mut rest = Vec::new();
    while let Some(chunk) = next(&mut stream).await {
        rest.extend(messages(&chunk));
    }
    assert_eq!(rest, ["4 - d"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_after_the_last_event_id_and_says_what_is_lost() {
    let (events, stop) = (Events::default(), CancellationToken::new());
    (1..=1010).for_each(|n| events.record(joined(n)));
    let id = |number: u32| {
        let position = events.page(&EventFilter::default(), None, 0).position.to_string();
        format!("{}-{number}", position.split_once('-').unwrap().0)
    };
    for (query, last_id, first) in [
        ("", id(1009), vec!["1010 - 1010"]),
        // It wins over the query, which a client repeats as it is.
        (&*format!("since={}", id(3)), id(1009), vec!["1010 - 1010"]),
        (&*format!("since={}", id(1008)), String::new(), vec!["1009 - 1009", "1010 - 1010"]),
        ("limit=1", String::new(), vec!["1010 - 1010"]),
        ("", id(4), vec!["- lost 6", "11 - 11"]),
        ("", id(1011), vec!["- lost null", "11 - 11"]),
        ("", "0123456789abcdef-1009".to_owned(), vec!["- lost null", "11 - 11"]),
        ("", "what another server sent".to_owned(), vec!["- lost null", "11 - 11"]),
    ] {
        let mut stream = open(&events, query, &[("last-event-id", &last_id)], &stop).await;
        let got = messages(&next(&mut stream).await.unwrap());
        assert_eq!(got[..first.len()], first, "{query} {last_id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_a_filter_moves_the_position_of_its_client_on() {
    let (events, stop) = (Events::default(), CancellationToken::new());
    let mut stream = open(&events, "kind=registry_lost", &[], &stop).await;
    assert_eq!(next(&mut stream).await.unwrap().lines().count(), 3, "the first comment has the position");
    events.record(joined("a"));
    let position = events.page(&EventFilter::default(), None, 0).position;
    assert_eq!(next(&mut stream).await.unwrap(), format!(":\nid: {position}\n\n"));
    assert_eq!(next(&mut stream).await.unwrap(), ":\n\n");
}

#[tokio::test(start_paused = true)]
async fn one_stream_too_many_is_refused() {
    let (events, stop) = (Events::default(), CancellationToken::new());
    let mut streams = Vec::new();
    for _ in 0..MAX_READERS {
        streams.push(open(&events, "", &[], &stop).await);
    }
    let refused = ask(&events, "", &[STREAM], ConnectionControl::default());
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    streams.pop();
    open(&events, "", &[], &stop).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_read_keeps_its_connection_and_one_that_is_not_does_not() {
    use crate::admin::{ServerLimits, activity::MAX_STREAM_STALL};

    let events = Events::default();
    let connection = ConnectionControl::default();
    let mut stream = ask(&events, "", &[STREAM], connection.clone());
    let outlives = async |time| timeout(time, connection.activity.outlived()).await.is_err();
    for _ in 0..3 * ServerLimits::PAGES.max_age.unwrap_or_default().as_secs() / COMMENT_INTERVAL.as_secs() {
        next(&mut stream).await.unwrap();
        assert!(outlives(Duration::ZERO).await);
    }
    assert!(outlives(MAX_STREAM_STALL - Duration::from_secs(1)).await);
    advance(Duration::from_secs(2)).await;
    assert!(!outlives(Duration::ZERO).await);
}
