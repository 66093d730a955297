//! One connection of an instance: reads requests, records them, does what the script says.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::{
    answer::{Answer, AnswerHead, AnswerStep, Callback},
    state::{ConnectionEnd, InstanceState, Kill, SeenRequest},
};
use crate::{
    pattern,
    wire::{Framing, ReceivedBody, Wire, WireError},
};

/// Bytes of the pattern written at once.
const WRITE_SIZE: usize = 64 * 1024;

/// What the script ends a connection by.
enum CloseAction {
    End(ConnectionEnd),
    Reset,
}

pub(super) async fn serve(mut wire: Wire, number: usize, shared: Arc<InstanceState>) {
    let mut killed = shared.kill.subscribe();
    let closing = tokio::select! {
        closing = serve_requests(&mut wire, number, &shared) => closing,
        how = killed.wait_for(Option::is_some) => match how.ok().and_then(|how| *how) {
            Some(Kill::Reset) => CloseAction::Reset,
            _ => CloseAction::End(ConnectionEnd::Killed),
        },
    };
    let end = match closing {
        CloseAction::Reset => {
            wire.reset();
            ConnectionEnd::Killed
        }
        CloseAction::End(end) => end,
    };
    shared.record_end(number, end);
}

async fn serve_requests(wire: &mut Wire, number: usize, shared: &Arc<InstanceState>) -> CloseAction {
    let mut on_connection = 0;
    loop {
        let head = match wire.read_head().await {
            Ok(Some(head)) => head,
            Ok(None) => return CloseAction::End(ConnectionEnd::Idle),
            // Nothing had come: a pool throws its connections away like this, too.
            Err(WireError::Reset) if wire.buffered().is_empty() => {
                return CloseAction::End(ConnectionEnd::Idle);
            }
            Err(cut) => return CloseAction::End(ConnectionEnd::ByPeer(cut)),
        };
        let SeenRequest { request, body, sent } = shared.record_request(number, on_connection, head);
        on_connection += 1;
        let in_flight = shared.begin();
        let framing = match request.head.framing(Framing::Length(0)) {
            Ok(framing) => framing,
            Err(cut) => return CloseAction::End(ConnectionEnd::ByPeer(cut)),
        };
        let keep = !request.head.values("connection").iter().any(|value| value.eq_ignore_ascii_case("close"));
        let answer = shared.answer(&request);
        let mut exchange = Exchange { wire, shared, framing: Some(framing), body: &body, sent: &sent };
        let is_head = request.method() == "HEAD";
        if let Err(closing) = exchange.write_answer(answer, is_head).await {
            return closing;
        }
        let unread = exchange.framing.is_some_and(|framing| framing != Framing::Length(0));
        drop(in_flight);
        if !keep || unread {
            return CloseAction::End(ConnectionEnd::ByScript);
        }
    }
}

struct Exchange<'a> {
    wire: &'a mut Wire,
    shared: &'a Arc<InstanceState>,
    /// How the unread body of the request ends; `None` once it was read.
    framing: Option<Framing>,
    body: &'a Mutex<ReceivedBody>,
    sent: &'a AtomicU64,
}

impl Exchange<'_> {
    async fn write_answer(&mut self, answer: Answer, is_head: bool) -> Result<(), CloseAction> {
        self.run_steps(&answer.before).await?;
        if let AnswerHead::Built { status, fields, version } = &answer.head {
            let mut head = format!("{version} {status} Scripted\r\nx-instance: {}\r\n", self.shared.name);
            for (name, value) in fields {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("\r\n");
            self.write(head.as_bytes()).await?;
        }
        if !is_head {
            self.run_steps(&answer.body).await?;
        }
        self.run_steps(&answer.after).await
    }

    async fn run_steps(&mut self, steps: &[AnswerStep]) -> Result<(), CloseAction> {
        for step in steps {
            self.run_step(step).await?;
        }
        Ok(())
    }

    async fn run_step(&mut self, step: &AnswerStep) -> Result<(), CloseAction> {
        match step {
            AnswerStep::Read => self.read_body().await,
            AnswerStep::ReadPart(bytes) => self.read_part(*bytes).await,
            AnswerStep::Write(bytes) => self.write(bytes).await,
            AnswerStep::Pattern { len, chunk } => self.write_pattern(*len, *chunk).await,
            AnswerStep::Pause(pause) => self.until_peer_closes(tokio::time::sleep(*pause)).await,
            AnswerStep::Wait(gate) => self.until_peer_closes(gate.wait_open()).await,
            AnswerStep::WaitForPeer => self.until_peer_closes(std::future::pending()).await,
            AnswerStep::Close => Err(CloseAction::End(ConnectionEnd::ByScript)),
            AnswerStep::Reset => Err(CloseAction::Reset),
            AnswerStep::Call(Callback(call)) => {
                call();
                Ok(())
            }
            AnswerStep::Echo => self.echo().await,
            AnswerStep::HalfClose => self.half_close().await,
        }
    }

    async fn read_body(&mut self) -> Result<(), CloseAction> {
        let Some(framing) = self.framing.take() else { return Ok(()) };
        self.wire.read_body(framing, self.body).await.map_err(closed_by_peer)
    }

    async fn read_part(&mut self, bytes: usize) -> Result<(), CloseAction> {
        while self.wire.buffered().len() < bytes {
            if !self.wire.fill().await.map_err(closed_by_peer)? {
                return Err(closed_by_peer(WireError::Closed));
            }
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), CloseAction> {
        self.wire.write(bytes).await.map_err(closed_by_peer)
    }

    async fn write_pattern(&mut self, len: u64, chunk: Option<usize>) -> Result<(), CloseAction> {
        let mut at = 0;
        while at < len {
            let left = usize::try_from(len - at).unwrap_or(usize::MAX);
            let bytes = pattern::slice_at(at, left.min(chunk.unwrap_or(WRITE_SIZE)));
            if chunk.is_some() {
                self.write(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
            }
            self.write(bytes).await?;
            if chunk.is_some() {
                self.write(b"\r\n").await?;
            }
            at += bytes.len() as u64;
            self.sent.store(at, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits for `what`, and gives up when the peer goes first.
    async fn until_peer_closes(&mut self, what: impl Future<Output = ()>) -> Result<(), CloseAction> {
        tokio::select! {
            () = what => Ok(()),
            cut = self.wire.wait_closed() => Err(closed_by_peer(cut)),
        }
    }

    async fn echo(&mut self) -> Result<(), CloseAction> {
        loop {
            let back = self.wire.take_buffered();
            self.write(&back).await?;
            if !self.wire.fill().await.map_err(closed_by_peer)? {
                return Err(closed_by_peer(WireError::Closed));
            }
        }
    }

    async fn half_close(&mut self) -> Result<(), CloseAction> {
        // Fails only when the peer has gone, which the read says better.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.wire.stream).await;
        let mut rest = Mutex::new(ReceivedBody::default());
        let read = self.wire.read_body(Framing::UntilClose, &rest).await;
        self.body.lock().kept.append(&mut rest.get_mut().kept);
        read.map_err(closed_by_peer)?;
        Err(CloseAction::End(ConnectionEnd::ByPeer(WireError::Closed)))
    }
}

fn closed_by_peer(cut: WireError) -> CloseAction {
    CloseAction::End(ConnectionEnd::ByPeer(cut))
}
