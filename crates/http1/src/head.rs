//! A head: the bytes as received, and spans into them.

use std::ops::Range;

use crate::name::Name;

/// A range of a head's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The span of `range`. A head is bounded far below 4 GiB; larger positions saturate.
    pub(crate) fn new(range: Range<usize>) -> Self {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: narrow(range.start), end: narrow(range.end) }
    }

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

/// A complete head.
#[derive(Debug)]
pub struct Head {
    pub(crate) bytes: Vec<u8>,
    pub(crate) base: usize,
    pub(crate) line: StartLine,
    pub(crate) fields: Vec<Field>,
    pub(crate) has_controls: bool,
}

impl Head {
    pub(crate) fn slice(&self, span: Span) -> &[u8] {
        let Range { start, end } = span.range();
        self.bytes.get(self.base + start..self.base + end).unwrap_or_default()
    }

    /// The first line.
    pub fn start_line(&self) -> StartLine {
        self.line
    }

    /// A request's method; empty for a response.
    pub fn method(&self) -> &[u8] {
        match self.line {
            StartLine::Request { method, .. } => self.slice(method),
            StartLine::Response { .. } => b"",
        }
    }

    /// A request's target as received; empty for a response.
    pub fn target(&self) -> &[u8] {
        match self.line {
            StartLine::Request { target, .. } => self.slice(target),
            StartLine::Response { .. } => b"",
        }
    }

    /// A response's status; 0 for a request.
    pub fn status(&self) -> u16 {
        match self.line {
            StartLine::Request { .. } => 0,
            StartLine::Response { status, .. } => status,
        }
    }

    /// A response's reason phrase; empty for a request.
    pub fn reason(&self) -> &[u8] {
        match self.line {
            StartLine::Request { .. } => b"",
            StartLine::Response { reason, .. } => self.slice(reason),
        }
    }

    /// The minor version: 0 for HTTP/1.0, 1 for HTTP/1.1 and above.
    pub fn minor(&self) -> u8 {
        match self.line {
            StartLine::Request { minor, .. } | StartLine::Response { minor, .. } => minor,
        }
    }

    /// The fields in order.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// A field's name, case as received.
    pub fn name(&self, field: &Field) -> &[u8] {
        self.slice(field.name)
    }

    /// A field's value without the white space around it.
    pub fn value(&self, field: &Field) -> &[u8] {
        self.slice(field.value)
    }

    /// The values of all fields of this name, in order.
    pub fn values(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().filter(move |field| field.known == name).map(|field| self.value(field))
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
        self.has_controls
    }

    /// Whether the sender closes the connection after this message: `Connection: close`, or HTTP/1.0 without
    /// `keep-alive` (RFC 9112 §9.3).
    pub fn wants_close(&self) -> bool {
        self.has_token(Name::Connection, b"close")
            || self.minor() == 0 && !self.has_token(Name::Connection, b"keep-alive")
    }

    /// Takes the head apart, so that its buffer and its list of fields are used again.
    pub fn into_parts(mut self) -> (Vec<u8>, Vec<Field>) {
        self.fields.clear();
        (self.bytes, self.fields)
    }

    /// Marks the fields that end at this hop. `Connection` cannot take away what routes or frames the message.
    pub(crate) fn mark_hop_by_hop(&mut self) {
        let mut named: Vec<Span> = Vec::new();
        for field in self.fields.iter().filter(|field| field.known == Name::Connection) {
            let mut at = field.value.range().start;
            for part in self.slice(field.value).split(|byte| *byte == b',') {
                let member = trim(part);
                let is_option =
                    member.eq_ignore_ascii_case(b"close") || member.eq_ignore_ascii_case(b"keep-alive");
                if !member.is_empty() && !is_option {
                    let start = at + part.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
                    named.push(Span::new(start..start + member.len()));
                }
                at += part.len() + 1;
            }
        }
        for at in 0..self.fields.len() {
            let field = self.fields[at];
            let is_named = !matches!(field.known, Name::Host | Name::ContentLength)
                && named.iter().any(|span| self.slice(*span).eq_ignore_ascii_case(self.slice(field.name)));
            self.fields[at].is_hop_by_hop = field.known.is_hop_by_hop() || is_named;
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
