//! IP addresses as text.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice::name_to_index, socket_with};

/// Why an IPv6 address cannot be connected to from here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// This machine has no such interface.
    #[error("this machine has no network interface {0:?}")]
    UnknownZone(String),
    /// The same address may be used on each link.
    #[error("a link-local address needs a zone, as fe80::1%eth0")]
    NoZone,
}

/// The address and port to connect to, when `text` is an IP address as registries hold it: IPv6 in brackets or without, and
/// with a zone (`fe80::1%eth0`, `fe80::1%2`; RFC 4007 §11), which only a link-local address keeps. An IPv4 address in the form
/// of IPv6 (`::ffff:10.0.0.5`, RFC 4291 §2.5.5.2) is that IPv4 address. `None`: `text` is no address.
pub fn parse_ip(text: &str, port: u16) -> Option<Result<SocketAddr, AddressError>> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let (address, zone) = match bare.unwrap_or(text).split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (bare.unwrap_or(text), None),
    };
    let ip = address.parse::<IpAddr>().ok()?;
    let only_ipv6 = bare.is_some() || zone.is_some();
    match (ip, ip.to_canonical()) {
        (IpAddr::V4(_), _) if only_ipv6 => None,
        (_, IpAddr::V6(ip)) if ip.is_unicast_link_local() => {
            Some(zone_index(zone).map(|index| SocketAddrV6::new(ip, port, 0, index).into()))
        }
        (_, ip) => Some(Ok(SocketAddr::new(ip, port))),
    }
}

/// The index of an interface by its name, or else by its number.
pub(crate) fn zone_index(zone: Option<&str>) -> Result<u32, AddressError> {
    let zone = zone.filter(|zone| !zone.is_empty()).ok_or(AddressError::NoZone)?;
    // Any socket will do.
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let by_name = socket.and_then(|socket| name_to_index(&socket, zone)).ok();
    let index = by_name.or_else(|| zone.parse().ok().filter(|index| *index != 0));
    index.ok_or_else(|| AddressError::UnknownZone(zone.to_owned()))
}

/// The text of a host and a port: IPv6 addresses get brackets.
pub fn format_host_port(host: &str, port: impl Display) -> String {
    let is_ipv6 = host.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    if is_ipv6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_every_form_that_a_registry_may_hold() {
        for (text, expected) in [
            ("10.0.0.5", "10.0.0.5:80"),
            ("::1", "[::1]:80"),
            ("[::1]", "[::1]:80"),
            ("FD00:0::1", "[fd00::1]:80"),
            ("::ffff:127.0.0.1", "127.0.0.1:80"),
            ("[::ffff:7f00:1]", "127.0.0.1:80"),
            ("::ffff:0.0.0.0", "0.0.0.0:80"),
            // The loopback interface is the first one of each network namespace.
            ("fe80::1%lo", "[fe80::1%1]:80"),
            ("[fe80::1%lo]", "[fe80::1%1]:80"),
            ("fe80::1%7", "[fe80::1%7]:80"),
            // A zone says nothing more of an address that is unique.
            ("fd00::1%nosuch", "[fd00::1]:80"),
            ("::1%lo", "[::1]:80"),
        ] {
            let found = parse_ip(text, 80).map(|found| found.map(|addr| addr.to_string()));
            assert_eq!(found, Some(Ok(expected.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_link_local_address_that_no_interface_reaches_has_a_reason() {
        for text in ["fe80::1", "[fe80::1]", "fe80::1%"] {
            assert_eq!(parse_ip(text, 80), Some(Err(AddressError::NoZone)), "{text}");
        }
        for zone in ["nosuch0", "0", "-1", "an-interface-with-a-long-name", "eth0%x", "ü"] {
            let found = parse_ip(&format!("fe80::1%{zone}"), 80);
            assert_eq!(found, Some(Err(AddressError::UnknownZone(zone.to_owned()))), "{zone}");
        }
    }

    #[test]
    fn other_texts_are_no_addresses() {
        for text in [
            "",
            "[]",
            "[10.0.0.5]",
            "10.0.0.5%eth0",
            "[::1",
            "::1]",
            "[[::1]]",
            "::1:80:x",
            "host",
            "1.2.3",
            "%lo",
        ] {
            assert_eq!(parse_ip(text, 80), None, "{text}");
        }
    }

    #[test]
    fn a_host_and_a_port_are_told_apart() {
        for (host, expected) in [
            ("::1", "[::1]:80"),
            ("fe80::1%eth0", "[fe80::1%eth0]:80"),
            ("10.0.0.5", "10.0.0.5:80"),
            ("a", "a:80"),
        ] {
            assert_eq!(format_host_port(host, 80), expected);
        }
    }
}
