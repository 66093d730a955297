//! The end of a sidecar that registers nothing: the app's last calls are carried.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use outrigger_devregistry::DevRegistry;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::harness::{RunningSidecar, SidecarBuilder, registry, send_request, wait_until};

/// A sidecar without a service of its own, and an instance of `slow`, which answers when the test writes to its connection.
async fn start(more: &str) -> (RunningSidecar, TcpListener, DevRegistry) {
    let registry = registry().await;
    let instance = TcpListener::bind("127.0.0.1:0").unwrap();
    let body = format!(
        r#"{{"Name": "slow", "Address": "127.0.0.1", "Port": {}}}"#,
        instance.local_addr().unwrap().port()
    );
    let (status, _) = send_request(registry.addr(), "PUT /v1/agent/service/register", &body).await.unwrap();
    assert_eq!(status, 200);
    let sidecar = SidecarBuilder::new(&registry, more).without_service().start();
    sidecar.wait_until_ready().await;
    (sidecar, instance, registry)
}

/// A request for the instance, which has arrived there: the app's connection, and the instance's.
fn begin_request(addr: SocketAddr, instance: &TcpListener) -> (TcpStream, TcpStream) {
    let mut app = TcpStream::connect(addr).unwrap();
    app.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    app.write_all(b"GET / HTTP/1.1\r\nHost: slow\r\n\r\n").unwrap();
    let (mut upstream, _) = instance.accept().unwrap();
    let mut head = [0; 1024];
    assert!(upstream.read(&mut head).unwrap() > 0);
    (app, upstream)
}

/// Answers the request, and returns what the app read.
fn end_request(app: &mut TcpStream, upstream: &mut TcpStream) -> String {
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").unwrap();
    let mut answer = vec![0; 4096];
    let n = app.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

async fn wait_until_safe(sidecar: &RunningSidecar) {
    wait_until("the drain is over", async || {
        let phase = sidecar.get_json("/drain").await["phase"].clone();
        phase == "safe" || phase == "closing"
    })
    .await;
}

async fn assert_carries(sidecar: &RunningSidecar) {
    let answer = send_request(sidecar.outbound, "GET /svc/unknown/", "").await;
    assert!(answer.is_some(), "refused: {}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_requests_are_carried_while_one_is_in_flight() {
    let (mut sidecar, instance, _registry) = start("drain: {timeout: 50s}").await;
    let (mut app, mut upstream) = begin_request(sidecar.outbound, &instance);
    sidecar.signal(Signal::TERM);
    wait_until_safe(&sidecar).await;
    for _ in 0..3 {
        assert_carries(&sidecar).await;
        assert!(sidecar.child.try_wait().unwrap().is_none());
    }
    assert!(end_request(&mut app, &mut upstream).ends_with("done"));
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0), "an idle connection does not keep it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_end_delays_it_by_drain_timeout() {
    let (mut sidecar, instance, _registry) = start("drain: {timeout: 4s}").await;
    let _held = begin_request(sidecar.outbound, &instance);
    let since = Instant::now();
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
    assert!(since.elapsed() < Duration::from_millis(7500), "it waited twice: {:?}", since.elapsed());
    assert!(sidecar.log().contains("the app is not done, stopping all the same"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_await_app_connections_an_idle_connection_keeps_it() {
    let (mut sidecar, instance, _registry) = start("drain: {await_app: connections, timeout: 50s}").await;
    let (mut app, mut upstream) = begin_request(sidecar.outbound, &instance);
    end_request(&mut app, &mut upstream);
    sidecar.signal(Signal::TERM);
    wait_until_safe(&sidecar).await;
    for _ in 0..3 {
        assert_carries(&sidecar).await;
        assert!(sidecar.child.try_wait().unwrap().is_none());
    }
    app.write_all(b"GET / HTTP/1.1\r\nHost: slow\r\n\r\n").unwrap();
    let mut head = [0; 1024];
    assert!(upstream.read(&mut head).unwrap() > 0);
    assert!(end_request(&mut app, &mut upstream).ends_with("done"), "the app's last call");
    drop(app);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_linger_it_stays_at_least_that_long() {
    let linger = Duration::from_millis(1500);
    let (mut sidecar, _instance, _registry) = start("drain: {linger: 1500ms}").await;
    let asked = Instant::now();
    sidecar.signal(Signal::TERM);
    wait_until_safe(&sidecar).await;
    assert_carries(&sidecar).await;
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
    assert!(asked.elapsed() >= linger, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_waits_for_none_of_it() {
    let (mut sidecar, instance, _registry) = start("drain: {linger: 1h, await_app: connections}").await;
    let (mut app, mut upstream) = begin_request(sidecar.outbound, &instance);
    end_request(&mut app, &mut upstream);
    sidecar.signal(Signal::INT);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
}
