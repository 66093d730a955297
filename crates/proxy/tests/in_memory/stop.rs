//! What is recorded of the requests that are under way when the sidecar's time to drain is over.

use crate::path::{CAPACITY, End, Path};

const GET: &str = "GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 10\r\n\r\n0123";
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";

/// The app is still there, and what was begun of the response is no complete one.
#[tokio::test(start_paused = true)]
async fn a_request_that_the_stop_ends_is_counted_as_drained() {
    for (request, response) in [
        (GET, ""),
        (POST, ""),
        (GET, "HTTP/1.1 200 O"),
        (GET, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123"),
        (GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n"),
        (UPGRADE, SWITCHED),
    ] {
        let mut path = Path::new(1, CAPACITY, |_| {}).await;
        let mut app = path.connect();
        app.say(request);
        path.settle().await;
        let at = path.used()[0];
        path.instances[at].say(response);
        path.settle().await;
        assert!(path.reasons().is_empty(), "{request} {response}");
        path.stop().await;
        assert_eq!(path.reasons().into_iter().collect::<Vec<_>>(), [("drained", 1)], "{request} {response}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_between_two_requests_is_counted_for_none() {
    let mut path = Path::new(1, CAPACITY, |_| {}).await;
    let (mut app, _idle) = (path.connect(), path.connect());
    app.say(GET);
    path.settle().await;
    let at = path.used()[0];
    path.instances[at].say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    path.settle().await;
    path.stop().await;
    assert!(path.reasons().is_empty());
}

/// Where the close ends the body, an end in order would tell the app that the body is complete.
#[tokio::test(start_paused = true)]
async fn a_body_until_close_that_the_stop_cuts_ends_with_a_reset() {
    let get = GET.replace("1.1", "1.0");
    for (response, is_complete) in [
        ("HTTP/1.1 200 OK\r\n\r\n0123", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n0\r\n\r\n", true),
    ] {
        let mut path = Path::new(1, CAPACITY, |_| {}).await;
        let mut app = path.connect();
        app.say(&get);
        path.settle().await;
        let at = path.used()[0];
        path.instances[at].say(response);
        path.settle().await;
        app.read();
        assert!(app.got.ends_with(b"0123"), "{response}");
        path.stop().await;
        app.read();
        let expected = if is_complete { End::Closed } else { End::Reset };
        assert_eq!(app.end, Some(expected), "{response}");
    }
}
