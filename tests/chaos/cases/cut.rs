//! Exchanges that end in the middle: clients that leave while they upload, instances that send half an
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

/// Of an upload.
const UPLOAD: u64 = 1 << 20;
/// What the client sends before it leaves.
const PART: u64 = 200_000;

/// What ends in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CutKind {
    /// The client closes while it uploads.
    ClientCloses,
    /// It resets.
    ClientResets,
    /// It leaves while the instance has half an answer to go.
    ClientLeavesAnswer,
    /// The instance closes after half an answer.
    HalfAnswer,
    /// It resets.
    HalfAnswerReset,
    /// The instance answers before it has read the upload, and closes.
    Early,
    /// It answers, and reads on.
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
    // So that every request reaches the failure that it tests.
    let subject = MeasuredSidecar::start("defaults: {circuit_breaker: off, outlier: off}", script).await;
    // One round before the measurement, so that what is allocated once exists.
    for way in CutKind::ALL {
        run_clients(&subject, way, 20).await;
    }
    let before = subject.wait_idle().await;
    let mut all = RequestResults::default();
    let (mut broken, mut peak) = (Vec::new(), before);
    for way in CutKind::ALL {
        let (tally, held) = run_clients(&subject, way, count).await;
        peak = peak.max(held);
        if tally.failures().requests() > 0 {
            broken.push(format!("{way:?}: {}", tally.describe_failures()));
        }
        all.0.extend(tally.0);
        // Each look waits until connections to instances have aged out: in short, one for all.
        if form == RunLength::Full || way == CutKind::EarlyAndOn {
            broken.extend(
                subject.wait_released(before, peak).await.err().map(|left| format!("{way:?}: {left}")),
            );
        }
    }
    let mut row = CaseReport::from_load(&all, subject.retried().await);
    row.require(broken.is_empty(), || broken.join("; "));
    row.note(format!("{count} at once of each of {}", CutKind::ALL.len()));
    Ok(row)
}

/// So many at once.
async fn run_clients(subject: &MeasuredSidecar, way: CutKind, count: usize) -> (RequestResults, ResourceUse) {
    let to = subject.process.outbound();
    let method = if way.uploads() { "POST" } else { "GET" };
    subject.run_clients(count, method, || run_client(to, way)).await
}

/// One exchange that ends in the middle. An error: the client did not see what it should.
async fn run_client(to: SocketAddr, way: CutKind) -> Result<(), String> {
    let stream = TcpStream::connect(to).await.map_err(|error| format!("connect: {error}"))?;
    let mut wire = Wire::new(stream);
    let (method, length) = if way.uploads() { ("POST", UPLOAD) } else { ("GET", 0) };
    let head =
        format!("{method} {} HTTP/1.1\r\nHost: orders\r\nContent-Length: {length}\r\n\r\n", way.target());
    wire.write(head.as_bytes()).await.map_err(|cut| format!("the head: {cut}"))?;
    match way {
        CutKind::ClientCloses | CutKind::ClientResets => {
            upload(&mut wire, PART).await.map_err(|cut| format!("the upload: {cut}"))?;
            if way == CutKind::ClientResets {
                wire.reset();
            }
            return Ok(());
        }
        // That it breaks is the point.
        CutKind::Early | CutKind::EarlyAndOn => drop(upload(&mut wire, UPLOAD).await),
        CutKind::ClientLeavesAnswer | CutKind::HalfAnswer | CutKind::HalfAnswerReset => {}
    }
    let answer = match wire.read_head().await {
        Ok(Some(answer)) => answer,
        // The half of the answer may be lost together with the connection: that is no whole one.
        Ok(None) | Err(_) if matches!(way, CutKind::HalfAnswer | CutKind::HalfAnswerReset) => return Ok(()),
        Ok(None) => return Err("closed".to_owned()),
        Err(cut) => return Err(format!("the answer: {cut}")),
    };
    let (_, status, _) = answer.split_start_line();
    let body = Mutex::new(ReceivedBody::default());
    let framing = answer.framing(Framing::UntilClose).map_err(|cut| cut.to_string())?;
    match way {
        CutKind::ClientLeavesAnswer => {
            wire.read_body(Framing::Length(4), &body).await.map_err(|cut| format!("half the body: {cut}"))
        }
        CutKind::HalfAnswer | CutKind::HalfAnswerReset if wire.read_body(framing, &body).await.is_err() => {
            Ok(())
        }
        CutKind::HalfAnswer | CutKind::HalfAnswerReset => {
            Err(format!("half an answer looked whole: {status}"))
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
