//! Reads when a request may be repeated from the response of an instance that did not carry it out.
//!
//! `Retry-After` (RFC 9110 §10.2.3) is a number of seconds, or a date, which is compared with the `Date` of the
//! same response, because both are from the clock of the instance. `grpc-retry-pushback-ms` (gRFC A6) has
//! precedence, because it is about this request, not about the whole instance.

use std::time::Duration;

use outrigger_http1::{Head, Name};
use outrigger_policy::retry::Pushback;

/// The wait that the head of a response asks for.
pub(crate) fn read_pushback(head: &Head) -> Option<Pushback> {
    let text_of = |value| std::str::from_utf8(value).ok().map(str::trim);
    if let Some(value) = head.first(Name::GrpcRetryPushback) {
        let millis = text_of(value).and_then(|text| text.parse::<i64>().ok());
        let millis = millis.and_then(|millis| u64::try_from(millis).ok());
        return Some(millis.map_or(Pushback::Never, |millis| Pushback::Call(Duration::from_millis(millis))));
    }
    let text = text_of(head.first(Name::RetryAfter)?)?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // More seconds than a number can count.
        Err(_) if is_number => Duration::MAX,
        Err(_) => {
            let date = text_of(head.first(Name::Date)?)?;
            let (then, now) = (httpdate::parse_http_date(text).ok()?, httpdate::parse_http_date(date).ok()?);
            then.duration_since(now).unwrap_or_default()
        }
    };
    Some(Pushback::Instance(wait))
}

#[cfg(test)]
mod tests {
    use outrigger_http1::{HeadKind, HeadLimits, HeadParser, Inbox};

    use super::*;

    fn response_head(text: &str) -> Head {
        let limits = HeadLimits { bytes: 65_536, fields: 100, target: 65_536 };
        let mut parser = HeadParser::new(HeadKind::Response, limits, Vec::new());
        parser.parse(&mut Inbox::from(text.as_bytes()), Vec::new).unwrap().unwrap()
    }

    #[test]
    fn seconds_dates_and_grpc_milliseconds_are_read() {
        let instance = |seconds| Some(Pushback::Instance(Duration::from_secs(seconds)));
        let date = ("date", "Thu, 01 Jan 2026 00:00:00 GMT");
        type PushbackCase<'a> = (&'a [(&'static str, &'static str)], Option<Pushback>);
        let cases: [PushbackCase; 12] = [
            (&[], None),
            (&[("retry-after", "3")], instance(3)),
            (&[("retry-after", "99999999999999999999")], Some(Pushback::Instance(Duration::MAX))),
            (&[("retry-after", "")], None),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "Thu, 01 Jan 2026 00:01:00 GMT"), date], instance(60)),
            (&[("retry-after", "Wed, 31 Dec 2025 23:59:00 GMT"), date], instance(0)),
            (&[("retry-after", "Thu, 01 Jan 2026 00:01:00 GMT")], None),
            (
                &[("retry-after", "3"), ("grpc-retry-pushback-ms", "250")],
                Some(Pushback::Call(Duration::from_millis(250))),
            ),
            (&[("grpc-retry-pushback-ms", "-1")], Some(Pushback::Never)),
            (&[("grpc-retry-pushback-ms", "x")], Some(Pushback::Never)),
        ];
        for (fields, expected) in cases {
            let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = response_head(&format!("HTTP/1.1 503 Service Unavailable\r\n{lines}\r\n"));
            assert_eq!(read_pushback(&head), expected, "{fields:?}");
        }
    }
}
