//! What a call of gRPC reads: codes, and the fields that say them ("gRPC over HTTP2", "Status codes and their use in gRPC").

use outrigger_http1::Head;

use crate::{reason::Reason, request::fields};

/// The code of a reason.
pub(crate) fn code_of(reason: Reason) -> u8 {
    match reason {
        Reason::NoRoute | Reason::UnknownService | Reason::OutsideHost | Reason::NotHttp => UNIMPLEMENTED,
        Reason::ForbiddenOrigin | Reason::BrowserRefused => PERMISSION_DENIED,
        Reason::BadRequest
        | Reason::BadBody
        | Reason::MethodNotAllowed
        | Reason::UnsupportedCoding
        | Reason::UnsupportedVersion
        | Reason::LoopDetected
        | Reason::LengthUnknown
        | Reason::Http1Instance
        | Reason::BadResponse
        | Reason::Internal => INTERNAL,
        Reason::HeadTooLarge
        | Reason::UriTooLong
        | Reason::TooManyServices
        | Reason::TooManyConnections
        | Reason::Overloaded
        | Reason::BulkheadFull
        | Reason::Http2Abuse
        | Reason::LocalResource => RESOURCE_EXHAUSTED,
        Reason::SlowHead
        | Reason::BodyTimeout
        | Reason::Timeout
        | Reason::ConnectTimeout
        | Reason::DeadlineExceeded => DEADLINE_EXCEEDED,
        Reason::ClientGone => CANCELLED,
        Reason::RegistryUnknown
        | Reason::NoUsableInstance
        | Reason::SubsetEmpty
        | Reason::CircuitOpen
        | Reason::ConnectFailed
        | Reason::TlsFailed
        | Reason::UpstreamClosed
        | Reason::SentUnknown
        | Reason::Drained => UNAVAILABLE,
    }
}

const CANCELLED: u8 = 1;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;
const INTERNAL: u8 = 13;
/// The service cannot be used now.
pub(crate) const UNAVAILABLE: u8 = 14;

/// Writes the fields of a status, as lines.
pub(crate) fn write_status(reason: Reason, detail: &str, out: &mut Vec<u8>) {
    let text = format!(
        "grpc-status: {}\r\ngrpc-message: {}\r\n{}: {}\r\n",
        code_of(reason),
        percent_encode(detail),
        fields::ERROR,
        reason.label()
    );
    out.extend_from_slice(text.as_bytes());
}

/// Writes how many attempts came before ("gRPC Retry Design").
pub(crate) fn write_attempts(attempts: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("grpc-previous-rpc-attempts: {attempts}\r\n").as_bytes());
}

const STATUS: &[u8] = b"grpc-status";

/// The status in the head of a response, which then is all of it.
pub(crate) fn status_of(head: &Head) -> Option<u8> {
    let field = head.fields().iter().find(|field| head.name(field).eq_ignore_ascii_case(STATUS))?;
    parse_status(head.value(field))
}

/// The status in trailers, which are field lines.
pub(crate) fn status_in(trailers: &[u8]) -> Option<u8> {
    trailers.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let is_status = line[..colon].eq_ignore_ascii_case(STATUS);
        is_status.then(|| parse_status(line[colon + 1..].trim_ascii()))?
    })
}

fn parse_status(value: &[u8]) -> Option<u8> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// As `grpc-message` is written: printable ASCII but `%` as it is.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_found_in_trailers() {
        for (trailers, expected) in [
            (&b"grpc-status: 14\r\ngrpc-message: x\r\n"[..], Some(14)),
            (b"a: 1\r\nGrpc-Status:0\r\n", Some(0)),
            (b"grpc-status: x\r\n", None),
            (b"", None),
        ] {
            assert_eq!(status_in(trailers), expected, "{}", trailers.escape_ascii());
        }
    }

    #[test]
    fn a_message_is_printable_ascii() {
        assert_eq!(percent_encode("50 % of ä\n"), "50 %25 of %C3%A4%0A");
    }
}
