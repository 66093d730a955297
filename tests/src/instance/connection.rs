//! One connection of an instance: reads requests, records them, does what the script says.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use super::{
    Request, Seen, Shared,
    answer::{Answer, Head, Step},
};
use crate::{
    pattern,
    wire::{Cut, Framing, Received, Wire, lock},
};

/// Bytes of the pattern written at once.
const WRITE: usize = 64 * 1024;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The peer closed or broke it, or sent no HTTP/1.
    Peer(Cut),
    /// The script closed it.
    Script,
    /// The peer closed between two requests.
    Idle,
    /// The instance was killed.
    Killed,
}

/// What the script ends a connection by.
enum Closing {
    End(End),
    Reset,
}

pub(super) async fn serve(mut wire: Wire, number: usize, shared: Arc<Shared>) {
    let mut killed = shared.kill.subscribe();
    let closing = tokio::select! {
        closing = requests(&mut wire, number, &shared) => closing,
        how = killed.wait_for(Option::is_some) => match how.ok().and_then(|how| *how) {
            Some(super::Kill::Reset) => Closing::Reset,
            _ => Closing::End(End::Killed),
        },
    };
    let end = match closing {
        Closing::Reset => {
            wire.reset();
            End::Killed
        }
        Closing::End(end) => end,
    };
    shared.ended(number, end);
}

async fn requests(wire: &mut Wire, number: usize, shared: &Arc<Shared>) -> Closing {
    let mut on_connection = 0;
    loop {
        let head = match wire.head().await {
            Ok(Some(head)) => head,
            Ok(None) => return Closing::End(End::Idle),
            // Nothing had come: a pool throws its connections away like this, too.
            Err(Cut::Reset) if wire.ahead().is_empty() => return Closing::End(End::Idle),
            Err(cut) => return Closing::End(End::Peer(cut)),
        };
        let body = Arc::new(Mutex::new(Received::default()));
        let sent = Arc::new(AtomicU64::new(0));
        let request = {
            let mut seen = lock(&shared.seen);
            let request =
                Request { nth: seen.len(), connection: number, nth_on_connection: on_connection, head };
            seen.push(Seen { request: request.clone(), body: Arc::clone(&body), sent: Arc::clone(&sent) });
            request
        };
        on_connection += 1;
        let in_flight = shared.begin();
        let framing = match request.head.framing(Framing::Length(0)) {
            Ok(framing) => framing,
            Err(cut) => return Closing::End(End::Peer(cut)),
        };
        let keep = !request.head.all("connection").iter().any(|value| value.eq_ignore_ascii_case("close"));
        let answer = shared.answer(&request);
        let mut exchange = Exchange { wire, shared, framing: Some(framing), body: &body, sent: &sent };
        let is_head = request.method() == "HEAD";
        if let Err(closing) = exchange.play(answer, is_head).await {
            return closing;
        }
        let unread = exchange.framing.is_some_and(|framing| framing != Framing::Length(0));
        drop(in_flight);
        if !keep || unread {
            return Closing::End(End::Script);
        }
    }
}

struct Exchange<'a> {
    wire: &'a mut Wire,
    shared: &'a Arc<Shared>,
    /// How the unread body of the request ends; `None` once it was read.
    framing: Option<Framing>,
    body: &'a Mutex<Received>,
    sent: &'a AtomicU64,
}

impl Exchange<'_> {
    async fn play(&mut self, answer: Answer, is_head: bool) -> Result<(), Closing> {
        self.steps(&answer.before).await?;
        if let Head::Built { status, fields, version } = &answer.head {
            let mut head = format!("{version} {status} Scripted\r\nx-instance: {}\r\n", self.shared.name);
            for (name, value) in fields {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("\r\n");
            self.write(head.as_bytes()).await?;
        }
        if !is_head {
            self.steps(&answer.body).await?;
        }
        self.steps(&answer.after).await
    }

    async fn steps(&mut self, steps: &[Step]) -> Result<(), Closing> {
        for step in steps {
            self.step(step).await?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<(), Closing> {
        match step {
            Step::Read => self.read().await,
            Step::Sip(bytes) => self.sip(*bytes).await,
            Step::Write(bytes) => self.write(bytes).await,
            Step::Pattern { len, chunk } => self.pattern(*len, *chunk).await,
            Step::Pause(pause) => self.unless_gone(tokio::time::sleep(*pause)).await,
            Step::Wait(gate) => self.unless_gone(gate.passed()).await,
            Step::Hang => self.unless_gone(std::future::pending()).await,
            Step::Fin => Err(Closing::End(End::Script)),
            Step::Rst => Err(Closing::Reset),
            Step::Echo => self.echo().await,
            Step::HalfClose => self.half_close().await,
        }
    }

    async fn read(&mut self) -> Result<(), Closing> {
        let Some(framing) = self.framing.take() else { return Ok(()) };
        self.wire.body(framing, self.body).await.map_err(by_peer)
    }

    async fn sip(&mut self, bytes: usize) -> Result<(), Closing> {
        while self.wire.ahead().len() < bytes {
            if !self.wire.fill().await.map_err(by_peer)? {
                return Err(by_peer(Cut::Fin));
            }
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Closing> {
        self.wire.write(bytes).await.map_err(by_peer)
    }

    async fn pattern(&mut self, len: u64, chunk: Option<usize>) -> Result<(), Closing> {
        let mut at = 0;
        while at < len {
            let left = usize::try_from(len - at).unwrap_or(usize::MAX);
            let bytes = pattern::at(at, left.min(chunk.unwrap_or(WRITE)));
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
    async fn unless_gone(&mut self, what: impl Future<Output = ()>) -> Result<(), Closing> {
        tokio::select! {
            () = what => Ok(()),
            cut = self.wire.gone() => Err(by_peer(cut)),
        }
    }

    async fn echo(&mut self) -> Result<(), Closing> {
        loop {
            let back = self.wire.take_ahead();
            self.write(&back).await?;
            if !self.wire.fill().await.map_err(by_peer)? {
                return Err(by_peer(Cut::Fin));
            }
        }
    }

    async fn half_close(&mut self) -> Result<(), Closing> {
        // Fails only when the peer has gone, which the read says better.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.wire.stream).await;
        let mut rest = Mutex::new(Received::default());
        let read = self.wire.body(Framing::ToClose, &rest).await;
        lock(self.body).kept.append(&mut rest.get_mut().unwrap_or_else(|e| e.into_inner()).kept);
        read.map_err(by_peer)?;
        Err(Closing::End(End::Peer(Cut::Fin)))
    }
}

fn by_peer(cut: Cut) -> Closing {
    Closing::End(End::Peer(cut))
}
