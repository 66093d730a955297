//! Panics, starts that fail, and sockets that cannot be set up.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown},
};

use arc_swap::ArcSwap;
use outrigger_config::Config;
use outrigger_discovery::Discovery;
use outrigger_registry::testing::ScriptedRegistry;

use super::*;
use crate::{
    context::{DownstreamSettings, ListenerKind},
    metrics::Metrics,
    upstream::manager::ClusterManager,
};

/// Set in the process that a test starts, which is the test itself once more.
const IN_CHILD: &str = "OUTRIGGER_TEST_PANIC";

/// A worker on a thread of its own, and what it shares with others.
async fn start_pool() -> (WorkerPool, Arc<ProxyContext>) {
    let context = context();
    (WorkerPool::start(1, &context).unwrap(), context)
}

fn context() -> Arc<ProxyContext> {
    let (registry, _listed) = ScriptedRegistry::listing();
    let (config, control) = (Config::default(), tokio::runtime::Handle::current());
    let discovery = Discovery::new(registry, config.discovery, control.clone(), &prometheus::Registry::new());
    let metrics = Metrics::new(1).unwrap();
    let clusters = ClusterManager::new(&config, discovery.unwrap(), metrics.clone(), control, 1);
    Arc::new(ProxyContext::new(clusters, metrics))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_panic_in_the_loop_of_a_worker_ends_the_process_with_a_message() {
    if std::env::var_os(IN_CHILD).is_some() {
        let (pool, _context) = start_pool().await;
        pool.workers[0].send(Command::Panic { in_loop: true });
        // Returns only when the process goes on. A stop could come before the command.
        tokio::time::sleep(Duration::from_secs(60)).await;
        return drop(pool);
    }
    let name = "listener::worker::tests::a_panic_in_the_loop_of_a_worker_ends_the_process_with_a_message";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name, "--nocapture"]).env(IN_CHILD, "1");
    let ended = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    assert!(!ended.status.success(), "the process goes on");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("outrigger: a worker panicked: the process ends"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn workers_that_were_started_end_when_another_one_cannot_be_started() {
    let context = context();
    let before = Arc::strong_count(&context);
    let threads = std::sync::Mutex::new(Vec::new());
    let start = |task: WorkerTask, on_thread| {
        let ended = Arc::downgrade(&task.own);
        let mut threads = threads.lock().unwrap();
        if threads.len() == 2 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        threads.push(ended);
        start_worker(task, on_thread)
    };
    let error = WorkerPool::start_with(3, &context, start).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    // A thread that has ended holds its worker no more.
    assert!(threads.lock().unwrap().iter().all(|worker| worker.upgrade().is_none()));
    assert_eq!(Arc::strong_count(&context), before);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_cannot_be_set_up_is_tried_again_until_it_can() {
    let bound = outrigger_net::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let socket = Arc::new(bound.socket);
    let (tries, last) = (std::cell::Cell::new(0), std::cell::Cell::new(Instant::now()));
    let acceptor = set_up(&socket, bound.addr, |socket| {
        assert!(last.replace(Instant::now()).elapsed() <= SET_UP_BACKOFF.max + Duration::from_millis(1));
        tries.set(tries.get() + 1);
        if tries.get() <= 20 { Err(io::ErrorKind::OutOfMemory.into()) } else { Acceptor::new(socket) }
    })
    .await;
    assert_eq!(tries.get(), 21);
    let app = std::net::TcpStream::connect(bound.addr).unwrap();
    let (_, peer) = acceptor.queue().await.unwrap().accept().unwrap().unwrap();
    assert_eq!(peer, app.local_addr().unwrap());
}

async fn wait_until(is_so: impl Fn() -> bool) {
    let due = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < due, "not in time");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A connection to the worker, from which the app's end has sent a request for nothing.
fn accepted_connection() -> (std::net::TcpStream, AcceptedConnection) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listener_addr = listener.local_addr().unwrap();
    let mut app = std::net::TcpStream::connect(listener_addr).unwrap();
    app.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    app.shutdown(Shutdown::Write).unwrap();
    let (stream, peer) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let settings = Arc::new(ArcSwap::from_pointee(DownstreamSettings::new(&Config::default())));
    let state = ListenerState::new(ListenerKind::ByName, settings, CancellationToken::new());
    (app, AcceptedConnection { stream, peer, listener_addr, state })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_panic_in_a_connections_task_is_counted_and_ends_no_other() {
    let (pool, context) = start_pool().await;
    let worker = &pool.workers[0];
    let panics = || context.metrics.workers.sum(|cells| cells.refusals(Reason::Internal));
    for count in 1..=3 {
        assert!(worker.send(Command::Panic { in_loop: false }));
        let (mut app, accepted) = accepted_connection();
        worker.connections.fetch_add(1, Relaxed);
        assert!(worker.send(Command::Serve(accepted)), "the worker goes on");
        let mut answer = String::new();
        app.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        wait_until(|| panics() == count).await;
    }
    wait_until(|| pool.connections() == 0).await;
    pool.stop(Duration::from_secs(20)).await;
}

fn size_of_serve<F: Future>(_: impl FnOnce(ConnectionInfo, Channel, [usize; 1]) -> F) -> usize {
    size_of::<F>()
}

/// Thousands of connections are idle: each is this future, and its socket.
#[test]
fn an_idle_connection_is_a_small_future() {
    let len = size_of_serve(serve_connection);
    assert!(len <= 368, "{len} bytes");
}
