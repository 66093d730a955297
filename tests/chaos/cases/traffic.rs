//! Clients of every kind for the soak, and which failures the death of an instance excuses.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_tests::{
    client::Client,
    load::RequestResult,
    pattern,
    wire::{Framing, ReceivedBody, Wire, WireError},
};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// Size of an upload: what is kept for a repetition by default.
pub(super) const BODY: usize = 64 * 1024;
/// Longest exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Size of a download, bytes.
const DOWNLOAD: u64 = 1 << 20;
/// In how many pieces a slow client sends or reads, and its pause after each.
const PIECES: usize = 8;
const PIECE_INTERVAL: Duration = Duration::from_millis(150);
/// Messages through one tunnel.
const MESSAGES: usize = 8;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// GETs on one connection.
    Get,
    /// GETs on a connection each.
    Connection,
    /// Uploads by length.
    Length,
    /// Uploads in chunks.
    Chunked,
    /// Answers of a mebibyte.
    Download,
    /// A stream of events.
    Events,
    /// An upgraded connection.
    Tunnel,
    /// A client that leaves in the middle of a request.
    Leaver,
    /// A client that leaves before there is a request.
    Scanner,
    /// A client that sends its head or its body, or reads its answer, in small pieces.
    Slow,
}

impl Kind {
    pub(super) const ALL: [Self; 10] = [
        Self::Get,
        Self::Connection,
        Self::Length,
        Self::Chunked,
        Self::Download,
        Self::Events,
        Self::Tunnel,
        Self::Leaver,
        Self::Scanner,
        Self::Slow,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Connection => "GET alone",
            Self::Length => "POST",
            Self::Chunked => "POST chunked",
            Self::Download => "download",
            Self::Events => "events",
            Self::Tunnel => "tunnel",
            Self::Leaver => "leaver",
            Self::Scanner => "scanner",
            Self::Slow => "slow",
        }
    }

    /// How many at once.
    pub(super) fn workers(self) -> usize {
        match self {
            Self::Get => 8,
            Self::Events | Self::Tunnel => 6,
            Self::Slow => 12,
            _ => 3,
        }
    }
}

/// Why an exchange failed, and at which instance, as far as it is known.
struct Failed {
    why: String,
    instance: Option<String>,
}

impl Failed {
    fn cut(instance: &str) -> Self {
        Self { why: "cut".to_owned(), instance: Some(instance.to_owned()) }
    }
}

impl From<WireError> for Failed {
    fn from(error: WireError) -> Self {
        Self { why: error.to_string(), instance: None }
    }
}

struct KillSpan {
    instance: String,
    /// `None`: it is under way.
    ended: Option<Instant>,
}

/// What the clients share.
pub(super) struct Traffic {
    to: SocketAddr,
    begun: Instant,
    stop: AtomicBool,
    kills: Mutex<Vec<KillSpan>>,
    results: Mutex<Vec<RequestResult>>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Traffic {
    /// Ends the text of a failure that the death of the instance excuses.
    pub(super) const EXCUSED: &'static str = "(its instance died)";

    pub(super) fn new(to: SocketAddr) -> Self {
        Self {
            to,
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            kills: Mutex::default(),
            results: Mutex::default(),
        }
    }

    /// Whether the sidecar had a whole head of it.
    pub(super) fn is_request(result: &RequestResult) -> bool {
        result.method != Kind::Scanner.label()
    }

    /// An instance is killed from now on, until [`Traffic::end_kill`].
    pub(super) fn begin_kill(&self, instance: &str) -> usize {
        let mut kills = self.kills.lock();
        kills.push(KillSpan { instance: instance.to_owned(), ended: None });
        kills.len() - 1
    }

    pub(super) fn end_kill(&self, nth: usize) {
        self.kills.lock()[nth].ended = Some(Instant::now());
    }

    /// The clients end after their exchange.
    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    pub(super) fn take_results(&self) -> Vec<RequestResult> {
        std::mem::take(&mut self.results.lock())
    }

    /// One client: exchanges one after the other.
    pub(super) async fn run_worker(self: Arc<Self>, kind: Kind) {
        let mut open = None;
        let mut nth: u64 = 0;
        while !self.stop.load(Relaxed) {
            let (begun, id) = (Instant::now(), NEXT_ID.fetch_add(1, Relaxed));
            let exchange = timeout(EXCHANGE_TIMEOUT, self.exchange(kind, id, nth, &mut open)).await;
            let failed = match exchange {
                Ok(ended) => ended.err(),
                Err(_) => {
                    Some(Failed { why: format!("not over within {EXCHANGE_TIMEOUT:?}"), instance: None })
                }
            };
            if failed.is_some() {
                open = None;
            }
            let (due, took) = (begun - self.begun, begun.elapsed());
            let failed = failed.map(|failed| match self.is_excused(kind, &failed, begun) {
                true => format!("{} {}", failed.why, Self::EXCUSED),
                false => failed.why,
            });
            self.results.lock().push(RequestResult { id, method: kind.label(), due, took, failed });
            nth += 1;
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether the instance was killed during the exchange, and the failure is what is promised then.
    fn is_excused(&self, kind: Kind, failed: &Failed, begun: Instant) -> bool {
        let died = |instance: Option<&str>| {
            self.kills.lock().iter().any(|kill| {
                instance.is_none_or(|instance| instance == kill.instance)
                    && kill.ended.is_none_or(|ended| ended >= begun)
            })
        };
        match kind {
            // Executed or not: a POST is not sent twice.
            Kind::Length | Kind::Chunked => failed.why == "502 sent_unknown" && died(None),
            // The head has gone to the app.
            Kind::Download | Kind::Events | Kind::Tunnel => {
                failed.why == "cut" && failed.instance.as_deref().is_some_and(|instance| died(Some(instance)))
            }
            Kind::Slow => {
                (failed.why == "502 sent_unknown" && died(None))
                    || (failed.why == "cut" && failed.instance.as_deref().is_some_and(|one| died(Some(one))))
            }
            Kind::Get | Kind::Connection | Kind::Leaver | Kind::Scanner => false,
        }
    }

    async fn connect(&self) -> Result<Client, Failed> {
        let stream = TcpStream::connect(self.to).await;
        let stream = stream.map_err(|error| Failed { why: format!("connect: {error}"), instance: None })?;
        Ok(Client { wire: Wire::new(stream) })
    }

    async fn exchange(&self, kind: Kind, id: u64, nth: u64, open: &mut Option<Client>) -> Result<(), Failed> {
        let mut client = match open.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        let head = |line: &str, more: &str| {
            format!("{line} HTTP/1.1\r\nHost: orders\r\nx-load-id: {id}\r\n{more}\r\n")
        };
        let mut keeps = kind != Kind::Connection;
        match kind {
            Kind::Get | Kind::Connection => {
                client.wire.write(head("GET /", "").as_bytes()).await?;
                keeps &= read_answer(&mut client, 2).await?;
            }
            Kind::Download => {
                client.wire.write(head("GET /download", "").as_bytes()).await?;
                keeps &= read_answer(&mut client, DOWNLOAD).await?;
            }
            Kind::Events => {
                client.wire.write(head("GET /events", "").as_bytes()).await?;
                keeps &= read_answer(&mut client, 20 * 7).await?;
            }
            Kind::Length => {
                let head = head("POST /", &format!("Content-Length: {BODY}\r\n"));
                // An answer may come before the end of the upload.
                let _ = client.wire.write(&[head.as_bytes(), &pattern::bytes(BODY)].concat()).await;
                keeps &= read_answer(&mut client, 2).await?;
            }
            Kind::Chunked => {
                let head = head("POST /", "Transfer-Encoding: chunked\r\n");
                let _ = send_chunks(&mut client, head, id as usize).await;
                keeps &= read_answer(&mut client, 2).await?;
            }
            Kind::Tunnel => {
                client
                    .wire
                    .write(head("GET /tunnel", "Connection: upgrade\r\nUpgrade: echo\r\n").as_bytes())
                    .await?;
                run_tunnel(&mut client, nth).await?;
                keeps = false;
            }
            Kind::Slow => keeps &= run_slowly(&mut client, head, nth).await?,
            Kind::Leaver => {
                leave(client, head, nth).await?;
                return Ok(());
            }
            Kind::Scanner => {
                if !nth.is_multiple_of(3) {
                    client.wire.write(b"GET / HTTP/1.1\r\nHost: ord").await?;
                }
                if nth % 3 == 2 {
                    client.reset();
                }
                return Ok(());
            }
        }
        if keeps {
            *open = Some(client);
        }
        Ok(())
    }
}

/// Reads an answer with a body of this length. Whether the connection can be used again.
async fn read_answer(client: &mut Client, len: u64) -> Result<bool, Failed> {
    let answer = client.try_response_to("GET").await?;
    if answer.status != 200 {
        return Err(Failed { why: format!("{} {}", answer.status, answer.reason()), instance: None });
    }
    if answer.body_error.is_some() {
        return Err(Failed::cut(answer.instance()));
    }
    if answer.body.len != len || (len == DOWNLOAD && !answer.body.is_pattern) {
        return Err(Failed {
            why: format!("a body of {} bytes, not {len}", answer.body.len),
            instance: None,
        });
    }
    Ok(!answer.field("connection").eq_ignore_ascii_case("close"))
}

/// Sends [`BODY`] bytes in chunks, the size of which depends on `seed`.
async fn send_chunks(client: &mut Client, head: String, seed: usize) -> Result<(), WireError> {
    client.wire.write(head.as_bytes()).await?;
    let size = 1000 + seed * 7919 % 30_000;
    let mut at = 0;
    while at < BODY {
        let piece = pattern::slice_at(at as u64, size.min(BODY - at));
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        client.wire.write(&chunk).await?;
        at += piece.len();
    }
    client.wire.write(b"0\r\n\r\n").await
}

/// Sends messages of growing size through a tunnel, and reads each one back.
async fn run_tunnel(client: &mut Client, nth: u64) -> Result<(), Failed> {
    let head = client.wire.read_head().await?.ok_or(WireError::Closed)?;
    let (_, status, _) = head.split_start_line();
    if status != "101" {
        return Err(Failed {
            why: format!("{status} {}", head.get("x-outrigger-error").unwrap_or_default()),
            instance: None,
        });
    }
    let instance = head.get("x-instance").unwrap_or_default().to_owned();
    for message in 0..MESSAGES {
        // A tunnel that ends by itself in the middle was cut.
        let cut = |_| Failed::cut(&instance);
        let len = 1 << (message * 2 + usize::from(nth.is_multiple_of(2)));
        let back = Mutex::new(ReceivedBody::default());
        client.wire.write(pattern::slice_at(0, len)).await.map_err(cut)?;
        let len = pattern::slice_at(0, len).len() as u64;
        client.wire.read_body(Framing::Length(len), &back).await.map_err(cut)?;
        if !back.lock().is_pattern {
            return Err(Failed { why: "other bytes came through a tunnel".to_owned(), instance: None });
        }
        sleep(Duration::from_millis(30)).await;
    }
    Ok(())
}

/// Sends a request, and disconnects in the middle of it. The close is no reset, so that the sidecar has read the whole head.
async fn leave(mut client: Client, head: impl Fn(&str, &str) -> String, nth: u64) -> Result<(), Failed> {
    match nth % 3 {
        // While the answer is waited for.
        0 => client.wire.write(head("GET /slow", "").as_bytes()).await?,
        // In the middle of the upload.
        1 => {
            let head = head("POST /", &format!("Content-Length: {BODY}\r\n"));
            client.wire.write(&[head.as_bytes(), &pattern::bytes(BODY / 2)].concat()).await?;
        }
        // In the middle of the answer.
        _ => {
            client.wire.write(head("GET /download", "").as_bytes()).await?;
            client.wire.read_head().await?.ok_or(WireError::Closed)?;
        }
    }
    Ok(())
}

/// Sends a head or an upload, or reads an answer, in pieces. Whether the connection can be used again.
async fn run_slowly(
    client: &mut Client,
    head: impl Fn(&str, &str) -> String,
    nth: u64,
) -> Result<bool, Failed> {
    match nth % 3 {
        0 => {
            let head = head("GET /", "");
            for piece in head.as_bytes().chunks(head.len().div_ceil(PIECES)) {
                client.wire.write(piece).await?;
                sleep(PIECE_INTERVAL).await;
            }
            read_answer(client, 2).await
        }
        1 => {
            client.wire.write(head("POST /", &format!("Content-Length: {BODY}\r\n")).as_bytes()).await?;
            for piece in pattern::bytes(BODY).chunks(BODY / PIECES) {
                // An answer may come before the end of the upload.
                if client.wire.write(piece).await.is_err() {
                    break;
                }
                sleep(PIECE_INTERVAL).await;
            }
            read_answer(client, 2).await
        }
        _ => {
            client.wire.write(head("GET /download", "").as_bytes()).await?;
            let head = client.wire.read_head().await?.ok_or(WireError::Closed)?;
            let (_, status, _) = head.split_start_line();
            if status != "200" {
                let why = format!("{status} {}", head.get("x-outrigger-error").unwrap_or_default());
                return Err(Failed { why, instance: None });
            }
            let instance = head.get("x-instance").unwrap_or_default().to_owned();
            let read = Mutex::new(ReceivedBody::default());
            for _ in 0..PIECES {
                let piece = Framing::Length(DOWNLOAD / PIECES as u64);
                client.wire.read_body(piece, &read).await.map_err(|_| Failed::cut(&instance))?;
                sleep(PIECE_INTERVAL).await;
            }
            let read = read.lock();
            if read.len != DOWNLOAD || !read.is_pattern {
                return Err(Failed { why: format!("a wrong body of {} bytes", read.len), instance: None });
            }
            Ok(false)
        }
    }
}
