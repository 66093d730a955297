//! A raw client: writes given bytes, and reads answers strictly.
#![allow(clippy::expect_used, clippy::panic, reason = "a harness fails its test by panicking")]

use std::net::SocketAddr;

use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::{
    pattern, wait,
    wire::{Framing, Head, ReceivedBody, Wire, WireError},
};

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its head.
    pub head: Head,
    /// Its status.
    pub status: u16,
    /// What came of its body.
    pub body: ReceivedBody,
    /// Its framing.
    pub framing: Framing,
    /// How it broke off. `None`: it ended as its framing says.
    pub body_error: Option<WireError>,
}

impl Response {
    /// Its body as text.
    pub fn text(&self) -> String {
        self.body.text()
    }

    /// The only field of that name, or "".
    pub fn field(&self, name: &str) -> &str {
        self.head.get(name).unwrap_or_default()
    }

    /// Why the sidecar made it: `x-outrigger-error`, or "" for an instance's own answer.
    pub fn reason(&self) -> &str {
        self.field("x-outrigger-error")
    }

    /// Which instance made it.
    pub fn instance(&self) -> &str {
        self.field("x-instance")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.body.kept) {
            Ok(value) => value,
            Err(error) => panic!("{error} in {:?} {:?}", self.head, self.text()),
        }
    }
}

/// A connection of the app's.
#[derive(Debug)]
pub struct Client {
    /// The socket.
    pub wire: Wire,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// The connection cannot be made.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = wait::within("connect to the sidecar", TcpStream::connect(addr)).await;
        Self { wire: Wire::new(stream.unwrap_or_else(|error| panic!("connect to {addr}: {error}"))) }
    }

    /// Connects with a small receive buffer, so that unread bytes soon stop the sender.
    ///
    /// # Panics
    /// The connection cannot be made.
    pub async fn connect_small_buffer(addr: SocketAddr) -> Self {
        let socket =
            if addr.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
        let socket = socket.expect("a socket");
        socket.set_recv_buffer_size(16 * 1024).expect("SO_RCVBUF");
        let stream = wait::within("connect to the sidecar", socket.connect(addr)).await.expect("connect");
        Self { wire: Wire::new(stream) }
    }

    /// Writes these bytes.
    ///
    /// # Panics
    /// The connection is closed, or the peer does not read.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let written = wait::within("write to the sidecar", self.wire.write(bytes.as_ref())).await;
        written.expect("write to the sidecar");
    }

    /// Writes these bytes, if the connection is still there.
    ///
    /// # Errors
    /// It is not.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), WireError> {
        wait::within("write to the sidecar", self.wire.write(bytes.as_ref())).await
    }

    /// Writes `len` bytes of the pattern.
    ///
    /// # Errors
    /// The connection went.
    pub async fn send_pattern(&mut self, len: u64) -> Result<(), WireError> {
        let mut at = 0;
        while at < len {
            let left = usize::try_from(len - at).unwrap_or(usize::MAX);
            let bytes = pattern::slice_at(at, left.min(64 * 1024));
            wait::within("write a piece to the sidecar", self.wire.write(bytes)).await?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// The next answer's head.
    ///
    /// # Errors
    /// There is none.
    pub async fn head(&mut self) -> Result<Head, WireError> {
        wait::within("an answer's head", self.wire.read_head()).await?.ok_or(WireError::Closed)
    }

    /// The next answer, to a request of this method; 1xx are skipped.
    ///
    /// # Errors
    /// No head came. A body that breaks off is no error: see [`Response::body_error`].
    pub async fn try_response_to(&mut self, method: &str) -> Result<Response, WireError> {
        loop {
            let head = self.head().await?;
            let status = parse_status(&head)?;
            if !(100..200).contains(&status) || status == 101 {
                return self.read_rest(method, head, status).await;
            }
        }
    }

    async fn read_rest(&mut self, method: &str, head: Head, status: u16) -> Result<Response, WireError> {
        let framing = head.framing(Framing::UntilClose)?;
        let bodiless = method == "HEAD" || matches!(status, 101 | 204 | 304);
        let body = Mutex::new(ReceivedBody::default());
        let read = if bodiless { Framing::Length(0) } else { framing };
        let body_error = wait::within("an answer's body", self.wire.read_body(read, &body)).await.err();
        let body = body.into_inner();
        Ok(Response { head, status, body, framing, body_error })
    }

    /// The next answer, to a request of this method.
    ///
    /// # Panics
    /// No head came.
    pub async fn response_to(&mut self, method: &str) -> Response {
        self.try_response_to(method).await.unwrap_or_else(|cut| panic!("no answer: {cut}"))
    }

    /// The next answer, to anything but HEAD.
    ///
    /// # Panics
    /// No head came.
    pub async fn response(&mut self) -> Response {
        self.response_to("GET").await
    }

    /// Writes the bytes and reads the answer.
    ///
    /// # Panics
    /// No head came.
    pub async fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> Response {
        let bytes = bytes.as_ref();
        self.send(bytes).await;
        let method = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
        self.response_to(&String::from_utf8_lossy(method)).await
    }

    /// `GET target` with this `Host`.
    ///
    /// # Panics
    /// No head came.
    pub async fn get(&mut self, host: &str, target: &str) -> Response {
        self.exchange(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
    }

    /// `POST target` with this `Host` and body.
    ///
    /// # Panics
    /// No head came.
    pub async fn post(&mut self, host: &str, target: &str, body: &str) -> Response {
        let length = body.len();
        self.exchange(format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    /// Waits until the sidecar closes, and says how; what it sends before is thrown away.
    pub async fn wait_closed(&mut self) -> WireError {
        let rest = Mutex::new(ReceivedBody::default());
        match wait::within("the sidecar closes", self.wire.read_body(Framing::UntilClose, &rest)).await {
            Ok(()) => WireError::Closed,
            Err(cut) => cut,
        }
    }

    /// Closes by a reset.
    pub fn reset(self) {
        self.wire.reset();
    }
}

/// The status that a head states.
pub(crate) fn parse_status(head: &Head) -> Result<u16, WireError> {
    let (version, status, _) = head.split_start_line();
    match status.parse() {
        Ok(status) if version.starts_with("HTTP/1.") => Ok(status),
        _ => Err(WireError::Malformed(format!("a status line {:?}", head.start_line))),
    }
}

/// One `GET target` with this `Host` on a connection of its own.
///
/// # Panics
/// No head came.
pub async fn get(addr: SocketAddr, host: &str, target: &str) -> Response {
    Client::connect(addr).await.get(host, target).await
}

/// One exchange on a connection of its own.
///
/// # Panics
/// No head came.
pub async fn exchange(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Response {
    Client::connect(addr).await.exchange(bytes).await
}
