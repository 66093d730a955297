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

use std::ops::Range;

use crate::{
    framing::decimal,
    head::{CLOSE, Connection, Field, Head, KEEP_ALIVE, Length, Parts, Span},
    inbox::Inbox,
    line::{
        HeadLimits, check_reason, check_value, clean_field, clean_request_line, clean_status_line,
        field_line, is_space, method_and_target, request_line, status_line, target_too_long, trim_range,
    },
    name::{Name, is_same},
    refusal::{Refusal, RefusalKind, quoted},
    scan::{is_token_byte, len_before, line_end, token_len},
};

/// Which kind of head is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// From the app.
    Request,
    /// From an instance.
    Response,
}

/// The names of fields that are read as soon as they are there.
const STEERING: u64 = Name::Connection.bit() | Name::ContentLength.bit();
/// Empty lines that are skipped before a request.
const MAX_EMPTY_LINES: u8 = 2;

/// Parses one head from an inbox.
///
/// There are two ways through the bytes. Lines as nearly all are (complete, in CRLF, clean) are taken in one pass
/// (`clean_lines`). Every other line is first searched for its end, over several reads if need be, and then judged
/// (`line`); this way alone decides what is refused. Tests and fuzzing compare them: the same bytes in one read and in
/// small ones must give the same head.
#[derive(Debug)]
pub struct HeadParser {
    kind: HeadKind,
    limits: HeadLimits,
    /// Where the line that is looked at begins, from the start of the inbox's data.
    at: usize,
    /// Up to where its end was looked for.
    searched: usize,
    /// A control character was seen in it.
    line_has_controls: bool,
    /// Up to where the method and the target of an unfinished request line were measured.
    measured: usize,
    /// Where its target begins; 0 when that is not known yet.
    target_at: usize,
    empty_lines: u8,
    has_line: bool,
    /// Members of the `Connection` fields.
    options: usize,
    parts: Parts,
}

/// What follows a line.
enum Step {
    /// The next line.
    Next,
    NeedMore,
    /// An empty line before the start line ends here.
    EmptyLine(usize),
    /// The head ends here.
    Complete(usize),
    /// A line that begins with white space.
    Folded(Range<usize>),
}

impl HeadParser {
    /// A parser for the next head. `fields` is an earlier head's list, to be used again ([`Head::into_parts`]). A head has less
    /// than 4 GiB, whatever the limits say.
    pub fn new(kind: HeadKind, limits: HeadLimits, mut fields: Vec<Field>) -> Self {
        fields.clear();
        let limits = HeadLimits { bytes: limits.bytes.min(u32::MAX as usize), ..limits };
        Self {
            kind,
            limits,
            at: 0,
            searched: 0,
            line_has_controls: false,
            measured: 0,
            target_at: 0,
            empty_lines: 0,
            has_line: false,
            options: 0,
            parts: Parts { fields, ..Parts::default() },
        }
    }

    /// Whether a byte of the head was seen that is not part of an empty line before it.
    pub fn has_begun(&self, inbox: &Inbox) -> bool {
        self.has_line
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
            let mut step = Step::Next;
            if self.searched == self.at
                && let Some(end) = self.clean_lines(data)
            {
                step = Step::Complete(end);
            }
            if matches!(step, Step::Next) {
                step = self.line(data)?;
            }
            match step {
                Step::Next => {}
                Step::NeedMore => return Ok(None),
                Step::EmptyLine(end) => {
                    inbox.consume(end);
                    (self.at, self.searched) = (0, 0);
                }
                Step::Folded(line) => self.unfold(inbox, line)?,
                Step::Complete(end) => {
                    let parts = std::mem::take(&mut self.parts);
                    (self.at, self.searched, self.measured, self.target_at, self.options) = (0, 0, 0, 0, 0);
                    (self.line_has_controls, self.has_line, self.empty_lines) = (false, false, 0);
                    let (bytes, base) = inbox.split_front(end, spare);
                    return Ok(Some(Head::new(bytes, base, parts)));
                }
            }
        }
    }

    /// Searches for the end of one line, and judges it.
    #[inline(never)]
    fn line(&mut self, data: &[u8]) -> Result<Step, Refusal> {
        let start = self.at;
        if !self.has_line
            && let Some(&first) = data.get(start)
            && !is_token_byte(first)
            && !matches!(first, b'\r' | b'\n')
        {
            return Err(Refusal::malformed(format!(
                "the message begins with the byte {}, which begins no HTTP/1 message",
                quoted(&[first])
            )));
        }
        let found = line_end(data, self.searched);
        self.searched = found.searched;
        self.line_has_controls |= found.has_controls;
        let Some(lf) = found.lf else {
            self.check_size(data)?;
            return Ok(Step::NeedMore);
        };
        let next = lf + 1;
        if next > self.limits.bytes {
            return Err(self.too_large(data));
        }
        self.at = next;
        let has_controls = std::mem::take(&mut self.line_has_controls);
        let is_crlf = lf > start && data[lf - 1] == b'\r';
        let line = start..lf - usize::from(is_crlf);
        if !self.has_line {
            if line.is_empty() {
                self.skip_empty_line()?;
                return Ok(Step::EmptyLine(next));
            }
            self.start_line(data, line, is_crlf, has_controls)?;
            return Ok(Step::Next);
        }
        if line.is_empty() {
            return Ok(Step::Complete(next));
        }
        if is_space(data[start]) {
            return Ok(Step::Folded(start..next));
        }
        if self.parts.fields.len() >= self.limits.fields {
            return Err(Refusal::new(
                RefusalKind::TooManyFields,
                format!("the head has more than {} fields", self.limits.fields),
            ));
        }
        let field = field_line(data, self.kind == HeadKind::Response, line, next, is_crlf)?;
        if has_controls {
            self.parts.has_controls |= check_value(data, &field)?;
        }
        if STEERING & field.known.bit() != 0 && !self.read_steering(field.known, &data[field.value.range()]) {
            return Err(self.too_many_options());
        }
        self.parts.seen |= field.known.bit();
        self.parts.fields.push(field);
        Ok(Step::Next)
    }

    /// Takes the lines that are as nearly all are, and nothing that [`Self::line`] would read differently. The end of the head,
    /// when it is reached.
    #[inline(never)]
    fn clean_lines(&mut self, data: &[u8]) -> Option<usize> {
        let data = &data[..data.len().min(self.limits.bytes)];
        if !self.has_line {
            let line = data.get(self.at..)?;
            let (line, len) = match self.kind {
                HeadKind::Request => clean_request_line(line, self.at, self.limits.target)?,
                HeadKind::Response => clean_status_line(line, self.at)?,
            };
            self.parts.line = line;
            self.at += len;
            self.parts.start_end = self.at as u32;
            self.parts.is_clean_start = true;
            self.has_line = true;
        }
        let mut at = self.at;
        let mut fields = std::mem::take(&mut self.parts.fields);
        let mut seen = 0;
        while fields.len() < self.limits.fields
            && let Some((field, len)) = data.get(at..).and_then(|line| clean_field(line, at))
        {
            if STEERING & field.known.bit() != 0
                && !self.read_steering(field.known, &data[field.value.range()])
            {
                break;
            }
            seen |= field.known.bit();
            fields.push(field);
            at += len;
        }
        self.parts.fields = fields;
        self.parts.seen |= seen;
        self.at = at;
        self.searched = at;
        data.get(at..)?.starts_with(b"\r\n").then_some(at + 2)
    }

    /// Reads a value that says what becomes of the message. False: `Connection` has too many members.
    #[inline(never)]
    fn read_steering(&mut self, name: Name, value: &[u8]) -> bool {
        if name == Name::Connection {
            return self.read_connection(value);
        }
        self.parts.length = match (self.parts.length, decimal(value)) {
            (Length::Absent, Some(length)) => Length::Agreed(length),
            (Length::Agreed(before), Some(length)) if before == length => Length::Agreed(length),
            _ => Length::Odd,
        };
        true
    }

    /// Reads a value of `Connection`. False: it has too many members, of which each may be compared with each field.
    fn read_connection(&mut self, value: &[u8]) -> bool {
        let connection = &mut self.parts.connection;
        if is_same(value, KEEP_ALIVE) {
            connection.says_keep_alive = true;
        } else if is_same(value, CLOSE) {
            connection.says_close = true;
        } else {
            connection.names_fields = true;
            self.options += 1 + value.iter().filter(|byte| **byte == b',').count();
        }
        self.options <= self.limits.fields
    }

    fn too_many_options(&self) -> Refusal {
        Refusal::new(
            RefusalKind::TooManyFields,
            format!("Connection has more than {} members", self.limits.fields),
        )
    }

    /// Refuses what can be refused before the end of a line is there.
    fn check_size(&mut self, data: &[u8]) -> Result<(), Refusal> {
        if data.len() >= self.limits.bytes {
            return Err(self.too_large(data));
        }
        if !self.has_line && self.kind == HeadKind::Request {
            self.measure_target(data)?;
        }
        Ok(())
    }

    /// Measures the target of an unfinished request line, each byte once.
    fn measure_target(&mut self, data: &[u8]) -> Result<(), Refusal> {
        if self.target_at == 0 {
            self.measured += token_len(&data[self.measured..]);
            if data.get(self.measured) != Some(&b' ') {
                return Ok(());
            }
            self.measured += 1;
            self.target_at = self.measured;
        }
        self.measured += len_before::<{ b' ' + 1 }>(&data[self.measured..]);
        if self.measured - self.target_at > self.limits.target {
            return Err(target_too_long(&self.limits));
        }
        Ok(())
    }

    fn too_large(&self, data: &[u8]) -> Refusal {
        // Only bytes within the limit decide, so that the reason does not depend on how much was read behind it.
        let line = data.get(self.at..self.limits.bytes.min(data.len())).unwrap_or_default();
        let in_target = !self.has_line
            && self.kind == HeadKind::Request
            && line.get(method_and_target(line).0) == Some(&b' ');
        if in_target {
            return target_too_long(&self.limits);
        }
        Refusal::new(RefusalKind::HeadTooLarge, format!("the head has more than {} bytes", self.limits.bytes))
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

    fn start_line(
        &mut self,
        data: &[u8],
        line: Range<usize>,
        is_crlf: bool,
        has_controls: bool,
    ) -> Result<(), Refusal> {
        let start = line.start;
        let bytes = &data[line];
        let (line, is_clean) = match self.kind {
            HeadKind::Request => {
                let line = request_line(bytes, start, &self.limits)?;
                (line, matches!(bytes.last(), Some(b'0' | b'1')))
            }
            HeadKind::Response => {
                let line = status_line(bytes, start)?;
                self.parts.has_controls |= has_controls && check_reason(bytes)?;
                (line, matches!(bytes.get(7), Some(b'0' | b'1')) && bytes.len() > 12)
            }
        };
        self.has_line = true;
        self.parts.line = line;
        self.parts.start_end = self.at as u32;
        self.parts.is_clean_start = is_clean && is_crlf;
        Ok(())
    }

    /// Joins a folded line to the field before it, by spaces in place of the line end. `line` is with its line end.
    fn unfold(&mut self, inbox: &mut Inbox, line: Range<usize>) -> Result<(), Refusal> {
        if self.kind == HeadKind::Request {
            return Err(Refusal::malformed("a field is folded over two lines (RFC 9112 §5.2)"));
        }
        let Some(field) = self.parts.fields.last().copied() else {
            return Err(Refusal::malformed("the line after the status line begins with white space"));
        };
        // Only the new part is looked at, so that many folds cost no more than their bytes.
        let data = inbox.data();
        let end = line.end - 1;
        let end = end - usize::from(data[end - 1] == b'\r');
        let more = trim_range(data, line.start..end);
        let value = field.value.range();
        self.parts.has_controls |= check_value(data, &Field { value: Span::new(more.clone()), ..field })?;
        if field.known == Name::ContentLength {
            self.parts.length = Length::Odd;
        }
        if field.known == Name::Connection {
            if !self.read_connection(&data[more.clone()]) {
                return Err(self.too_many_options());
            }
            // Folded or not, its members are read from the whole value.
            self.parts.connection =
                Connection { says_close: false, says_keep_alive: false, names_fields: true };
        }
        let joined = match (value.is_empty(), more.is_empty()) {
            (_, true) => value,
            (true, false) => more,
            (false, false) => value.start..more.end,
        };
        if let Some(field) = self.parts.fields.last_mut() {
            field.value = Span::new(joined);
            field.line = Span::new(field.line.range().start..line.end);
            field.is_clean = false;
        }
        let before = line.start.saturating_sub(2);
        if data[before] == b'\r' {
            inbox.overwrite(before, b' ');
        }
        inbox.overwrite(line.start - 1, b' ');
        Ok(())
    }
}
