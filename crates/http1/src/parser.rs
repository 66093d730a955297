//! Inbox → head, line by line, as the bytes arrive.
//!
//! A line is parsed when its end is there, so the result does not depend on how the input was split into reads. What can be
//! refused before a head is complete is refused at the end of its line; a first byte that cannot begin a message (TLS, binary
//! data) is refused at once.
//!
//! Line ends are CRLF or a bare LF (RFC 9112 §2.2). A bare CR and NUL are refused everywhere. Up to two empty lines before a
//! request are skipped (RFC 9112 §2.2 asks for at least one).
//!
//! | | request | response |
//! |---|---|---|
//! | white space before the colon | refused (RFC 9112 §5.1) | removed (the same) |
//! | obsolete line folding | refused (RFC 9112 §5.2) | replaced by spaces; refused in the first field line |
//! | control characters in a value | tolerated and reported, as nginx and HAProxy do; refused where [`Name::is_strict`] | the same |
//! | reason phrase | | opaque, may be absent |

use memchr::memchr;

use crate::{
    head::{Field, Head, Span, StartLine, trim},
    inbox::Inbox,
    name::Name,
    refusal::{Refusal, RefusalKind, quoted},
};

/// Bounds of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Most bytes, with all line ends.
    pub bytes: usize,
    /// Most field lines.
    pub fields: usize,
    /// Most bytes of a request's target.
    pub target: usize,
}

/// Which kind of head is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// From the app.
    Request,
    /// From an instance.
    Response,
}

/// The first line of the preface with which an HTTP/2 connection begins (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// Empty lines that are skipped before a request.
const MAX_EMPTY_LINES: u8 = 2;

/// Parses one head from an inbox.
#[derive(Debug)]
pub struct HeadParser {
    kind: HeadKind,
    limits: HeadLimits,
    /// Where the next line begins, from the start of the inbox's data.
    at: usize,
    /// Up to where a line end was looked for.
    searched: usize,
    empty_lines: u8,
    line: Option<StartLine>,
    fields: Vec<Field>,
    has_controls: bool,
}

impl HeadParser {
    /// A parser for the next head. `fields` is an earlier head's list, to be used again ([`Head::into_parts`]).
    pub fn new(kind: HeadKind, limits: HeadLimits, mut fields: Vec<Field>) -> Self {
        fields.clear();
        Self { kind, limits, at: 0, searched: 0, empty_lines: 0, line: None, fields, has_controls: false }
    }

    /// Whether a byte of the head was seen that is not part of an empty line before it.
    pub fn has_begun(&self, inbox: &Inbox) -> bool {
        self.line.is_some()
            || inbox
                .data()
                .get(self.at..)
                .unwrap_or_default()
                .iter()
                .any(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    /// The head, when it is complete; `None` when more bytes are needed. The head takes the inbox's buffer; what was read
    /// behind the head stays in the inbox, in the buffer that `spare` gives, which is asked only when there is any. The
    /// parser begins anew after a head. After a refusal the inbox is as it was, and the parser is not used again.
    ///
    /// # Errors
    /// A head that is invalid, too large or not HTTP/1.
    pub fn parse(
        &mut self,
        inbox: &mut Inbox,
        spare: impl FnOnce() -> Vec<u8>,
    ) -> Result<Option<Head>, Refusal> {
        loop {
            let data = inbox.data();
            if self.line.is_none()
                && let Some(&first) = data.get(self.at)
                && !is_token_byte(first)
                && !matches!(first, b'\r' | b'\n')
            {
                return Err(Refusal::malformed(format!(
                    "the message begins with the byte {}, which begins no HTTP/1 message",
                    quoted(&[first])
                )));
            }
            let Some(found) = memchr(b'\n', data.get(self.searched..).unwrap_or_default()) else {
                self.searched = data.len();
                self.check_size(data)?;
                return Ok(None);
            };
            let next = self.searched + found + 1;
            if next > self.limits.bytes {
                return Err(self.too_large(data));
            }
            let end = next - 1;
            let is_crlf = end > self.at && data.get(end - 1) == Some(&b'\r');
            let (start, end) = (self.at, if is_crlf { end - 1 } else { end });
            self.at = next;
            self.searched = next;
            let Some(line) = self.line else {
                if start == end {
                    self.skip_empty_line()?;
                    inbox.consume(next);
                    self.at = 0;
                    self.searched = 0;
                    continue;
                }
                self.line = Some(self.start_line(data, start, end)?);
                continue;
            };
            if start == end {
                let (bytes, base) = inbox.split_front(next, spare);
                self.at = 0;
                self.searched = 0;
                self.empty_lines = 0;
                self.line = None;
                let fields = std::mem::take(&mut self.fields);
                let has_controls = std::mem::take(&mut self.has_controls);
                let mut head = Head { bytes, base, line, fields, has_controls };
                head.mark_hop_by_hop();
                return Ok(Some(head));
            }
            if matches!(data.get(start), Some(b' ' | b'\t')) {
                self.unfold(inbox, start, next, end)?;
                continue;
            }
            if self.fields.len() >= self.limits.fields {
                return Err(Refusal::new(
                    RefusalKind::HeadTooLarge,
                    format!("the head has more than {} fields", self.limits.fields),
                ));
            }
            let field = field_line(data, self.kind, start..end, next, is_crlf)?;
            self.has_controls |= check_value(data, &field)?;
            self.fields.push(field);
        }
    }

    fn check_size(&self, data: &[u8]) -> Result<(), Refusal> {
        if self.line.is_none() && self.kind == HeadKind::Request {
            let line = data.get(self.at..).unwrap_or_default();
            let (method_len, target_len) = method_and_target(line);
            if line.get(method_len) == Some(&b' ') && target_len > self.limits.target {
                return Err(self.target_too_long());
            }
        }
        if data.len() >= self.limits.bytes { Err(self.too_large(data)) } else { Ok(()) }
    }

    fn too_large(&self, data: &[u8]) -> Refusal {
        // Only bytes within the limit decide, so that the reason does not depend on how much was read behind it.
        let line = data.get(self.at..self.limits.bytes.min(data.len())).unwrap_or_default();
        let in_target = self.line.is_none()
            && self.kind == HeadKind::Request
            && line.get(method_and_target(line).0) == Some(&b' ');
        if in_target {
            return self.target_too_long();
        }
        Refusal::new(RefusalKind::HeadTooLarge, format!("the head has more than {} bytes", self.limits.bytes))
    }

    fn target_too_long(&self) -> Refusal {
        let most = self.limits.target.min(self.limits.bytes);
        Refusal::new(RefusalKind::TargetTooLong, format!("the target has more than {most} bytes"))
    }

    fn skip_empty_line(&mut self) -> Result<(), Refusal> {
        let is_allowed = self.kind == HeadKind::Request && self.empty_lines < MAX_EMPTY_LINES;
        self.empty_lines += 1;
        if is_allowed {
            Ok(())
        } else {
            Err(Refusal::malformed("an empty line stands where a start line is due"))
        }
    }

    fn start_line(&self, data: &[u8], start: usize, end: usize) -> Result<StartLine, Refusal> {
        let line = &data[start..end];
        match self.kind {
            HeadKind::Request => self.request_line(line, start),
            HeadKind::Response => response_line(line, start),
        }
    }

    fn request_line(&self, line: &[u8], base: usize) -> Result<StartLine, Refusal> {
        if line == HTTP2_PREFACE {
            return Err(Refusal::new(
                RefusalKind::Http2Preface,
                "the connection begins with the preface of HTTP/2",
            ));
        }
        let (method_len, target_len) = method_and_target(line);
        if line.get(method_len) != Some(&b' ') {
            let detail = match line.get(method_len) {
                None => format!("the request line {} has no target", quoted(line)),
                Some(byte) => format!("the method holds the byte {}", quoted(&[*byte])),
            };
            return Err(Refusal::malformed(detail));
        }
        let rest = &line[method_len + 1..];
        if target_len > self.limits.target {
            return Err(self.target_too_long());
        }
        match rest.get(target_len) {
            None => return Err(Refusal::malformed("the request line has no version")),
            Some(b' ') if target_len == 0 => {
                return Err(Refusal::malformed("the request line has no target, or two spaces before it"));
            }
            Some(b' ') => {}
            Some(byte) => {
                return Err(Refusal::malformed(format!("the target holds the byte {}", quoted(&[*byte]))));
            }
        }
        let minor = version(&rest[target_len + 1..])?;
        let target = base + method_len + 1;
        Ok(StartLine::Request {
            method: Span::new(base..base + method_len),
            target: Span::new(target..target + target_len),
            minor,
        })
    }

    /// Joins a folded line to the field before it, by spaces in place of the line end.
    fn unfold(&mut self, inbox: &mut Inbox, start: usize, next: usize, end: usize) -> Result<(), Refusal> {
        if self.kind == HeadKind::Request {
            return Err(Refusal::malformed("a field is folded over two lines (RFC 9112 §5.2)"));
        }
        let Some(field) = self.fields.last_mut() else {
            return Err(Refusal::malformed("the line after the status line begins with white space"));
        };
        for at in field.value.range().end..start {
            inbox.overwrite(at, b' ');
        }
        let data = inbox.data();
        let from = field.value.range().start;
        let joined = &data[from..end];
        let value = trim(joined);
        let lead = joined
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count()
            .min(joined.len() - value.len());
        field.value = Span::new(from + lead..from + lead + value.len());
        field.line = Span::new(field.line.range().start..next);
        field.is_clean = false;
        let field = *field;
        self.has_controls |= check_value(data, &field)?;
        Ok(())
    }
}

/// The lengths of the method and of the target behind it in what is there of a request line.
fn method_and_target(line: &[u8]) -> (usize, usize) {
    let method_len = line.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(line.len());
    let rest = line.get(method_len + 1..).unwrap_or_default();
    (method_len, rest.iter().position(|byte| *byte <= b' ' || *byte == 0x7f).unwrap_or(rest.len()))
}

fn response_line(line: &[u8], base: usize) -> Result<StartLine, Refusal> {
    let (version_part, rest) = line.split_at(line.len().min(8));
    let minor = version(version_part)?;
    let digits = match rest {
        [b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', tail @ ..] if !matches!(tail, [first, ..] if *first != b' ') => {
            [*a, *b, *c]
        }
        _ => {
            return Err(Refusal::malformed(format!(
                "the status line {} has no status of three digits",
                quoted(line)
            )));
        }
    };
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let from = line.len().min(13);
    let reason = &line[from..];
    if let Some(byte) = reason.iter().find(|byte| matches!(byte, b'\0' | b'\r')) {
        return Err(Refusal::malformed(format!("the reason phrase holds the byte {}", quoted(&[*byte]))));
    }
    Ok(StartLine::Response { status, reason: Span::new(base + from..base + line.len()), minor })
}

/// `HTTP/1.x` → 0 or 1.
fn version(bytes: &[u8]) -> Result<u8, Refusal> {
    match bytes {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9'] => Ok(u8::from(*minor != b'0')),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            Err(Refusal::new(RefusalKind::Version, format!("the version {} is not HTTP/1", quoted(bytes))))
        }
        _ => Err(Refusal::malformed(format!("{} is not a version such as HTTP/1.1", quoted(bytes)))),
    }
}

/// Parses one field line, which is `data[line]`; `next` is where the next line begins.
pub(crate) fn field_line(
    data: &[u8],
    kind: HeadKind,
    line: std::ops::Range<usize>,
    next: usize,
    is_crlf: bool,
) -> Result<Field, Refusal> {
    let (start, bytes) = (line.start, &data[line]);
    let name_len = bytes.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(bytes.len());
    let spaces = bytes[name_len..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let (name, colon) = (&bytes[..name_len], name_len + spaces);
    match bytes.get(colon) {
        Some(b':') if name_len == 0 => {
            return Err(Refusal::malformed("a field line has no name before its colon"));
        }
        Some(b':') if spaces > 0 && kind == HeadKind::Request => {
            return Err(Refusal::malformed(format!(
                "white space stands between the field name {} and its colon (RFC 9112 §5.1)",
                quoted(name)
            )));
        }
        Some(b':') => {}
        None => return Err(Refusal::malformed(format!("the field line {} has no colon", quoted(bytes)))),
        Some(byte) => {
            let byte = if spaces > 0 { b' ' } else { *byte };
            return Err(Refusal::malformed(format!("a field name holds the byte {}", quoted(&[byte]))));
        }
    }
    let raw = &bytes[colon + 1..];
    let value = trim(raw);
    let lead =
        raw.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count().min(raw.len() - value.len());
    let from = start + colon + 1 + lead;
    Ok(Field {
        name: Span::new(start..start + name_len),
        value: Span::new(from..from + value.len()),
        line: Span::new(start..next),
        known: Name::recognize(name),
        is_clean: is_crlf && spaces == 0,
        is_hop_by_hop: false,
    })
}

/// Refuses CR and NUL in a value, and any control character where the field frames, routes or steers. Whether a control
/// character was tolerated.
pub(crate) fn check_value(data: &[u8], field: &Field) -> Result<bool, Refusal> {
    let is_control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    let value = &data[field.value.range()];
    if !value.iter().any(is_control) {
        return Ok(false);
    }
    let is_strict = field.known.is_strict();
    let refused =
        value.iter().find(|byte| matches!(byte, b'\0' | b'\r' | b'\n') || is_strict && is_control(byte));
    match refused {
        None => Ok(true),
        Some(byte) => Err(Refusal::malformed(format!(
            "the value of {} holds the byte {}",
            quoted(&data[field.name.range()]),
            quoted(&[*byte])
        ))),
    }
}

/// Bytes of a token (RFC 9110 §5.6.2).
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        table[at] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        at += 1;
    }
    table
};

pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}
