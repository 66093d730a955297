//! Names: services, tags, ids, datacenters, hosts, paths, metadata, log filters.
//!
//! The names of datacenters are used in `Host` headers (`orders.service.dc2.consul`), so they are DNS labels, and so is each
//! part of a service's name; a value that is only sent as JSON may be almost any text.

use std::net::{IpAddr, Ipv6Addr};

use crate::{Secret, error::InvalidValue};

/// Longest name of a service, in bytes; as in the path form.
const MAX_SERVICE_NAME: usize = 128;

/// Longest prefix of keys, in bytes: Consul takes keys of 512 bytes at most.
const MAX_KV_PREFIX: usize = 200;

/// A DNS label of at most 63 letters, digits, `-` and `_`, with a letter or digit at both ends.
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().all(|b| inner(*b)) && edge(bytes.first()) && edge(bytes.last())
}

/// A service's name, as Consul takes it, of the bytes that a `Host` header and a path can hold.
pub(crate) fn service(text: &str) -> Result<String, InvalidValue> {
    let wrong = |what: &str, hint: &str| Err(InvalidValue::new(what, hint));
    if text.parse::<IpAddr>().is_ok() {
        return wrong("is an address, and no service's name", "name the service as the registry lists it");
    }
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_part = |part: &str| !part.is_empty() && part.len() <= 63 && part.bytes().all(is_name_byte);
    if text.len() > MAX_SERVICE_NAME || !text.split('.').all(is_part) {
        let hint =
            "1 to 128 letters, digits, -, _ and dots; at least 1 and at most 63 bytes between two dots";
        return wrong("cannot be a service's name", hint);
    }
    Ok(text.to_owned())
}

/// By Consul's rules: letters, digits, `-` and `_`.
pub(crate) fn datacenter(text: &str) -> Result<String, InvalidValue> {
    let valid = !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if valid {
        Ok(text.to_owned())
    } else {
        Err(InvalidValue::new("cannot be a datacenter's name", "letters, digits, - and _"))
    }
}

/// Whether these are words with slashes between them that every program on the way to the registry reads as the same key: none is empty,
/// `.` or `..`, and none has spaces, control characters, or what a URL gives a meaning.
fn are_key_words(text: &str) -> bool {
    let is_letter = |c: char| !c.is_control() && !c.is_whitespace() && !"?#%\\".contains(c);
    text.split('/').all(|word| !matches!(word, "" | "." | "..") && word.chars().all(is_letter))
}

/// The first part of keys of the registry's KV. One slash at its end is left out.
pub(crate) fn kv_prefix(text: &str) -> Result<String, InvalidValue> {
    let prefix = text.strip_suffix('/').unwrap_or(text);
    if prefix.len() <= MAX_KV_PREFIX && prefix.is_ascii() && are_key_words(prefix) {
        return Ok(prefix.to_owned());
    }
    let hint = "write words with slashes between them, as outrigger or team/outrigger: up to 200 visible ASCII letters without ? # % \\, and no word . or ..";
    Err(InvalidValue::new("is not a prefix of keys", hint))
}

/// A key of the registry's KV, or with a slash at its end everything below it.
pub(crate) fn kv_key_prefix(text: &str) -> Result<String, InvalidValue> {
    let wrong = |what: &str, hint: &str| Err(InvalidValue::new(what, hint));
    let words = text.strip_suffix('/').unwrap_or(text);
    if text.len() > MAX_KV_PREFIX || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return wrong("is not a prefix of keys", "1 to 200 bytes without spaces and control characters");
    }
    if !are_key_words(words) {
        let hint =
            "write words with slashes between them, as config/orders/: without ? # % \\, and no word . or ..";
        return wrong("is not a prefix of keys", hint);
    }
    Ok(text.to_owned())
}

/// A part of a key of the registry's KV, without slashes.
pub(crate) fn kv_word(text: &str) -> Result<String, InvalidValue> {
    match kv_key_prefix(text) {
        Ok(word) if !word.contains('/') => Ok(word),
        _ => Err(InvalidValue::new("is not a part of a key", "write one word without slashes")),
    }
}

/// The domain of Consul's names, in lower case and without a dot at its end.
pub(crate) fn domain(text: &str) -> Result<String, InvalidValue> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() <= 200 && name.split('.').all(is_label) && name.parse::<IpAddr>().is_err() {
        return Ok(name.to_ascii_lowercase());
    }
    Err(InvalidValue::new("is not a domain", "write the domain of the agent, as consul or corp.example"))
}

/// A further host of the sidecar itself, in lower case, without brackets and without a dot at its end.
pub(crate) fn own_name(text: &str) -> Result<String, InvalidValue> {
    match reachable_host(text.strip_suffix('.').unwrap_or(text)) {
        Ok(host) => {
            Ok(host.parse::<IpAddr>().map_or(host.to_ascii_lowercase(), |ip| ip.to_canonical().to_string()))
        }
        Err(_) => Err(InvalidValue::new(
            "is not a host",
            "write a name or an address without a port, as sidecar or host.docker.internal",
        )),
    }
}

/// A tag: any text without control characters; only a label can be used in a `Host` header.
pub(crate) fn tag(text: &str) -> Result<String, InvalidValue> {
    printable(text, 255, "cannot be a tag")
}

/// Methods of gRPC: a path, perhaps with `*` at its end.
pub(crate) fn grpc_method(text: &str) -> Result<String, InvalidValue> {
    let path = text.strip_suffix('*').unwrap_or(text);
    let is_path = path.starts_with('/')
        && !path.contains(['*', '?', '#'])
        && path.bytes().all(|b| b.is_ascii_graphic());
    if is_path && text.len() <= 255 {
        Ok(text.to_owned())
    } else {
        let hint = "write /package.Service/Method; a * at the end stands for any text";
        Err(InvalidValue::new("is no method of gRPC", hint))
    }
}

/// A registration's id.
pub(crate) fn id(text: &str) -> Result<String, InvalidValue> {
    if text.contains(char::is_whitespace) {
        return Err(InvalidValue::new("cannot be an id", "1 to 255 bytes without spaces"));
    }
    printable(text, 255, "cannot be an id")
}

fn printable(text: &str, most: usize, what: &str) -> Result<String, InvalidValue> {
    if text.is_empty() || text.len() > most || text.contains(char::is_control) || text.trim() != text {
        return Err(InvalidValue::new(
            what,
            format!("1 to {most} bytes, no control characters, no space at the ends"),
        ));
    }
    Ok(text.to_owned())
}

/// A host name or an IP address without brackets.
pub(crate) fn host(text: &str) -> Result<String, InvalidValue> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let valid = text.parse::<IpAddr>().is_ok()
        || (text.len() <= 253
            && name.split('.').all(is_label)
            && !name.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    if valid {
        Ok(text.to_owned())
    } else {
        Err(InvalidValue::new("is neither a host name nor an IP address", "write 10.0.0.5 or app.example"))
    }
}

/// The address and the zone of `fe80::1%eth0` (RFC 4007 §11).
pub(crate) fn zoned_ip(text: &str) -> Option<(Ipv6Addr, &str)> {
    let (ip, zone) = text.split_once('%')?;
    let is_zone_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let is_zone = !zone.is_empty() && zone.bytes().all(is_zone_byte);
    ip.parse().ok().filter(|_| is_zone).map(|ip| (ip, zone))
}

/// What is between the brackets of `[fd00::1]`.
pub(crate) fn in_brackets(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

fn is_link_local(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_unicast_link_local())
}

/// An address to register: as [`reachable_host`], and none that each link may have.
pub(crate) fn registered_host(text: &str) -> Result<String, InvalidValue> {
    let host = reachable_host(text)?;
    if is_link_local(&host) {
        let what = "is a link-local address, which other hosts cannot tell from that of another link";
        return Err(InvalidValue::new(what, "write an address that other hosts can reach"));
    }
    Ok(host)
}

/// An address that this machine can connect to: as [`reachable_host`], and a link-local address with its zone.
pub(crate) fn host_from_here(text: &str) -> Result<String, InvalidValue> {
    let bare = in_brackets(text).unwrap_or(text);
    match zoned_ip(bare) {
        Some((ip, _)) if ip.is_unicast_link_local() => Ok(bare.to_owned()),
        _ if is_link_local(bare) => {
            let hint = format!("write {bare}%eth0, with the interface");
            Err(InvalidValue::new("is a link-local address without a zone", hint))
        }
        _ => reachable_host(text),
    }
}

/// An address that other hosts can reach: a host that is not unspecified (`0.0.0.0`, `::`). An IPv6 address may have brackets,
/// which are removed, because registries hold it without them.
pub(crate) fn reachable_host(text: &str) -> Result<String, InvalidValue> {
    let text = in_brackets(text).unwrap_or(text);
    if let Some((address, _)) = text.split_once('%')
        && address.parse::<Ipv6Addr>().is_ok()
    {
        let what = "has a zone, which holds on this machine alone";
        return Err(InvalidValue::new(what, "write an address that other hosts can reach"));
    }
    if text.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_unspecified()) {
        return Err(InvalidValue::new(
            "is not an address that other hosts can reach",
            "write the address of this machine, or leave it out",
        ));
    }
    host(text)
}

/// A host of the `Host` fields of browsers, in lower case and without a final dot: not one that every page can name, as
/// `localhost`.
pub(crate) fn public_host(text: &str) -> Result<String, InvalidValue> {
    let bare = in_brackets(text).unwrap_or(text);
    let host = reachable_host(bare.strip_suffix('.').unwrap_or(bare)).map_err(|_| {
        InvalidValue::new("is not a host", "write a name or an address without a port, as app.example")
    })?;
    if host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        let hint = "pages of any site can send requests to it; name the pages in outbound.allow_origins";
        return Err(InvalidValue::new("is this machine", hint));
    }
    Ok(host.to_ascii_lowercase())
}

/// A path that starts with `/`, with or without a query.
pub(crate) fn path(text: &str) -> Result<String, InvalidValue> {
    let valid = text.starts_with('/')
        && text.len() <= 1024
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if valid {
        return Ok(text.to_owned());
    }
    let hint = "write a path, as /healthz; the app is asked on its own port, at health.address or a loopback address";
    Err(InvalidValue::new("is not a path", hint))
}

pub(crate) fn is_token(text: &str) -> bool {
    let is_token_byte = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(is_token_byte)
}

/// The method of a health probe. `CONNECT` would open a tunnel.
pub(crate) fn probe_method(text: &str) -> Result<String, InvalidValue> {
    if is_token(text) && text.bytes().all(|b| b.is_ascii_uppercase()) && text != "CONNECT" {
        return Ok(text.to_owned());
    }
    Err(InvalidValue::new(
        "is not a method of a probe",
        "write GET, HEAD, OPTIONS, POST or another one but CONNECT",
    ))
}

/// The value of a `Host` field: a host, with or without a port.
pub(crate) fn host_field(text: &str) -> Result<String, InvalidValue> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let is_name = match in_brackets(name) {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => !name.contains(':') && host(name).is_ok(),
    };
    if is_name && port.is_none_or(|port| port.parse::<u16>().is_ok()) {
        return Ok(text.to_owned());
    }
    Err(InvalidValue::new("cannot be a Host", "write app.example, app.example:8080 or [fd00::1]:8080"))
}

/// The name of a header field of a health probe: not one that the sidecar sets.
pub(crate) fn probe_header(text: &str) -> Result<String, InvalidValue> {
    const OWN: [&str; 6] = ["connection", "content-length", "expect", "te", "transfer-encoding", "upgrade"];
    if text.eq_ignore_ascii_case("host") {
        return Err(InvalidValue::new("is not set here", "write health.host"));
    }
    if !is_token(text) {
        return Err(InvalidValue::new("cannot be the name of a header field", "write letters, digits and -"));
    }
    if OWN.iter().any(|own| text.eq_ignore_ascii_case(own)) {
        return Err(InvalidValue::new("is set by the sidecar", "remove it"));
    }
    Ok(text.to_owned())
}

/// The value of a header field.
pub(crate) fn header_value(text: &str) -> Result<Secret, InvalidValue> {
    if text.len() <= 4096
        && text.trim() == text
        && text.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b))
    {
        return Ok(Secret::new(text));
    }
    let hint = "at most 4096 characters of printable ASCII, without a space at the begin or the end";
    Err(InvalidValue::new("cannot be sent in a header field", hint))
}

/// The name of a subset.
pub(crate) fn subset(text: &str) -> Result<String, InvalidValue> {
    let is_valid =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    match (1..=63).contains(&text.len()) && text.bytes().all(is_valid) {
        true => Ok(text.to_owned()),
        false => Err(InvalidValue::new(
            "cannot be the name of a subset",
            "write small letters, digits, - and _, at most 63",
        )),
    }
}

/// Key of a registration's metadata, by Consul's rules.
pub(crate) fn meta_key(text: &str) -> Result<String, InvalidValue> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if text.starts_with("consul-") {
        return Err(InvalidValue::new(
            "starts with \"consul-\"",
            "Consul reserves that prefix; choose another key",
        ));
    }
    if text.is_empty() || text.len() > 128 || !text.bytes().all(valid) {
        return Err(InvalidValue::new("cannot be a metadata key", "1 to 128 letters, digits, - and _"));
    }
    Ok(text.to_owned())
}

/// Value of a registration's metadata, by Consul's rules.
pub(crate) fn meta_value(text: &str) -> Result<String, InvalidValue> {
    if text.len() > 512 {
        let what = format!("is {} bytes long", text.len());
        return Err(InvalidValue::new(what, "Consul allows at most 512 bytes"));
    }
    Ok(text.to_owned())
}

/// `info`, or `warn,outrigger_proxy=debug`.
pub(crate) fn log_filter(text: &str) -> Result<String, InvalidValue> {
    let level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].contains(&word.to_ascii_lowercase().as_str())
    };
    let target = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':' || b == b'-')
    };
    let valid = |part: &str| match part.trim().split_once('=') {
        Some((name, word)) => target(name) && level(word),
        None => level(part.trim()),
    };
    if text.split(',').all(valid) {
        return Ok(text.to_owned());
    }
    let hint = "write off, error, warn, info, debug or trace, or several as warn,outrigger_proxy=debug";
    Err(InvalidValue::new("is not a log filter", hint))
}

/// Any text that is not empty.
pub(crate) fn non_empty(text: &str) -> Result<String, InvalidValue> {
    if text.is_empty() {
        Err(InvalidValue::new("is empty", "give a value or leave the key out"))
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(parse: fn(&str) -> Result<T, InvalidValue>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(parse(text).is_ok(), "{text:?} is valid");
        }
        for text in bad {
            assert!(parse(text).is_err(), "{text:?} is not valid");
        }
    }

    #[test]
    fn a_service_has_the_name_that_consul_takes_if_it_fits_in_a_host_header() {
        let (longest, long) = ("a".repeat(63), "a".repeat(64));
        let many = format!("{longest}.{longest}");
        check(
            service,
            &[
                "orders",
                "order-db_2",
                "7",
                "Orders",
                "_orders",
                "orders_",
                "-a",
                "a-",
                "a.b",
                "Billing.V2_x",
                "1.2",
                &longest,
                &many,
            ],
            &[
                "",
                ".",
                "..",
                ".a",
                "a.",
                "a..b",
                "a b",
                "a/b",
                "a@b",
                "a[b]",
                "é",
                "10.0.0.5",
                "::1",
                &long,
                &format!("{many}.ab"),
            ],
        );
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        check(
            host,
            &["10.0.0.5", "::1", "app.example", "app.example.", "a"],
            &["", "a..b", "1.2.3", "[::1]", "a:80", "a b"],
        );
        check(
            reachable_host,
            &["10.0.0.5", "fd00::5", "[fd00::5]", "app.example"],
            &[
                "0.0.0.0",
                "::",
                "[::]",
                "::ffff:0.0.0.0",
                "fe80::5%eth0",
                "[fe80::5%eth0]",
                "[::1",
                "[app]:80",
            ],
        );
        assert_eq!(reachable_host("[fd00::5]").as_deref(), Ok("fd00::5"));
        // That of a Host field has no zone (RFC 6874 §4).
        assert!(own_name("[fe80::5]").is_ok());
        check(registered_host, &["10.0.0.5", "fd00::5"], &["fe80::5", "[fe80::5]", "fe80::5%eth0"]);
        check(
            host_from_here,
            &["10.0.0.5", "fd00::5", "app.example", "fe80::5%eth0", "[fe80::5%2]"],
            &["fe80::5", "[fe80::5]", "fe80::5%", "fe80::5%a b", "fd00::5%eth0", "app%eth0", "0.0.0.0"],
        );
        assert_eq!(host_from_here("[fe80::5%eth0]").as_deref(), Ok("fe80::5%eth0"));
        check(
            public_host,
            &["app.example", "App.Example.", "10.0.0.5", "[2001:db8::1]", "2001:db8::1"],
            &[
                "",
                "app.example:80",
                "localhost",
                "LOCALHOST.",
                "127.0.0.1",
                "[::1]",
                "0.0.0.0",
                "*.example",
                "a b",
            ],
        );
        assert_eq!(public_host("App.Example.").as_deref(), Ok("app.example"));
    }

    #[test]
    fn names_of_the_sidecar_and_the_domain_are_kept_in_lower_case() {
        check(
            domain,
            &["consul", "corp.example", "a.b.c."],
            &["", ".", ".consul", "a..b", "10.0.0.5", "a b", "-a"],
        );
        assert_eq!(domain("Corp.Example.").as_deref(), Ok("corp.example"));
        check(
            own_name,
            &["sidecar", "a.b", "10.0.0.5", "[::1]", "localhost"],
            &["", "a:80", "a/b", "0.0.0.0", "*", "a b"],
        );
        for (text, expected) in
            [("Sidecar.", "sidecar"), ("[FD00:0::5]", "fd00::5"), ("::ffff:10.0.0.5", "10.0.0.5")]
        {
            assert_eq!(own_name(text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn paths_start_with_a_slash() {
        check(
            path,
            &["/", "/healthz", "/h?full=1"],
            &["", "healthz", "/a b", "/a#b", "http://localhost/x", "/é"],
        );
    }

    #[test]
    fn a_health_probe_has_a_method_a_host_and_header_fields_that_can_be_sent() {
        check(probe_method, &["GET", "HEAD", "PROPFIND"], &["", "get", "CONNECT", "GET /", "M-SEARCH"]);
        check(
            host_field,
            &["app.example", "app.example:8080", "10.0.0.5", "[fd00::1]", "[fd00::1]:80"],
            &[
                "",
                "fd00::1",
                "app.example:",
                "app.example:99999",
                "a b",
                "http://a",
                "[fd00::1",
                "a@b",
                "a/b",
            ],
        );
        check(
            probe_header,
            &["x-probe", "Authorization", "user-agent"],
            &["", "x probe", "x:y", "Host", "Connection", "content-length", "Transfer-Encoding", "TE", "é"],
        );
        let value = |text: &str| header_value(text).map(|value| value.reveal().to_owned());
        check(value, &["", "Bearer a b", "a\tb"], &[" a", "a ", "a\r\nx: y", "é", "\0", &"v".repeat(4097)]);
    }

    #[test]
    fn metadata_keeps_to_the_rules_of_consul() {
        check(meta_key, &["version", "a-b_c"], &["", "a.b", "a b", "consul-x", &"k".repeat(129)]);
        check(meta_value, &["", &"v".repeat(512)], &[&"v".repeat(513)]);
    }

    #[test]
    fn tags_and_ids_are_printable() {
        check(tag, &["v2", "urlprefix-/x strip=/x"], &["", " v2", "a\nb"]);
        check(id, &["orders-1", "orders:host/1"], &["", "a b", "a\tb"]);
    }

    #[test]
    fn a_log_filter_is_levels_with_or_without_targets() {
        check(
            log_filter,
            &["info", "WARN", "warn,outrigger_proxy=debug", "off, hyper::proto=trace"],
            &["", "inof", "info,", "x=loud", "=info"],
        );
    }
}
