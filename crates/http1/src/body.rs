//! Inbox → pieces of a body.

use crate::{
    framing::Framing,
    head::Head,
    inbox::Inbox,
    line::{check_value, field_line},
    name::Name,
    refusal::{Refusal, quoted},
};

/// Most bytes of chunk extensions, and of white space before them, in one body. Each byte of data takes one off the count, so that a body
/// of any length may have short extensions; many bytes of extensions without data only keep the receiver busy.
const MAX_EXTENSIONS: u64 = 16 * 1024;
/// Most bytes of a trailer section.
const MAX_TRAILERS: usize = 16 * 1024;
/// Most fields of a trailer section.
const MAX_TRAILER_FIELDS: usize = 100;
/// Most digits of a chunk's size; leading zeros count.
const MAX_SIZE_DIGITS: u8 = 16;

/// A piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// The first so many bytes of the inbox are data. The caller carries some or all of them, and consumes as many by
    /// [`BodyDecoder::consume`].
    Data(usize),
    /// More bytes are needed.
    NeedMore,
    /// The body has ended; trailers are in [`BodyDecoder::trailers`].
    End,
}

/// Decodes one body.
///
/// Inside a chunked body every line end is CRLF, or the message is broken: a receiver that takes a bare LF for one, beside one
/// that does not, is how requests are smuggled.
#[derive(Debug, Clone)]
pub struct BodyDecoder {
    state: State,
    extensions: u64,
    /// Boxed: few bodies have one, and a silent connection holds a decoder for each direction.
    trailers: Option<Box<TrailerSection>>,
}

#[derive(Debug, Clone, Default)]
struct TrailerSection {
    /// Names of fields that end at this hop, because `Connection` named them.
    dropped: Vec<Vec<u8>>,
    /// No line is dropped.
    keeps_all: bool,
    /// The lines that may be passed on.
    lines: Vec<u8>,
    /// Fields and bytes that were read.
    fields: usize,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// Digits of a chunk's size.
    Size {
        size: u64,
        digits: u8,
    },
    /// White space behind the size.
    SizeSpace {
        size: u64,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    Trailers,
    End,
}

impl BodyDecoder {
    /// A decoder for a body of this framing. [`Framing::Tunnel`] has no body: what follows belongs to another protocol.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Tunnel | Framing::Length(0) => State::End,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, extensions: 0, trailers: None }
    }

    /// A decoder for the body behind `head`. Of a chunked body's trailers it also drops those that the head's `Connection` names
    /// (RFC 9110 §7.6.1).
    pub fn behind(head: &Head, framing: Framing) -> Self {
        let mut decoder = Self::new(framing);
        if framing == Framing::Chunked {
            let dropped: Vec<_> = head.connection_names().map(<[u8]>::to_vec).collect();
            if !dropped.is_empty() {
                decoder.trailers = Some(Box::new(TrailerSection { dropped, ..TrailerSection::default() }));
            }
        }
        decoder
    }

    /// The same decoder, which passes every trailer on: the body is one that this process wrote.
    #[must_use]
    pub fn keeping_trailers(mut self) -> Self {
        self.trailers.get_or_insert_default().keeps_all = true;
        self
    }

    /// Whether the whole body was decoded.
    pub fn is_end(&self) -> bool {
        self.state == State::End
    }

    /// The trailer fields that may be passed on, as lines that end in CRLF, in order.
    pub fn trailers(&self) -> &[u8] {
        self.trailers.as_ref().map_or(&[], |section| &section.lines)
    }

    /// The next piece. Consumes chunk framing from the inbox, never data. A line of the trailer section is taken when it is
    /// complete: the inbox needs room for 16 KiB.
    ///
    /// # Errors
    /// Framing that is broken or out of bounds. The decoder is not used again.
    pub fn decode(&mut self, inbox: &mut Inbox) -> Result<Piece, Refusal> {
        let (framing, piece) = self.next(inbox.data())?;
        inbox.consume(framing);
        Ok(piece)
    }

    /// Looks at everything that the inbox holds of the body, without consuming it.
    ///
    /// # Errors
    /// [`BodyDecoder::decode`] would fail further on in the inbox.
    pub fn check(&self, inbox: &Inbox) -> Result<(), Refusal> {
        let mut ahead = self.clone();
        let mut data = inbox.data();
        loop {
            let (framing, piece) = ahead.next(data)?;
            data = &data[framing..];
            let Piece::Data(n) = piece else { return Ok(()) };
            ahead.take(n as u64);
            data = &data[n..];
        }
    }

    /// The next piece of `data`, behind so many bytes of framing.
    fn next(&mut self, data: &[u8]) -> Result<(usize, Piece), Refusal> {
        let mut at = 0;
        loop {
            let rest = &data[at..];
            let piece = match self.state {
                State::End => Piece::End,
                State::Length(left) | State::Chunk(left) => available(rest.len(), left),
                State::UntilClose => available(rest.len(), u64::MAX),
                State::Trailers => match self.trailer_line(rest)? {
                    Some(len) => {
                        at += len;
                        continue;
                    }
                    None => Piece::NeedMore,
                },
                _ => match rest.first() {
                    Some(&byte) => {
                        self.state = self.framing_byte(byte)?;
                        at += 1;
                        continue;
                    }
                    None => Piece::NeedMore,
                },
            };
            return Ok((at, piece));
        }
    }

    /// Consumes `n` bytes of data, at most those of the last [`Piece::Data`].
    pub fn consume(&mut self, inbox: &mut Inbox, n: usize) {
        let n = n.min(inbox.len());
        inbox.consume(n);
        self.take(n as u64);
    }

    /// `n` bytes of data were taken.
    fn take(&mut self, n: u64) {
        self.state = match self.state {
            State::Length(left) if left <= n => State::End,
            State::Length(left) => State::Length(left - n),
            State::Chunk(left) => {
                self.extensions = self.extensions.saturating_sub(n.min(left));
                if left <= n { State::ChunkCr } else { State::Chunk(left - n) }
            }
            other => other,
        };
    }

    /// The sender closed its side.
    ///
    /// # Errors
    /// The body has not ended: it is cut.
    pub fn close(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::UntilClose | State::End => {
                self.state = State::End;
                Ok(())
            }
            State::Length(left) => {
                let bytes = if left == 1 { "byte" } else { "bytes" };
                Err(Refusal::body(format!("the body ended {left} {bytes} too early")))
            }
            _ => Err(Refusal::body("the body ended before its last chunk")),
        }
    }

    fn framing_byte(&mut self, byte: u8) -> Result<State, Refusal> {
        let refuse =
            |due: &str| Err(Refusal::body(format!("the byte {} stands where {due} is due", quoted(&[byte]))));
        match (self.state, byte) {
            (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == MAX_SIZE_DIGITS {
                    return Err(Refusal::body("the size of a chunk has more than 16 digits"));
                }
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
            }
            (State::Size { digits: 0, .. }, _) => refuse("the size of a chunk"),
            (State::Size { size, .. } | State::SizeSpace { size } | State::Extension { size }, b'\r') => {
                Ok(State::SizeLf { size })
            }
            (State::Size { size, .. } | State::SizeSpace { size }, b' ' | b'\t') => {
                self.count_extension()?;
                Ok(State::SizeSpace { size })
            }
            (State::Size { size, .. } | State::SizeSpace { size }, b';') => {
                self.count_extension()?;
                Ok(State::Extension { size })
            }
            (State::Size { .. } | State::SizeSpace { .. }, _) => refuse("the end of a chunk's size"),
            (State::Extension { .. }, 0..=8 | 10..=31 | 127) => refuse("a chunk extension"),
            (State::Extension { size }, _) => {
                self.count_extension()?;
                Ok(State::Extension { size })
            }
            (State::SizeLf { size: 0 }, b'\n') => Ok(State::Trailers),
            (State::SizeLf { size }, b'\n') => Ok(State::Chunk(size)),
            (State::ChunkCr, b'\r') => Ok(State::ChunkLf),
            (State::ChunkLf, b'\n') => Ok(State::Size { size: 0, digits: 0 }),
            (State::ChunkCr, _) => refuse("the end of a chunk"),
            _ => refuse("a line feed"),
        }
    }

    fn count_extension(&mut self) -> Result<(), Refusal> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS {
            return Err(Refusal::body(format!("the chunk extensions have more than {MAX_EXTENSIONS} bytes")));
        }
        Ok(())
    }

    /// Reads one line of the trailer section, and gives its length. `None`: it is not complete.
    fn trailer_line(&mut self, data: &[u8]) -> Result<Option<usize>, Refusal> {
        let before = self.trailers.as_ref().map_or(0, |section| section.bytes);
        let Some(end) = memchr::memchr(b'\n', data) else {
            return if before + data.len() >= MAX_TRAILERS { Err(trailers_too_large()) } else { Ok(None) };
        };
        let next = end + 1;
        if before + next > MAX_TRAILERS {
            return Err(trailers_too_large());
        }
        if end == 0 || data[end - 1] != b'\r' {
            return Err(Refusal::body("a line of the trailer section ends in a bare LF"));
        }
        if end == 1 {
            self.state = State::End;
        } else {
            self.trailers.get_or_insert_default().read(data, end - 1, next)?;
        }
        Ok(Some(next))
    }
}

impl TrailerSection {
    /// Reads the line of `data` that ends at `end`, and with its line end at `next`.
    fn read(&mut self, data: &[u8], end: usize, next: usize) -> Result<(), Refusal> {
        let as_body = |refusal: Refusal| Refusal::body(format!("in the trailer section: {refusal}"));
        let field = field_line(data, false, 0..end, next, true).map_err(as_body)?;
        let has_controls = check_value(data, &field).map_err(as_body)?;
        if has_controls {
            return Err(Refusal::body("a control character stands in the trailer section"));
        }
        self.bytes += next;
        self.fields += 1;
        if self.fields > MAX_TRAILER_FIELDS {
            return Err(Refusal::body(format!(
                "the trailer section has more than {MAX_TRAILER_FIELDS} fields"
            )));
        }
        let name = &data[field.name.range()];
        let is_dropped = field.known.is_forbidden_in_trailers()
            || Name::has_strict_prefix(name)
            || self.dropped.iter().any(|dropped| name.eq_ignore_ascii_case(dropped));
        if !is_dropped || self.keeps_all {
            self.lines.extend_from_slice(&data[field.line.range()]);
        }
        Ok(())
    }
}

fn trailers_too_large() -> Refusal {
    Refusal::body(format!("the trailer section has more than {MAX_TRAILERS} bytes"))
}

fn available(len: usize, left: u64) -> Piece {
    let most = usize::try_from(left).unwrap_or(usize::MAX);
    match len.min(most) {
        0 => Piece::NeedMore,
        n => Piece::Data(n),
    }
}
