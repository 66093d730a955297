//! Many slow clients at once, a kind after the other: heads that come in drops, bodies that do, and answers
//! that are read in sips. Each is served in the end; none costs much meanwhile, and nothing stays.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use outrigger_tests::{
    instance::Answer,
    wire::{Framing, Received, Wire},
};
use tokio::{
    net::TcpSocket,
    time::{sleep, timeout},
};

use super::{Case, Form, Trouble};
use crate::{
    client::Tally,
    held::{Held, Subject},
    row::Row,
};

/// So many at once, of three kinds.
pub(crate) const SLOW: Case = Case {
    name: "slow-clients",
    promise: "1,000 clients that send heads in drops, bodies in drops, or read answers in sips: all are served, \
              none costs 200 KiB, and nothing leaks",
    needs: &[],
    limit: [Duration::from_secs(300), Duration::from_secs(150)],
    run: |form| Box::pin(slow(form)),
};

/// Most memory that one of them costs.
const KIB_EACH: u64 = 200;
/// Between two drops, or sips.
const DROP: Duration = Duration::from_millis(500);
/// All of them stay slow for this long once they are.
const TOGETHER: Duration = Duration::from_secs(2);
/// Of the answer that is read in sips: more than sockets and codecs hold.
const BIG: u64 = 4 << 20;
const BODY: &str = "a body that comes in drops of three bytes each";

/// In which way they are slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Heads,
    Bodies,
    Readers,
}

async fn slow(form: Form) -> Result<Row, Trouble> {
    let count = form.pick([1000, 500]);
    let subject = Subject::of("", |request| match request.target() {
        "/big" => Answer::pattern(BIG),
        _ => Answer::ok("ok"),
    })
    .await;
    let kinds = [Kind::Heads, Kind::Bodies, Kind::Readers];
    // Once through all, so that what is made once is there.
    for kind in kinds {
        crowd(&subject, kind, 100).await;
    }
    let mut all = Tally::default();
    let (mut notes, mut broken) = (Vec::new(), Vec::new());
    for kind in kinds {
        let before = subject.at_rest().await;
        let (tally, peak) = crowd(&subject, kind, count).await;
        all.0.extend(tally.0);
        let each = peak.kib_each_since(&before, count);
        notes.push(format!("{kind:?} {each} KiB each"));
        if each >= KIB_EACH {
            broken.push(format!("{kind:?} cost {each} KiB each"));
        }
        // Each is a connection, and two while it waits for an instance.
        if peak.files < before.files + count {
            broken.push(format!("{kind:?}: no more than {} files, they were not there at once", peak.files));
        }
        broken.extend(subject.lets_go(before, peak).await.err().map(|left| format!("{kind:?}: {left}")));
    }
    let mut row = Row::of(&all, subject.retried().await);
    row.promise(all.failed().requests() == 0, || format!("{} failed", all.failed_by_class()));
    row.promise(broken.is_empty(), || broken.join("; "));
    row.note(format!("{count} at once: {}", notes.join(", ")));
    Ok(row)
}

/// So many of a kind. They hurry once all are half done and have been for a while.
async fn crowd(subject: &Subject, kind: Kind, count: usize) -> (Tally, Held) {
    let to = subject.process.outbound();
    let half_done = Arc::new(AtomicUsize::new(0));
    let method = if kind == Kind::Bodies { "POST" } else { "GET" };
    subject.crowd(count, method, || client(to, kind, Arc::clone(&half_done), count)).await
}

/// One slow client among `count`.
async fn client(to: SocketAddr, kind: Kind, half_done: Arc<AtomicUsize>, count: usize) -> Result<(), String> {
    let socket = TcpSocket::new_v4().map_err(|error| error.to_string())?;
    // So that what nobody reads is the sidecar's to hold.
    socket.set_recv_buffer_size(16 * 1024).map_err(|error| error.to_string())?;
    let stream = socket.connect(to).await.map_err(|error| format!("connect: {}", error.kind()))?;
    let mut wire = Wire::new(stream);
    // A head has to be there within 10 s of its first byte.
    let patience = if kind == Kind::Heads { Duration::from_secs(4) } else { Duration::from_secs(40) };
    let (at_once, in_drops, len) = match kind {
        Kind::Heads => (String::new(), "GET / HTTP/1.1\r\nHost: orders\r\n\r\n", 2),
        Kind::Bodies => {
            let length = BODY.len();
            (format!("POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: {length}\r\n\r\n"), BODY, 2)
        }
        Kind::Readers => ("GET /big HTTP/1.1\r\nHost: orders\r\n\r\n".to_owned(), "", BIG),
    };
    let failed = |doing: &'static str| move |cut| format!("{doing}: {cut}");
    wire.write(at_once.as_bytes()).await.map_err(failed("head"))?;
    let drops = in_drops.as_bytes().chunks(3);
    let half = drops.len() / 2;
    for (nth, drop) in drops.enumerate() {
        wire.write(drop).await.map_err(failed("a drop"))?;
        if nth == half {
            gather(&half_done, count, patience).await;
        } else if nth < half {
            sleep(DROP).await;
        }
    }
    let head = wire.head().await.map_err(failed("answer"))?.ok_or("closed")?;
    let (_, status, _) = head.words();
    if status != "200" {
        return Err(format!("{status} {}", head.get("x-outrigger-error").unwrap_or_default()));
    }
    let read = Mutex::new(Received::default());
    if kind == Kind::Readers {
        let sips = async {
            loop {
                sleep(DROP).await;
                if let Err(cut) = wire.body(Framing::Length(500), &read).await {
                    return cut;
                }
            }
        };
        tokio::select! {
            () = gather(&half_done, count, patience) => {}
            cut = sips => return Err(failed("a sip")(cut)),
        }
    }
    let left = len - so_far(&read).len;
    wire.body(Framing::Length(left), &read).await.map_err(failed("body"))?;
    let right = kind != Kind::Readers || so_far(&read).is_pattern;
    right.then_some(()).ok_or_else(|| "a wrong body".to_owned())
}

fn so_far(read: &Mutex<Received>) -> Received {
    read.lock().expect("nobody panics with it").clone()
}

/// Waits until all are half done and have been for a while.
async fn gather(half_done: &AtomicUsize, count: usize, patience: Duration) {
    half_done.fetch_add(1, SeqCst);
    // Whether they came together in the end is judged by the files.
    let _ = timeout(patience, async {
        while half_done.load(SeqCst) < count {
            sleep(DROP / 5).await;
        }
    })
    .await;
    sleep(TOGETHER).await;
}
