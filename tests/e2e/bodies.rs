//! Bodies of every framing and size pass both ways, byte for byte, at the speed of the slower side.

use std::time::Duration;

use outrigger_tests::{
    client::Client,
    instance::{Answer, ConnectionEnd, Gate, Instance},
    pattern,
    sidecar::Sidecar,
    wait,
    wire::{Framing, WireError},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// More than all buffers on the way hold.
const LARGE: u64 = 64 << 20;

async fn with(
    script: impl Fn(&outrigger_tests::instance::Request) -> Answer + Send + Sync + 'static,
) -> (Sidecar, Instance) {
    let instance = Instance::scripted("a", script).await;
    (Sidecar::orders("", &[&instance]).await, instance)
}

fn chunks(sizes: &[usize]) -> Vec<u8> {
    let mut at = 0;
    let mut wire = Vec::new();
    for size in sizes {
        wire.extend_from_slice(format!("{size:X}\r\n").as_bytes());
        for byte in &pattern::bytes(at + size)[at..] {
            wire.push(*byte);
        }
        wire.extend_from_slice(b"\r\n");
        at += size;
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    wire
}

#[tokio::test]
async fn a_request_body_arrives_byte_for_byte_in_either_framing() {
    let (sidecar, instance) = with(|_| Answer::ok("ok")).await;
    let mut client = sidecar.client().await;
    let mut expected = Vec::new();
    for len in [0, 1, 4095, 4096, 65_535, 65_536, 65_537, 300_000] {
        let head = format!("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: {len}\r\n\r\n");
        assert_eq!(
            client.exchange([head.into_bytes(), pattern::bytes(len)].concat()).await.status,
            200,
            "{len}"
        );
        expected.push((len, Framing::Length(len as u64)));
    }
    for sizes in [&[][..], &[1], &[1, 2, 3], &[70_000, 1, 70_000]] {
        let head = b"POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        assert_eq!(client.exchange([head, chunks(sizes)].concat()).await.status, 200, "{sizes:?}");
        expected.push((sizes.iter().sum(), Framing::Chunked));
    }
    for (seen, (len, framing)) in instance.seen().iter().zip(expected) {
        let body = seen.body();
        assert!(
            body.complete && body.is_pattern && body.len == len as u64,
            "{len} {framing:?}: {}",
            body.len
        );
        let sent = seen.request.head.framing(Framing::Length(0)).unwrap();
        assert!(sent == framing || len == 0, "{len}: {sent:?}, not {framing:?}");
    }
}

#[tokio::test]
async fn a_body_of_any_method_is_forwarded() {
    let (sidecar, instance) = with(|_| Answer::ok("ok")).await;
    let mut client = sidecar.client().await;
    for (nth, method) in ["GET", "DELETE", "OPTIONS", "PATCH", "PURGE", "HEAD"].into_iter().enumerate() {
        for (also, body) in
            ["Content-Length: 2\r\n\r\nhi", "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"]
                .into_iter()
                .enumerate()
        {
            let response = client.exchange(format!("{method} / HTTP/1.1\r\nHost: orders\r\n{body}")).await;
            assert_eq!(response.status, 200, "{method}");
            assert_eq!(instance.seen()[2 * nth + also].body().text(), "hi", "{method} {body:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_arrives_byte_for_byte_in_every_framing() {
    let (sidecar, _instance) = with(|request| match request.target() {
        "/length" => Answer::pattern(300_000),
        "/chunked" => Answer::chunked_pattern(300_000, 7_777),
        "/tiny" => Answer::chunked_pattern(2_000, 1),
        "/old" => Answer::http10(pattern::bytes(300_000)),
        _ => Answer::raw([&b"HTTP/1.1 200 OK\r\n\r\n"[..], &pattern::bytes(300_000)].concat()).then_close(),
    })
    .await;
    let mut client = sidecar.client().await;
    for target in ["/length", "/chunked", "/tiny", "/old", "/to-close", "/length"] {
        let response = client.get("orders", target).await;
        let len = if target == "/tiny" { 2_000 } else { 300_000 };
        assert_eq!((response.status, response.body_error.as_ref()), (200, None), "{target}");
        assert!(response.body.is_pattern && response.body.len == len, "{target}: {}", response.body.len);
        assert_ne!(response.framing, Framing::UntilClose, "a 1.1 client keeps its connection: {target}");
    }
}

#[tokio::test]
async fn an_old_client_gets_every_answer_whole_and_no_chunks() {
    let (sidecar, _instance) = with(|request| match request.target() {
        "/length" => Answer::pattern(100_000),
        "/chunked" => Answer::chunked_pattern(100_000, 7_777),
        _ => Answer::http10(pattern::bytes(100_000)),
    })
    .await;
    for target in ["/length", "/chunked", "/old"] {
        let response = sidecar.exchange(format!("GET {target} HTTP/1.0\r\nHost: orders\r\n\r\n")).await;
        assert!(!response.head.has("transfer-encoding"), "{target}: {:?}", response.head);
        assert!(response.body.is_pattern && response.body.len == 100_000, "{target}: {response:?}");
        assert_eq!(response.body_error, None, "{target}");
    }
}

#[tokio::test]
async fn an_old_client_that_asks_for_it_keeps_its_connection() {
    let (sidecar, _instance) = with(|_| Answer::ok("ok")).await;
    let mut client = sidecar.client().await;
    for _ in 0..3 {
        let response =
            client.exchange("GET / HTTP/1.0\r\nHost: orders\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(response.text(), "ok");
        assert!(response.field("connection").eq_ignore_ascii_case("keep-alive"), "{response:?}");
    }
    client.exchange("GET / HTTP/1.0\r\nHost: orders\r\n\r\n").await;
    assert_eq!(client.wait_closed().await, WireError::Closed);
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_the_connection_goes_on() {
    let (sidecar, _instance) = with(|request| match request.target() {
        "/204" => Answer::without_body(204),
        "/304" => Answer::without_body(304).field("content-length", "77").field("etag", "\"x\""),
        "/205" => Answer::status(205, ""),
        "/length" => Answer::ok("12345"),
        _ => Answer::chunked(&["12345"], &[]),
    })
    .await;
    let mut client = sidecar.client().await;
    for (method, target, status) in [
        ("GET", "/204", 204),
        ("GET", "/304", 304),
        ("GET", "/205", 205),
        ("HEAD", "/length", 200),
        ("HEAD", "/chunked", 200),
        ("HEAD", "/204", 204),
        ("HEAD", "/304", 304),
    ] {
        let response = client.exchange(format!("{method} {target} HTTP/1.1\r\nHost: orders\r\n\r\n")).await;
        assert_eq!((response.status, response.body.len), (status, 0), "{method} {target}: {response:?}");
        match target {
            "/length" => assert_eq!(response.field("content-length"), "5", "{response:?}"),
            "/304" => assert_eq!(response.field("etag"), "\"x\""),
            "/204" => assert!(!response.head.has("content-length"), "{response:?}"),
            _ => {}
        }
        assert_eq!(client.get("orders", "/length").await.text(), "12345", "after {method} {target}");
    }
}

#[tokio::test]
async fn trailers_of_an_answer_pass_to_a_client_that_takes_them() {
    let (sidecar, _instance) =
        with(|_| Answer::chunked(&["ab"], &["x-sum: 2"]).field("trailer", "x-sum")).await;
    let response =
        sidecar.exchange("GET / HTTP/1.1\r\nHost: orders\r\nTE: trailers\r\nConnection: TE\r\n\r\n").await;
    assert_eq!(response.text(), "ab");
    assert_eq!(response.body.trailers, [("x-sum".to_owned(), "2".to_owned())], "{response:?}");
    assert_eq!(response.field("trailer"), "x-sum");
}

#[tokio::test]
async fn trailers_of_a_request_pass_to_the_instance() {
    let (sidecar, instance) = with(|_| Answer::ok("ok")).await;
    let request = "POST / HTTP/1.1\r\nHost: orders\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\n\
                   Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 2\r\n\r\n";
    assert_eq!(sidecar.exchange(request).await.status, 200);
    let body = instance.only_request().body();
    assert_eq!((body.text().as_str(), body.trailers), ("ab", vec![("x-sum".to_owned(), "2".to_owned())]));
}

#[tokio::test]
async fn a_slow_reader_slows_the_instance() {
    let (sidecar, instance) = with(|_| Answer::pattern(LARGE)).await;
    let mut client = Client::connect_small_buffer(sidecar.addr()).await;
    client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    instance.wait_requests(1).await;
    let stopped_at = settled("the instance stops writing", || instance.seen()[0].sent()).await;
    assert!(
        stopped_at < LARGE / 2,
        "{stopped_at} bytes were read from the instance while the app read nothing"
    );
    let response = client.response().await;
    assert!(response.body.is_pattern && response.body.len == LARGE && response.body_error.is_none());
}

#[tokio::test]
async fn a_slow_instance_slows_the_app() {
    let gate = Gate::closed();
    let opened = gate.clone();
    // The instance waits before it reads the body.
    let (sidecar, instance) = with(move |_| Answer::ok("ok").read_body_when(&opened)).await;
    let mut client = sidecar.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    instance.wait_requests(1).await;
    let written = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = std::sync::Arc::clone(&written);
    let upload = tokio::spawn(async move {
        let mut at = 0;
        while at < LARGE {
            let piece = pattern::slice_at(at, 32 * 1024);
            let piece = &piece[..piece.len().min(usize::try_from(LARGE - at).unwrap())];
            client.wire.write(piece).await.unwrap();
            at += piece.len() as u64;
            counter.store(at, std::sync::atomic::Ordering::Relaxed);
        }
        client
    });
    let stopped_at =
        settled("the app stops writing", || written.load(std::sync::atomic::Ordering::Relaxed)).await;
    assert!(
        stopped_at < LARGE / 2,
        "{stopped_at} bytes were read from the app while the instance read nothing"
    );
    gate.open();
    let mut client = wait::within("the upload", upload).await.unwrap();
    assert_eq!(client.response().await.status, 200);
    let body = instance.only_request().body();
    assert!(body.complete && body.is_pattern && body.len == LARGE);
}

/// Waits until the counter is above 0 and has not changed for half a second, and returns its value.
async fn settled(what: &str, counter: impl Fn() -> u64) -> u64 {
    let mut last = (0, tokio::time::Instant::now());
    wait::until_true(what, || {
        let now = counter();
        if now != last.0 {
            last = (now, tokio::time::Instant::now());
        }
        now > 0 && last.1.elapsed() > Duration::from_millis(500)
    })
    .await;
    last.0
}

#[tokio::test]
async fn a_slow_upload_is_forwarded_byte_by_byte_and_does_not_count_against_the_time_out() {
    let instance = Instance::start("a").await;
    // The whole upload takes longer than `timeout`, which starts at the last byte of the body.
    let sidecar = Sidecar::orders("defaults: {timeout: 300ms, body_idle: 5s}", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 12\r\n\r\n").await;
    for nth in 1..=12 {
        client.send("x").await;
        wait::until_true("each byte arrives by itself", || {
            instance.seen().first().is_some_and(|seen| seen.body_len() == nth)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn a_slow_download_is_forwarded_piece_by_piece() {
    let (sidecar, instance) = with(|_| {
        let mut answer = Answer::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for _ in 0..5 {
            answer = answer.then_write("1\r\nx\r\n").then_pause(Duration::from_millis(50));
        }
        answer.then_hang()
    })
    .await;
    let mut client = sidecar.client().await;
    client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().split_start_line().1, "200", "the head comes before the body");
    wait::until("five pieces arrive although the answer has not ended", wait::TIMEOUT, async || {
        client.wire.buffered().iter().filter(|byte| **byte == b'x').count() == 5 || {
            client.wire.fill().await.unwrap();
            false
        }
    })
    .await;
    drop(client);
    assert!(matches!(instance.wait_connection_end(0).await, ConnectionEnd::ByPeer(_)));
}

#[tokio::test]
async fn a_request_body_that_stalls_ends_with_408() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::orders("defaults: {body_idle: 200ms}", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 10\r\n\r\nhalf").await;
    let response = client.response().await;
    assert_eq!((response.status, response.reason()), (408, "body_timeout"), "{response:?}");
    client.wait_closed().await;
    assert!(matches!(instance.wait_connection_end(0).await, ConnectionEnd::ByPeer(_)));
    assert_eq!(sidecar.endpoints("orders")[0].failures, 0, "the instance was not at fault");
}

#[tokio::test]
async fn an_answer_body_that_stalls_is_cut() {
    let instance = Instance::scripted("a", |_| {
        Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").then_hang()
    })
    .await;
    let sidecar = Sidecar::orders("defaults: {body_idle: 200ms}", &[&instance]).await;
    let response = sidecar.get("orders", "/").await;
    assert_eq!((response.status, response.text().as_str()), (200, "half"));
    assert!(response.body_error.is_some(), "a cut answer must not look complete");
    instance.wait_connection_end(0).await;
}

#[tokio::test]
async fn an_early_answer_reaches_an_app_that_is_still_sending() {
    let (sidecar, instance) =
        with(|_| Answer::status(413, "too much").after_partial_body(1000).then_half_close()).await;
    early_answer_arrives(&sidecar).await;
    assert_eq!(instance.count(), 1);
}

#[tokio::test]
async fn an_early_answer_reaches_the_app_also_from_an_instance_that_resets_the_unread_body() {
    let (sidecar, instance) =
        with(|_| Answer::status(413, "too much").after_partial_body(1000).closing()).await;
    for _ in 0..5 {
        early_answer_arrives(&sidecar).await;
    }
    assert_eq!(instance.count(), 5);
}

async fn early_answer_arrives(sidecar: &Sidecar) {
    let mut client = sidecar.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    // The app keeps on writing. The sidecar discards these bytes, so that no reset destroys the answer.
    let sent = client.send_pattern(200_000).await;
    assert_eq!(sent, Ok(()), "the app's write must not fail before it can read the answer");
    let response = client.response().await;
    assert_eq!((response.status, response.text().as_str()), (413, "too much"), "{response:?}");
    client.wait_closed().await;
}

#[tokio::test]
async fn a_refusal_reaches_an_app_that_is_still_sending() {
    let (sidecar, _instance) = with(|_| Answer::ok("ok")).await;
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nHost: unknown\r\nContent-Length: 200000\r\n\r\n").await;
    assert_eq!(client.send_pattern(200_000).await, Ok(()));
    assert_eq!(client.response().await.status, 404);
}

#[tokio::test]
async fn a_body_is_replayed_byte_for_byte_on_a_retry() {
    let all = [
        Instance::scripted("bad1", |_| Answer::status(503, "no")).await,
        Instance::scripted("bad2", |_| Answer::status(502, "no")).await,
        Instance::start("good").await,
    ];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1], &all[2]]).await;
    let mut client = sidecar.client().await;
    for len in [0, 1, 1000, 60_000] {
        for _ in 0..3 {
            let head = format!("PUT / HTTP/1.1\r\nHost: orders\r\nContent-Length: {len}\r\n\r\n");
            let response = client.exchange([head.into_bytes(), pattern::bytes(len)].concat()).await;
            assert_eq!((response.status, response.instance()), (200, "good"), "{len}: {response:?}");
            let got = all[2].seen().last().unwrap().body();
            assert!(got.is_pattern && got.complete && got.len == len as u64);
        }
        let sizes = if len < 3 { vec![] } else { vec![1, len - 2, 1] };
        let head = b"PUT / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let response = client.exchange([head, chunks(&sizes)].concat()).await;
        assert_eq!(response.instance(), "good", "{sizes:?}");
        let got = all[2].seen().last().unwrap().body();
        assert!(got.is_pattern && got.complete && got.len == sizes.iter().sum::<usize>() as u64);
    }
    assert!(all[0].count() > 0 && all[1].count() > 0, "no request was retried");
}

#[tokio::test]
async fn a_request_with_a_body_too_large_to_buffer_is_not_retried() {
    let all = [
        Instance::scripted("bad1", |_| Answer::status(503, "no")).await,
        Instance::scripted("bad2", |_| Answer::status(503, "no")).await,
    ];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    let len = 500_000;
    let head = format!("PUT / HTTP/1.1\r\nHost: orders\r\nContent-Length: {len}\r\n\r\n");
    let response = sidecar.exchange([head.into_bytes(), pattern::bytes(len)].concat()).await;
    assert_eq!((response.status, response.text().as_str()), (503, "no"));
    assert_eq!(all[0].count() + all[1].count(), 1);
}

#[tokio::test]
async fn a_retry_continues_an_unfinished_upload() {
    // The first instance answers at once, when the app has sent only a part of the body.
    let all = [
        Instance::scripted("early1", |_| Answer::status(503, "no").early().closing()).await,
        Instance::scripted("early2", |_| Answer::status(503, "no").early().closing()).await,
        Instance::start("good").await,
    ];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1], &all[2]]).await;
    for _ in 0..3 {
        let before = all[2].count();
        let mut client = sidecar.client().await;
        client.send("PUT / HTTP/1.1\r\nHost: orders\r\nContent-Length: 2000\r\n\r\n").await;
        client.send(&pattern::bytes(1000)).await;
        all[2].wait_requests(before + 1).await;
        client.send(&pattern::bytes(2000)[1000..]).await;
        let response = client.response().await;
        assert_eq!(response.instance(), "good", "{response:?}");
        let body = all[2].seen()[before].body();
        assert!(body.is_pattern && body.complete && body.len == 2000);
    }
}

#[tokio::test]
async fn a_body_that_the_app_reads_slowly_is_no_body_that_stands_still() {
    const READ: usize = 10_000;
    let instance = Instance::scripted("a", |_| Answer::ok(vec![b'x'; 32 << 20])).await;
    // In this time the app reads far less than the part of the system's buffer that must be free before the reactor reports room.
    let sidecar = Sidecar::orders("defaults: {body_idle: 1s}", &[&instance]).await;
    let mut app = TcpStream::connect(sidecar.addr()).await.unwrap();
    app.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
    let mut part = vec![0; READ];
    // The pace is what is tested: 200 kB a second, for four times `body_idle`.
    for _ in 0..80 {
        app.read_exact(&mut part).await.expect("the response goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
