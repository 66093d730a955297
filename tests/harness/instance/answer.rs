//! What an instance does when a request has come.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::watch;

/// One thing to do.
#[derive(Debug, Clone)]
pub(super) enum AnswerStep {
    /// Read the rest of the request's body.
    Read,
    /// Read this much of it, without taking it apart.
    ReadPart(usize),
    /// Write these bytes.
    Write(Arc<[u8]>),
    /// Write this many bytes of the pattern, in chunks of this size if one is given.
    Pattern { len: u64, chunk: Option<usize> },
    /// Do nothing for a while.
    Pause(Duration),
    /// Do nothing until the gate opens.
    Wait(Gate),
    /// Call this function.
    Call(Callback),
    /// Close.
    Close,
    /// Reset.
    Reset,
    /// Do nothing until the peer has gone.
    WaitForPeer,
    /// Write back everything that comes, until the peer has shut down its side; then close.
    Echo,
    /// Close the writing side, then read until the peer closes.
    HalfClose,
}

/// A function that the script calls.
#[derive(Clone)]
pub(super) struct Callback(pub(super) Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

/// A script for one request. Unless it says otherwise the body is read first, and the connection is
/// kept if the request asked for that.
#[derive(Debug, Clone)]
pub struct Answer {
    pub(super) before: Vec<AnswerStep>,
    pub(super) head: AnswerHead,
    /// Left out for HEAD.
    pub(super) body: Vec<AnswerStep>,
    pub(super) after: Vec<AnswerStep>,
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub(super) enum AnswerHead {
    /// Status and fields; `x-instance` and the empty line are added.
    Built { status: u16, fields: Vec<(String, String)>, version: &'static str },
    /// None: everything is in the steps.
    None,
}

impl Answer {
    fn built(status: u16) -> Self {
        Self {
            before: vec![AnswerStep::Read],
            head: AnswerHead::Built { status, fields: Vec::new(), version: "HTTP/1.1" },
            body: Vec::new(),
            after: Vec::new(),
        }
    }

    /// 200 with this body and its length.
    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::status(200, body)
    }

    /// This status with this body and its length.
    pub fn status(status: u16, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut answer = Self::built(status).field("content-length", &body.len().to_string());
        answer.body.push(AnswerStep::Write(body.into()));
        answer
    }

    /// This status, and neither body nor framing: 204, 304.
    pub fn without_body(status: u16) -> Self {
        Self::built(status)
    }

    /// 200 with this many bytes of the pattern, by length.
    pub fn pattern(len: u64) -> Self {
        let mut answer = Self::built(200).field("content-length", &len.to_string());
        answer.body.push(AnswerStep::Pattern { len, chunk: None });
        answer
    }

    /// 200 with this many bytes of the pattern, in chunks.
    pub fn chunked_pattern(len: u64, chunk: usize) -> Self {
        let mut answer = Self::built(200).field("transfer-encoding", "chunked");
        answer.body.push(AnswerStep::Pattern { len, chunk: Some(chunk) });
        answer.body.push(AnswerStep::Write((*b"0\r\n\r\n").into()));
        answer
    }

    /// 200 with these chunks, and these trailer fields (whole lines without their end).
    pub fn chunked(chunks: &[&str], trailers: &[&str]) -> Self {
        let mut text = String::new();
        for chunk in chunks {
            text.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
        }
        text.push_str("0\r\n");
        for line in trailers {
            text.push_str(&format!("{line}\r\n"));
        }
        text.push_str("\r\n");
        let mut answer = Self::built(200).field("transfer-encoding", "chunked");
        answer.body.push(AnswerStep::Write(text.into_bytes().into()));
        answer
    }

    /// An HTTP/1.0 answer that ends with the connection.
    pub fn http10(body: impl AsRef<[u8]>) -> Self {
        let mut answer = Self::built(200);
        if let AnswerHead::Built { version, .. } = &mut answer.head {
            *version = "HTTP/1.0";
        }
        answer.body.push(AnswerStep::Write(body.as_ref().into()));
        answer.after.push(AnswerStep::Close);
        answer
    }

    /// Exactly these bytes, the body read before.
    pub fn raw(bytes: impl AsRef<[u8]>) -> Self {
        let mut answer = Self::built(0);
        answer.head = AnswerHead::None;
        answer.body.push(AnswerStep::Write(bytes.as_ref().into()));
        answer
    }

    /// Nothing: the body is read, and the connection left open.
    pub fn no_answer() -> Self {
        Self::raw("").then(AnswerStep::WaitForPeer)
    }

    /// 101, then everything that comes is written back.
    pub fn upgrade(protocol: &str) -> Self {
        Self::built(101).field("connection", "upgrade").field("upgrade", protocol).then(AnswerStep::Echo)
    }

    /// One more field.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        if let AnswerHead::Built { fields, .. } = &mut self.head {
            fields.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// The request's body is not read before the answer (and not after it).
    #[must_use]
    pub fn early(mut self) -> Self {
        self.before.retain(|step| !matches!(step, AnswerStep::Read));
        self
    }

    /// The request's body is read when the gate opens, and not before.
    #[must_use]
    pub fn read_body_when(mut self, gate: &Gate) -> Self {
        self.before.insert(0, AnswerStep::Wait(gate.clone()));
        self
    }

    /// About this many bytes of the request's body are read, then nothing more.
    #[must_use]
    pub fn after_partial_body(mut self, bytes: usize) -> Self {
        self = self.early();
        self.before.push(AnswerStep::ReadPart(bytes));
        self
    }

    /// `call` runs before the head is written; the request's body has been read, unless [`Answer::early`] was
    /// called before.
    #[must_use]
    pub fn calling(mut self, call: impl Fn() + Send + Sync + 'static) -> Self {
        self.before.push(AnswerStep::Call(Callback(Arc::new(call))));
        self
    }

    /// The head comes this much later.
    #[must_use]
    pub fn delayed(mut self, by: Duration) -> Self {
        self.before.push(AnswerStep::Pause(by));
        self
    }

    /// The head comes when the gate opens.
    #[must_use]
    pub fn when(mut self, gate: &Gate) -> Self {
        self.before.push(AnswerStep::Wait(gate.clone()));
        self
    }

    /// The connection is closed after it, and the answer says so.
    #[must_use]
    pub fn closing(self) -> Self {
        self.field("connection", "close").then(AnswerStep::Close)
    }

    /// The connection is closed after it without notice.
    #[must_use]
    pub fn then_close(self) -> Self {
        self.then(AnswerStep::Close)
    }

    /// The connection is reset after it.
    #[must_use]
    pub fn then_reset(self) -> Self {
        self.then(AnswerStep::Reset)
    }

    /// Nothing happens after it until the peer has gone.
    #[must_use]
    pub fn then_hang(self) -> Self {
        self.then(AnswerStep::WaitForPeer)
    }

    /// The writing side is closed after it; what the peer still sends is read.
    #[must_use]
    pub fn then_half_close(self) -> Self {
        self.then(AnswerStep::HalfClose)
    }

    /// These bytes come after it.
    #[must_use]
    pub fn then_write(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(AnswerStep::Write(bytes.as_ref().into()))
    }

    /// This much of the pattern comes after it, without framing.
    #[must_use]
    pub fn then_pattern(self, len: u64) -> Self {
        self.then(AnswerStep::Pattern { len, chunk: None })
    }

    /// Everything waits here until the gate opens.
    #[must_use]
    pub fn then_wait(self, gate: &Gate) -> Self {
        self.then(AnswerStep::Wait(gate.clone()))
    }

    /// Everything waits here for a while.
    #[must_use]
    pub fn then_pause(self, pause: Duration) -> Self {
        self.then(AnswerStep::Pause(pause))
    }

    fn then(mut self, step: AnswerStep) -> Self {
        self.after.push(step);
        self
    }
}

/// Steps wait at the gate until the test opens it. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed one.
    pub fn closed() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }

    /// Opens it for all waits, from now on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn wait_open(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}
