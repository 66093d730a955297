//! An upgraded connection: bytes both ways, owned by the app connection's task.
//!
//! It ends when both sides have ended, when either breaks, or when both have been silent for the
//! tunnel's time-out. It looks at nothing that goes through.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::io::copy_bidirectional;

use crate::{
    io::{Line, LineIo},
    request::account::RequestAccount,
    upstream::{endpoint::InFlight, pool::Open},
};

/// The instance's half, waiting for the app's.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) line: Arc<Line>,
    /// Bytes that came with the answer's head.
    pub(crate) first: Bytes,
    pub(crate) held: Held,
}

/// What a tunnel holds until it ends: each counts somewhere, and stops counting when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) _open: Open,
    pub(crate) _ticket: InFlight,
    pub(crate) _exchange: RequestAccount,
}

impl Tunnel {
    /// Carries bytes until an end.
    pub(crate) async fn run(self, app: Arc<Line>, first: Bytes, idle: Duration) -> io::Result<()> {
        let mut near = LineIo::with_first(app.clone(), first);
        let mut far = LineIo::with_first(self.line.clone(), self.first);
        let moved = || app.read() + app.written() + self.line.read() + self.line.written();
        let copy = copy_bidirectional(&mut near, &mut far);
        tokio::pin!(copy);
        let mut before = moved();
        let ended = loop {
            match tokio::time::timeout(idle, &mut copy).await {
                Ok(ended) => break ended.map(|_| ()),
                Err(_) if moved() == before => break Err(io::ErrorKind::TimedOut.into()),
                Err(_) => before = moved(),
            }
        };
        drop(self.held);
        ended
    }
}
