//! What becomes of an app connection with a request under way when the sidecar drains, or another process takes its listeners.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::path::{CAPACITY, Path, Peer};

const GET: &str = "GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
const OLD_GET: &str = "GET / HTTP/1.0\r\nHost: orders\r\nConnection: keep-alive\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";

/// How the connections are told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    Drain,
    HandOver,
}

const ALL: [Leave; 2] = [Leave::Drain, Leave::HandOver];

impl Leave {
    fn begin(self, path: &Path) {
        match self {
            Self::Drain => path.drain(),
            Self::HandOver => path.retire(),
        }
    }
}

/// An app with a request that an instance has, and the number of the instance's connection.
async fn request(path: &mut Path, request: &str) -> (Peer, usize) {
    let mut app = path.connect();
    app.say(request);
    path.settle().await;
    let at = take_request(path);
    (app, at)
}

/// The number of the instance's connection on which a request has come.
fn take_request(path: &mut Path) -> usize {
    let at = path.instances.iter_mut().position(Peer::is_readable).unwrap();
    path.instances[at].read();
    at
}

/// What the app has got, in lower case.
fn text(app: &mut Peer) -> String {
    app.read();
    String::from_utf8_lossy(&app.got).to_ascii_lowercase()
}

/// Answers on the instance's connection `at`: the response says that the app's connection ends, and it ends at once.
async fn assert_ends_with_answer(path: &mut Path, app: &mut Peer, at: usize, what: &str) {
    path.instances[at].say(ANSWER);
    path.settle().await;
    let got = text(app);
    assert!(got.contains("connection: close\r\n") && got.ends_with("body"), "{what}: {got}");
    assert_closed_within(path, app, Duration::ZERO, what).await;
}

/// A request that an instance has answered but for the last bytes of the body. Gives those bytes.
async fn request_answered_in_part(path: &mut Path) -> (Peer, usize, &'static str) {
    let (app, at) = request(path, GET).await;
    let (begin, end) = ANSWER.split_at(ANSWER.len() - 2);
    path.instances[at].say(begin);
    path.settle().await;
    (app, at, end)
}

/// Waits for the end of the connection, `most` at most.
async fn assert_closed_within(path: &Path, app: &mut Peer, most: Duration, what: &str) {
    let since = Instant::now();
    loop {
        path.settle().await;
        app.read();
        if app.end.is_some() {
            return;
        }
        assert!(since.elapsed() < most, "{what}: open after {most:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_of_which_the_head_is_not_written_says_that_the_connection_ends() {
    for leave in ALL {
        for get in [GET, OLD_GET] {
            let mut path = Path::new(1, CAPACITY, |_| {}).await;
            let (mut app, at) = request(&mut path, get).await;
            leave.begin(&path);
            path.settle().await;
            assert!(app.end.is_none() && app.got.is_empty(), "{leave:?}: it waits for the response");
            assert_ends_with_answer(&mut path, &mut app, at, &format!("{leave:?}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_that_the_connection_ends() {
    for leave in ALL {
        let mut path =
            Path::new(1, CAPACITY, |config| config.upstreams[0].policy.retry.max_retries = 0).await;
        let (mut app, at) = request(&mut path, GET).await;
        leave.begin(&path);
        path.instances[at].close();
        path.settle().await;
        let got = text(&mut app);
        assert!(got.starts_with("http/1.1 502") && got.contains("connection: close\r\n"), "{leave:?}: {got}");
        assert_closed_within(&path, &mut app, Duration::ZERO, &format!("{leave:?}")).await;
    }
}

/// After a hand-over a second is left for a request that is on its way; a drain closes at once.
#[tokio::test(start_paused = true)]
async fn a_connection_ends_after_the_response_of_which_the_head_was_written() {
    for (leave, most) in [(Leave::Drain, Duration::ZERO), (Leave::HandOver, Duration::from_millis(1100))] {
        let mut path = Path::new(1, CAPACITY, |_| {}).await;
        let (mut app, at, end) = request_answered_in_part(&mut path).await;
        assert!(text(&mut app).ends_with("\r\n\r\nbo"));
        leave.begin(&path);
        path.settle().await;
        assert!(app.end.is_none());
        path.instances[at].say(end);
        path.settle().await;
        let got = text(&mut app);
        assert!(got.ends_with("body") && !got.contains("connection:"), "{leave:?}: {got}");
        assert_closed_within(&path, &mut app, most, &format!("{leave:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_behind_a_response_of_which_the_head_was_written_is_served_once() {
    for leave in ALL {
        for is_early in [true, false] {
            if leave == Leave::Drain && !is_early {
                continue;
            }
            let mut path = Path::new(1, CAPACITY, |_| {}).await;
            let (mut app, at, end) = request_answered_in_part(&mut path).await;
            leave.begin(&path);
            if is_early {
                app.say(GET);
            }
            path.instances[at].say(end);
            path.settle().await;
            app.read();
            app.got.clear();
            if !is_early {
                sleep(Duration::from_millis(900)).await;
                app.say(GET);
                path.settle().await;
            }
            let at = take_request(&mut path);
            assert_ends_with_answer(&mut path, &mut app, at, &format!("{leave:?}")).await;
        }
    }
}

/// A request may be on its way: the app has its time until the idle connections are ended.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_waits_for_its_next_request_after_a_hand_over() {
    for is_used in [false, true] {
        let mut path = Path::new(1, CAPACITY, |_| {}).await;
        let mut app = path.connect();
        if is_used {
            app.say(GET);
            path.settle().await;
            let at = take_request(&mut path);
            path.instances[at].say(ANSWER);
        }
        path.settle().await;
        path.retire();
        sleep(Duration::from_secs(3)).await;
        app.read();
        app.got.clear();
        app.say(GET);
        path.settle().await;
        let at = take_request(&mut path);
        assert_ends_with_answer(&mut path, &mut app, at, &format!("used before: {is_used}")).await;
    }
}
