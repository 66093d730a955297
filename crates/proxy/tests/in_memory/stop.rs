//! What is recorded of the requests that are under way when the sidecar's time to drain is over.

use crate::path::{CAPACITY, Path};

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
