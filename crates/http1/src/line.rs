//! One line of a head → start line or field.

use std::ops::Range;

use crate::{
    head::{Field, Span, StartLine},
    name::Name,
    refusal::{Refusal, RefusalKind, quoted},
    scan::{len_before, token_len},
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

/// The first line of the preface with which an HTTP/2 connection begins (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// The lengths of the method and of the target behind it in what is there of a request line.
pub(crate) fn method_and_target(line: &[u8]) -> (usize, usize) {
    let method_len = token_len(line);
    (method_len, len_before::<{ b' ' + 1 }>(line.get(method_len + 1..).unwrap_or_default()))
}

/// A request line without its line end, which begins at `base`.
pub(crate) fn request_line(line: &[u8], base: usize, limits: &HeadLimits) -> Result<StartLine, Refusal> {
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
    if target_len > limits.target {
        return Err(target_too_long(limits));
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

/// The refusal of a target above its limit.
pub(crate) fn target_too_long(limits: &HeadLimits) -> Refusal {
    let most = limits.target.min(limits.bytes);
    Refusal::new(RefusalKind::TargetTooLong, format!("the target has more than {most} bytes"))
}

/// A status line without its line end, which begins at `base`.
pub(crate) fn status_line(line: &[u8], base: usize) -> Result<StartLine, Refusal> {
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
    let status = status(digits);
    let from = line.len().min(REASON);
    Ok(StartLine::Response { status, reason: Span::new(base + from..base + line.len()), minor })
}

/// Where the reason phrase begins in a status line.
const REASON: usize = b"HTTP/1.1 200 ".len();

/// Refuses CR and NUL in a reason phrase. Whether another control character was tolerated.
pub(crate) fn check_reason(line: &[u8]) -> Result<bool, Refusal> {
    let reason = line.get(REASON..).unwrap_or_default();
    match reason.iter().find(|byte| matches!(byte, b'\0' | b'\r')) {
        None => Ok(true),
        Some(byte) => {
            Err(Refusal::malformed(format!("the reason phrase holds the byte {}", quoted(&[*byte]))))
        }
    }
}

/// `HTTP/1.x` → 0 or 1.
fn version(bytes: &[u8]) -> Result<u8, Refusal> {
    if bytes == b"HTTP/1.1" {
        return Ok(1);
    }
    match bytes {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9'] => Ok(u8::from(*minor != b'0')),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            Err(Refusal::new(RefusalKind::Version, format!("the version {} is not HTTP/1", quoted(bytes))))
        }
        _ => Err(Refusal::malformed(format!("{} is not a version such as HTTP/1.1", quoted(bytes)))),
    }
}

/// A request line in HTTP/1.1 and CRLF, which begins at `at`, and its length.
pub(crate) fn clean_request_line(data: &[u8], at: usize, most_target: usize) -> Option<(StartLine, usize)> {
    const END: &[u8] = b" HTTP/1.1\r\n";
    let method_len = token_len(data);
    let [b' ', rest @ ..] = data.get(method_len..)? else { return None };
    let target_len = len_before::<{ b' ' + 1 }>(rest);
    if method_len == 0 || target_len == 0 || target_len > most_target || !rest[target_len..].starts_with(END)
    {
        return None;
    }
    let target = at + method_len + 1;
    let line = StartLine::Request {
        method: Span::new(at..at + method_len),
        target: Span::new(target..target + target_len),
        minor: 1,
    };
    Some((line, method_len + 1 + target_len + END.len()))
}

/// A status line in HTTP/1.1 and CRLF, which begins at `at`, and its length.
pub(crate) fn clean_status_line(data: &[u8], at: usize) -> Option<(StartLine, usize)> {
    let (start, rest) = data.split_first_chunk::<REASON>()?;
    let [version @ .., b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' '] = start else {
        return None;
    };
    let reason_len = len_before::<b' '>(rest);
    if version != b"HTTP/1.1" || !rest[reason_len..].starts_with(b"\r\n") {
        return None;
    }
    let reason = at + REASON;
    let line = StartLine::Response {
        status: status([*a, *b, *c]),
        reason: Span::new(reason..reason + reason_len),
        minor: 1,
    };
    Some((line, REASON + reason_len + 2))
}

fn status(digits: [u8; 3]) -> u16 {
    digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'))
}

/// A field line that begins at `at`, and its length: complete, in CRLF, without white space before its colon, without a
/// control character.
#[inline(always)]
pub(crate) fn clean_field(line: &[u8], at: usize) -> Option<(Field, usize)> {
    let name_len = token_len(line);
    let rest = line.get(name_len + 1..)?;
    let value_len = len_before::<b' '>(rest);
    if name_len == 0 || line[name_len] != b':' || rest.get(value_len..value_len + 2) != Some(b"\r\n") {
        return None;
    }
    let value = match &rest[..value_len] {
        [b' ', b' ', ..] | [.., b' '] => trim_range(rest, 0..value_len),
        [b' ', ..] => 1..value_len,
        _ => 0..value_len,
    };
    let known = Name::recognize(&line[..name_len]);
    let value_at = at + name_len + 1;
    let len = name_len + 1 + value_len + 2;
    let field = Field {
        name: Span::new(at..at + name_len),
        value: Span::new(value_at + value.start..value_at + value.end),
        line: Span::new(at..at + len),
        known,
        is_clean: true,
        is_hop_by_hop: known.is_hop_by_hop(),
    };
    Some((field, len))
}

/// Parses one field line, which is `data[line]`; `next` is where the next line begins. `may_space`: white space before the
/// colon is removed, not refused.
pub(crate) fn field_line(
    data: &[u8],
    may_space: bool,
    line: Range<usize>,
    next: usize,
    is_crlf: bool,
) -> Result<Field, Refusal> {
    let start = line.start;
    let name_end = start + token_len(&data[start..]);
    let has_colon = data.get(name_end) == Some(&b':') && name_end > start;
    let colon = if has_colon { name_end } else { spaced_colon(data, may_space, line.clone(), name_end)? };
    let known = Name::recognize(&data[start..name_end]);
    Ok(Field {
        name: Span::new(start..name_end),
        value: Span::new(trim_range(data, colon + 1..line.end)),
        line: Span::new(start..next),
        known,
        is_clean: is_crlf && has_colon,
        is_hop_by_hop: known.is_hop_by_hop(),
    })
}

/// The position of a colon that white space stands before, where that is allowed.
#[cold]
fn spaced_colon(data: &[u8], may_space: bool, line: Range<usize>, name_end: usize) -> Result<usize, Refusal> {
    let name = &data[line.start..name_end];
    let spaces = data[name_end..line.end].iter().take_while(|byte| is_space(**byte)).count();
    let colon = name_end + spaces;
    match data[..line.end].get(colon) {
        Some(b':') if name.is_empty() => Err(Refusal::malformed("a field line has no name before its colon")),
        Some(b':') if !may_space => Err(Refusal::malformed(format!(
            "white space stands between the field name {} and its colon (RFC 9112 §5.1)",
            quoted(name)
        ))),
        Some(b':') => Ok(colon),
        None => Err(Refusal::malformed(format!("the field line {} has no colon", quoted(&data[line])))),
        Some(byte) => {
            let byte = if spaces > 0 { b' ' } else { *byte };
            Err(Refusal::malformed(format!("a field name holds the byte {}", quoted(&[byte]))))
        }
    }
}

/// `range` without the spaces and tabs at its ends.
#[inline(never)]
pub(crate) fn trim_range(data: &[u8], range: Range<usize>) -> Range<usize> {
    let Range { mut start, mut end } = range;
    while start < end && is_space(data[start]) {
        start += 1;
    }
    while start < end && is_space(data[end - 1]) {
        end -= 1;
    }
    start..end
}

/// Refuses CR and NUL in a value, and any control character where the field frames, routes or steers. Whether a control
/// character was tolerated.
pub(crate) fn check_value(data: &[u8], field: &Field) -> Result<bool, Refusal> {
    let is_control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    let value = &data[field.value.range()];
    if !value.iter().any(is_control) {
        return Ok(false);
    }
    let name = &data[field.name.range()];
    let is_strict = field.known.is_strict() || Name::has_strict_prefix(name);
    let refused =
        value.iter().find(|byte| matches!(byte, b'\0' | b'\r' | b'\n') || is_strict && is_control(byte));
    match refused {
        None => Ok(true),
        Some(byte) => Err(Refusal::malformed(format!(
            "the value of {} holds the byte {}",
            quoted(name),
            quoted(&[*byte])
        ))),
    }
}

/// White space within a line (RFC 9110 §5.6.3).
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
