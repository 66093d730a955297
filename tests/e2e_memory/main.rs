//! Bodies of a gigabyte pass through a sidecar in bounded memory, and a silent stream takes little of it. A separate test
//! program, because it measures the memory of a process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use outrigger_tests::{
    client::Client,
    instance::{Answer, Instance},
    memory::resident_memory,
    process::Process,
    wire::WireError,
};

const GIB: u64 = 1 << 30;
/// Largest growth of the sidecar: buffers of a few hundred KiB, and memory that the allocator keeps.
const GROWTH: u64 = 32 << 20;
/// Silent streams that are measured, after as many that are not.
const STREAMS: usize = 400;
/// Largest growth of the sidecar for each of them, in bytes: the active connection, the connection to the instance, the task, and
/// both sockets in tokio's reactor. The kernel's part is not in it. About 3,300 were measured of an event
/// stream, 3,800 of a WebSocket.
const STREAM_GROWTH: u64 = 3_900;

/// Runs `body` against the real binary in front of one instance, and checks the growth of the binary's memory.
async fn assert_bounded_memory(instance: &Instance, body: impl AsyncFnOnce(Client)) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("services.yaml");
    std::fs::write(&file, format!("services: {{orders: [\"{}\"]}}", instance.addr())).unwrap();
    let process = Process::run(&format!("registry: {{file: {:?}}}", file.display().to_string())).await;
    process.wait_ready().await;
    let mut client = Client::connect(process.outbound()).await;
    assert_eq!(client.get("orders", "/warm").await.status, 200);

    let before = resident_memory(Some(process.pid()));
    let mut highest = before;
    let body = body(client);
    tokio::pin!(body);
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            () = &mut body => break,
            _ = ticks.tick() => highest = highest.max(resident_memory(Some(process.pid()))),
        }
    }
    let grown = highest - before;
    assert!(grown < GROWTH, "the process grew by {} KiB from {} KiB", grown / 1024, before / 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_passes_both_ways_in_either_framing_in_bounded_memory() {
    let instance = Instance::scripted("a", |request| match request.target() {
        "/length" => Answer::pattern(GIB),
        "/chunked" => Answer::chunked_pattern(GIB, 60_000),
        _ => Answer::ok("ok"),
    })
    .await;
    assert_bounded_memory(&instance, async |mut client| {
        for target in ["/length", "/chunked"] {
            let response = client.get("orders", target).await;
            assert!(response.body.is_pattern && response.body.len == GIB, "{target}: {}", response.body.len);
            assert_eq!(response.body_error, None);
        }
    })
    .await;
    assert_bounded_memory(&instance, async |mut client| {
        let head = format!("POST /up HTTP/1.1\r\nHost: orders\r\nContent-Length: {GIB}\r\n\r\n");
        client.send(head).await;
        client.send_pattern(GIB).await.unwrap();
        assert_eq!(client.response().await.status, 200);

        client.send("POST /up HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        assert_eq!(send_chunks(&mut client).await, Ok(()));
        assert_eq!(client.response().await.status, 200);
    })
    .await;
    for seen in instance.seen().iter().filter(|seen| seen.request.target() == "/up") {
        let body = seen.body();
        assert!(body.is_pattern && body.complete && body.len == GIB, "{}", body.len);
    }
}

async fn send_chunks(client: &mut Client) -> Result<(), WireError> {
    let mut at = 0;
    while at < GIB {
        let bytes = outrigger_tests::pattern::slice_at(at, usize::try_from((GIB - at).min(50_000)).unwrap());
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        client.try_send(chunk).await?;
        at += bytes.len() as u64;
    }
    client.try_send("0\r\n\r\n").await
}

/// Opens [`STREAMS`] streams with `request`, twice, and checks the growth of the binary's memory for the later ones.
async fn assert_small_streams(request: &str, answer: Answer) {
    let instance = Instance::scripted("a", move |_| answer.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("services.yaml");
    std::fs::write(&file, format!("services: {{orders: [\"{}\"]}}", instance.addr())).unwrap();
    // One worker: each has a pool of buffers, which is no part of a connection.
    let settings = format!(
        "registry: {{file: {:?}}}\nworkers: 1\ndefaults: {{pool: {{max_connections: {}}}}}",
        file.display().to_string(),
        2 * STREAMS
    );
    let process = Process::run(&settings).await;
    process.wait_ready().await;
    let mut open = Vec::new();
    let mut before = 0;
    for round in 0..2 {
        before = if round == 0 { 0 } else { resident_memory(Some(process.pid())) };
        for _ in 0..STREAMS {
            let mut client = Client::connect(process.outbound()).await;
            client.send(request).await;
            let head = client.head().await.unwrap();
            assert!(matches!(head.split_start_line().1, "200" | "101"), "{head:?}");
            open.push(client);
        }
    }
    let grown = resident_memory(Some(process.pid())).saturating_sub(before) / STREAMS as u64;
    println!("{grown} bytes for a silent stream");
    assert!(grown <= STREAM_GROWTH, "{grown} bytes for each of {STREAMS} streams");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_event_stream_takes_less_than_4_kib() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n6\r\nid: 1\n\r\n";
    let request = "GET /events HTTP/1.1\r\nHost: orders\r\nAccept: text/event-stream\r\n\r\n";
    assert_small_streams(request, Answer::raw(head).then_hang()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_websocket_takes_less_than_4_kib() {
    let request = "GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_small_streams(request, Answer::upgrade("websocket")).await;
}
