//! The listener of the API moves, and what is open goes on.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use http::StatusCode;
use outrigger_proxy::Workers;
use outrigger_tests::{
    consul::{
        self,
        http::{get, put},
    },
    wait,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::app::router_settings;

const LONG: Duration = Duration::from_secs(60);

on_both_registries! {
    socket: super::the_api_is_served_on_a_unix_socket;
    moves: super::a_listener_that_moves_leaves_the_locks_of_its_connections;
}

/// A stream of events, and what was read of it.
struct Stream(TcpStream, String);

impl Stream {
    async fn hold(addr: SocketAddr, name: &str) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head =
            format!("POST /v1/locks/{name}/hold HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut stream = Self(stream, String::new());
        stream.read_until("event: acquired").await;
        stream
    }

    async fn read_until(&mut self, text: &str) {
        let reads = async {
            while !self.1.contains(text) {
                let mut bytes = [0; 1024];
                let read = self.0.read(&mut bytes).await.unwrap();
                assert!(read > 0, "the stream ended after {}", self.1);
                self.1.push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        };
        timeout(LONG, reads).await.unwrap_or_else(|_| panic!("no {text:?} in {}", self.1));
    }
}

async fn a_listener_that_moves_leaves_the_locks_of_its_connections(consul: SocketAddr) {
    let settings = |listen: SocketAddr| {
        let more = format!("api: {{listen: \"{listen}\"}}\ndrain: {{timeout: 1s}}");
        router_settings(&format!("address: \"http://{consul}\""), &more)
    };
    let (first, second) = (outrigger_net::reserve_addr(), outrigger_net::reserve_addr());
    let app = outrigger::App::start(settings(first), Workers::CurrentRuntime).await.expect("start the app");
    wait::within("it is ready", app.ready()).await;
    let mut held = Stream::hold(first, "jobs").await;
    app.apply(settings(second)).await.unwrap();
    assert_eq!(app.api_addrs(), [second]);
    wait::until("nothing listens there any more", LONG, async || TcpStream::connect(first).await.is_err())
        .await;
    // Two comments come within 10 s, long after the answers of a server that stops would have been cut off.
    for _ in 0..2 {
        held.1.clear();
        held.read_until(": held").await;
    }
    let state = get(second, "/v1/locks/jobs").await.unwrap();
    let body = String::from_utf8_lossy(state.body()).into_owned();
    assert!(state.status() == StatusCode::OK && body.contains("\"held\":true"), "{body}");
    // The drain tells that connection too, and the stop ends it.
    let stopped = tokio::spawn(app.shutdown());
    held.read_until("event: draining").await;
    held.read_until("event: lost").await;
    timeout(LONG, stopped).await.expect("in time").unwrap();
}

/// The answer to a GET over a Unix socket.
async fn get_by_socket(path: &Path, target: &str, more: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(LONG, stream.read_to_string(&mut answer)).await.expect("in time").unwrap();
    answer
}

async fn the_api_is_served_on_a_unix_socket(consul: SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    put(consul, "/v1/kv/config/a", "1").await.unwrap();
    let settings = |mode: &str| {
        let path = path.display();
        let more = format!("api: {{listen: \"unix:{path}\", mode: {mode}, config: {{allow: [config/]}}}}");
        router_settings(&format!("address: \"http://{consul}\""), &more)
    };
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    // What a process that was killed has left is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let app = outrigger::App::start(settings("0660"), Workers::CurrentRuntime).await.expect("start the app");
    wait::within("it is ready", app.ready()).await;
    assert_eq!((mode(), app.api_addrs()), (0o660, Vec::new()));
    let answer = get_by_socket(&path, "/v1/kv/config/a?raw", "Host: any.example\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n1"), "{answer}");
    // As Go's clients send it.
    let answer = get_by_socket(&path, "/v1/kv/config/a?raw", "Host:\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for (more, reason) in
        [("", "foreign_host"), ("Host: localhost\r\nOrigin: http://localhost\r\n", "foreign_origin")]
    {
        let refused = get_by_socket(&path, "/v1/kv/config/a", more).await;
        assert!(
            refused.starts_with("HTTP/1.1 4") && refused.contains(reason) || more.is_empty(),
            "{refused}"
        );
    }
    // Something listens there: another sidecar does not take the place.
    let error = outrigger::App::start(settings("0600"), Workers::CurrentRuntime).await.unwrap_err();
    let text = outrigger_config::error_chain(&error);
    assert!(text.contains("api.sock") && text.contains("another process listens there"), "{text}");
    // A reload changes its mode, and what is open goes on.
    let mut open = UnixStream::connect(&path).await.unwrap();
    open.write_all(b"POST /v1/locks/jobs/hold HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let mut held = Vec::new();
    while !String::from_utf8_lossy(&held).contains("event: acquired") {
        assert!(timeout(LONG, open.read_buf(&mut held)).await.expect("in time").unwrap() > 0);
    }
    app.apply(settings("0600")).await.unwrap();
    assert_eq!(mode(), 0o600);
    held.clear();
    while !String::from_utf8_lossy(&held).contains(": held") {
        assert!(timeout(LONG, open.read_buf(&mut held)).await.expect("in time").unwrap() > 0);
    }
    let answer = get_by_socket(&path, "/v1/kv/config/a?raw", "Host: localhost\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(open);
    app.shutdown().await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "its file is removed");
}
