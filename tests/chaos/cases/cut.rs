//! Exchanges that end in the middle: clients that disconnect during an upload, instances that send half an
//! answer, answers that come before the upload has ended. No resource of these exchanges stays in use.

use std::net::SocketAddr;

use outrigger_tests::{
    instance::{Answer, Request},
    load::RequestResults,
    pattern,
    wire::{Framing, ReceivedBody, Wire, WireError},
};
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::{
    case::{CaseResult, RunLength},
    case_report::CaseReport,
    resource_use::{MeasuredSidecar, ResourceUse},
};

/// Size of an upload, in bytes.
const UPLOAD: u64 = 1 << 20;
/// Bytes that the client sends before it disconnects.
const PART: u64 = 200_000;

/// What ends in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CutKind {
    /// The client closes its connection during the upload.
    ClientCloses,
    /// The client resets its connection during the upload.
    ClientResets,
    /// The client disconnects after half of the answer.
    ClientLeavesAnswer,
    /// The instance closes after half an answer.
    HalfAnswer,
    /// The instance resets after half an answer.
    HalfAnswerReset,
    /// The instance answers before it has read the upload, and closes.
    Early,
    /// The instance answers before it has read the upload, and reads on.
    EarlyAndOn,
}

impl CutKind {
    const ALL: [Self; 7] = [
        Self::ClientCloses,
        Self::ClientResets,
        Self::ClientLeavesAnswer,
        Self::HalfAnswer,
        Self::HalfAnswerReset,
        Self::Early,
        Self::EarlyAndOn,
    ];

    fn target(self) -> &'static str {
        match self {
            Self::ClientCloses | Self::ClientResets => "/upload",
            Self::ClientLeavesAnswer => "/half-and-hang",
            Self::HalfAnswer => "/half",
            Self::HalfAnswerReset => "/half-reset",
            Self::Early => "/early",
            Self::EarlyAndOn => "/early-and-on",
        }
    }

    fn uploads(self) -> bool {
        matches!(self, Self::ClientCloses | Self::ClientResets | Self::Early | Self::EarlyAndOn)
    }
}

fn script(request: &Request) -> Answer {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it";
    match request.target() {
        "/half" => Answer::raw(half).then_close(),
        "/half-reset" => Answer::raw(half).then_reset(),
        "/half-and-hang" => Answer::raw(half).then_hang(),
        "/early" => Answer::status(413, "too much").early().closing(),
        "/early-and-on" => Answer::status(413, "too much").early().then_half_close(),
        _ => Answer::ok("ok"),
    }
}

pub(super) async fn cut(form: RunLength) -> CaseResult {
    let count = form.pick([500, 100]);
    // Breaker and ejection are off, so that every request reaches the failure that it tests.
    let subject = MeasuredSidecar::start("defaults: {circuit_breaker: off, outlier: off}", script).await;
    // The round before the measurement makes the allocations that happen only once.
    for kind in CutKind::ALL {
        run_clients(&subject, kind, 20).await;
    }
    let before = subject.wait_idle().await;
    let mut all = RequestResults::default();
    let (mut broken, mut peak) = (Vec::new(), before);
    for kind in CutKind::ALL {
        let (tally, held) = run_clients(&subject, kind, count).await;
        peak = peak.max(held);
        if tally.failures().requests() > 0 {
            broken.push(format!("{kind:?}: {}", tally.describe_failures()));
        }
        all.0.extend(tally.0);
        // Each check waits until idle connections to instances have expired. A short run checks once, after the
        // last kind.
        if form == RunLength::Full || kind == CutKind::EarlyAndOn {
            broken.extend(
                subject.wait_released(before, peak).await.err().map(|left| format!("{kind:?}: {left}")),
            );
        }
    }
    let mut row = CaseReport::from_load(&all, subject.retried().await);
    row.require(broken.is_empty(), || broken.join("; "));
    row.note(format!("{count} at once of each of {} kinds", CutKind::ALL.len()));
    Ok(row)
}

/// Runs `count` clients of this kind at once.
async fn run_clients(
    subject: &MeasuredSidecar,
    kind: CutKind,
    count: usize,
) -> (RequestResults, ResourceUse) {
    let to = subject.process.outbound();
    let method = if kind.uploads() { "POST" } else { "GET" };
    subject.run_clients(count, method, || run_client(to, kind)).await
}

/// One exchange that ends in the middle. Returns an error if the client did not get what it should.
async fn run_client(to: SocketAddr, kind: CutKind) -> Result<(), String> {
    let stream = TcpStream::connect(to).await.map_err(|error| format!("connect: {error}"))?;
    let mut wire = Wire::new(stream);
    let (method, length) = if kind.uploads() { ("POST", UPLOAD) } else { ("GET", 0) };
    let head =
        format!("{method} {} HTTP/1.1\r\nHost: orders\r\nContent-Length: {length}\r\n\r\n", kind.target());
    wire.write(head.as_bytes()).await.map_err(|cut| format!("the head: {cut}"))?;
    match kind {
        CutKind::ClientCloses | CutKind::ClientResets => {
            upload(&mut wire, PART).await.map_err(|cut| format!("the upload: {cut}"))?;
            if kind == CutKind::ClientResets {
                wire.reset();
            }
            return Ok(());
        }
        // The upload is expected to fail.
        CutKind::Early | CutKind::EarlyAndOn => drop(upload(&mut wire, UPLOAD).await),
        CutKind::ClientLeavesAnswer | CutKind::HalfAnswer | CutKind::HalfAnswerReset => {}
    }
    let answer = match wire.read_head().await {
        Ok(Some(answer)) => answer,
        // The half of the answer may be lost together with the connection, which is no complete answer.
        Ok(None) | Err(_) if matches!(kind, CutKind::HalfAnswer | CutKind::HalfAnswerReset) => return Ok(()),
        Ok(None) => return Err("closed".to_owned()),
        Err(cut) => return Err(format!("the answer: {cut}")),
    };
    let (_, status, _) = answer.split_start_line();
    let body = Mutex::new(ReceivedBody::default());
    let framing = answer.framing(Framing::UntilClose).map_err(|cut| cut.to_string())?;
    match kind {
        CutKind::ClientLeavesAnswer => {
            wire.read_body(Framing::Length(4), &body).await.map_err(|cut| format!("half the body: {cut}"))
        }
        CutKind::HalfAnswer | CutKind::HalfAnswerReset if wire.read_body(framing, &body).await.is_err() => {
            Ok(())
        }
        CutKind::HalfAnswer | CutKind::HalfAnswerReset => {
            Err(format!("half an answer looked complete: {status}"))
        }
        _ if status == "413" => Ok(()),
        _ => Err(format!("{status} {}", answer.get("x-outrigger-error").unwrap_or_default())),
    }
}

async fn upload(wire: &mut Wire, len: u64) -> Result<(), WireError> {
    let mut at = 0;
    while at < len {
        let piece = pattern::slice_at(at, usize::try_from(len - at).unwrap_or(usize::MAX).min(16 * 1024));
        wire.write(piece).await?;
        at += piece.len() as u64;
    }
    Ok(())
}
