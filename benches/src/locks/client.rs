//! Locks by HTTP: of the sidecar's API, and of Consul itself.

use std::{net::SocketAddr, time::Duration};

use outrigger_tests::client::{Client, Response};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{Error, error::doing};

/// Longest wait for an event.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A kept connection.
pub(super) struct LockClient {
    client: Client,
    host: String,
}

impl LockClient {
    pub(super) async fn connect(addr: SocketAddr) -> Self {
        Self { client: Client::connect(addr).await, host: addr.to_string() }
    }

    /// Acquires a lock by a lease, and returns the lease.
    pub(super) async fn acquire(&mut self, name: &str) -> Result<String, Error> {
        let answer = self.send("POST", &format!("/v1/locks/{name}"), r#"{"ttl": "60s"}"#).await?;
        text_of(&answer, "lease")
    }

    /// Gives it back.
    pub(super) async fn release(&mut self, name: &str, lease: &str) -> Result<(), Error> {
        self.send("DELETE", &format!("/v1/locks/{name}/{lease}"), "").await.map(|_| ())
    }

    /// Makes a session at Consul with what a lock of the sidecar asks for, and returns its id.
    pub(super) async fn create_session(&mut self) -> Result<String, Error> {
        let body = r#"{"Name": "bench", "TTL": "15s", "LockDelay": "15s", "Checks": []}"#;
        let answer = self.send("PUT", "/v1/session/create", body).await?;
        text_of(&answer, "ID")
    }

    /// Sends a PUT that Consul answers with `true`.
    pub(super) async fn put_at_consul(&mut self, target: &str) -> Result<(), Error> {
        let answer = self.send("PUT", target, "").await?;
        match answer.text().trim() {
            "true" => Ok(()),
            other => Err(Error::new(format!("PUT {target}: {other}"))),
        }
    }

    async fn send(&mut self, method: &str, target: &str, body: &str) -> Result<Response, Error> {
        let Self { client, host } = self;
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
        client
            .try_send(head + body)
            .await
            .map_err(|error| Error::new(format!("{method} {target}: {error:?}")))?;
        let answer = client.try_response_to(method).await;
        let answer = answer.map_err(|error| Error::new(format!("{method} {target}: {error:?}")))?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        Err(Error::new(format!("{method} {target}: {} {}", answer.status, answer.text())))
    }
}

/// A field of an answer in JSON.
fn text_of(answer: &Response, field: &str) -> Result<String, Error> {
    let text = answer.json()[field].as_str().map(str::to_owned);
    text.ok_or_else(|| Error::new(format!("no {field} in {}", answer.text())))
}

/// A lock that lives as long as its connection.
pub(super) struct LockStream {
    stream: Option<TcpStream>,
}

impl LockStream {
    /// Sends the request and waits until the lock is acquired. `name` may have a query.
    pub(super) async fn hold(api: SocketAddr, name: &str) -> Result<Self, Error> {
        let mut stream = TcpStream::connect(api).await.map_err(doing("connect to the API"))?;
        let request =
            format!("POST /v1/locks/{} HTTP/1.1\r\nHost: {api}\r\nContent-Length: 0\r\n\r\n", path(name));
        stream.write_all(request.as_bytes()).await.map_err(doing("ask for a lock"))?;
        let acquired = async {
            let mut read = String::new();
            while !read.contains("event: acquired") {
                let mut bytes = [0; 1024];
                let count = stream.read(&mut bytes).await.map_err(doing("read a stream of a lock"))?;
                if count == 0 || (read.len() > 12 && !read.starts_with("HTTP/1.1 200")) {
                    return Err(Error::new(format!("{name} is not acquired: {read}")));
                }
                read.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            Ok(())
        };
        timeout(TIMEOUT, acquired).await.map_err(doing(format!("wait for {name}")))??;
        Ok(Self { stream: Some(stream) })
    }

    /// Gives the lock back.
    pub(super) fn close(&mut self) {
        self.stream = None;
    }
}

/// `NAME?QUERY` becomes `NAME/hold?QUERY`.
fn path(name: &str) -> String {
    match name.split_once('?') {
        Some((name, query)) => format!("{name}/hold?{query}"),
        None => format!("{name}/hold"),
    }
}
