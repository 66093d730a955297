//! A proxy between a sidecar and its registry that imitates every kind of registry failure.
#![allow(clippy::expect_used, reason = "a harness fails its test by panicking")]

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::wire::Wire;

/// How a connection to the registry is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryMode {
    /// It reaches the registry.
    Pass,
    /// It reaches the registry, which answers questions about services with the header fields of an agent of Consul 1.10 and
    /// later that streams.
    Streaming,
    /// It is reset at once, as if no process listened.
    Refuse,
    /// It is accepted, and nothing is ever answered.
    Hang,
    /// Every request is answered with this status and a sentence.
    Status(u16),
    /// Every request is answered with bytes that are no HTTP.
    Garbage,
    /// Every request is answered with 200 and JSON that breaks off.
    BrokenJson,
    /// Every request is answered with 200, a good index and an empty list.
    Empty,
    /// The same with this index.
    EmptyAt(u64),
    /// Every answer's head comes, and its body never ends.
    HalfAnswer,
}

/// An index that no registry of a test reaches.
const HIGH_INDEX: u64 = 1_000_000;

/// The stand-in's handle. Ends when it is dropped.
#[derive(Debug)]
pub struct RegistryProxy {
    addr: SocketAddr,
    mode: watch::Sender<RegistryMode>,
    counts: RequestCounts,
    task: JoinHandle<()>,
}

/// The requests that have passed.
type RequestCounts = Arc<Mutex<BTreeMap<String, u64>>>;

impl RegistryProxy {
    /// In front of `registry`, letting everything pass.
    ///
    /// # Panics
    /// No socket could be bound.
    pub async fn start(registry: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("its address");
        let (mode, watched) = watch::channel(RegistryMode::Pass);
        let counts = RequestCounts::default();
        let task = tokio::spawn(accept(listener, registry, watched, counts.clone()));
        Self { addr, mode, counts, task }
    }

    /// Where the sidecar looks for its registry.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many requests of each kind the mode [`RegistryMode::Pass`] has carried: by method and path, without the query. A
    /// question that waits for a change (`index=`) has the word `blocking` behind the path.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.counts.lock().clone()
    }

    /// Changes what happens; every connection of the former mode is reset.
    pub fn set(&self, mode: RegistryMode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for RegistryProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    registry: SocketAddr,
    mode: watch::Receiver<RegistryMode>,
    counts: RequestCounts,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let mut changed = mode.clone();
        let now = *changed.borrow_and_update();
        let counts = counts.clone();
        connections.spawn(async move {
            let mut wire = Wire::new(stream);
            tokio::select! {
                () = handle_connection(&mut wire, registry, now, &counts) => {}
                _ = changed.changed() => {}
            }
            wire.reset();
        });
    }
}

async fn handle_connection(
    wire: &mut Wire,
    registry: SocketAddr,
    mode: RegistryMode,
    counts: &RequestCounts,
) {
    match mode {
        RegistryMode::Pass => {
            if let Ok(to) = TcpStream::connect(registry).await {
                let (mut answers, mut questions) = to.into_split();
                let (mut app, mut to_app) = wire.stream.split();
                // How it ended is for the sidecar to find out.
                let _ = tokio::try_join!(copy_counted(&mut app, &mut questions, counts), async {
                    tokio::io::copy(&mut answers, &mut to_app).await?;
                    to_app.shutdown().await
                });
            }
        }
        RegistryMode::Streaming => {
            if let Ok(to) = TcpStream::connect(registry).await {
                let (mut answers, mut questions) = to.into_split();
                let (mut app, mut to_app) = wire.stream.split();
                tokio::select! {
                    _ = tokio::io::copy(&mut app, &mut questions) => {}
                    _ = copy_as_streamed(&mut answers, &mut to_app) => {}
                }
            }
        }
        RegistryMode::Refuse => {}
        RegistryMode::Hang => std::future::pending().await,
        RegistryMode::Status(status) => {
            answer_requests(wire, status, HIGH_INDEX, "rpc error: no leader, says the test", true).await
        }
        RegistryMode::Garbage => {
            if let Ok(Some(_)) = wire.read_head().await {
                // A failed write is as good.
                let _ = wire.write(b"\x16\x03\x01 no HTTP \r\n\r\n").await;
            }
        }
        RegistryMode::BrokenJson => {
            answer_requests(wire, 200, HIGH_INDEX, r#"[{"Service": {"ID": "#, true).await
        }
        RegistryMode::Empty => answer_requests(wire, 200, HIGH_INDEX, "[]", true).await,
        RegistryMode::EmptyAt(index) => answer_requests(wire, 200, index, "[]", true).await,
        RegistryMode::HalfAnswer => answer_requests(wire, 200, HIGH_INDEX, "[", false).await,
    }
}

/// Copies requests and counts them.
async fn copy_counted(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    counts: &RequestCounts,
) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    // The begin of a line that has not ended.
    let mut line = Vec::new();
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        for part in bytes[..count].split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if line.ends_with(b"\n") {
                if let Some(kind) = request_kind(&String::from_utf8_lossy(&line)) {
                    *counts.lock().entry(kind).or_default() += 1;
                }
                line.clear();
            }
        }
        to.write_all(&bytes[..count]).await?;
    }
}

/// Method and path, if the line ends with a request line. The body of the request before has no line end.
fn request_kind(line: &str) -> Option<String> {
    let line = line.trim_end().strip_suffix(" HTTP/1.1")?;
    let begin =
        ["GET /", "PUT /", "POST /", "DELETE /"].iter().filter_map(|method| line.rfind(method)).max()?;
    let (path, query) = line[begin..].split_once('?').unwrap_or((&line[begin..], ""));
    let is_blocking = query.split('&').any(|field| field.starts_with("index="));
    Some(if is_blocking { format!("{path} blocking") } else { path.to_owned() })
}

/// Copies answers. The head of each arrives at once, as a registry writes it.
async fn copy_as_streamed(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    const LEADER: &str = "X-Consul-Knownleader: true\r\n";
    const STREAMED: &str = "X-Consul-Knownleader: false\r\nX-Consul-Query-Backend: streaming\r\n";
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&bytes[..count]).replace(LEADER, STREAMED);
        to.write_all(text.as_bytes()).await?;
    }
}

async fn answer_requests(wire: &mut Wire, status: u16, index: u64, body: &str, whole: bool) {
    while let Ok(Some(_)) = wire.read_head().await {
        let length = if whole { body.len() } else { body.len() + 100 };
        let head = format!(
            "HTTP/1.1 {status} Scripted\r\nX-Consul-Index: {index}\r\nX-Consul-KnownLeader: true\r\n\
             X-Consul-LastContact: 0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        // A real registry holds a blocking query; one that always answers at once is worth a test,
        // and a busy loop is not.
        sleep(Duration::from_millis(5)).await;
        if wire.write(head.as_bytes()).await.is_err() || wire.write(body.as_bytes()).await.is_err() {
            return;
        }
        if !whole {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_method_path_and_whether_it_waits() {
        for (line, kind) in [
            ("GET /v1/kv/a/?recurse&index=7&wait=60s HTTP/1.1\r\n", Some("GET /v1/kv/a/ blocking")),
            ("{\"a\":1}PUT /v1/txn HTTP/1.1\r\n", Some("PUT /v1/txn")),
            ("DELETE /v1/kv/a?recurse HTTP/1.1\r\n", Some("DELETE /v1/kv/a")),
            ("Host: consul\r\n", None),
            ("{\"text\":\"GET / is one\"}\n", None),
        ] {
            assert_eq!(request_kind(line).as_deref(), kind, "{line}");
        }
    }
}
