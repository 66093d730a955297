//! HTTP/2 on both sides of the sidecar: a client and an instance by the crate `h2`, and frames written by hand.
#![allow(clippy::expect_used, reason = "a harness fails its test by panicking")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest, server::SendResponse};
use http::{HeaderMap, Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::wait;

/// A response with all of its body.
#[derive(Debug)]
pub struct Whole {
    /// The status.
    pub status: u16,
    /// The fields of the head.
    pub head: HeaderMap,
    /// The body.
    pub body: String,
    /// The fields behind the body.
    pub trailers: HeaderMap,
}

impl Whole {
    /// The value of a field; empty where there is none.
    pub fn field(&self, name: &str) -> &str {
        text(&self.head, name)
    }

    /// The value of a trailer; empty where there is none.
    pub fn trailer(&self, name: &str) -> &str {
        text(&self.trailers, name)
    }
}

fn text<'a>(fields: &'a HeaderMap, name: &str) -> &'a str {
    fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A client with one connection.
#[derive(Debug)]
pub struct H2Client {
    /// The crate's own handle.
    pub requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Drop for H2Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl H2Client {
    /// A connection to `addr`.
    ///
    /// # Panics
    /// There is none.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("a connection");
        let (requests, connection) = h2::client::handshake(stream).await.expect("a handshake");
        Self { requests, connection: tokio::spawn(connection) }
    }

    /// Waits until the connection has ended.
    pub async fn wait_closed(&mut self) {
        let _ = wait::within("the end of the connection", &mut self.connection).await;
    }

    /// A request with a body of one part, perhaps an empty one.
    ///
    /// # Errors
    /// The stream is reset, or the connection ends.
    pub async fn send(&mut self, request: Request<()>, body: &str) -> Result<Whole, h2::Error> {
        let (response, mut sent) =
            self.requests.clone().ready().await?.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            sent.send_data(Bytes::from(body.to_owned()), true)?;
        }
        read_all(wait::within("a response", response).await?).await
    }

    /// A GET.
    ///
    /// # Errors
    /// As of [`H2Client::send`].
    pub async fn get(&mut self, uri: &str) -> Result<Whole, h2::Error> {
        self.send(Request::get(uri).body(()).expect("a request"), "").await
    }

    /// A call of gRPC with one message, which is `body`.
    ///
    /// # Errors
    /// As of [`H2Client::send`].
    pub async fn call(&mut self, uri: &str, body: &str) -> Result<Whole, h2::Error> {
        let request = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
        self.send(request.body(()).expect("a request"), body).await
    }
}

/// Reads a response to its end.
///
/// # Errors
/// Its stream is reset, or the connection ends.
pub async fn read_all(response: Response<RecvStream>) -> Result<Whole, h2::Error> {
    let (parts, mut received) = response.into_parts();
    let mut body = Vec::new();
    while let Some(part) = wait::within("a part of a body", received.data()).await {
        let part = part?;
        body.extend_from_slice(&part);
        received.flow_control().release_capacity(part.len())?;
    }
    let trailers = wait::within("trailers", received.trailers()).await?.unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Whole { status: parts.status.as_u16(), head: parts.headers, body, trailers })
}

/// An instance that speaks HTTP/2 alone, and calls `serve` for each request.
#[derive(Debug)]
pub struct H2Instance {
    /// Where it listens.
    pub addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for H2Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl H2Instance {
    /// Serves each request by `serve`, in a task of its own.
    ///
    /// # Panics
    /// No port is free.
    pub async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let addr = listener.local_addr().expect("its address");
        let (accepted, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let serve = Arc::new(serve);
        let (counted, served) = (accepted.clone(), requests.clone());
        let task = tokio::spawn(async move {
            // The connections end with the listener.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Relaxed);
                let (serve, served) = (serve.clone(), served.clone());
                connections.spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        served.fetch_add(1, Relaxed);
                        tokio::spawn(serve(request, respond));
                    }
                });
            }
        });
        Self { addr, accepted, requests, task }
    }

    /// Answers each request with its name and the body that came.
    pub async fn echo(name: &str) -> Self {
        let name = name.to_owned();
        Self::start(move |request, mut respond| {
            let name = name.clone();
            async move {
                let mut received = request.into_body();
                let mut body = Vec::new();
                while let Some(Ok(part)) = received.data().await {
                    let _ = received.flow_control().release_capacity(part.len());
                    body.extend_from_slice(&part);
                }
                let response = Response::builder().header("x-instance", name).body(()).expect("a response");
                let Ok(mut sent) = respond.send_response(response, false) else { return };
                let _ = sent.send_data(body.into(), true);
            }
        })
        .await
    }

    /// Connections that were accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Relaxed)
    }

    /// Requests that came.
    pub fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// Ends it with its connections.
    pub async fn kill(&self) {
        self.task.abort();
        let task = &self.task;
        wait::until_true("the instance has ended", || task.is_finished()).await;
    }
}

/// Frames of HTTP/2, written by hand (RFC 9113 §4.1; fields as literals that are never indexed, RFC 7541 §6.2.3).
#[derive(Debug, Default, Clone)]
pub struct Frames(pub Vec<u8>);

/// Flags.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Frames {
    /// The preface, with SETTINGS that say nothing.
    #[must_use]
    pub fn preface() -> Self {
        Self(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()).frame(4, 0, 0, &[])
    }

    /// One frame.
    #[must_use]
    pub fn frame(mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.0.extend_from_slice(&len[1..]);
        self.0.extend_from_slice(&[kind, flags]);
        self.0.extend_from_slice(&stream.to_be_bytes());
        self.0.extend_from_slice(payload);
        self
    }

    /// HEADERS with these fields, in this order.
    #[must_use]
    pub fn headers(self, stream: u32, fields: &[(&[u8], &[u8])], is_end: bool) -> Self {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0x10);
            for text in [name, value] {
                push_length(&mut block, text.len());
                block.extend_from_slice(text);
            }
        }
        self.frame(1, END_HEADERS | if is_end { END_STREAM } else { 0 }, stream, &block)
    }

    /// DATA.
    #[must_use]
    pub fn data(self, stream: u32, data: &[u8], is_end: bool) -> Self {
        self.frame(0, u8::from(is_end) * END_STREAM, stream, data)
    }
}

/// A length as an integer with a prefix of 7 bits (RFC 7541 §5.1).
fn push_length(block: &mut Vec<u8>, len: usize) {
    if len < 127 {
        return block.push(len as u8);
    }
    block.push(127);
    let mut rest = len - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// What a peer says of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// HEADERS: a response has begun.
    Response,
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code, which is no end in order.
    Goaway(u32),
    /// The connection has ended.
    Closed,
}

/// What comes first of a stream in the frames that are read.
///
/// # Errors
/// `None`: the frames end before.
pub fn said_of(stream: u32, mut bytes: &[u8]) -> Option<Said> {
    while let [a, b, c, kind, _, s1, s2, s3, s4, rest @ ..] = bytes {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let of = u32::from_be_bytes([*s1 & 0x7f, *s2, *s3, *s4]);
        let payload = rest.get(..len)?;
        let code = |at: usize| payload.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        match kind {
            1 if of == stream => return Some(Said::Response),
            3 if of == stream => return Some(Said::Reset(code(0)?)),
            7 if code(4)? != 0 => return Some(Said::Goaway(code(4)?)),
            _ => {}
        }
        bytes = &rest[len..];
    }
    None
}
