//! Listening sockets of a process manager (`LISTEN_FDS`).

use std::net::TcpListener;

use rustix::process::Signal;
use tokio::time::timeout;

use crate::harness::{SidecarBuilder, TEST_TIMEOUT, registry, send_request, wait_until};

#[tokio::test]
async fn a_connection_that_comes_between_two_runs_waits_for_the_next_one() {
    let registry = registry().await;
    let plan = SidecarBuilder::new(&registry, "");
    let socket = TcpListener::bind(plan.outbound_addr()).unwrap();
    let mut first = plan.with_socket(&socket, "$$").start();
    wait_until("it serves", async || send_request(first.outbound, "GET /", "").await.is_some()).await;
    first.signal(Signal::TERM);
    assert_eq!(first.wait_for_exit().await.code(), Some(0));

    let addr = first.outbound;
    let between = tokio::spawn(async move { send_request(addr, "GET /", "").await });
    wait_until("it is queued", async || between.is_finished() || connections(&socket) > 0).await;
    assert!(!between.is_finished(), "neither refused nor answered");
    let second = first.next_run(&socket);
    let answered = timeout(TEST_TIMEOUT, between).await.unwrap().unwrap();
    assert!(answered.is_some(), "{}", second.log());
    assert!(!second.log().contains("no setting names this address of a socket"), "{}", second.log());
}

/// Connections that wait for an accept: the receive queue of a listening socket (proc_net_tcp(5)).
fn connections(socket: &TcpListener) -> usize {
    let port = format!(":{:04X}", socket.local_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let queue = table.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        // 0A: it listens; its receive queue is that of connections.
        let is_ours = words.get(1)?.ends_with(&port) && *words.get(3)? == "0A";
        is_ours.then(|| usize::from_str_radix(words[4].split_once(':')?.1, 16).ok())?
    });
    queue.unwrap_or(0)
}

#[tokio::test]
async fn the_variables_are_not_passed_on_to_the_app() {
    let registry = registry().await;
    let plan = SidecarBuilder::new(&registry, "");
    let (socket, file) = (TcpListener::bind(plan.outbound_addr()).unwrap(), plan.dir.path().join("env"));
    let app = format!("env > {0}.new; mv {0}.new {0}; exec sleep 60", file.display());
    let mut sidecar = plan.with_app(&["sh", "-c", &app]).with_socket(&socket, "$$").start();
    wait_until("the app runs", async || file.exists()).await;
    let environment = std::fs::read_to_string(file).unwrap();
    assert!(environment.contains("PATH=") && !environment.contains("LISTEN_"), "{environment}");
    sidecar.signal(Signal::TERM);
    sidecar.wait_for_exit().await;
}

#[tokio::test]
async fn sockets_for_another_process_are_not_taken() {
    let registry = registry().await;
    let plan = SidecarBuilder::new(&registry, "");
    let socket = TcpListener::bind(plan.outbound_addr()).unwrap();
    let mut refused = plan.with_socket(&socket, "1").start();
    assert_eq!(refused.wait_for_exit().await.code(), Some(1), "the port is taken");
    assert!(refused.log().contains("outbound.listen"), "{}", refused.log());
}

#[tokio::test]
async fn a_socket_that_no_setting_names_is_a_warning() {
    let registry = registry().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let sidecar = SidecarBuilder::new(&registry, "").with_socket(&socket, "$$").start();
    wait_until("it serves", async || send_request(sidecar.outbound, "GET /", "").await.is_some()).await;
    let addr = socket.local_addr().unwrap().to_string();
    let is_warned = || sidecar.log().lines().any(|line| line.contains("\"WARN\"") && line.contains(&addr));
    wait_until("the socket is named", async || is_warned()).await;
}

#[tokio::test]
async fn replace_beside_sockets_of_a_process_manager_is_refused() {
    let registry = registry().await;
    let mut plan = SidecarBuilder::new(&registry, "");
    plan.command.arg("--replace");
    let socket = TcpListener::bind(plan.outbound_addr()).unwrap();
    let mut refused = plan.with_socket(&socket, "$$").start();
    assert_eq!(refused.wait_for_exit().await.code(), Some(2));
    assert!(refused.log().contains("--replace"), "{}", refused.log());
}
