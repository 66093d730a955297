//! A second attempt in parallel with a slow one: when it is made, which answer is used, and its limits.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outrigger_tests::{
    client::Client,
    instance::{Answer, ConnectionEnd, Instance, Request},
    sidecar::Sidecar,
    wait,
};
use tokio::time::Instant;

const ON: &str = "defaults: {hedge: {min_delay: 50ms}}";

/// Sends enough requests with fast answers for a latency percentile, and waits until it is computed (every 100 ms).
async fn learn_latency(client: &mut Client) {
    for _ in 0..40 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
}

/// The index of the instance that does not answer, and the connection of that request.
type StuckRequest = Arc<OnceLock<(usize, usize)>>;

/// Two instances; the first request for `/slow` at either of them is never answered.
async fn pair() -> ([Instance; 2], StuckRequest) {
    let stuck = StuckRequest::default();
    let script = |nth: usize| {
        let stuck = stuck.clone();
        move |request: &Request| {
            let first = request.target() == "/slow" && stuck.set((nth, request.connection)).is_ok();
            if first { Answer::no_answer() } else { Answer::ok("x") }
        }
    };
    let all = [Instance::scripted("a", script(0)).await, Instance::scripted("b", script(1)).await];
    (all, stuck)
}

fn count_slow(all: &[Instance; 2]) -> usize {
    all.iter().flat_map(Instance::seen).filter(|seen| seen.request.target().starts_with("/slow")).count()
}

#[tokio::test]
async fn the_second_attempt_answers_and_the_first_is_cancelled() {
    let (all, stuck) = pair().await;
    let sidecar = Sidecar::orders(ON, &[&all[0], &all[1]]).await;
    let mut client = sidecar.client().await;
    learn_latency(&mut client).await;
    let since = Instant::now();
    assert_eq!(client.get("orders", "/slow").await.status, 200);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(count_slow(&all), 2);
    assert_eq!(sidecar.metric("outrigger_hedges_total", &[("result", "won")]), 1.0);
    assert_eq!(sidecar.metric("outrigger_retries_total", &[("why", "again")]), 0.0);
    let (nth, connection) = *stuck.get().unwrap();
    let end = all[nth].wait_connection_end(connection).await;
    assert!(matches!(end, ConnectionEnd::ByPeer(_)), "the first attempt is cancelled: {end:?}");
    wait::until_true("no attempt is in flight", || {
        sidecar.endpoints("orders").iter().all(|endpoint| endpoint.in_flight == 0)
    })
    .await;
}

#[tokio::test]
async fn a_put_with_a_complete_body_is_sent_twice_in_full() {
    let (all, _) = pair().await;
    let sidecar = Sidecar::orders(ON, &[&all[0], &all[1]]).await;
    let mut client = sidecar.client().await;
    learn_latency(&mut client).await;
    let put = "PUT /slow HTTP/1.1\r\nHost: orders\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(client.exchange(put).await.status, 200);
    assert_eq!(count_slow(&all), 2);
    for one in &all {
        let seen = one.seen();
        let put = seen.iter().find(|seen| seen.request.target() == "/slow").unwrap();
        assert_eq!((put.body_len(), put.body().complete), (4, true));
    }
}

#[tokio::test]
async fn no_hedge_is_made_by_default_nor_for_a_post() {
    for (settings, method) in [("", "GET"), (ON, "POST")] {
        let (all, _) = pair().await;
        let settings = format!("{settings}\nupstreams: [{{service: orders, timeout: 600ms}}]");
        let sidecar = Sidecar::orders(&settings, &[&all[0], &all[1]]).await;
        let mut client = sidecar.client().await;
        learn_latency(&mut client).await;
        let request = format!("{method} /slow HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.exchange(request).await.status, 504, "{method}");
        assert_eq!(count_slow(&all), 1, "{method}");
    }
}

#[tokio::test]
async fn a_hedge_takes_from_the_retry_budget() {
    let (all, _) = pair().await;
    let settings = "defaults: {timeout: 600ms, hedge: {min_delay: 50ms}, \
                    retry: {budget: {ratio: 0, min_per_second: 0}}}";
    let sidecar = Sidecar::orders(settings, &[&all[0], &all[1]]).await;
    let mut client = sidecar.client().await;
    learn_latency(&mut client).await;
    assert_eq!(client.get("orders", "/slow").await.status, 504);
    assert_eq!(count_slow(&all), 1);
    assert_eq!(sidecar.metric("outrigger_hedges_total", &[("result", "budget")]), 1.0);
}

#[tokio::test]
async fn a_failed_second_attempt_does_not_end_the_first() {
    let taken = Arc::new(AtomicUsize::new(0));
    let script = move |request: &Request| {
        if request.target() != "/slow" {
            return Answer::ok("x");
        }
        match taken.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::ok("late").delayed(Duration::from_millis(600)),
            _ => Answer::status(503, "no"),
        }
    };
    let all = [Instance::scripted("a", script.clone()).await, Instance::scripted("b", script).await];
    let sidecar = Sidecar::orders(ON, &[&all[0], &all[1]]).await;
    let mut client = sidecar.client().await;
    learn_latency(&mut client).await;
    let response = client.get("orders", "/slow").await;
    assert_eq!((response.status, response.text().as_str()), (200, "late"));
    assert_eq!(count_slow(&all), 2);
    assert_eq!(sidecar.metric("outrigger_hedges_total", &[("result", "lost")]), 1.0);
}
