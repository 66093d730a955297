//! A fault proxy in front of a registry. Unlike [`outrigger_tests::registry_proxy`] it parses requests, so that
//! it can count them, and give a wrong answer to a blocking query that is already waiting.
//!
//! It does not imitate a registry: every other answer comes from the real registry.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use outrigger_tests::wire::{Framing, Head, ReceivedBody, Wire, WireError};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The registry answers it.
    None,
    /// Bytes that are no HTTP.
    Garbage,
    /// This status, and a sentence.
    Status(u16),
    /// Nothing; when that is over, the end of the connection.
    Hang,
    /// The connection is closed in the middle of the answer's body.
    HalfBody,
    /// A whole answer with JSON that breaks off.
    HalfJson,
    /// 200 and an empty list. Only where instances are asked for; the agent's own
    /// side goes on working, as it does for a follower that has fallen behind.
    EmptyList(EmptyListIndex),
}

/// The index that an empty list comes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EmptyListIndex {
    /// The next index: everything was deregistered.
    Next,
    /// A low index: the registry has started over.
    Back,
    /// None at all.
    Missing,
}

struct FaultProxyState {
    registry: SocketAddr,
    fault: watch::Sender<Fault>,
    queries: AtomicU64,
    spoiled: AtomicU64,
    /// The highest index that the registry has answered with.
    index: AtomicU64,
}

impl FaultProxyState {
    /// Higher than any that was answered before.
    fn next_index(&self) -> u64 {
        self.index.fetch_add(1, Relaxed) + 1
    }
}

/// The proxy's handle. It ends when this is dropped.
pub(crate) struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<FaultProxyState>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    pub(crate) async fn start(registry: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind the fault proxy");
        let addr = listener.local_addr().expect("its address");
        let shared = Arc::new(FaultProxyState {
            registry,
            fault: watch::Sender::new(Fault::None),
            queries: AtomicU64::new(0),
            spoiled: AtomicU64::new(0),
            index: AtomicU64::new(1),
        });
        Self { addr, shared: shared.clone(), task: tokio::spawn(accept(listener, shared)) }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets the fault for new requests and for requests that wait for an answer.
    pub(crate) fn set(&self, fault: Fault) {
        self.shared.fault.send_replace(fault);
    }

    /// Requests so far.
    pub(crate) fn query_count(&self) -> u64 {
        self.shared.queries.load(Relaxed)
    }

    /// Requests that the registry did not answer, so far.
    pub(crate) fn spoiled_count(&self) -> u64 {
        self.shared.spoiled.load(Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<FaultProxyState>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let shared = shared.clone();
        connections.spawn(async move {
            // The result is the sidecar's concern.
            let _ = serve(Wire::new(stream), &shared).await;
        });
    }
}

struct RegistryQuery {
    head: Head,
    body: Vec<u8>,
}

impl RegistryQuery {
    fn asks_for_instances(&self) -> bool {
        self.head.split_start_line().1.starts_with("/v1/health/service/")
    }
}

async fn serve(mut wire: Wire, shared: &FaultProxyState) -> Result<(), WireError> {
    let mut registry = None;
    while let Some(head) = wire.read_head().await? {
        let body = Mutex::new(ReceivedBody::default());
        wire.read_body(head.framing(Framing::Length(0))?, &body).await?;
        let body = body.into_inner().kept;
        shared.queries.fetch_add(1, Relaxed);
        let (answer, goes_on) = answer(&wire, &mut registry, &RegistryQuery { head, body }, shared).await?;
        wire.write(&answer).await?;
        if !goes_on {
            return Ok(());
        }
    }
    Ok(())
}

/// The answer, by the fault at the time of the answer, and whether the connection stays open after it.
async fn answer(
    wire: &Wire,
    registry: &mut Option<Wire>,
    question: &RegistryQuery,
    shared: &FaultProxyState,
) -> Result<(Vec<u8>, bool), WireError> {
    let mut changes = shared.fault.subscribe();
    let mut spoiled = false;
    loop {
        let fault = match *changes.borrow_and_update() {
            Fault::EmptyList(_) if !question.asks_for_instances() => Fault::None,
            fault => fault,
        };
        if fault != Fault::None && !std::mem::replace(&mut spoiled, true) {
            shared.spoiled.fetch_add(1, Relaxed);
        }
        tokio::select! {
            made = produce_answer(registry, question, shared, fault) => return made,
            cut = wire.wait_closed() => return Err(cut),
            _ = changes.changed() => *registry = None, // half an answer may be under way there
        }
        if fault == Fault::Hang {
            return Err(WireError::Closed); // as of an agent that is replaced
        }
    }
}

async fn produce_answer(
    registry: &mut Option<Wire>,
    question: &RegistryQuery,
    shared: &FaultProxyState,
    fault: Fault,
) -> Result<(Vec<u8>, bool), WireError> {
    const BROKEN: &str = r#"[{"Node": {"ID": "#;
    const WORDS: &str = "no answer, says the fault proxy";
    match fault {
        Fault::None => Ok((relay(registry, question, shared).await?, true)),
        Fault::Hang => std::future::pending().await,
        Fault::Garbage => Ok((b"\x16\x03\x01\x02 no HTTP \r\n\r\n".to_vec(), false)),
        Fault::Status(status) => Ok((build_answer(status, None, WORDS, 0), true)),
        Fault::HalfBody => Ok((build_answer(200, Some(shared.next_index()), BROKEN, 500), false)),
        Fault::HalfJson => Ok((build_answer(200, Some(shared.next_index()), BROKEN, 0), true)),
        Fault::EmptyList(EmptyListIndex::Next) => {
            Ok((build_answer(200, Some(shared.next_index()), "[]", 0), true))
        }
        Fault::EmptyList(EmptyListIndex::Back) => Ok((build_answer(200, Some(3), "[]", 0), true)),
        Fault::EmptyList(EmptyListIndex::Missing) => Ok((build_answer(200, None, "[]", 0), true)),
    }
}

/// An answer of ours; `missing` bytes of its body never come.
fn build_answer(status: u16, index: Option<u64>, body: &str, missing: usize) -> Vec<u8> {
    let length = body.len() + missing;
    let index = index.map(|index| format!("X-Consul-Index: {index}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 {status} Spoiled\r\nContent-Type: application/json\r\nX-Consul-Knownleader: true\r\n\
         X-Consul-Lastcontact: 0\r\n{index}Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The registry's own answer, framed by its length.
async fn relay(
    registry: &mut Option<Wire>,
    question: &RegistryQuery,
    shared: &FaultProxyState,
) -> Result<Vec<u8>, WireError> {
    let mut there = match registry.take() {
        Some(open) => open,
        None => Wire::new(TcpStream::connect(shared.registry).await?),
    };
    there.write(&[&question.head.raw[..], &question.body].concat()).await?;
    let head = there.read_head().await?.ok_or(WireError::Closed)?;
    let body = Mutex::new(ReceivedBody::default());
    there.read_body(head.framing(Framing::Length(0))?, &body).await?;
    let body = body.into_inner().kept;
    let ok = head.split_start_line().1 == "200";
    if let Some(index) = head.get("x-consul-index").and_then(|text| text.parse().ok()).filter(|_| ok) {
        shared.index.fetch_max(index, Relaxed);
    }
    *registry = Some(there);
    let mut answer = format!("{}\r\n", head.start_line);
    for (name, value) in &head.fields {
        if !["transfer-encoding", "content-length"].contains(&name.to_ascii_lowercase().as_str()) {
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    answer.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    Ok([answer.into_bytes(), body].concat())
}
