//! An agent that answers with given bytes and records the requests.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// More than any test needs.
pub(super) const LONG: Duration = Duration::from_secs(20);

/// How the agent reacts to a request.
#[derive(Clone)]
pub(super) enum AgentAction {
    /// Sends these bytes and waits for the next request.
    Send(Vec<u8>),
    /// Sends these bytes, which may be none, and closes the connection.
    SendAndClose(Vec<u8>),
    /// Sends nothing until the client closes the connection.
    Hang,
}

/// The script: the number of the request, from 0 over all connections, and its text.
type Script = dyn Fn(usize, &str) -> AgentAction + Send + Sync;

/// The agent. Ends when dropped.
pub(super) struct ScriptedAgent {
    addr: SocketAddr,
    shared: Arc<AgentShared>,
    task: JoinHandle<()>,
}

struct AgentShared {
    script: Box<Script>,
    tls: Option<TlsAcceptor>,
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
}

impl ScriptedAgent {
    pub(super) async fn start(script: impl Fn(usize, &str) -> AgentAction + Send + Sync + 'static) -> Self {
        Self::start_with_tls(None, script).await
    }

    /// Always the same answer.
    pub(super) async fn answering(answer: Vec<u8>) -> Self {
        Self::start(move |_, _| AgentAction::Send(answer.clone())).await
    }

    pub(super) async fn start_with_tls(
        tls: Option<TlsAcceptor>,
        script: impl Fn(usize, &str) -> AgentAction + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(AgentShared {
            script: Box::new(script),
            tls,
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Self { addr, shared, task }
    }

    /// Answers the first bytes of each connection, whatever they are, with `answer`, and closes it.
    pub(super) async fn answering_anything(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(AgentShared {
            script: Box::new(|_, _| AgentAction::Hang),
            tls: None,
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
        });
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 16_384]).await;
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { addr, shared, task }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Every request so far, head and body.
    pub(super) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The request lines so far.
    pub(super) fn request_lines(&self) -> Vec<String> {
        self.requests().iter().map(|text| text.lines().next().unwrap_or_default().to_owned()).collect()
    }

    /// How many connections were accepted so far.
    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Returns when `count` requests have arrived.
    pub(super) async fn wait_for_requests(&self, count: usize) {
        let all = async {
            while self.requests().len() < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, all).await.expect("the requests do not come");
    }
}

impl Drop for ScriptedAgent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<AgentShared>) {
    // Dropped, and so aborted, with this task.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(serve_stream(stream, shared.clone()));
    }
}

async fn serve_stream(stream: TcpStream, shared: Arc<AgentShared>) {
    match &shared.tls {
        None => serve_requests(stream, &shared).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                serve_requests(stream, &shared).await;
            }
        }
    }
}

async fn serve_requests(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: &AgentShared) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let number = {
            let mut asked = shared.requests.lock().unwrap();
            asked.push(request.clone());
            asked.len() - 1
        };
        match (shared.script)(number, &request) {
            AgentAction::Send(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            AgentAction::SendAndClose(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            AgentAction::Hang => {
                let _ = stream.read_to_end(&mut buffer).await;
                return;
            }
        }
    }
}

/// The next request's head and body.
async fn read_request(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some(end) = text.find("\r\n\r\n").map(|end| end + 4) {
            let length = text[..end]
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())
                .unwrap_or_default();
            if buffer.len() >= end + length {
                return Some(
                    String::from_utf8_lossy(&buffer.drain(..end + length).collect::<Vec<_>>()).into(),
                );
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// The bytes of an answer, as Consul writes them.
pub(super) fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Whatever\r\nVary: Accept-Encoding\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}

/// A good answer to a health query.
pub(super) fn health_response(index: &str, body: &str) -> Vec<u8> {
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Consul-Effective-Consistency", "leader"),
        ("X-Consul-Index", index),
        ("X-Consul-Knownleader", "true"),
        ("X-Consul-Lastcontact", "0"),
    ];
    response(200, &headers, body)
}
