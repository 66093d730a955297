//! A final response before the body's end: whether the request is sent again, and what becomes of both connections if not.

use std::time::Duration;

use tokio::time::sleep;

use crate::path::{CAPACITY, End, Path, Peer};

const UNAVAILABLE: &str = "HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nbusy";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
/// `retry.max_body` of these tests.
const MAX_BODY: usize = 10_000;

/// A request with `fields` and half of its body; what the body has beside it.
struct Early {
    request: String,
    rest: String,
}

fn request(method: &str, fields: &str, half: usize) -> Early {
    let length = 2 * half;
    let head = format!("{method} / HTTP/1.1\r\nHost: orders\r\n{fields}Content-Length: {length}\r\n\r\n");
    Early { request: format!("{head}{}", "1".repeat(half)), rest: "2".repeat(half) }
}

async fn path() -> Path {
    Path::new(3, CAPACITY, |config| config.upstreams[0].policy.retry.max_body = MAX_BODY).await
}

/// Lets the tasks run, and reads: the connection on which a request began to come, of those that are not in `known`.
async fn next_request(path: &mut Path, known: &[usize]) -> Option<usize> {
    // Over the back-off.
    for _ in 0..60 {
        path.settle().await;
        let used = path.used();
        for at in &used {
            path.instances[*at].read();
        }
        if let Some(new) = used.into_iter().find(|at| !known.contains(at)) {
            return Some(new);
        }
        sleep(Duration::from_millis(5)).await;
    }
    None
}

fn text(peer: &Peer) -> String {
    String::from_utf8_lossy(&peer.got).into_owned()
}

#[tokio::test(start_paused = true)]
async fn a_retried_status_before_the_bodys_end_is_retried_while_all_that_was_read_is_kept() {
    // The last one is longer than what may be kept, and what was read of it is not.
    for early in [request("PUT", "", 4), request("PUT", "", MAX_BODY / 2), request("PUT", "", MAX_BODY - 1)] {
        let mut path = path().await;
        let mut app = path.connect();
        app.say(&early.request);
        let first = next_request(&mut path, &[]).await.unwrap();
        path.instances[first].say(UNAVAILABLE);
        let second = next_request(&mut path, &[first]).await.expect("the request is sent again");
        path.instances[first].read();
        assert_eq!(path.instances[first].end, Some(End::Closed), "a part of a request was left unsent");
        app.say(&early.rest);
        path.settle().await;
        path.instances[second].read();
        let got = text(&path.instances[second]);
        let body = format!("{}{}", early.request.split_once("\r\n\r\n").unwrap().1, early.rest);
        assert_eq!(got.split_once("\r\n\r\n").unwrap().1, body, "the second instance gets the whole body");
        path.instances[second].say(OK);
        path.settle().await;
        app.read();
        assert_eq!(
            (text(&app).as_str(), app.end),
            (OK, None),
            "the app has read its body to the end: no close"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunked_body_is_retried_too() {
    let mut path = path().await;
    let mut app = path.connect();
    app.say("PUT / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    let first = next_request(&mut path, &[]).await.unwrap();
    path.instances[first].say(UNAVAILABLE);
    let second = next_request(&mut path, &[first]).await.expect("the request is sent again");
    app.say("4\r\nrest\r\n0\r\n\r\n");
    path.settle().await;
    path.instances[second].read();
    assert!(text(&path.instances[second]).ends_with("4\r\nhalf\r\n4\r\nrest\r\n0\r\n\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_held_back_for_a_100_is_asked_for_by_the_next_attempt() {
    let mut path = path().await;
    let mut app = path.connect();
    app.say("PUT / HTTP/1.1\r\nHost: orders\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    let first = next_request(&mut path, &[]).await.unwrap();
    path.instances[first].say(UNAVAILABLE);
    let second = next_request(&mut path, &[first]).await.expect("the request is sent again");
    for at in [first, second] {
        assert!(text(&path.instances[at]).contains("\r\nExpect: 100-continue\r\n"));
    }
    app.read();
    assert_eq!(text(&app), "", "the app has not been asked for its body yet");
    path.instances[second].say(CONTINUE);
    path.settle().await;
    app.read();
    assert_eq!(text(&app), CONTINUE);
    app.say("body");
    // Now that the body was read, an attempt does not ask for it.
    path.settle().await;
    path.instances[second].say(UNAVAILABLE);
    let third = next_request(&mut path, &[first, second]).await.expect("the request is sent again");
    let got = text(&path.instances[third]);
    assert!(!got.contains("Expect") && got.ends_with("\r\n\r\nbody"), "{got}");
    path.instances[third].say(OK);
    path.settle().await;
    app.read();
    assert_eq!((text(&app).as_str(), app.end), (format!("{CONTINUE}{OK}").as_str(), None), "one 100 only");
}

/// Requests of which an early 503 is the response for the app, with why.
fn not_retried() -> [(&'static str, Early, usize); 5] {
    let held = "PUT / HTTP/1.1\r\nHost: orders\r\nx-outrigger-retry: off\r\nExpect: 100-continue\r\nContent-Length: 8\r\n\r\n";
    [
        ("the method may not be repeated", request("POST", "", 4), 1),
        ("the app forbids it", request("PUT", "x-outrigger-retry: off\r\n", 4), 1),
        ("more was read than is kept", request("PUT", "", MAX_BODY + 1), 1),
        ("the attempts are used up", request("PUT", "", 4), 3),
        (
            "the app forbids it, and its body is held back",
            Early { request: held.into(), rest: String::new() },
            1,
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn an_early_response_that_is_not_retried_ends_the_upload_and_both_connections() {
    for (why, early, attempts) in not_retried() {
        let mut path = path().await;
        let mut app = path.connect();
        app.say(&early.request);
        let mut known = Vec::new();
        for _ in 1..attempts {
            known.push(next_request(&mut path, &known).await.unwrap());
            path.instances[known[known.len() - 1]].say(UNAVAILABLE);
        }
        let at = next_request(&mut path, &known).await.unwrap();
        let (part, end) = UNAVAILABLE.split_at(UNAVAILABLE.len() - 2);
        path.instances[at].say(part);
        path.settle().await;
        app.read();
        let expected = "HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 4\r\n\r\n";
        let alike = |text: &str| {
            let mut lines: Vec<_> = text.split("\r\n").map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(alike(&text(&app)), alike(&format!("{expected}bu")), "{why}");
        // While the response goes on, so does the upload.
        let before = path.instances[at].got.len();
        if !early.rest.is_empty() {
            app.say(&early.rest[..2]);
            path.settle().await;
            path.instances[at].read();
            assert_eq!(path.instances[at].got.len(), before + 2, "{why}");
        }
        path.instances[at].say(end);
        path.settle().await;
        app.read();
        path.instances[at].read();
        assert!(text(&app).ends_with("busy"), "{why}");
        assert_eq!(
            path.instances[at].end,
            Some(End::Closed),
            "{why}: the instance's connection is not used again"
        );
        // What is still on its way from the app does not destroy the response.
        assert_eq!(app.end, Some(End::Closed), "{why}");
        let length = path.instances[at].got.len();
        app.say("more");
        path.settle().await;
        assert!(!app.is_reset(), "{why}: the app's side lingers");
        sleep(Duration::from_millis(1100)).await;
        assert!(app.is_reset(), "{why}: and no longer than a second");
        path.instances[at].read();
        assert_eq!(path.instances[at].got.len(), length, "{why}: the upload has ended");
        assert_eq!(next_request(&mut path, &[&known[..], &[at]].concat()).await, None, "{why}");
        assert!(path.reasons().is_empty(), "{why}: it is the instance's response");
    }
}

#[tokio::test(start_paused = true)]
async fn another_final_status_before_the_bodys_end_is_never_retried() {
    for status in [200, 401, 413, 500] {
        let mut path = path().await;
        let mut app = path.connect();
        app.say(request("PUT", "", 4).request);
        let first = next_request(&mut path, &[]).await.unwrap();
        path.instances[first].say(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(next_request(&mut path, &[first]).await, None);
        app.read();
        let got = text(&app);
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")) && got.contains("\r\nConnection: close\r\n"),
            "{got}"
        );
        path.instances[first].read();
        assert_eq!((app.end, path.instances[first].end), (Some(End::Closed), Some(End::Closed)));
    }
}
