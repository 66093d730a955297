//! Interim responses beside a second attempt: of two exchanges neither may speak to the app.

use std::time::Duration;

use outrigger_config::HedgePolicy;
use tokio::time::sleep;

use crate::path::{CAPACITY, Path, Peer};

const GET: &str = "GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const FAILED: &str = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
const HEDGE_AFTER: Duration = Duration::from_millis(50);

fn hint(text: &str) -> String {
    format!("HTTP/1.1 103 Early Hints\r\nLink: <{text}>\r\n\r\n")
}

/// The connections of instances on which a request has come; what has come is forgotten.
async fn take_requests(path: &mut Path) -> Vec<usize> {
    path.settle().await;
    let used = path.used();
    for at in &used {
        path.instances[*at].read();
        path.instances[*at].got.clear();
    }
    used
}

/// What the app has got since the last call.
async fn take(path: &Path, app: &mut Peer) -> String {
    path.settle().await;
    app.read();
    String::from_utf8(std::mem::take(&mut app.got)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_interim_response_is_dropped_while_two_attempts_run_and_passed_on_while_one_does() {
    let mut path = Path::new(3, CAPACITY, |config| {
        let hedge = HedgePolicy { min_delay: HEDGE_AFTER, ..HedgePolicy::default() };
        config.upstreams[0].policy.hedge = Some(hedge);
    })
    .await;
    let mut app = path.connect();
    // Enough responses for a percentile, which is computed every 100 ms.
    for _ in 0..40 {
        app.say(GET);
        let at = take_requests(&mut path).await[0];
        path.instances[at].say(OK);
        assert!(take(&path, &mut app).await.ends_with("ok"));
    }
    sleep(Duration::from_millis(150)).await;

    app.say(GET);
    let first = take_requests(&mut path).await[0];
    path.instances[first].say(hint("alone"));
    assert_eq!(take(&path, &mut app).await, hint("alone"));

    sleep(2 * HEDGE_AFTER).await;
    let second = take_requests(&mut path).await[0];
    assert_ne!(first, second);
    for at in [first, second] {
        path.instances[at].say(hint("beside another"));
        assert_eq!(take(&path, &mut app).await, "");
    }

    path.instances[second].say(FAILED);
    path.settle().await;
    path.instances[first].say(hint("alone again"));
    assert_eq!(take(&path, &mut app).await, hint("alone again"));
    path.instances[first].say(OK);
    assert_eq!(take(&path, &mut app).await, OK);
    assert_eq!(app.end, None);
}
