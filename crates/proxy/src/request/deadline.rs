//! Reads the app's own deadline from a request, and writes what is left of it for the instance.
//!
//! `x-outrigger-timeout` is a duration as in a settings file (`500ms`, `1m30s`); `grpc-timeout` is at most
//! eight digits and a unit ("PROTOCOL-HTTP2" of gRPC's documentation). Both count from the moment at which the
//! head was accepted, and the shorter one holds. The service's `timeout` and `deadline` hold too.
//!
//! The instance gets the remaining time in the same two fields. A request without a deadline gets no field.

use std::time::Duration;

use outrigger_http1::{Name, NameSet};
use tokio::time::Instant;

use crate::reason::{Reason, Refusal};

/// The deadline that the app sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ClientDeadline {
    /// The shortest timeout of the fields.
    pub(crate) timeout: Option<Duration>,
    /// Whether the request had a valid `grpc-timeout`.
    from_grpc: bool,
}

impl ClientDeadline {
    /// Reads one field; fields other than the two are ignored.
    ///
    /// # Errors
    /// When `x-outrigger-timeout` is no duration. An invalid `grpc-timeout` is ignored and forwarded, because
    /// the instance may read it.
    pub(crate) fn read_field(&mut self, name: Name, value: &[u8]) -> Result<(), Refusal> {
        let timeout = match name {
            Name::OutriggerTimeout => {
                let text = String::from_utf8_lossy(value);
                let wrong = |what| Refusal::new(Reason::BadRequest, format!("{}: {what}", name.as_str()));
                Some(outrigger_config::parse_duration(text.trim()).map_err(wrong)?)
            }
            Name::GrpcTimeout => {
                let timeout = parse_grpc_timeout(value);
                self.from_grpc |= timeout.is_some();
                timeout
            }
            _ => None,
        };
        self.timeout = match (self.timeout, timeout) {
            (Some(before), Some(timeout)) => Some(before.min(timeout)),
            (before, timeout) => before.or(timeout),
        };
        Ok(())
    }

    /// Writes the time that is left until `ends`, as field lines.
    pub(crate) fn write_fields(self, lines: &mut Vec<u8>, ends: Instant, now: Instant) {
        let left = ends.saturating_duration_since(now);
        // Rounded down, but at least 1 ms, because the app still waits.
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        lines.extend_from_slice(format!("{}: {millis}ms\r\n", Name::OutriggerTimeout.as_str()).as_bytes());
        if self.from_grpc {
            let line = format!("{}: {}\r\n", Name::GrpcTimeout.as_str(), format_grpc_timeout(millis));
            lines.extend_from_slice(line.as_bytes());
        }
    }

    /// The fields of the app that [`ClientDeadline::write_fields`] replaces.
    pub(crate) fn replaced(self) -> NameSet {
        let replaced = NameSet::of([Name::OutriggerTimeout]);
        if self.from_grpc { replaced.with(Name::GrpcTimeout) } else { replaced }
    }
}

/// `1S`, `250m`, `100u`: at most eight digits and a unit.
fn parse_grpc_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// In the finest unit in which eight digits are enough.
fn format_grpc_timeout(millis: u64) -> String {
    const MOST: u64 = 99_999_999;
    match millis {
        0..=MOST => format!("{millis}m"),
        _ => format!("{}S", (millis / 1000).min(MOST)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_deadline(fields: &[(&'static str, &'static str)]) -> Result<ClientDeadline, Refusal> {
        let mut deadline = ClientDeadline::default();
        for (name, value) in fields {
            deadline.read_field(Name::recognize(name.as_bytes()), value.as_bytes())?;
        }
        Ok(deadline)
    }

    #[test]
    fn both_fields_are_read_and_the_shorter_one_holds() {
        type TimeoutCase = (&'static [(&'static str, &'static str)], Option<Duration>);
        let cases: [TimeoutCase; 10] = [
            (&[("x-outrigger-timeout", "500ms")], Some(Duration::from_millis(500))),
            (&[("x-outrigger-timeout", "1m30s")], Some(Duration::from_secs(90))),
            (&[("x-outrigger-timeout", "0")], Some(Duration::ZERO)),
            (&[("grpc-timeout", "2S")], Some(Duration::from_secs(2))),
            (&[("grpc-timeout", "100u")], Some(Duration::from_micros(100))),
            (&[("grpc-timeout", "99999999H")], Some(Duration::from_secs(99_999_999 * 3600))),
            (&[("grpc-timeout", "1S"), ("x-outrigger-timeout", "3s")], Some(Duration::from_secs(1))),
            (&[("grpc-timeout", "123456789S")], None),
            (&[("grpc-timeout", "S")], None),
            (&[("timeout", "1s")], None),
        ];
        for (fields, expected) in cases {
            assert_eq!(read_deadline(fields).unwrap().timeout, expected, "{fields:?}");
        }
    }

    #[test]
    fn an_invalid_x_outrigger_timeout_is_refused() {
        let refusal = read_deadline(&[("x-outrigger-timeout", "5")]).unwrap_err();
        assert_eq!(refusal.reason, Reason::BadRequest);
        assert_eq!(refusal.detail, "x-outrigger-timeout: \"5\" has no unit; write 5s or 5ms");
    }

    #[test]
    fn the_remaining_time_is_forwarded_in_the_fields_of_the_request() {
        let now = Instant::now();
        let written = |deadline: ClientDeadline, left| {
            let mut lines = Vec::new();
            deadline.write_fields(&mut lines, now + left, now);
            String::from_utf8(lines).unwrap()
        };
        let plain = ClientDeadline::default();
        let grpc = read_deadline(&[("grpc-timeout", "1S")]).unwrap();
        for (deadline, left, expected) in [
            (plain, Duration::from_micros(250_900), "x-outrigger-timeout: 250ms\r\n"),
            (plain, Duration::ZERO, "x-outrigger-timeout: 1ms\r\n"),
            (grpc, Duration::from_millis(250), "x-outrigger-timeout: 250ms\r\ngrpc-timeout: 250m\r\n"),
            (
                grpc,
                Duration::from_secs(200_000),
                "x-outrigger-timeout: 200000000ms\r\ngrpc-timeout: 200000S\r\n",
            ),
        ] {
            assert_eq!(written(deadline, left), expected);
        }
    }
}
