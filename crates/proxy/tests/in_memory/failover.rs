//! Requests that go to a failover target.

use std::time::Duration;

use outrigger_config::{Config, Failover, FailoverTarget, RetryBudget};
use tokio::time::sleep;

use crate::path::{CAPACITY, Path};

const GET: &str = "GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const ILL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

/// Two services of two instances each, of which the second takes the requests of the first.
fn set(config: &mut Config) {
    let mut fallback = config.upstreams[0].clone();
    "orders-fallback".clone_into(&mut fallback.service);
    config.upstreams.push(fallback);
    let policy = &mut config.upstreams[0].policy;
    policy.retry.max_retries = 3;
    policy.retry.budget = RetryBudget { ratio: 0.0, min_per_second: 10, window: Duration::from_secs(100) };
    let target = FailoverTarget { service: Some("orders-fallback".into()), datacenter: None };
    config.upstreams[0].traffic.failover =
        Some(Failover { targets: vec![target], return_after: Failover::RETURN_AFTER });
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_to_the_target_when_each_instance_was_tried() {
    let mut path = Path::new(1, CAPACITY, set).await;
    let mut app = path.connect();
    app.say(GET);
    let mut order = Vec::new();
    for answer in [ILL, ILL, OK] {
        path.settle().await;
        // The connection of an attempt that is repeated is closed, which is readable, too.
        path.instances.iter_mut().for_each(|one| _ = one.read());
        let at = path.instances.iter().position(|one| !one.got.is_empty()).unwrap();
        path.instances[at].got.clear();
        path.instances[at].say(answer);
        order.push(at);
        sleep(Duration::from_secs(1)).await;
        path.settle().await;
    }
    app.read();
    assert!(app.got.starts_with(b"HTTP/1.1 200"), "{}", app.got.escape_ascii());
    // The connections of the first service come first.
    order[..2].sort_unstable();
    assert!(order[..2] == [0, 1] && order[2] >= 2, "{order:?}");
    let shown = path.service();
    assert_eq!((shown.requests, shown.retries), (1, 2), "they are those of the service that was asked for");
    let failover = shown.failover.unwrap();
    assert_eq!(
        (failover.active, failover.targets[0].attempts),
        (false, 1),
        "its instances are healthy still"
    );
}

#[tokio::test(start_paused = true)]
async fn no_request_goes_to_the_target_while_an_instance_is_usable() {
    let mut path = Path::new(1, CAPACITY, set).await;
    for _ in 0..20 {
        let mut app = path.connect();
        app.say(GET);
        path.settle().await;
        let at = path.used()[0];
        assert!(at < 2, "{at}");
        path.instances[at].read();
        path.instances[at].got.clear();
        path.instances[at].say(OK);
        path.settle().await;
        app.close();
    }
}
