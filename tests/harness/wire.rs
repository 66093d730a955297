//! HTTP/1 as bytes on a socket, for both ends of the tests: a small strict reader of its own, so that
//! the code under test is never judged by the library that it is built on.
//!
//! It takes CRLF line ends only, exactly one way of framing, and chunk sizes without extensions.

use std::{fmt, io};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::TcpStream,
};

use crate::pattern;

/// Body bytes kept verbatim; the rest is counted and compared with [`pattern`].
const MAX_KEPT: usize = 1024 * 1024;
/// Longest head that is read.
const MAX_HEAD: usize = 512 * 1024;
/// Bytes read at once, at least.
const READ_SIZE: usize = 64 * 1024;
/// Longest line inside a chunked body.
const MAX_LINE: usize = 16 * 1024;

/// Why a message did not end as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireError {
    /// The peer closed in the middle.
    Closed,
    /// The connection was reset.
    Reset,
    /// Something that is no HTTP/1, and why.
    Malformed(String),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed in the middle"),
            Self::Reset => f.write_str("reset"),
            Self::Malformed(why) => write!(f, "no HTTP/1: {why}"),
        }
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Reset,
        }
    }
}

/// A message's head.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Every byte of it, the empty line included.
    pub raw: Vec<u8>,
    /// Request line or status line.
    pub start_line: String,
    /// Fields in their order: name as it came, value trimmed.
    pub fields: Vec<(String, String)>,
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.start_line, self.fields)
    }
}

impl Head {
    fn parse(raw: &[u8]) -> Result<Self, WireError> {
        let garbage =
            |why: &str| WireError::Malformed(format!("{why} in {:?}", String::from_utf8_lossy(raw)));
        let text = raw.strip_suffix(b"\r\n\r\n").ok_or_else(|| garbage("no end"))?;
        // Bytes beyond ASCII are kept as Latin-1 would read them.
        let text: String = text.iter().map(|byte| char::from(*byte)).collect();
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .map(|line| {
                let (name, value) = line.split_once(':').ok_or_else(|| garbage("a line without a colon"))?;
                if name.is_empty() || name.contains(char::is_whitespace) || value.contains(['\r', '\n', '\0'])
                {
                    return Err(garbage("a bad field"));
                }
                Ok((name.to_owned(), value.trim().to_owned()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { raw: raw.to_vec(), start_line: start, fields })
    }

    /// The value of the only field of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        match *self.values(name) {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The values of every field of that name.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// Whether there is such a field.
    pub fn has(&self, name: &str) -> bool {
        !self.values(name).is_empty()
    }

    /// The start line's words.
    pub fn split_start_line(&self) -> (&str, &str, &str) {
        let mut words = self.start_line.splitn(3, ' ');
        let mut next = || words.next().unwrap_or_default();
        (next(), next(), next())
    }

    /// How the body that follows ends, by the fields alone. `none` is what no field means.
    ///
    /// # Errors
    /// Two ways at once, or none that is known: a strict reader takes neither.
    pub fn framing(&self, none: Framing) -> Result<Framing, WireError> {
        let garbage = |why: &str| WireError::Malformed(format!("{why}: {:?}", self.fields));
        match (self.values("transfer-encoding").as_slice(), self.values("content-length").as_slice()) {
            ([], []) => Ok(none),
            ([], [length]) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().map(Framing::Length).map_err(|_| garbage("a bad content-length"))
            }
            ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            _ => Err(garbage("framing in two ways")),
        }
    }
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// A body as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceivedBody {
    /// Bytes of content so far.
    pub len: u64,
    /// The first MiB of them.
    pub kept: Vec<u8>,
    /// All of them are the [`pattern`]'s.
    pub is_pattern: bool,
    /// Chunks, when it was chunked.
    pub chunks: u64,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
    /// It ended as its framing says.
    pub complete: bool,
}

impl Default for ReceivedBody {
    fn default() -> Self {
        Self { len: 0, kept: Vec::new(), is_pattern: true, chunks: 0, trailers: Vec::new(), complete: false }
    }
}

impl fmt::Debug for ReceivedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = String::from_utf8_lossy(&self.kept[..self.kept.len().min(400)]).into_owned();
        f.debug_struct("Received").field("len", &self.len).field("start", &start).finish_non_exhaustive()
    }
}

impl ReceivedBody {
    fn append(&mut self, bytes: &[u8]) {
        self.is_pattern &= pattern::matches(self.len, bytes);
        self.len += bytes.len() as u64;
        let room = MAX_KEPT - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// What was kept, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

/// A socket with what was read ahead.
#[derive(Debug)]
pub struct Wire {
    /// The socket.
    pub stream: TcpStream,
    buffer: Vec<u8>,
    position: usize,
}

impl Wire {
    /// Around a connected socket.
    pub fn new(stream: TcpStream) -> Self {
        // Fails on a socket that is closed already, which the first read will say.
        let _ = stream.set_nodelay(true);
        Self { stream, buffer: Vec::new(), position: 0 }
    }

    /// Bytes read and not taken.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.position..]
    }

    /// Takes them.
    pub fn take_buffered(&mut self) -> Vec<u8> {
        let all = self.buffered().to_vec();
        self.consume(all.len());
        all
    }

    /// Drops the first `len` bytes of [`Wire::buffered`], which has as many.
    pub fn consume(&mut self, len: usize) {
        self.position += len;
        if self.position == self.buffer.len() {
            self.buffer.clear();
            self.position = 0;
        }
    }

    /// Reads once; false at the end of the stream. Given up halfway, it has read nothing.
    ///
    /// # Errors
    /// The connection was reset.
    pub async fn fill(&mut self) -> Result<bool, WireError> {
        loop {
            self.stream.readable().await?;
            match self.try_fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Ok(read? > 0),
            }
        }
    }

    fn try_fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.position);
        self.position = 0;
        self.buffer.reserve(READ_SIZE);
        self.stream.try_read_buf(&mut self.buffer)
    }

    /// The next head; `None` when the peer closed before its first byte.
    ///
    /// # Errors
    /// Cut in the middle, reset, or no head.
    pub async fn read_head(&mut self) -> Result<Option<Head>, WireError> {
        let mut searched: usize = 0;
        loop {
            let ahead = self.buffered();
            let from = searched.saturating_sub(3);
            if let Some(at) = ahead[from..].windows(4).position(|four| four == b"\r\n\r\n") {
                let head = Head::parse(&ahead[..from + at + 4])?;
                self.consume(head.raw.len());
                return Ok(Some(head));
            }
            searched = ahead.len();
            if searched > MAX_HEAD {
                return Err(WireError::Malformed("a head without an end".into()));
            }
            if !self.fill().await? {
                return if searched == 0 { Ok(None) } else { Err(WireError::Closed) };
            }
        }
    }

    /// Reads a body into `into`, which others may watch.
    ///
    /// # Errors
    /// It did not end as `framing` says; `into` holds what came.
    pub async fn read_body(&mut self, framing: Framing, into: &Mutex<ReceivedBody>) -> Result<(), WireError> {
        match framing {
            Framing::Length(length) => self.read_content(length, into).await?,
            Framing::Chunked => self.read_chunks(into).await?,
            Framing::UntilClose => loop {
                into.lock().append(self.buffered());
                self.consume(self.buffered().len());
                if !self.fill().await? {
                    break;
                }
            },
        }
        into.lock().complete = true;
        Ok(())
    }

    async fn read_content(&mut self, mut left: u64, into: &Mutex<ReceivedBody>) -> Result<(), WireError> {
        while left > 0 {
            if self.buffered().is_empty() && !self.fill().await? {
                return Err(WireError::Closed);
            }
            let ahead = self.buffered();
            let now = ahead.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            into.lock().append(&ahead[..now]);
            self.consume(now);
            left -= now as u64;
        }
        Ok(())
    }

    async fn read_chunks(&mut self, into: &Mutex<ReceivedBody>) -> Result<(), WireError> {
        loop {
            let line = self.read_line().await?;
            let size = u64::from_str_radix(&line, 16)
                .map_err(|_| WireError::Malformed(format!("a chunk size of {line:?}")))?;
            if size == 0 {
                break;
            }
            self.read_content(size, into).await?;
            into.lock().chunks += 1;
            let end = self.read_line().await?;
            if !end.is_empty() {
                return Err(WireError::Malformed(format!("a chunk that goes on: {end:?}")));
            }
        }
        loop {
            let line = self.read_line().await?;
            if line.is_empty() {
                return Ok(());
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| WireError::Malformed(format!("a trailer {line:?}")))?;
            into.lock().trailers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    async fn read_line(&mut self) -> Result<String, WireError> {
        loop {
            if let Some(end) = self.buffered().windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffered()[..end]).into_owned();
                self.consume(end + 2);
                return Ok(line);
            }
            if self.buffered().len() > MAX_LINE {
                return Err(WireError::Malformed("a line without an end".into()));
            }
            if !self.fill().await? {
                return Err(WireError::Closed);
            }
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// The peer closed or reset.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// How the peer ended the connection, once it does; reads nothing, so unread bytes stay unread.
    pub async fn wait_closed(&self) -> WireError {
        loop {
            let Ok(ready) = self.stream.ready(Interest::READABLE | Interest::ERROR).await else {
                return WireError::Reset;
            };
            if ready.is_error() {
                return WireError::Reset;
            }
            if ready.is_read_closed() {
                // A reset also closes the reading side: ask the socket itself.
                let reset = matches!(socket2::SockRef::from(&self.stream).take_error(), Ok(Some(_)));
                return if reset { WireError::Reset } else { WireError::Closed };
            }
            // Unread bytes keep the socket ready.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Closes with a reset.
    pub fn reset(self) {
        // A failure means that there is no connection left to reset.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
        drop(self);
    }
}
