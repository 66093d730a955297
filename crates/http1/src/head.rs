//! A head: the bytes as received, and spans into them.

use std::ops::Range;

use crate::name::{Name, is_same};

/// A range of a head's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The span of `range`. A head is bounded below 4 GiB ([`crate::HeadParser::new`]).
    pub(crate) fn new(range: Range<usize>) -> Self {
        debug_assert!(u32::try_from(range.end).is_ok(), "a head is bounded below 4 GiB");
        Self { start: range.start as u32, end: range.end as u32 }
    }

    /// The range, from the first byte of the head.
    pub(crate) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The first line of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartLine {
    /// `GET /path HTTP/1.1`
    Request {
        /// The method, case as received.
        method: Span,
        /// The target: opaque bytes without spaces and controls.
        target: Span,
        /// 0 or 1: HTTP/1.2 and above count as 1.1 (RFC 9110 §2.5).
        minor: u8,
    },
    /// `HTTP/1.1 200 OK`
    Response {
        /// 100 to 999.
        status: u16,
        /// The reason phrase, opaque; may be empty.
        reason: Span,
        /// 0 or 1.
        minor: u8,
    },
}

impl Default for StartLine {
    fn default() -> Self {
        Self::Response { status: 0, reason: Span::default(), minor: 0 }
    }
}

/// One field line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub(crate) name: Span,
    pub(crate) value: Span,
    /// The line with its line end.
    pub(crate) line: Span,
    /// Which name it is.
    pub known: Name,
    /// The line may be copied as it is: it ends in CRLF, and no space stands before the colon.
    pub(crate) is_clean: bool,
    /// `Connection` names it (RFC 9110 §7.6.1), or it is hop-by-hop by itself.
    pub is_hop_by_hop: bool,
}

/// A complete head. The default is an empty one, which holds no memory.
#[derive(Debug, Default)]
pub struct Head {
    pub(crate) bytes: Vec<u8>,
    /// Where the head begins in `bytes`; spans count from here.
    pub(crate) base: usize,
    pub(crate) parts: Parts,
}

/// What a parser found of a head.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) line: StartLine,
    /// Where the start line ends, with its line end; the first field line follows.
    pub(crate) start_end: u32,
    /// The start line may be copied as it is: it ends in CRLF, its version is one that is written, and a response's has the
    /// space before the reason phrase.
    pub(crate) is_clean_start: bool,
    pub(crate) fields: Vec<Field>,
    /// A bit for each name that occurs ([`Name::bit`]).
    pub(crate) seen: u64,
    pub(crate) has_controls: bool,
    pub(crate) connection: Connection,
    pub(crate) length: Length,
}

/// What the `Content-Length` fields say.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) enum Length {
    #[default]
    Absent,
    /// Each field is this number.
    Agreed(u64),
    /// Numbers that differ, a list, or no number: the framing judges.
    Odd,
}

/// What `Connection` says (RFC 9110 §7.6.1).
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) says_close: bool,
    pub(crate) says_keep_alive: bool,
    /// It may name fields.
    pub(crate) names_fields: bool,
}

/// The member of `Connection` with which a sender announces the end of the connection (RFC 9112 §9.6).
pub(crate) const CLOSE: &[u8] = b"close";
/// The member of `Connection` with which HTTP/1.0 keeps the connection (RFC 9112 §9.3).
pub(crate) const KEEP_ALIVE: &[u8] = b"keep-alive";

impl Head {
    /// A head of `parts`; its first byte is `bytes[base]`.
    pub(crate) fn new(bytes: Vec<u8>, base: usize, parts: Parts) -> Self {
        let mut head = Self { bytes, base, parts };
        if head.parts.connection.names_fields {
            head.mark_named_fields();
        }
        head
    }

    /// The bytes of a span.
    pub(crate) fn slice(&self, span: Span) -> &[u8] {
        let Range { start, end } = span.range();
        self.bytes.get(self.base + start..self.base + end).unwrap_or_default()
    }

    /// Number of bytes of the buffer that the head takes.
    #[expect(clippy::len_without_is_empty, reason = "a head is never empty")]
    pub fn len(&self) -> usize {
        self.fields().last().map_or(self.line_end(), |field| field.line.range().end)
    }

    fn line_end(&self) -> usize {
        match self.start_line() {
            StartLine::Request { target, .. } => target.range().end,
            StartLine::Response { reason, .. } => reason.range().end,
        }
    }

    /// Lets the fields of this hop-by-hop name pass as they were received.
    pub fn keep(&mut self, name: Name) {
        for field in self.parts.fields.iter_mut().filter(|field| field.known == name) {
            field.is_hop_by_hop = false;
        }
    }

    /// Lets the members of this hop-by-hop list pass for which `passes` holds, each in its field. A field of which no member is left
    /// does not pass; one of which all are left passes as it was received. Returns whether any member passes.
    pub fn keep_members(&mut self, name: Name, passes: impl Fn(&[u8]) -> bool) -> bool {
        let mut any_passes = false;
        for index in 0..self.parts.fields.len() {
            let field = self.parts.fields[index];
            if field.known != name {
                continue;
            }
            let value = self.value(&field);
            let kept: Vec<&[u8]> = list_members(value).filter(|member| passes(member)).collect();
            if kept.is_empty() {
                continue;
            }
            any_passes = true;
            let changed = (kept.len() < list_members(value).count()).then(|| kept.join(&b", "[..]));
            self.parts.fields[index].is_hop_by_hop = false;
            if let Some(value) = changed {
                self.replace_value(index, &value);
            }
        }
        any_passes
    }

    /// Gives a field another value: its line is written with it, at its place. For fields that neither frame nor steer the
    /// message: what was read from those stays. `index` counts as in [`Head::fields`]; `value` has no line end.
    pub fn replace_value(&mut self, index: usize, value: &[u8]) {
        debug_assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n')), "a value is one line");
        let Some(field) = self.parts.fields.get_mut(index) else { return };
        // Behind the head, so that the spans of the other lines stay.
        let start = self.bytes.len() - self.base;
        self.bytes.extend_from_slice(value);
        field.value = Span::new(start..start + value.len());
        field.is_clean = false;
    }

    /// The first line.
    pub fn start_line(&self) -> StartLine {
        self.parts.line
    }

    /// A request's method; empty for a response.
    pub fn method(&self) -> &[u8] {
        match self.parts.line {
            StartLine::Request { method, .. } => self.slice(method),
            StartLine::Response { .. } => b"",
        }
    }

    /// A request's target as received; empty for a response.
    pub fn target(&self) -> &[u8] {
        match self.parts.line {
            StartLine::Request { target, .. } => self.slice(target),
            StartLine::Response { .. } => b"",
        }
    }

    /// A response's status; 0 for a request.
    pub fn status(&self) -> u16 {
        match self.parts.line {
            StartLine::Request { .. } => 0,
            StartLine::Response { status, .. } => status,
        }
    }

    /// A response's reason phrase; empty for a request.
    pub fn reason(&self) -> &[u8] {
        match self.parts.line {
            StartLine::Request { .. } => b"",
            StartLine::Response { reason, .. } => self.slice(reason),
        }
    }

    /// The minor version: 0 for HTTP/1.0, 1 for HTTP/1.1 and above.
    pub fn minor(&self) -> u8 {
        match self.parts.line {
            StartLine::Request { minor, .. } | StartLine::Response { minor, .. } => minor,
        }
    }

    /// The fields in order.
    pub fn fields(&self) -> &[Field] {
        &self.parts.fields
    }

    /// A field's name, case as received.
    pub fn name(&self, field: &Field) -> &[u8] {
        self.slice(field.name)
    }

    /// A field's value without the white space around it.
    pub fn value(&self, field: &Field) -> &[u8] {
        self.slice(field.value)
    }

    /// Whether there is a field of this name. It costs one comparison, however many fields there are.
    pub fn has(&self, name: Name) -> bool {
        self.parts.seen & name.bit() != 0
    }

    /// The values of all fields of this name, in order.
    pub fn values(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        let fields = if self.has(name) { self.parts.fields.as_slice() } else { &[] };
        fields.iter().filter(move |field| field.known == name).map(|field| self.value(field))
    }

    /// The value of the first field of this name.
    pub fn first(&self, name: Name) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// Whether a list-valued field has `token` as a member, whatever its case.
    pub fn has_token(&self, name: Name, token: &[u8]) -> bool {
        self.values(name).flat_map(list_members).any(|member| member.eq_ignore_ascii_case(token))
    }

    /// Whether a value holds a control character that RFC 9110 §5.5 does not allow and that was tolerated.
    pub fn has_controls(&self) -> bool {
        self.parts.has_controls
    }

    /// Whether the sender closes the connection after this message: `Connection: close`, or HTTP/1.0 without
    /// `keep-alive` (RFC 9112 §9.3).
    pub fn wants_close(&self) -> bool {
        let Connection { says_close, says_keep_alive, .. } = self.parts.connection;
        says_close || self.minor() == 0 && !says_keep_alive
    }

    /// The names of fields that `Connection` names: what is not `close` or `keep-alive`.
    pub(crate) fn connection_names(&self) -> impl Iterator<Item = &[u8]> {
        self.values(Name::Connection)
            .flat_map(list_members)
            .filter(|member| !is_same(member, CLOSE) && !is_same(member, KEEP_ALIVE))
    }

    /// Takes the head apart, so that its buffer and its list of fields are used again.
    pub fn into_parts(mut self) -> (Vec<u8>, Vec<Field>) {
        self.parts.fields.clear();
        (self.bytes, self.parts.fields)
    }

    /// Marks the fields that `Connection` names. It cannot take away what routes or frames the message.
    #[cold]
    fn mark_named_fields(&mut self) {
        let Self { bytes, base, parts: Parts { fields, connection, .. } } = self;
        let slice = |span: Span| {
            let Range { start, end } = span.range();
            bytes.get(*base + start..*base + end).unwrap_or_default()
        };
        let mut named: Vec<&[u8]> = Vec::new();
        for field in fields.iter().filter(|field| field.known == Name::Connection) {
            for member in list_members(slice(field.value)) {
                if is_same(member, CLOSE) {
                    connection.says_close = true;
                } else if is_same(member, KEEP_ALIVE) {
                    connection.says_keep_alive = true;
                } else {
                    named.push(member);
                }
            }
        }
        for field in fields.iter_mut() {
            field.is_hop_by_hop |= !matches!(field.known, Name::Host | Name::ContentLength)
                && named.iter().any(|name| name.eq_ignore_ascii_case(slice(field.name)));
        }
    }
}

/// The members of a comma-separated list, without white space around them and without empty ones.
pub fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|member| !member.is_empty())
}

/// Without spaces and tabs at both ends.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(|byte| !is_space(byte)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|byte| !is_space(byte)).map_or(start, |at| at + 1);
    &bytes[start..end]
}
