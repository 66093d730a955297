//! Reads when a request may be repeated from the response of an instance that did not carry it out.
//!
//! `Retry-After` (RFC 9110 §10.2.3) is a number of seconds, or a date, which is compared with the `Date` of the
//! same response, because both are from the clock of the instance. A response without a `Date`, or with one that is no date, is
//! of the time at which it arrived (§6.6.1). `grpc-retry-pushback-ms` (gRFC A6) has precedence, because it is about this
//! request, not about the whole instance.

use std::time::{Duration, SystemTime};

use outrigger_http1::{Head, Name};
use outrigger_policy::retry::Pushback;

/// The wait that the head of a response asks for, which has just arrived.
#[expect(clippy::disallowed_methods, reason = "a date in Retry-After is wall time (RFC 9110 §10.2.3)")]
pub(crate) fn read_pushback(head: &Head) -> Option<Pushback> {
    read_pushback_at(head, SystemTime::now)
}

fn read_pushback_at(head: &Head, arrived: impl FnOnce() -> SystemTime) -> Option<Pushback> {
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
            let then = httpdate::parse_http_date(text).ok()?;
            let date = head.first(Name::Date).and_then(text_of);
            let now = date.and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or_else(arrived);
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
        // By the clock of this machine it is 20 s later.
        let arrived = httpdate::parse_http_date("Thu, 01 Jan 2026 00:00:20 GMT").unwrap();
        type PushbackCase<'a> = (&'a [(&'static str, &'static str)], Option<Pushback>);
        let cases: [PushbackCase; 17] = [
            (&[], None),
            (&[("retry-after", "3")], instance(3)),
            (&[("retry-after", "99999999999999999999")], Some(Pushback::Instance(Duration::MAX))),
            (&[("retry-after", "")], None),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "Thu, 01 Jan 2026 00:01:00 GMT"), date], instance(60)),
            (&[("retry-after", "Wed, 31 Dec 2025 23:59:00 GMT"), date], instance(0)),
            (&[("retry-after", "Thu, 01 Jan 2026 00:01:00 GMT")], instance(40)),
            (&[("retry-after", "Thursday, 01-Jan-26 00:01:00 GMT")], instance(40)),
            (&[("retry-after", "Thu Jan  1 00:01:00 2026")], instance(40)),
            (&[("retry-after", "Thu, 01 Jan 2026 00:00:10 GMT")], instance(0)),
            (&[("retry-after", "Thu, 01 Jan 2026 00:01:00 GMT"), ("date", "today")], instance(40)),
            (&[("retry-after", "soon"), ("date", "today")], None),
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
            assert_eq!(read_pushback_at(&head, || arrived), expected, "{fields:?}");
        }
    }
}
