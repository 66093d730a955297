//! Reads a service's name out of an authority.
//!
//! `orders`, `orders:7070`, `orders.service.consul`, `v2.orders.service.consul` (a tag),
//! `orders.service.dc2.consul`. Any other name is outside the registry, unless a
//! declared service has it.

use std::{borrow::Cow, net::IpAddr};

/// What an authority names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedHost<'a> {
    /// A service of the registry.
    Service(ServiceName<'a>),
    /// A loopback address or `localhost`: possibly the address of this listener.
    Local,
    /// A name outside the registry, or any other IP address.
    Outside,
    /// No host at all.
    Invalid,
}

/// A service, with the tag and datacenter of its long form. All in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ServiceName<'a> {
    pub(crate) service: Cow<'a, str>,
    pub(crate) tag: Option<Cow<'a, str>>,
    pub(crate) datacenter: Option<Cow<'a, str>>,
}

/// Reads an authority (`host` or `host:port`).
pub(crate) fn parse(authority: &str) -> ParsedHost<'_> {
    let Some(host) = host_of(authority) else { return ParsedHost::Invalid };
    let host = host.strip_suffix('.').unwrap_or(host);
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return if inner.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| is_loopback_ip(ip.into())) {
            ParsedHost::Local
        } else {
            ParsedHost::Outside
        };
    }
    // Without brackets, only a text that begins with a digit can be an address.
    let numeric = host.starts_with(|first: char| first.is_ascii_digit());
    if numeric && let Ok(ip) = host.parse::<IpAddr>() {
        return if is_loopback_ip(ip) { ParsedHost::Local } else { ParsedHost::Outside };
    }
    if host.eq_ignore_ascii_case("localhost") {
        return ParsedHost::Local;
    }
    if host.is_empty() || host.len() > 253 || !host.bytes().all(is_name_byte) {
        return ParsedHost::Invalid;
    }
    match parse_service_name(host) {
        Some(name) => ParsedHost::Service(name),
        None => ParsedHost::Outside,
    }
}

fn parse_service_name(host: &str) -> Option<ServiceName<'_>> {
    if !host.contains('.') && host.len() <= 63 {
        return Some(ServiceName { service: lowercase(host), tag: None, datacenter: None });
    }
    let labels: Vec<&str> = host.split('.').collect();
    if labels.iter().any(|label| label.is_empty() || label.len() > 63) {
        return None;
    }
    let is = |label: &str, word: &str| label.eq_ignore_ascii_case(word);
    let (tag, service, datacenter) = match labels[..] {
        [service] => (None, service, None),
        [service, s, c] if is(s, "service") && is(c, "consul") => (None, service, None),
        [service, s, dc, c] if is(s, "service") && is(c, "consul") => (None, service, Some(dc)),
        [tag, service, s, c] if is(s, "service") && is(c, "consul") => (Some(tag), service, None),
        [tag, service, s, dc, c] if is(s, "service") && is(c, "consul") => (Some(tag), service, Some(dc)),
        _ => return None,
    };
    Some(ServiceName {
        service: lowercase(service),
        tag: tag.map(lowercase),
        datacenter: datacenter.map(lowercase),
    })
}

/// Whether a path segment can be the name of a service: what Consul's DNS and URLs accept, dots included.
pub(crate) fn is_service_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text != "." && text != ".." && text.bytes().all(is_name_byte)
}

/// The host of an authority, without its port; `None`: the text is no authority.
pub(crate) fn host_of(authority: &str) -> Option<&str> {
    if authority.starts_with('[') {
        let end = authority.find(']')?;
        let (host, rest) = authority.split_at(end + 1);
        return (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)).then_some(host);
    }
    match authority.split_once(':') {
        None => Some(authority),
        Some((host, port)) => is_port(port).then_some(host),
    }
}

/// The IP address that a host is, with brackets or without.
pub(crate) fn ip_of(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

/// Whether the host of an authority is a loopback address or `localhost`.
pub(crate) fn is_loopback(authority: &str) -> bool {
    matches!(parse(authority), ParsedHost::Local)
}

/// The text in lower case; copied only where it has an upper-case letter.
pub(crate) fn lowercase(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

fn is_loopback_ip(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_service(text: &str, service: &str, tag: Option<&str>, datacenter: Option<&str>) {
        let expected = ServiceName {
            service: service.into(),
            tag: tag.map(Into::into),
            datacenter: datacenter.map(Into::into),
        };
        assert_eq!(parse(text), ParsedHost::Service(expected), "{text}");
    }

    #[test]
    fn every_form_names_its_service() {
        assert_service("orders", "orders", None, None);
        assert_service("Orders:7070", "orders", None, None);
        assert_service("orders.", "orders", None, None);
        assert_service("orders.service.consul", "orders", None, None);
        assert_service("orders.service.consul.:80", "orders", None, None);
        assert_service("v2.orders.service.consul", "orders", Some("v2"), None);
        assert_service("orders.service.dc2.consul", "orders", None, Some("dc2"));
        assert_service("v2.orders.service.dc2.consul:7070", "orders", Some("v2"), Some("dc2"));
    }

    #[test]
    fn addresses_and_outside_names_name_no_service() {
        for text in
            ["10.0.0.5", "10.0.0.5:80", "[2001:db8::1]:80", "example.com", "orders.example.com", "a.b"]
        {
            assert_eq!(parse(text), ParsedHost::Outside, "{text}");
        }
        for text in
            ["localhost", "LOCALHOST:7070", "127.0.0.1:7070", "127.9.9.9", "[::1]:7070", "[::ffff:127.0.0.1]"]
        {
            assert_eq!(parse(text), ParsedHost::Local, "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_authority_is_invalid() {
        for text in
            ["", ":80", "a b", "orders:x", "orders:99999", "[::1", "o/rders", "user@orders", "ord\u{e9}rs"]
        {
            assert_eq!(parse(text), ParsedHost::Invalid, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
            let _ = parse(&text);
        }
    }
}
