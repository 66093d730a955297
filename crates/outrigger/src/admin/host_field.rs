//! Reads the field `Host`: a host and perhaps a port (RFC 9110 §7.2), and nothing else.
//!
//! The parser of a URI's authority is more liberal: it takes user information and text behind an address in brackets, and then tells
//! the part that looks like a host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, HeaderValue, header};
use outrigger_proxy::host_of;

/// The field `Host` of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostField {
    /// As it was sent.
    pub(crate) text: String,
    pub(crate) host: RequestHost,
}

/// The host of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestHost {
    Ip(IpAddr),
    /// As it was sent.
    Name(String),
}

impl HostField {
    /// `None`: the text has another form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let host = host_of(text)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => RequestHost::Ip(rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into()),
            None => {
                let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                if host.is_empty() || !host.bytes().all(is_name) {
                    return None;
                }
                let ip = host.parse::<Ipv4Addr>().map(|ip| RequestHost::Ip(ip.into()));
                ip.unwrap_or_else(|_| RequestHost::Name(host.to_owned()))
            }
        };
        Some(Self { text: text.to_owned(), host })
    }

    /// That of a request which has one.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(single_host(headers)?.to_str().ok()?)
    }
}

/// The field `Host`, where there is one alone.
pub(crate) fn single_host(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next()?;
    hosts.next().is_none().then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_perhaps_a_port_are_read_and_nothing_else() {
        let name = |name: &str| Some(RequestHost::Name(name.to_owned()));
        let ip = |ip: &str| Some(RequestHost::Ip(ip.parse().unwrap()));
        for (text, expected) in [
            ("localhost", name("localhost")),
            ("LocalHost.:7077", name("LocalHost.")),
            ("localhost:", name("localhost")),
            ("host_1.docker-internal:65535", name("host_1.docker-internal")),
            ("127.0.0.1:7077", ip("127.0.0.1")),
            ("[::1]", ip("::1")),
            ("[::1]:7077", ip("::1")),
            ("[::ffff:127.0.0.1]:", ip("::ffff:127.0.0.1")),
            ("127.1", name("127.1")),
            ("127.0.0.1.evil.example", name("127.0.0.1.evil.example")),
            ("", None),
            (":7077", None),
            ("::1", None),
            ("[::1", None),
            ("::1]", None),
            ("[]", None),
            ("[::1].evil.example", None),
            ("[::1]evil.example", None),
            ("[::1]:80.evil.example", None),
            ("[::1]:7077:7077", None),
            ("[[::1]]", None),
            ("[127.0.0.1]", None),
            ("[localhost]", None),
            ("[fe80::1%25eth0]", None),
            ("[fe80::1%eth0]", None),
            ("user@localhost", None),
            ("localhost@evil.example", None),
            ("localhost:80@evil.example", None),
            ("user:pass@localhost", None),
            ("localhost:65536", None),
            ("localhost:-1", None),
            ("localhost:+1", None),
            ("localhost:http", None),
            ("localhost:80:80", None),
            ("localhost/", None),
            ("localhost?x", None),
            ("localhost#x", None),
            ("localhost\\@evil.example", None),
            ("local host", None),
            (" localhost", None),
            ("localhost,evil.example", None),
            ("local%68ost", None),
            ("lo\u{1e9e}alhost", None),
            ("http://localhost", None),
        ] {
            assert_eq!(HostField::parse(text).map(|field| field.host), expected, "{text:?}");
        }
    }

    #[test]
    fn a_request_has_one_host() {
        let fields = |all: &[&'static str]| -> HeaderMap {
            all.iter().map(|text| (header::HOST, HeaderValue::from_static(text))).collect()
        };
        assert_eq!(HostField::of(&fields(&[])), None);
        assert_eq!(
            HostField::of(&fields(&["localhost"])).map(|field| field.text).as_deref(),
            Some("localhost")
        );
        let mut two = fields(&["localhost"]);
        two.append(header::HOST, HeaderValue::from_static("localhost"));
        assert_eq!(HostField::of(&two), None);
    }
}
