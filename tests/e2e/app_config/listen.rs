//! The listener of the API moves, and what is open goes on.

use std::{net::SocketAddr, time::Duration};

use http::StatusCode;
use outrigger_proxy::Workers;
use outrigger_tests::{
    consul::{self, http::get},
    wait,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::app::router_settings;

const LONG: Duration = Duration::from_secs(60);

on_both_registries! {
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
    held.1.clear();
    held.read_until(": held\n\n: held").await;
    let state = get(second, "/v1/locks/jobs").await.unwrap();
    let body = String::from_utf8_lossy(state.body()).into_owned();
    assert!(state.status() == StatusCode::OK && body.contains("\"held\":true"), "{body}");
    // The drain tells that connection too, and the stop ends it.
    let stopped = tokio::spawn(app.shutdown());
    held.read_until("event: draining").await;
    held.read_until("event: lost").await;
    timeout(LONG, stopped).await.expect("in time").unwrap();
}
