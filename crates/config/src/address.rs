//! Addresses: listen addresses, the address of Consul, and the origins of browser pages.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::{AllowedOrigin, ConsulAddress, Listen, ListenHost, error::InvalidValue, names};

/// `localhost:7070` (both loopbacks), `127.0.0.1:9101`, `[::1]:80`, `[fe80::1%eth0]:80`.
pub(crate) fn listen_address(text: &str) -> Result<Listen, InvalidValue> {
    let hint = "write localhost:7070, 127.0.0.1:7070 or [::1]:7070";
    if let Some(port) = text.strip_prefix("localhost:") {
        return port.parse().map(Listen::localhost).map_err(|_| InvalidValue::new("has no valid port", hint));
    }
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return match addr {
            SocketAddr::V6(addr) if addr.ip().is_unicast_link_local() && addr.scope_id() == 0 => {
                let hint = format!("write [{}%eth0]:{}, with the interface", addr.ip(), addr.port());
                Err(InvalidValue::new("is a link-local address without a zone", hint))
            }
            addr => Ok(addr.into()),
        };
    }
    if let Some((ip, zone, port)) = zoned(text) {
        // A zone says nothing more of an address that is unique.
        let is_link_local = ip.is_unicast_link_local();
        let host = if is_link_local { ListenHost::LinkLocal { ip, zone } } else { ListenHost::Ip(ip.into()) };
        return Ok(Listen { host, port });
    }
    if let Some(address) = with_brackets(text, 7070) {
        let what = "is an IPv6 address without brackets";
        return Err(InvalidValue::new(what, format!("write {address}")));
    }
    if let Some(port) = text.strip_prefix(':').filter(|port| port.parse::<u16>().is_ok()) {
        let hint = format!("write localhost:{port}, or 0.0.0.0:{port} to listen for the network");
        return Err(InvalidValue::new("has no address", hint));
    }
    let what = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && host.parse::<Ipv6Addr>().is_err() => {
            "is not an address to listen on"
        }
        _ => "is not an address with a port",
    };
    Err(InvalidValue::new(what, hint))
}

/// Whether the two addresses cannot be bound at the same time.
pub(crate) fn overlaps(a: &Listen, b: &Listen) -> bool {
    // Port 0 stands for a new port each time.
    a.port == b.port && a.port != 0 && hosts(a).iter().any(|x| hosts(b).iter().any(|y| same_socket(*x, *y)))
}

/// Whether connections to a loopback address reach this listener.
pub(crate) fn covers_loopback(listen: &Listen) -> bool {
    hosts(listen).iter().any(|(ip, _)| ip.is_unspecified() || ip.is_loopback())
}

/// The addresses, each perhaps with its zone.
fn hosts(listen: &Listen) -> Vec<(IpAddr, Option<&str>)> {
    match &listen.host {
        ListenHost::Localhost => vec![([127, 0, 0, 1].into(), None), (Ipv6Addr::LOCALHOST.into(), None)],
        ListenHost::Ip(ip) => vec![(*ip, None)],
        ListenHost::LinkLocal { ip, zone } => vec![((*ip).into(), Some(zone))],
    }
}

fn same_socket(a: (IpAddr, Option<&str>), b: (IpAddr, Option<&str>)) -> bool {
    // `[::]` also accepts IPv4, except where the system is set otherwise.
    let any = |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
    a == b || any(a.0, b.0) || any(b.0, a.0)
}

/// A Consul address as written. Without a scheme, `CONSUL_HTTP_SSL` decides about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParsedConsulAddress {
    pub(crate) address: ConsulAddress,
    /// `http://` or `https://` was written.
    pub(crate) has_scheme: bool,
}

/// `http://host:port`, `https://host:port`, `host:port`.
pub(crate) fn consul_address(text: &str) -> Result<ParsedConsulAddress, InvalidValue> {
    let hint = "write http://127.0.0.1:8500 or https://consul.example:8501";
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let tls = match scheme.map(str::to_ascii_lowercase).as_deref() {
        None | Some("http") => false,
        Some("https") => true,
        Some("unix") => return Err(InvalidValue::new("is a unix socket, which is not supported", hint)),
        Some(other) => return Err(InvalidValue::new(format!("has the scheme {other:?}"), hint)),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.starts_with('/') {
        return Err(InvalidValue::new("is a unix socket, which is not supported", hint));
    }
    if authority.contains('@') {
        return Err(InvalidValue::new(
            "holds a user name",
            "put the ACL token in token_file or CONSUL_HTTP_TOKEN",
        ));
    }
    if authority.contains(['/', '?', '#']) {
        return Err(InvalidValue::new("has a path", "only scheme, host and port are supported"));
    }
    let (host, port) = zoned_and_port(authority).or_else(|| host_and_port(authority)).ok_or_else(|| {
        missing_part(scheme, authority)
            .unwrap_or_else(|| InvalidValue::new("is not an address with a port", hint))
    })?;
    Ok(ParsedConsulAddress { address: ConsulAddress { tls, host, port }, has_scheme: scheme.is_some() })
}

/// An IPv6 address with a zone, in brackets, with a port: `[fe80::1%eth0]:8500`; in a URL the zone may follow `%25` (RFC 6874).
fn zoned_and_port(authority: &str) -> Option<(String, u16)> {
    let (ip, zone, port) = zoned(authority)?;
    let zone = zone.strip_prefix("25").filter(|zone| !zone.is_empty()).unwrap_or(&zone);
    (port != 0).then(|| (format!("{ip}%{zone}"), port))
}

/// The parts of `[fe80::1%eth0]:8500`.
fn zoned(text: &str) -> Option<(Ipv6Addr, String, u16)> {
    let (inner, port) = text.strip_prefix('[')?.split_once("]:")?;
    let (ip, zone) = names::zoned_ip(inner)?;
    Some((ip, zone.to_owned(), port.parse().ok()?))
}

/// What an address of Consul lacks that is one but for brackets or a port.
fn missing_part(scheme: Option<&str>, authority: &str) -> Option<InvalidValue> {
    let scheme = scheme.map(|scheme| format!("{scheme}://")).unwrap_or_default();
    if let Some(address) = with_brackets(authority, 8500) {
        let what = "is an IPv6 address without brackets";
        return Some(InvalidValue::new(what, format!("write {scheme}{address}")));
    }
    let is_host = match names::in_brackets(authority) {
        Some(inner) => is_ipv6(inner),
        None => names::host(authority).is_ok(),
    };
    is_host.then(|| InvalidValue::new("has no port", format!("write {scheme}{authority}:8500")))
}

/// An IPv6 address without brackets as it is to be written, with its own port or else `port`. `None`: it is none.
fn with_brackets(text: &str, port: u16) -> Option<String> {
    let (before, last) = text.rsplit_once(':')?;
    match last.parse::<u16>() {
        Ok(port) if port != 0 && is_ipv6(before) => Some(format!("[{before}]:{port}")),
        _ => is_ipv6(text).then(|| format!("[{text}]:{port}")),
    }
}

/// Whether the text is an IPv6 address without brackets, perhaps with a zone.
fn is_ipv6(text: &str) -> bool {
    text.split('%').next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok())
}

fn host_and_port(authority: &str) -> Option<(String, u16)> {
    if let Ok(addr) = authority.parse::<SocketAddr>() {
        return (addr.port() != 0).then(|| (addr.ip().to_string(), addr.port()));
    }
    let (host, port) = authority.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    // An IPv6 address needs brackets, because its port could not be found otherwise.
    names::host(host).ok().filter(|host| !host.contains(':')).map(|host| (host, port))
}

/// A host and a port of this machine's loopback: `localhost:8080`, `127.0.0.1:8080`, `[::1]:8080`. No address: `localhost`. Without a port: 80.
pub(crate) fn loopback_authority(text: &str) -> Option<(Option<IpAddr>, u16)> {
    let (host, port) = host_and_port(text).or_else(|| host_and_port(&format!("{text}:80")))?;
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback().then_some((Some(ip), port)),
        Err(_) => host.eq_ignore_ascii_case("localhost").then_some((None, port)),
    }
}

/// `https://app.example[:port]`, `https://*.example[:port]`, `*`, `null`. In YAML the star needs quotes: without them it begins
/// an alias.
pub(crate) fn allowed_origin(text: &str) -> Result<AllowedOrigin, InvalidValue> {
    let lower = text.to_ascii_lowercase();
    let origin = match lower.as_str() {
        "*" => return Ok(AllowedOrigin::Any),
        "null" => return Ok(AllowedOrigin::Null),
        text => text.split_once("://"),
    };
    let wrong = || {
        let hint =
            "write https://app.example, http://localhost:3000, https://*.example, \"*\" (in quotes) or null";
        InvalidValue::new("is not an origin", hint)
    };
    let (scheme, rest) = origin.ok_or_else(wrong)?;
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Err(wrong()),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let parent = authority.strip_prefix("*.");
    let host = parent.unwrap_or(authority);
    // An address has no subdomains.
    let is_address =
        || host_and_port(host).map_or(host.to_owned(), |(host, _)| host).parse::<IpAddr>().is_ok();
    if !is_authority(host) || parent.is_some() && (host.starts_with('[') || is_address()) {
        return Err(wrong());
    }
    let host = host.strip_suffix(default_port).unwrap_or(host);
    Ok(match parent {
        Some(_) => AllowedOrigin::Subdomains { scheme: scheme.to_owned(), suffix: format!(".{host}") },
        None => AllowedOrigin::Exact(format!("{scheme}://{host}")),
    })
}

/// A host, with a port or without.
fn is_authority(text: &str) -> bool {
    let is_host = names::in_brackets(text).map_or_else(
        || names::host(text).is_ok_and(|host| !host.contains(':')),
        |inner| inner.parse::<Ipv6Addr>().is_ok(),
    );
    is_host || host_and_port(text).is_some()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn listeners_are_both_loopbacks_or_one_address() {
        for text in [
            "localhost:7070",
            "127.0.0.1:9101",
            "[::1]:80",
            "0.0.0.0:0",
            "[::]:7070",
            "[fe80::1%2]:80",
            "[fe80::1%eth0]:80",
            "[fe80::1%br-0.1]:0",
        ] {
            assert_eq!(listen_address(text).map(|listen| listen.to_string()), Ok(text.to_owned()));
        }
        // A zone says nothing more of an address that is unique.
        for text in ["[fd00::1%2]:80", "[fd00::1%eth0]:80"] {
            assert_eq!(listen_address(text).unwrap().to_string(), "[fd00::1]:80", "{text}");
        }
        for text in [
            "",
            "7070",
            "localhost",
            "localhost:",
            "localhost:70000",
            "::1:80",
            "orders:80",
            "127.0.0.1",
            "1.2.3.4.5:80",
            "[fe80::1%]:80",
            "[fe80::1%a b]:80",
            "[fe80::1%eth0]",
            "[10.0.0.1%eth0]:80",
        ] {
            assert!(listen_address(text).is_err(), "for {text:?}");
        }
        for text in ["[fe80::1]:80", "[fe80::1%0]:80"] {
            let error = listen_address(text).unwrap_err();
            assert_eq!(error.what, "is a link-local address without a zone", "{text}");
            assert!(error.hint.contains("[fe80::1%eth0]:80"), "{}", error.hint);
        }
        assert_eq!(listen_address(":7070").unwrap_err().what, "has no address");
    }

    #[test]
    fn listeners_overlap_when_the_second_bind_would_fail() {
        let cases = [
            ("localhost:1", "127.0.0.1:1", true),
            ("localhost:1", "[::1]:1", true),
            ("localhost:1", "0.0.0.0:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("localhost:1", "localhost:2", false),
            ("localhost:0", "localhost:0", false),
            ("[fe80::1%2]:1", "[fe80::1%2]:1", true),
            ("[fe80::1%2]:1", "[fe80::1%3]:1", false),
            ("[fe80::1%2]:1", "[::]:1", true),
        ];
        for (a, b, expected) in cases {
            let (a, b) = (listen_address(a).unwrap(), listen_address(b).unwrap());
            assert_eq!((overlaps(&a, &b), overlaps(&b, &a)), (expected, expected), "{a} and {b}");
        }
    }

    #[test]
    fn consul_is_a_host_and_a_port_with_or_without_a_scheme() {
        let cases = [
            ("http://127.0.0.1:8500", "http://127.0.0.1:8500", true),
            ("https://consul.example:8501/", "https://consul.example:8501", true),
            ("127.0.0.1:8500", "http://127.0.0.1:8500", false),
            ("HTTP://[::1]:8500", "http://[::1]:8500", true),
            ("localhost:8500", "http://localhost:8500", false),
            ("[fd00::1]:8500", "http://[fd00::1]:8500", false),
            ("https://[FD00::1]:8501/", "https://[fd00::1]:8501", true),
            ("http://[::ffff:127.0.0.1]:8500", "http://[::ffff:127.0.0.1]:8500", true),
            ("[fe80::1%eth0]:8500", "http://[fe80::1%eth0]:8500", false),
            ("http://[fe80::1%25eth0]:8500", "http://[fe80::1%eth0]:8500", true),
            ("http://[fe80::1%2]:8500", "http://[fe80::1%2]:8500", true),
        ];
        for (text, address, explicit) in cases {
            let given = consul_address(text).unwrap();
            assert_eq!(
                (given.address.to_string().as_str(), given.has_scheme),
                (address, explicit),
                "for {text:?}"
            );
        }
    }

    #[test]
    fn the_error_for_a_wrong_consul_address_has_the_reason() {
        let cases = [
            ("unix:///run/consul.sock", "is a unix socket, which is not supported"),
            ("/run/consul.sock", "is a unix socket, which is not supported"),
            ("tcp://10.0.0.1:8500", "has the scheme \"tcp\""),
            ("http://me:secret@host:8500", "holds a user name"),
            ("http://host:8500/consul", "has a path"),
            ("http://host", "has no port"),
            ("10.0.0.1", "has no port"),
            ("[::1]", "has no port"),
            ("http://fd00::1:8500", "is an IPv6 address without brackets"),
            ("fd00::1", "is an IPv6 address without brackets"),
            ("[fd00::1:8500", "is not an address with a port"),
            ("[fd00::1]8500", "is not an address with a port"),
            ("[10.0.0.1]:8500", "is not an address with a port"),
            ("[fe80::1%]:8500", "is not an address with a port"),
            ("[fe80::1%a b]:8500", "is not an address with a port"),
            ("host:0", "is not an address with a port"),
            ("", "is not an address with a port"),
            ("a b:1", "is not an address with a port"),
        ];
        for (text, what) in cases {
            assert_eq!(consul_address(text).unwrap_err().what, what, "for {text:?}");
        }
    }

    #[test]
    fn the_error_for_an_ipv6_address_shows_how_to_write_it() {
        for (text, hint) in [
            ("http://fd00::1:8500", "write http://[fd00::1]:8500"),
            ("https://fd00::1:8501/", "write https://[fd00::1]:8501"),
            ("fd00::1", "write [fd00::1]:8500"),
            ("::1:8500", "write [::1]:8500"),
            ("http://::1", "write http://[::1]:8500"),
            ("[::1]", "write [::1]:8500"),
            ("http://[fd00::1]/", "write http://[fd00::1]:8500"),
            ("fe80::1%eth0:8500", "write [fe80::1%eth0]:8500"),
            ("http://consul.example", "write http://consul.example:8500"),
        ] {
            assert_eq!(consul_address(text).unwrap_err().hint, hint, "for {text:?}");
        }
        for (text, hint) in [("::1:80", "write [::1]:80"), ("fd00::1", "write [fd00::1]:7070")] {
            assert_eq!(listen_address(text).unwrap_err().hint, hint, "for {text:?}");
        }
    }

    #[test]
    fn origins_are_written_as_browsers_do() {
        let cases = [
            ("https://App.Example", "https://app.example"),
            ("https://app.example:443/", "https://app.example"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]", "http://[::1]"),
            ("*", "*"),
            ("NULL", "null"),
            ("https://*.App.Example:443", "https://*.app.example"),
            ("http://*.example:3000/", "http://*.example:3000"),
        ];
        for (text, expected) in cases {
            assert_eq!(allowed_origin(text).map(|origin| origin.to_string()).as_deref(), Ok(expected));
        }
        for text in [
            "app.example",
            "ftp://x",
            "https://",
            "https://a/b",
            "https://a b",
            "https://::1",
            "https://*",
            "https://*.",
            "https://*example",
            "https://a.*.example",
            "https://*.*.example",
            "https://*.10.0.0.1",
            "https://*.10.0.0.1:80",
            "https://a.example:443:443",
            "https://*.[::1]",
            "*.example",
            "**",
        ] {
            assert!(allowed_origin(text).is_err(), "for {text:?}");
        }
    }

    #[test]
    fn an_entry_allows_what_it_names_and_nothing_else() {
        for (entry, origin, expected) in [
            ("*", "https://a.example", true),
            ("*", "null", true),
            ("null", "null", true),
            ("null", "https://null", false),
            ("https://app.example", "https://app.example", true),
            ("https://app.example", "HTTPS://APP.example", true),
            ("https://app.example", "http://app.example", false),
            ("https://app.example", "https://app.example:444", false),
            ("https://app.example", "https://app.example.evil", false),
            ("https://app.example", "null", false),
            ("https://*.example", "https://app.example", true),
            ("https://*.example", "https://a.b.Example", true),
            ("https://*.example", "https://example", false),
            ("https://*.example", "https://.example", false),
            ("https://*.example", "https://a..example", false),
            ("https://*.example", "https://evilexample", false),
            ("https://*.example", "http://app.example", false),
            ("https://*.example", "https://app.example:8443", false),
            ("https://*.example", "https://app.example.evil", false),
            ("https://*.example", "https://evil.org/x.example", false),
            ("https://*.example", "https://evil.org:1.example", false),
            ("https://*.example", "https://me@app.example", false),
            ("https://*.example", "https://\u{e9}.example", false),
            ("https://*.example", "null", false),
            ("http://*.example:3000", "http://a.example:3000", true),
            ("http://*.example:3000", "http://a.example", false),
        ] {
            assert_eq!(allowed_origin(entry).unwrap().allows(origin), expected, "{entry} and {origin}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in ".*") {
            let _ = (listen_address(&text), consul_address(&text), allowed_origin(&text));
        }

        #[test]
        fn a_formatted_listen_address_parses_to_itself(ip in any::<IpAddr>(), port in any::<u16>()) {
            let addr = match ip {
                IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, 1).into(),
                ip => SocketAddr::new(ip, port),
            };
            let value = Listen::from(addr);
            prop_assert_eq!(listen_address(&value.to_string()), Ok(value));
        }
    }
}
