//! Many slow clients at once, one kind after the other: heads in small pieces, bodies in small pieces, and answers
//! that are read in small pieces. Each client is served; none costs much memory, and nothing stays in use.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use outrigger_tests::{
    instance::Answer,
    load::RequestResults,
    wire::{Framing, ReceivedBody, Wire},
};
use parking_lot::Mutex;
use tokio::{
    net::TcpSocket,
    time::{sleep, timeout},
};

use crate::{
    case::{CaseResult, RunLength},
    case_report::CaseReport,
    resource_use::{MeasuredSidecar, ResourceUse},
};

/// Most memory that one client may cost.
const MAX_KIB_EACH: u64 = 200;
/// Pause between two pieces that a client sends or reads.
const PIECE_INTERVAL: Duration = Duration::from_millis(500);
/// How long all clients stay half done together.
const HOLD_TIME: Duration = Duration::from_secs(2);
/// Size of the answer that is read in pieces: more than sockets and codecs hold.
const LARGE_ANSWER: u64 = 4 << 20;
const BODY: &str = "a body that is sent in pieces of three bytes";

/// What a client sends or reads slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlowKind {
    Heads,
    Bodies,
    Readers,
}

pub(super) async fn slow(form: RunLength) -> CaseResult {
    let count = form.pick([1000, 500]);
    let subject = MeasuredSidecar::start("", |request| match request.target() {
        "/big" => Answer::pattern(LARGE_ANSWER),
        _ => Answer::ok("ok"),
    })
    .await;
    let kinds = [SlowKind::Heads, SlowKind::Bodies, SlowKind::Readers];
    // The round before the measurement makes the allocations that happen only once.
    for kind in kinds {
        run_clients(&subject, kind, 100).await;
    }
    let mut all = RequestResults::default();
    let (mut notes, mut broken) = (Vec::new(), Vec::new());
    for kind in kinds {
        let before = subject.wait_idle().await;
        let (tally, peak) = run_clients(&subject, kind, count).await;
        all.0.extend(tally.0);
        let each = peak.kib_each_since(&before, count);
        notes.push(format!("{kind:?} {each} KiB each"));
        if each >= MAX_KIB_EACH {
            broken.push(format!("{kind:?} cost {each} KiB each"));
        }
        // Each client is one connection, and two while the request waits for an instance.
        if peak.files < before.files + count {
            broken
                .push(format!("{kind:?}: only {} files: not all clients were connected at once", peak.files));
        }
        broken
            .extend(subject.wait_released(before, peak).await.err().map(|left| format!("{kind:?}: {left}")));
    }
    let mut row = CaseReport::from_load(&all, subject.retried().await);
    row.require(all.failures().requests() == 0, || format!("{} failed", all.describe_failures()));
    row.require(broken.is_empty(), || broken.join("; "));
    row.note(format!("{count} at once: {}", notes.join(", ")));
    Ok(row)
}

/// Runs `count` clients of this kind. They finish without pauses once all have been half done for [`HOLD_TIME`].
async fn run_clients(
    subject: &MeasuredSidecar,
    kind: SlowKind,
    count: usize,
) -> (RequestResults, ResourceUse) {
    let to = subject.process.outbound();
    let half_done = Arc::new(AtomicUsize::new(0));
    let method = if kind == SlowKind::Bodies { "POST" } else { "GET" };
    subject.run_clients(count, method, || run_client(to, kind, Arc::clone(&half_done), count)).await
}

/// One slow client among `count`.
async fn run_client(
    to: SocketAddr,
    kind: SlowKind,
    half_done: Arc<AtomicUsize>,
    count: usize,
) -> Result<(), String> {
    let socket = TcpSocket::new_v4().map_err(|error| error.to_string())?;
    // A small buffer: the sidecar has to hold the bytes that the client does not read.
    socket.set_recv_buffer_size(16 * 1024).map_err(|error| error.to_string())?;
    let stream = socket.connect(to).await.map_err(|error| format!("connect: {}", error.kind()))?;
    let mut wire = Wire::new(stream);
    // A head must be complete within 10 s of its first byte.
    let wait_limit = if kind == SlowKind::Heads { Duration::from_secs(4) } else { Duration::from_secs(40) };
    let (at_once, in_pieces, len) = match kind {
        SlowKind::Heads => (String::new(), "GET / HTTP/1.1\r\nHost: orders\r\n\r\n", 2),
        SlowKind::Bodies => {
            let length = BODY.len();
            (format!("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: {length}\r\n\r\n"), BODY, 2)
        }
        SlowKind::Readers => ("GET /big HTTP/1.1\r\nHost: orders\r\n\r\n".to_owned(), "", LARGE_ANSWER),
    };
    let failed = |doing: &'static str| move |cut| format!("{doing}: {cut}");
    wire.write(at_once.as_bytes()).await.map_err(failed("head"))?;
    let pieces = in_pieces.as_bytes().chunks(3);
    let half = pieces.len() / 2;
    for (nth, piece) in pieces.enumerate() {
        wire.write(piece).await.map_err(failed("a piece"))?;
        if nth == half {
            wait_all_half_done(&half_done, count, wait_limit).await;
        } else if nth < half {
            sleep(PIECE_INTERVAL).await;
        }
    }
    let head = wire.read_head().await.map_err(failed("answer"))?.ok_or("closed")?;
    let (_, status, _) = head.split_start_line();
    if status != "200" {
        return Err(format!("{status} {}", head.get("x-outrigger-error").unwrap_or_default()));
    }
    let read = Mutex::new(ReceivedBody::default());
    if kind == SlowKind::Readers {
        let read_pieces = async {
            loop {
                sleep(PIECE_INTERVAL).await;
                if let Err(cut) = wire.read_body(Framing::Length(500), &read).await {
                    return cut;
                }
            }
        };
        tokio::select! {
            () = wait_all_half_done(&half_done, count, wait_limit) => {}
            cut = read_pieces => return Err(failed("a piece")(cut)),
        }
    }
    let left = len - received_so_far(&read).len;
    wire.read_body(Framing::Length(left), &read).await.map_err(failed("body"))?;
    let right = kind != SlowKind::Readers || received_so_far(&read).is_pattern;
    right.then_some(()).ok_or_else(|| "a wrong body".to_owned())
}

fn received_so_far(read: &Mutex<ReceivedBody>) -> ReceivedBody {
    read.lock().clone()
}

/// Waits until all clients have been half done for [`HOLD_TIME`].
async fn wait_all_half_done(half_done: &AtomicUsize, count: usize, wait_limit: Duration) {
    half_done.fetch_add(1, SeqCst);
    // The caller checks by the number of files whether all clients were connected at once.
    let _ = timeout(wait_limit, async {
        while half_done.load(SeqCst) < count {
            sleep(PIECE_INTERVAL / 5).await;
        }
    })
    .await;
    sleep(HOLD_TIME).await;
}
