//! The PROXY protocol: the addresses of the app's connection, in front of its bytes
//! (<https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>).

use std::net::{IpAddr, SocketAddr};

use outrigger_config::ProxyProtocol;

/// What a header of version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and the command PROXY.
const PROXY_V2: u8 = 0x21;
/// TCP over IPv4 and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header for a connection from `peer` to `local`; empty where none is sent.
pub(super) fn header(version: ProxyProtocol, peer: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let ips = (peer.ip().to_canonical(), local.ip().to_canonical());
    match version {
        ProxyProtocol::Off => Vec::new(),
        ProxyProtocol::V1 => {
            let family = match ips {
                (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
                _ => "TCP6",
            };
            let (from, to) = match ips {
                (IpAddr::V4(from), IpAddr::V4(to)) => (from.to_string(), to.to_string()),
                (from, to) => (as_v6(from).to_string(), as_v6(to).to_string()),
            };
            format!("PROXY {family} {from} {to} {} {}\r\n", peer.port(), local.port()).into_bytes()
        }
        ProxyProtocol::V2 => {
            let (family, mut addresses) = match ips {
                (IpAddr::V4(from), IpAddr::V4(to)) => (TCP4, [from.octets(), to.octets()].concat()),
                (from, to) => (TCP6, [as_v6(from).octets(), as_v6(to).octets()].concat()),
            };
            addresses.extend(peer.port().to_be_bytes());
            addresses.extend(local.port().to_be_bytes());
            // At most 36.
            let len = u16::try_from(addresses.len()).unwrap_or_default().to_be_bytes();
            [SIGNATURE, &[PROXY_V2, family], &len, &addresses].concat()
        }
    }
}

/// Both addresses have one family; where they differ, IPv4 is written as IPv6.
fn as_v6(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_of(version: ProxyProtocol, peer: &str, local: &str) -> Vec<u8> {
        header(version, peer.parse().unwrap(), local.parse().unwrap())
    }

    #[test]
    fn a_header_of_version_1_is_a_line() {
        let line = |peer, local| String::from_utf8(header_of(ProxyProtocol::V1, peer, local)).unwrap();
        assert_eq!(line("10.0.0.1:4000", "127.0.0.1:5432"), "PROXY TCP4 10.0.0.1 127.0.0.1 4000 5432\r\n");
        assert_eq!(line("[::1]:4000", "[::1]:5432"), "PROXY TCP6 ::1 ::1 4000 5432\r\n");
        // A socket for both families writes IPv4 so.
        let mapped = line("[::ffff:10.0.0.1]:4000", "[::ffff:127.0.0.1]:5432");
        assert_eq!(mapped, "PROXY TCP4 10.0.0.1 127.0.0.1 4000 5432\r\n");
        assert!(header_of(ProxyProtocol::Off, "10.0.0.1:1", "10.0.0.2:2").is_empty());
    }

    #[test]
    fn a_header_of_version_2_has_the_addresses_in_binary() {
        let v4 = header_of(ProxyProtocol::V2, "10.0.0.1:4000", "127.0.0.1:5432");
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x7f\0\0\x01\x0f\xa0\x15\x38";
        assert_eq!(v4, expected);
        let v6 = header_of(ProxyProtocol::V2, "[2001:db8::7]:1", "127.0.0.1:2");
        assert_eq!((v6.len(), &v6[12..16]), (52, &b"\x21\x21\0\x24"[..]));
        assert_eq!(&v6[32..48], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1]);
    }
}
