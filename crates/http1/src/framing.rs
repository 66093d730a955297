//! Head → how the body ends. One total function per direction.

use crate::{
    head::{Head, Length, list_members},
    name::Name,
    refusal::{Refusal, RefusalKind, quoted},
};

/// How the body of a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// After this many bytes; at least 1.
    Length(u64),
    /// With the last chunk and its trailers.
    Chunked,
    /// With the connection (responses only).
    UntilClose,
    /// Not at all: the connection carries another protocol from here on.
    Tunnel,
}

impl Framing {
    fn of_length(length: u64) -> Self {
        if length == 0 { Self::None } else { Self::Length(length) }
    }
}

/// The framing of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFraming {
    /// How its body ends.
    pub framing: Framing,
    /// The response was tolerated although it is ambiguous: it had `Content-Length` and `Transfer-Encoding`. Its
    /// `Content-Length` is dropped, and its connection is not used again (RFC 9112 §6.3).
    pub is_odd: bool,
}

/// How a request's body ends.
///
/// # Errors
/// `Content-Length` with `Transfer-Encoding`, a `Content-Length` that is not one number, a transfer coding in HTTP/1.0: 400. A
/// transfer coding other than exactly one `chunked`: 501.
pub fn request_framing(head: &Head) -> Result<Framing, Refusal> {
    let length = content_length(head, false)?;
    match (transfer_coding(head), length) {
        (Coding::Absent, None) => Ok(Framing::None),
        (Coding::Absent, Some(length)) => Ok(Framing::of_length(length)),
        (_, Some(_)) => Err(Refusal::malformed(
            "the request has both Content-Length and Transfer-Encoding (RFC 9112 §6.1)",
        )),
        (_, None) if head.minor() == 0 => {
            Err(Refusal::malformed("an HTTP/1.0 request has Transfer-Encoding (RFC 9112 §6.1)"))
        }
        (Coding::Chunked, None) => Ok(Framing::Chunked),
        (Coding::Other(value), None) => Err(Refusal::new(
            RefusalKind::TransferCoding,
            format!("Transfer-Encoding is {}; only exactly one `chunked` is supported", quoted(&value)),
        )),
    }
}

/// How a response's body ends. `is_head`: it answers a HEAD request.
///
/// # Errors
/// A transfer coding other than exactly one `chunked`, or one in HTTP/1.0; lengths that differ or are not numbers.
pub fn response_framing(head: &Head, is_head: bool) -> Result<ResponseFraming, Refusal> {
    let status = head.status();
    if status == 101 {
        return Ok(ResponseFraming { framing: Framing::Tunnel, is_odd: false });
    }
    let is_odd = head.has(Name::ContentLength) && head.has(Name::TransferEncoding);
    if is_head || matches!(status, 100..=199 | 204 | 304) {
        // What a response without a body says of its framing is information only (RFC 9110 §8.6).
        return Ok(ResponseFraming { framing: Framing::None, is_odd });
    }
    let framing = match transfer_coding(head) {
        Coding::Absent => content_length(head, true)?.map_or(Framing::UntilClose, Framing::of_length),
        _ if head.minor() == 0 => {
            return Err(Refusal::malformed("an HTTP/1.0 response has Transfer-Encoding (RFC 9112 §6.1)"));
        }
        Coding::Chunked => Framing::Chunked,
        Coding::Other(value) => {
            return Err(Refusal::new(
                RefusalKind::TransferCoding,
                format!("Transfer-Encoding is {}; only exactly one `chunked` is supported", quoted(&value)),
            ));
        }
    };
    Ok(ResponseFraming { framing, is_odd })
}

enum Coding {
    Absent,
    Chunked,
    Other(Vec<u8>),
}

#[inline]
fn transfer_coding(head: &Head) -> Coding {
    if head.has(Name::TransferEncoding) { given_coding(head) } else { Coding::Absent }
}

fn given_coding(head: &Head) -> Coding {
    let mut lines = head.values(Name::TransferEncoding);
    match (lines.next(), lines.next()) {
        (None, _) => Coding::Absent,
        (Some(one), None) if one.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
        (Some(first), second) => {
            let rest = second.into_iter().chain(lines);
            Coding::Other(rest.fold(first.to_vec(), |mut all, line| {
                all.extend_from_slice(b", ");
                all.extend_from_slice(line);
                all
            }))
        }
    }
}

/// Whether the transfer coding is exactly one `chunked`.
pub(crate) fn is_chunked(head: &Head) -> bool {
    matches!(transfer_coding(head), Coding::Chunked)
}

/// The length that all `Content-Length` lines agree on. `lists`: a list of equal numbers in one line is one, too.
pub(crate) fn content_length(head: &Head, lists: bool) -> Result<Option<u64>, Refusal> {
    match head.parts.length {
        Length::Absent => Ok(None),
        Length::Agreed(length) => Ok(Some(length)),
        Length::Odd => odd_length(head, lists),
    }
}

#[cold]
fn odd_length(head: &Head, lists: bool) -> Result<Option<u64>, Refusal> {
    let mut agreed = None;
    for line in head.values(Name::ContentLength) {
        let is_list = line.contains(&b',');
        if is_list && !lists {
            return Err(Refusal::malformed(format!("Content-Length is the list {}", quoted(line))));
        }
        let mut members = list_members(line).peekable();
        if members.peek().is_none() {
            return Err(Refusal::malformed("Content-Length is empty"));
        }
        for member in members {
            let Some(length) = decimal(member) else {
                return Err(Refusal::malformed(format!(
                    "Content-Length is {}, not a number",
                    quoted(member)
                )));
            };
            match agreed {
                Some(before) if before != length => {
                    return Err(Refusal::malformed(format!("Content-Length is {before} and {length}")));
                }
                _ => agreed = Some(length),
            }
        }
    }
    Ok(agreed)
}

/// `1*DIGIT`, and nothing else: no sign, no space. `None` also above 64 bits.
pub(crate) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    let mut number = 0_u64;
    for byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(number)
}
