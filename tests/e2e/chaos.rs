//! Instances that fail in every way at once, under traffic. No answer reaches the wrong request, a request that must
//! not be repeated is sent at most once, and nothing stays in use.

use std::{collections::HashMap, sync::Arc, time::Duration};

use outrigger_proxy::Workers;
use outrigger_tests::{
    client::Client,
    instance::{Answer, Instance, Kill, Request},
    sidecar::{Services, Sidecar},
    wait,
};
use tokio::task::JoinSet;

const CLIENTS: usize = 12;
const REQUESTS: usize = 250;

/// A successful answer to most requests, and a failure that depends only on the request's number to the others.
fn sometimes_failing(request: &Request) -> Answer {
    let target = request.target().to_owned();
    match request.nth % 17 {
        2 => Answer::status(503, &target),
        4 => Answer::raw("").then_close(),
        6 => Answer::raw("").then_reset(),
        8 => Answer::raw("").early().then_close(),
        10 => Answer::ok(&target).then_close(),
        12 => Answer::status(503, &target).early().closing(),
        14 => Answer::chunked(&[&target], &[]).closing(),
        15 => Answer::ok(&target).delayed(Duration::from_millis(30)),
        16 => Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\npart").then_close(),
        _ => Answer::ok(&target),
    }
}

/// Sends one client's requests, each with its own target, and returns how many were answered with 200.
async fn client(sidecar: Arc<Sidecar>, number: usize) -> usize {
    let mut connection: Option<Client> = None;
    let mut answered = 0;
    for nth in 0..REQUESTS {
        let method = ["GET", "POST", "PUT", "POST"][nth % 4];
        let target = format!("/{method}/{number}/{nth}");
        let mut open = match connection.take() {
            Some(open) => open,
            None => sidecar.client().await,
        };
        let body = if method == "GET" { String::new() } else { "x".repeat(nth * 7) };
        let length = body.len();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: orders\r\nContent-Length: {length}\r\n\r\n");
        if open.try_send(head + &body).await.is_err() {
            continue;
        }
        // A cut answer is an allowed failure of an answer that had begun.
        let Ok(response) = open.try_response_to(method).await else { continue };
        if response.body_error.is_some() {
            continue;
        }
        if response.reason().is_empty() {
            assert_eq!(response.text(), target, "an answer to another request");
        }
        if method != "POST" && !response.reason().is_empty() {
            let body = response.text();
            // A refused connection does not count as one of the three attempts.
            let attempts = response.json()["attempts"].as_u64().unwrap_or(0);
            assert!(attempts >= 3 || body.contains("budget"), "too few attempts: {target}: {body}");
        }
        answered += usize::from(response.status == 200);
        if !response.field("connection").eq_ignore_ascii_case("close") {
            connection = Some(open);
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_mixed_up_and_no_post_is_sent_twice_when_instances_fail() {
    let mut all = Vec::new();
    for name in ["a", "b", "c", "d"] {
        all.push(Instance::scripted(name, sometimes_failing).await);
    }
    let services = Services::of("orders", &all.iter().collect::<Vec<_>>());
    let settings = "defaults: {circuit_breaker: off, timeout: 5s}";
    let sidecar = Arc::new(Sidecar::start_on(Workers::Threads(2), settings, &services).await);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(Arc::clone(&sidecar), number));
    }
    let mut answered = 0;
    let mut kills = tokio::time::interval(Duration::from_millis(150));
    let mut nth: usize = 0;
    loop {
        tokio::select! {
            ended = clients.join_next() => match ended {
                Some(one) => answered += one.unwrap(),
                None => break,
            },
            _ = kills.tick() => {
                nth += 1;
                let how = if nth.is_multiple_of(2) { Kill::Reset } else { Kill::Fin };
                all[nth % 4].kill(how).await;
                all[nth % 4].listen_again().await;
            }
        }
    }
    let mut seen: HashMap<String, usize> = HashMap::new();
    for instance in &all {
        for request in instance.seen() {
            *seen.entry(request.request.target().to_owned()).or_default() += 1;
        }
    }
    let twice: Vec<_> =
        seen.iter().filter(|(target, count)| target.starts_with("/POST") && **count > 1).collect();
    assert!(twice.is_empty(), "POSTs seen more than once: {twice:?}");
    assert!(answered > CLIENTS * REQUESTS / 2, "only {answered} were answered");
    assert!(seen.values().any(|count| *count > 1), "no request was retried");
    wait::until_true("nothing is left in flight", || sidecar.proxy.in_flight() == 0).await;
    let left: usize = sidecar.endpoints("orders").iter().map(|endpoint| endpoint.in_flight).sum();
    assert_eq!(left, 0);
}
