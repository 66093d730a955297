//! What of a head is passed on, and what is written anew.
//!
//! Hop-by-hop fields end here (RFC 9110 §7.6.1), also those that `Connection` names; the codec drops them and writes the framing
//! from what the body is. No routing, no decisions about services.
//!
//! The app's own deadline is in two fields. `x-outrigger-timeout` is a duration as in a settings file (`500ms`, `1m30s`);
//! `grpc-timeout` is at most eight digits and a unit ("PROTOCOL-HTTP2" of gRPC's documentation). Both count from the moment at
//! which the head was accepted, and the shorter one holds. The service's `timeout` and `deadline` hold too. The instance gets the
//! remaining time in the same two fields; a request without a deadline gets no field.

use std::{net::IpAddr, sync::Arc, time::Duration};

use outrigger_http1::{Field, Framing, Head, Name, NameSet, head::list_members, request_framing};
use outrigger_http2::fields::is_grpc;
use tokio::time::Instant;

use crate::{
    reason::{Reason, Refusal},
    request::path_form::PathForm,
};

/// The field that marks a response as one of a sidecar.
pub(crate) const ERROR: &str = "x-outrigger-error";

/// How the head that the instance gets differs from the app's.
#[derive(Debug, Default)]
pub(crate) struct HeadChanges {
    /// The target, where it differs.
    pub(crate) target: Option<Box<[u8]>>,
    /// The Host, where it differs.
    pub(crate) host: Option<Box<[u8]>>,
    /// Lines that are added.
    pub(crate) add: Vec<u8>,
    /// Names that do not pass.
    pub(crate) drop: NameSet,
    /// Names in lower case that a route lets not pass.
    pub(crate) remove: Option<Arc<[Box<[u8]>]>>,
    /// The prefix that the path form took from the target, and that the response gets back.
    pub(crate) path_form: Option<Box<PathForm>>,
    /// `Expect` passes.
    pub(crate) keeps_expect: bool,
    /// The app waits for a `100 (Continue)`.
    pub(crate) expects_continue: bool,
    /// The request asks for another protocol.
    pub(crate) upgrades: bool,
    /// Retries are allowed.
    pub(crate) allows_retries: bool,
    /// The app says that repeating the request is safe.
    pub(crate) has_idempotency_key: bool,
}

/// What a request's head says to this hop.
#[derive(Debug)]
pub(crate) struct RequestFacts {
    pub(crate) framing: Framing,
    pub(crate) deadline: ClientDeadline,
    pub(crate) changes: HeadChanges,
    /// Whether the request is one of a browser.
    pub(crate) browser: BrowserCheck,
    /// There is a Host field.
    pub(crate) has_host: bool,
    /// It is a call of gRPC, by its content type.
    pub(crate) is_grpc: bool,
    /// `Max-Forwards` of a TRACE or OPTIONS is 0: this proxy answers the request itself (RFC 9110 §7.6.2).
    pub(crate) ends_here: bool,
}

/// Whether a request is to be checked as one that a browser may have sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BrowserCheck(u8);

impl BrowserCheck {
    /// Bit of a request that is checked whatever it carries.
    const ALWAYS: u8 = 1;
    /// Bit of a mark that only browsers set.
    const MARKED: u8 = 2;

    fn new(always: bool) -> Self {
        Self(u8::from(always) * Self::ALWAYS)
    }

    fn mark(&mut self) {
        self.0 |= Self::MARKED;
    }

    /// Whether there is anything to check.
    pub(crate) fn is_due(self) -> bool {
        self.0 != 0
    }

    /// Whether the request carries a mark that only browsers set.
    pub(crate) fn is_marked(self) -> bool {
        self.0 & Self::MARKED != 0
    }
}

/// Fields that mean something only together with another one.
#[derive(Default)]
struct Seen {
    te: bool,
    upgrade: bool,
    expect: bool,
    max_forwards: Option<u64>,
}

impl RequestFacts {
    /// What is known before the head is read. `guards_browsers`: every request is looked at for marks of browsers.
    pub(crate) fn new(guards_browsers: bool) -> Self {
        Self {
            framing: Framing::None,
            deadline: ClientDeadline::default(),
            changes: HeadChanges { allows_retries: true, ..HeadChanges::default() },
            browser: BrowserCheck::new(guards_browsers),
            has_host: false,
            is_grpc: false,
            ends_here: false,
        }
    }

    /// Refuses what could be read in two ways, and what is not offered; reads what the request asks of this hop.
    ///
    /// One pass over the fields: most requests carry none of those that matter. After an error, what was read until then.
    pub(crate) fn read(&mut self, head: &mut Head) -> Result<(), Refusal> {
        let method = head.method();
        if method == b"CONNECT" {
            return Err(Refusal::new(
                Reason::MethodNotAllowed,
                "CONNECT is not offered: send the request itself",
            ));
        }
        let target = head.target();
        let is_asterisk = target == b"*";
        if is_asterisk && method != b"OPTIONS" || !is_asterisk && is_authority_form(target) {
            let (target, method) = (target.escape_ascii(), method.escape_ascii());
            let detail = format!("{target} is no target of {method} (RFC 9112 §3.2)");
            return Err(Refusal::new(Reason::BadRequest, detail));
        }
        self.framing = request_framing(head)?;
        let mut seen = Seen::default();
        for field in head.fields() {
            if field.known != Name::Other {
                self.read_field(head, field, &mut seen)?;
            }
        }
        if !self.has_host && head.minor() == 1 {
            return Err(Refusal::new(Reason::BadRequest, "no Host field (RFC 9112 §3.2)"));
        }
        self.finish(head, &seen);
        Ok(())
    }

    fn read_field(&mut self, head: &Head, field: &Field, seen: &mut Seen) -> Result<(), Refusal> {
        let value = head.value(field);
        match field.known {
            Name::Host => {
                if self.has_host {
                    return Err(Refusal::new(Reason::BadRequest, "more than one Host field (RFC 9112 §3.2)"));
                }
                self.has_host = true;
            }
            Name::Expect => seen.expect = true,
            Name::Te => seen.te = true,
            Name::Upgrade => seen.upgrade = true,
            // It means something only together with `h2c`.
            Name::Http2Settings => self.changes.drop = self.changes.drop.with(Name::Http2Settings),
            Name::Origin | Name::SecFetchSite => self.browser.mark(),
            // A browser's GET from a page of plain http carries neither Origin nor Sec-Fetch-Site.
            Name::UserAgent if value.starts_with(b"Mozilla/") => self.browser.mark(),
            Name::ContentType => self.is_grpc = is_grpc(Some(value)),
            Name::IdempotencyKey => self.changes.has_idempotency_key = true,
            // The app's credentials for its proxy are no business of the instance (RFC 9110 §11.7.2).
            Name::ProxyAuthorization => self.changes.drop = self.changes.drop.with(Name::ProxyAuthorization),
            Name::OutriggerRetry => self.changes.allows_retries &= !value.eq_ignore_ascii_case(b"off"),
            Name::OutriggerTimeout | Name::GrpcTimeout => self.deadline.read_field(field.known, value)?,
            Name::MaxForwards if matches!(head.method(), b"TRACE" | b"OPTIONS") => {
                let digits = std::str::from_utf8(value).ok().filter(|text| !text.starts_with('+'));
                seen.max_forwards = digits.and_then(|text| text.parse().ok());
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, head: &mut Head, seen: &Seen) {
        let changes = &mut self.changes;
        if seen.expect {
            changes.keeps_expect = head.minor() == 1;
            changes.expects_continue = changes.keeps_expect && head.has_token(Name::Expect, b"100-continue");
        }
        if seen.te && head.has_token(Name::Te, b"trailers") {
            // TE is the next hop's own, and says so (RFC 9110 §10.1.4).
            if head.values(Name::Te).all(|value| value.eq_ignore_ascii_case(b"trailers")) {
                head.keep(Name::Te);
            } else {
                changes.add.extend_from_slice(b"TE: trailers\r\n");
            }
            changes.add.extend_from_slice(b"Connection: te\r\n");
        }
        if seen.upgrade
            && head.minor() == 1
            && head.has_token(Name::Connection, b"upgrade")
            && head.keep_members(Name::Upgrade, |member| !is_h2c(member))
        {
            changes.upgrades = true;
            changes.add.extend_from_slice(b"Connection: upgrade\r\n");
        }
        if let Some(left) = seen.max_forwards {
            self.ends_here = left == 0;
            let changes = &mut self.changes;
            changes.drop = changes.drop.with(Name::MaxForwards);
            changes.add.extend_from_slice(format!("Max-Forwards: {}\r\n", left.saturating_sub(1)).as_bytes());
        }
    }
}

impl HeadChanges {
    /// Adds this hop to `X-Forwarded-*`, behind what is there.
    pub(crate) fn add_forwarded(&mut self, head: &Head, peer: IpAddr) {
        self.add.extend_from_slice(b"X-Forwarded-For: ");
        for value in head.values(Name::XForwardedFor) {
            self.add.extend_from_slice(value);
            self.add.extend_from_slice(b", ");
        }
        self.add.extend_from_slice(format!("{peer}\r\n").as_bytes());
        self.drop = self.drop.with(Name::XForwardedFor);
        if head.first(Name::XForwardedProto).is_none() {
            self.add.extend_from_slice(b"X-Forwarded-Proto: http\r\n");
        }
        if let (None, Some(host)) = (head.first(Name::XForwardedHost), head.first(Name::Host)) {
            self.add.extend_from_slice(b"X-Forwarded-Host: ");
            self.add.extend_from_slice(host);
            self.add.extend_from_slice(b"\r\n");
        }
    }

    /// Adds this hop to `Via` (RFC 9110 §7.6.3).
    pub(crate) fn add_via(&mut self, head: &Head, is_http2: bool) {
        let version = if is_http2 { "2".to_owned() } else { format!("1.{}", head.minor()) };
        self.add.extend_from_slice(format!("Via: {version} outrigger\r\n").as_bytes());
    }

    /// Adds this sidecar to `x-outrigger-via`, behind what is there.
    pub(crate) fn add_loop_id(&mut self, id: &str) {
        self.add.extend_from_slice(format!("x-outrigger-via: {id}\r\n").as_bytes());
    }

    /// Whether a 101 is the one that was asked for.
    pub(crate) fn accepts_upgrade(&self, request: &Head, response: &Head) -> bool {
        self.upgrades
            && response.first(Name::Upgrade).is_some_and(|got| {
                let is_asked = |one: &[u8]| request.has_token(Name::Upgrade, one) && !is_h2c(one);
                list_members(got).next().is_some() && list_members(got).all(is_asked)
            })
    }
}

/// Whether a member of `Upgrade` is HTTP/2, which is not spoken on this side: the other members are for the instance. A protocol may
/// have a version behind its name (RFC 9110 §7.8).
fn is_h2c(member: &[u8]) -> bool {
    let name = member.split(|byte| *byte == b'/').next().unwrap_or_default();
    name.eq_ignore_ascii_case(b"h2c")
}

/// Whether the request has passed through the sidecar with this id before.
pub(crate) fn has_passed(head: &Head, id: &str) -> bool {
    head.values(Name::OutriggerVia).any(|value| list_members(value).any(|member| member == id.as_bytes()))
}

/// Keeps the fields of a response that tell the app which protocol to use: "use another protocol" says nothing without it
/// (RFC 9110 §15.5.22). What is to be added to the head.
pub(crate) fn keep_upgrade(head: &mut Head) -> &'static [u8] {
    if matches!(head.status(), 101 | 426) && head.first(Name::Upgrade).is_some() {
        head.keep(Name::Upgrade);
        b"Connection: upgrade\r\n"
    } else {
        b""
    }
}

/// Neither a path nor a URI: `orders:80`, which only CONNECT has.
fn is_authority_form(target: &[u8]) -> bool {
    target.first() != Some(&b'/') && !target.windows(3).any(|part| part == b"://")
}

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
    use outrigger_http1::{Edits, HeadKind, HeadLimits, HeadParser, Inbox, Outbox, writer::write_head};

    use super::*;

    fn request(text: &str) -> Head {
        let limits = HeadLimits { bytes: 65_536, fields: 100, target: 65_536 };
        let mut inbox = Inbox::from(text.replace('\n', "\r\n").as_bytes());
        HeadParser::new(HeadKind::Request, limits, Vec::new()).parse(&mut inbox, Vec::new).unwrap().unwrap()
    }

    fn read(head: &mut Head) -> RequestFacts {
        let mut facts = RequestFacts::new(false);
        facts.read(head).unwrap();
        facts
    }

    /// The head that the instance gets.
    fn passed_on(text: &str) -> String {
        let mut head = request(text);
        let facts = read(&mut head);
        let mut outbox = Outbox::new();
        let edits = Edits { add: &facts.changes.add, drop: facts.changes.drop, ..Edits::default() };
        write_head(&head, &edits, facts.framing, &mut outbox);
        String::from_utf8(outbox.pending().to_vec()).unwrap().replace("\r\n", "\n")
    }

    #[test]
    fn hop_by_hop_fields_end_here_and_what_the_next_hop_needs_is_written_anew() {
        let start = "GET / HTTP/1.1\nHost: o\n";
        for (fields, expected) in [
            ("Connection: x-a, close, host\nX-A: 1\nx-b: 2\n", "x-b: 2\n"),
            ("TE: gzip, trailers;q=0.5, trailers\n", "TE: trailers\nConnection: te\n"),
            ("te: trailers\n", "te: trailers\nConnection: te\n"),
            ("TE: gzip\n", ""),
            ("Connection: Upgrade\nUpgrade: websocket\n", "Upgrade: websocket\nConnection: upgrade\n"),
            ("Upgrade: websocket\n", ""),
            ("Connection: Upgrade\nUpgrade: h2c\n", ""),
            ("Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAM\n", ""),
            (
                "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c, websocket\nHTTP2-Settings: AAM\n",
                "Upgrade: websocket\nConnection: upgrade\n",
            ),
            // A field that Connection should have named.
            (
                "Connection: upgrade\nHTTP2-Settings: AAM\nUpgrade: foo/2,H2C ,\tbar\n",
                "Upgrade: foo/2, bar\nConnection: upgrade\n",
            ),
            (
                "Upgrade: h2c\nConnection: UPGRADE\nUpgrade: websocket\nx-b: 2\nupgrade: foo,,bar , h2c\n",
                "Upgrade: websocket\nx-b: 2\nupgrade: foo, bar\nConnection: upgrade\n",
            ),
            // What is left as it was received, byte by byte.
            ("Connection: upgrade\nUpgrade: foo ,,bar\n", "Upgrade: foo ,,bar\nConnection: upgrade\n"),
            ("Connection: upgrade\nUpgrade: h2c, H2C\nUpgrade: h2c/1\n", ""),
            (
                "Connection: upgrade\nUpgrade: h2, h2c-17, h2cx\n",
                "Upgrade: h2, h2c-17, h2cx\nConnection: upgrade\n",
            ),
            ("Connection: upgrade\nUpgrade: ,\n", ""),
            ("Connection: HTTP2-Settings\nUpgrade: h2c, websocket\nHTTP2-Settings: AAM\n", ""),
            ("Upgrade: h2c, websocket\n", ""),
            ("Proxy-Authorization: Basic YTpi\nAuthorization: Basic YTpi\n", "Authorization: Basic YTpi\n"),
        ] {
            assert_eq!(passed_on(&format!("{start}{fields}\n")), format!("{start}{expected}\n"), "{fields}");
        }
    }

    #[test]
    fn a_101_switches_only_to_what_the_instance_was_asked_for() {
        let head = |text: &str, kind| {
            let limits = HeadLimits { bytes: 65_536, fields: 100, target: 65_536 };
            let mut inbox = Inbox::from(text.replace('\n', "\r\n").as_bytes());
            HeadParser::new(kind, limits, Vec::new()).parse(&mut inbox, Vec::new).unwrap().unwrap()
        };
        for (asked, switched, is_asked) in [
            ("h2c, websocket", "websocket", true),
            ("h2c, websocket", "WebSocket", true),
            ("h2c, websocket", "h2c", false),
            ("h2c, websocket", "h2c, websocket", false),
            ("h2c\nUpgrade: foo/2, bar", "foo/2", true),
            ("h2c\nUpgrade: foo/2, bar", "foo/2, bar", true),
            ("h2c\nUpgrade: foo/2, bar", "h2c", false),
            ("h2c\nUpgrade: foo/2, bar", "baz", false),
            ("h2c", "h2c", false),
        ] {
            let text = format!("GET / HTTP/1.1\nHost: o\nConnection: upgrade\nUpgrade: {asked}\n\n");
            let mut request = head(&text, HeadKind::Request);
            let facts = read(&mut request);
            let text = format!("HTTP/1.1 101 Switching Protocols\nUpgrade: {switched}\n\n");
            let response = head(&text, HeadKind::Response);
            assert_eq!(facts.changes.accepts_upgrade(&request, &response), is_asked, "{asked}: {switched}");
        }
    }

    #[test]
    fn ambiguous_requests_are_refused() {
        for (text, is_fine) in [
            ("GET / HTTP/1.1\nHost: o\n\n", true),
            ("GET / HTTP/1.0\n\n", true),
            ("GET / HTTP/1.1\n\n", false),
            ("GET / HTTP/1.1\nHost: o\nHost: o\n\n", false),
            ("POST / HTTP/1.1\nHost: o\nTransfer-Encoding: chunked\n\n", true),
            ("POST / HTTP/1.1\nHost: o\nTransfer-Encoding: gzip, chunked\n\n", false),
            ("POST / HTTP/1.1\nHost: o\nExpect: 100-continue\nContent-Length: 1\n\n", true),
            ("GET * HTTP/1.1\nHost: o\n\n", false),
            ("OPTIONS * HTTP/1.1\nHost: o\n\n", true),
            ("GET o:80 HTTP/1.1\nHost: o\n\n", false),
            ("CONNECT o:80 HTTP/1.1\nHost: o:80\n\n", false),
        ] {
            assert_eq!(RequestFacts::new(false).read(&mut request(text)).is_ok(), is_fine, "{text}");
        }
    }

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
