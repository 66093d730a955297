//! Bodies of a gigabyte pass through a sidecar in bounded memory. A separate test program, because it measures the
//! memory of a process.
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
