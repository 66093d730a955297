//! Streams of HTTP/2 as connections of HTTP/1.1, over memory: what the other side of each reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response};
use outrigger_http2::{
    AppStream, InstanceStream, StreamFault,
    client::InstanceConnection,
    server::{self, Limits},
};
use outrigger_net::{Stream, VirtualStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

const WITHIN: Duration = Duration::from_secs(20);
const LIMITS: Limits = Limits { streams: 8, head: 16 * 1024 };

/// Reads until `end` has come.
async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut all = Vec::new();
    while !all.ends_with(end.as_bytes()) {
        let mut part = [0; 1024];
        let n = timeout(WITHIN, stream.read(&mut part)).await.expect("bytes in time").unwrap();
        assert!(n > 0, "an end after {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&part[..n]);
    }
    String::from_utf8(all).unwrap()
}

async fn write(stream: &mut (impl AsyncWriteExt + Unpin), text: &str) {
    let mut text = text.as_bytes();
    while !text.is_empty() {
        let n = timeout(WITHIN, stream.write(text)).await.expect("room in time").unwrap();
        text = &text[n..];
    }
    timeout(WITHIN, stream.flush()).await.expect("flushed in time").unwrap();
}

/// The app's end of a connection, and the streams that it opens.
async fn app() -> (h2::client::SendRequest<Bytes>, tokio::sync::mpsc::UnboundedReceiver<Box<AppStream>>) {
    let (near, far) = Stream::in_memory(64 * 1024);
    let (opened, streams) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut connection = server::AppConnection::begin(far, LIMITS).await.unwrap();
        while let Some(Ok(stream)) = poll_fn(|cx| connection.poll_accept(cx)).await {
            let _ = opened.send(stream);
        }
    });
    let (requests, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    (requests, streams)
}

fn request(text: &str) -> http::request::Builder {
    let (method, uri) = text.split_once(' ').unwrap();
    Request::builder().method(method).uri(uri)
}

#[tokio::test]
async fn a_request_without_a_body_is_read_as_one_of_http_1_and_its_response_goes_back() {
    let (mut requests, mut streams) = app().await;
    let request =
        request("GET http://orders/x?y=1").header("a", "1").header("cookie", "b=2").header("cookie", "c=3");
    let (response, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
    let mut stream = streams.recv().await.unwrap();
    let read = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(read, "GET /x?y=1 HTTP/1.1\r\nHost: orders\r\na: 1\r\ncookie: b=2; c=3\r\n\r\n");
    write(&mut stream, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
    write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nX: y\r\n\r\nhi").await;
    let mut response = response;
    let interim = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!((interim.status().as_u16(), interim.headers().len()), (103, 1));
    let mut response = response.await.unwrap();
    let names: Vec<_> = response.headers().keys().map(|name| name.as_str().to_owned()).collect();
    assert_eq!((response.status().as_u16(), names.join(" ")), (200, "content-length x".to_owned()));
    assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "hi");
    assert!(response.body_mut().data().await.is_none());
}

#[tokio::test]
async fn bodies_and_trailers_go_both_ways() {
    let (mut requests, mut streams) = app().await;
    let request = request("POST http://orders/").header("te", "trailers").body(()).unwrap();
    let (response, mut body) = requests.send_request(request, false).unwrap();
    let mut stream = streams.recv().await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.contains("te: trailers\r\n") && head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
    body.send_data("hello".into(), false).unwrap();
    assert_eq!(read_until(&mut stream, "lo\r\n").await, "5\r\nhello\r\n");
    let mut trailers = HeaderMap::new();
    trailers.insert("sum", "5".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "0\r\nsum: 5\r\n\r\n");
    write(&mut stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let mut response = response.await.unwrap();
    assert!(response.headers().is_empty(), "{:?}", response.headers());
    assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "abc");
    write(&mut stream, "0\r\ngrpc-status: 0\r\n\r\n").await;
    assert!(response.body_mut().data().await.is_none());
    let trailers = response.body_mut().trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

/// A client of gRPC takes fields without END_STREAM for the begin of a response.
#[tokio::test]
async fn a_response_that_ends_with_its_head_ends_in_one_frame() {
    let (mut requests, mut streams) = app().await;
    let (response, _) =
        requests.send_request(request("POST http://orders/").body(()).unwrap(), true).unwrap();
    let mut stream = streams.recv().await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    write(&mut stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ngrpc-status: 12\r\n\r\n0\r\n\r\n")
        .await;
    let response = response.await.unwrap();
    assert!(response.body().is_end_stream());
    assert_eq!(response.headers()["grpc-status"], "12");
}

#[tokio::test]
async fn a_stream_that_the_app_resets_is_read_as_a_reset_and_one_that_is_left_ends_with_an_error() {
    let (mut requests, mut streams) = app().await;
    let (_response, mut body) =
        requests.send_request(request("GET http://orders/").body(()).unwrap(), false).unwrap();
    let mut stream = streams.recv().await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    assert!(!stream.is_read_closed());
    body.send_reset(Reason::CANCEL);
    timeout(WITHIN, poll_fn(|cx| stream.poll_read_closed(cx))).await.expect("the reset is noticed");
    assert!(stream.is_read_closed() && stream.read(&mut [0]).await.is_err());
    for written in ["", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"] {
        let (response, _) =
            requests.send_request(request("GET http://orders/").body(()).unwrap(), true).unwrap();
        let mut stream = streams.recv().await.unwrap();
        write(&mut stream, written).await;
        drop(stream);
        let error = match response.await {
            Ok(mut response) => loop {
                if let Err(error) = response.body_mut().data().await.expect("no end in order") {
                    break error;
                }
            },
            Err(error) => error,
        };
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    }
}

/// The instance's end of a connection.
async fn instance() -> (InstanceConnection, h2::server::Connection<Stream, Bytes>) {
    let (near, far) = Stream::in_memory(64 * 1024);
    let accepted = tokio::spawn(async move { h2::server::handshake(far).await.unwrap() });
    let (connection, moved) = InstanceConnection::begin(near, false, 16 * 1024).await.unwrap();
    tokio::spawn(moved);
    (connection, accepted.await.unwrap())
}

type Accepted = (Request<h2::RecvStream>, h2::server::SendResponse<Bytes>);

/// The next request of an instance, which then moves its connection.
async fn accept(mut server: h2::server::Connection<Stream, Bytes>) -> Accepted {
    let accepted = timeout(WITHIN, server.accept()).await.expect("a request").unwrap().unwrap();
    tokio::spawn(async move { while let Some(Ok(_)) = server.accept().await {} });
    accepted
}

fn open(connection: &mut InstanceConnection) -> InstanceStream {
    connection.open().expect("the connection takes a stream")
}

#[tokio::test]
async fn a_request_of_http_1_reaches_an_instance_and_its_response_is_read_as_one_of_http_1() {
    let (mut connection, server) = instance().await;
    let mut stream = open(&mut connection);
    write(
        &mut stream,
        "PUT /x?y HTTP/1.1\r\nHost: orders:80\r\nX-A: B\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
    )
    .await;
    let (request, mut respond) = accept(server).await;
    assert_eq!(
        (request.method().as_str(), request.uri().to_string()),
        ("PUT", "http://orders:80/x?y".to_owned())
    );
    assert_eq!(request.headers().len(), 1);
    let mut body = request.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "hi");
    write(&mut stream, "0\r\nsum: 2\r\n\r\n").await;
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["sum"], "2");
    respond.send_informational(Response::builder().status(103).header("l", "x").body(()).unwrap()).unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 103 Early Hints\r\nl: x\r\n\r\n");
    let mut sent = respond.send_response(Response::new(()), false).unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    sent.send_data("abc".into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("t", "1".parse().unwrap());
    sent.send_trailers(trailers).unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "3\r\nabc\r\n0\r\nt: 1\r\n\r\n");
    assert_eq!(connection.active(), 1);
    drop(stream);
    assert_eq!(connection.active(), 0);
}

#[tokio::test]
async fn a_request_that_was_not_processed_says_so() {
    let (mut connection, server) = instance().await;
    let mut stream = open(&mut connection);
    write(&mut stream, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
    let (_request, mut respond) = accept(server).await;
    respond.send_reset(Reason::REFUSED_STREAM);
    let error = timeout(WITHIN, stream.read(&mut [0; 9])).await.expect("the refusal").unwrap_err();
    assert!(matches!(StreamFault::of(&error), Some(StreamFault::Unprocessed(_))), "{error:?}");
}

#[tokio::test]
async fn streams_above_the_last_one_of_a_goaway_were_not_processed_and_the_connection_takes_no_more() {
    let (mut connection, mut server) = instance().await;
    let mut first = open(&mut connection);
    write(&mut first, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (_, mut respond) = timeout(WITHIN, server.accept()).await.expect("a request").unwrap().unwrap();
    server.graceful_shutdown();
    tokio::spawn(async move { while let Some(Ok(_)) = server.accept().await {} });
    respond.send_response(Response::new(()), true).unwrap();
    assert!(read_until(&mut first, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    timeout(WITHIN, async {
        while connection.open().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the GOAWAY is noticed");
    assert!(connection.is_closed());
    drop(first);
    // Requests that were on their way when it was sent.
    let (near, mut far) = Stream::in_memory(64 * 1024);
    let (mut connection, moved) = InstanceConnection::begin(near, false, 16 * 1024).await.unwrap();
    tokio::spawn(moved);
    let (mut first, mut late) = (open(&mut connection), open(&mut connection));
    write(&mut first, "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    write(&mut late, "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    let (mut sent, mut part) = (Vec::new(), [0; 1024]);
    // The HEADERS of the second stream.
    while !sent.windows(6).any(|bytes| bytes == [1, 5, 0, 0, 0, 3]) {
        let n = timeout(WITHIN, far.read(&mut part)).await.expect("frames").unwrap();
        sent.extend_from_slice(&part[..n]);
    }
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    let response = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
    let mut frames: &[u8] = &[&settings[..], &goaway[..], &response[..]].concat();
    while !frames.is_empty() {
        let n = far.write(frames).await.unwrap();
        frames = &frames[n..];
    }
    let error = timeout(WITHIN, late.read(&mut [0; 9])).await.expect("the end").unwrap_err();
    assert!(matches!(StreamFault::of(&error), Some(StreamFault::Unprocessed(_))), "{error:?}");
    assert!(read_until(&mut first, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_instance_of_http_1_is_named() {
    let (near, mut far) = Stream::in_memory(64 * 1024);
    let (mut connection, moved) = InstanceConnection::begin(near, false, 16 * 1024).await.unwrap();
    tokio::spawn(moved);
    let mut stream = open(&mut connection);
    write(&mut stream, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    write(&mut far, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    let error = timeout(WITHIN, stream.read(&mut [0; 9])).await.expect("the end").unwrap_err();
    assert_eq!(StreamFault::of(&error), Some(&StreamFault::Http1Instance), "{error:?}");
}

#[tokio::test]
async fn what_http_2_has_no_form_for_is_named_and_not_sent() {
    let (mut connection, _server) = instance().await;
    for (head, expected) in [
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "the target \"/a#b\""),
        ("GET /a HTTP/1.1\r\nHost: a b\r\n\r\n", "the Host \"a b\""),
        ("GET /a HTTP/1.1\r\nHost: a\r\nX: a\u{1}b\r\n\r\n", "the field X: \"a\\x01b\""),
    ] {
        let mut stream = open(&mut connection);
        let error = stream.write(head.as_bytes()).await.unwrap_err();
        let Some(StreamFault::NotExpressible(detail)) = StreamFault::of(&error) else { panic!("{error:?}") };
        assert_eq!(detail, &format!("HTTP/2 cannot carry {expected}"));
        assert!(stream.read(&mut [0]).await.is_err());
    }
}

#[tokio::test]
async fn a_connection_takes_as_many_streams_as_the_instance_says() {
    let (near, far) = Stream::in_memory(64 * 1024);
    let accepted = tokio::spawn(async move {
        h2::server::Builder::new().max_concurrent_streams(2).handshake::<_, Bytes>(far).await.unwrap()
    });
    let (mut connection, moved) = InstanceConnection::begin(near, false, 16 * 1024).await.unwrap();
    tokio::spawn(moved);
    let mut stream = open(&mut connection);
    write(&mut stream, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (_, mut respond) = accept(accepted.await.unwrap()).await;
    respond.send_response(Response::new(()), true).unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    let other = open(&mut connection);
    assert!(connection.open().is_none() && !connection.is_closed());
    drop(other);
    assert!(connection.open().is_some());
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back() {
    let (mut connection, server) = instance().await;
    let mut stream = open(&mut connection);
    write(&mut stream, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (_, mut respond) = accept(server).await;
    let mut sent = respond.send_response(Response::new(()), false).unwrap();
    const ALL: usize = 4 * 1024 * 1024;
    sent.reserve_capacity(ALL);
    let mut given = 0;
    while let Ok(Some(Ok(_))) =
        timeout(Duration::from_millis(200), poll_fn(|cx| sent.poll_capacity(cx))).await
    {
        let n = sent.capacity();
        sent.send_data(vec![b'x'; n].into(), false).unwrap();
        given += n;
    }
    assert!(given < ALL / 2, "{given} bytes were taken of a reader that reads nothing");
    let read = tokio::spawn(async move {
        let (mut all, mut part) = (0, vec![0; 64 * 1024]);
        while all < given {
            all += timeout(WITHIN, stream.read(&mut part)).await.expect("bytes").unwrap();
        }
        stream
    });
    read.await.unwrap();
}
