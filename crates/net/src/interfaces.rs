//! The addresses of this network namespace, asked from the kernel by rtnetlink (RFC 3549; `man 7 rtnetlink`). The files below
//! `/proc/net` list every route beside them, which may be a million.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, netlink::SocketAddrNetlink,
        recv, sendto, socket_with,
    },
};

/// Types and flags of messages (`linux/netlink.h`, `linux/rtnetlink.h`).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_REQUEST_DUMP: u16 = 0x301;

/// Bytes of the headers `nlmsghdr`, `ifaddrmsg` and `rtattr`.
const MESSAGE_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ATTRIBUTE_HEADER: usize = 4;

/// Attributes of an address: that of the interface itself, and one that is the peer's on a point-to-point interface.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Scopes from this one on reach no further than one link (`RT_SCOPE_LINK`) or this machine.
const SCOPE_LINK: u8 = 253;

/// The index of `lo` in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK_INDEX: u32 = 1;

/// The kernel sends a part of a list in at most this many bytes.
const BUFFER: usize = 32 * 1024;

/// An address by which other machines may reach this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub ip: IpAddr,
    /// The index of its interface. An index is not given again in the life of a namespace.
    pub interface: u32,
}

/// The addresses of this network namespace, without those of `lo` and those that are valid on one link alone.
///
/// # Errors
/// When the kernel does not tell, as where a sandbox forbids `AF_NETLINK`.
pub fn own_addresses() -> io::Result<Vec<InterfaceAddress>> {
    // Without a protocol: 0, which is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &address_request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        // The kernel has a part ready before the call that asks for it returns.
        let (filled, _) = recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
        if read_messages(buffer.get(..filled).unwrap_or_default(), &mut found)? {
            return Ok(found);
        }
    }
}

/// Whether this network namespace has the interface. True where that cannot be found out.
pub fn has_interface(index: u32) -> bool {
    let Ok(socket) = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None) else {
        return true;
    };
    !matches!(netdevice::index_to_name_inlined(&socket, index), Err(Errno::NODEV | Errno::NXIO))
}

/// `nlmsghdr` and `ifaddrmsg`: every address of both families.
fn address_request() -> [u8; MESSAGE_HEADER + ADDRESS_HEADER] {
    let mut request = [0; MESSAGE_HEADER + ADDRESS_HEADER];
    let length = u32::try_from(request.len()).unwrap_or_default();
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_GETADDR.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request
}

/// Reads a part of the list. True: it was the last one.
fn read_messages(mut part: &[u8], found: &mut Vec<InterfaceAddress>) -> io::Result<bool> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "rtnetlink: a malformed message");
    while !part.is_empty() {
        let length = u32_at(part, 0).and_then(|length| usize::try_from(length).ok()).ok_or_else(malformed)?;
        let body = part.get(MESSAGE_HEADER..length).ok_or_else(malformed)?;
        match u16_at(part, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let errno = u32_at(body, 0).map(u32::cast_signed).ok_or_else(malformed)?;
                return Err(io::Error::from_raw_os_error(errno.wrapping_neg()));
            }
            Some(RTM_NEWADDR) => found.extend(read_address(body)),
            _ => {}
        }
        part = part.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

/// The address of a message. `None`: one of `lo`, or one that no other link knows.
fn read_address(body: &[u8]) -> Option<InterfaceAddress> {
    let (scope, interface) = (*body.get(3)?, u32_at(body, 4)?);
    if scope >= SCOPE_LINK || interface == LOOPBACK_INDEX {
        return None;
    }
    let mut attributes = body.get(ADDRESS_HEADER..)?;
    let (mut own, mut peer) = (None, None);
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(ATTRIBUTE_HEADER..length)?;
        match kind {
            IFA_LOCAL => own = ip(value),
            IFA_ADDRESS => peer = ip(value),
            _ => {}
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    Some(InterfaceAddress { ip: own.or(peer)?, interface })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into())).ok()
}

/// Messages and attributes begin at multiples of four bytes.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::has_address;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(MESSAGE_HEADER + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(MESSAGE_HEADER, 0);
        bytes.extend(body);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn address(scope: u8, interface: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![0, 24, 0, scope];
        body.extend(interface.to_ne_bytes());
        message(RTM_NEWADDR, &[body, attributes.concat()].concat())
    }

    fn read(parts: &[Vec<u8>]) -> io::Result<(bool, Vec<InterfaceAddress>)> {
        let mut found = Vec::new();
        Ok((read_messages(&parts.concat(), &mut found)?, found))
    }

    #[test]
    fn addresses_of_the_machine_alone_or_of_one_link_are_left_out() {
        let v4 = [10, 9, 0, 1];
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        let parts = [
            address(254, 1, &[attribute(IFA_ADDRESS, &[127, 0, 0, 1])]),
            // A virtual address of a swarm is one of `lo`, and survives the interfaces.
            address(0, 1, &[attribute(IFA_LOCAL, &[10, 0, 0, 9])]),
            address(253, 7, &[attribute(IFA_ADDRESS, &Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).octets())]),
            // The label is of no multiple of four bytes. The peer of a point-to-point interface is another machine.
            address(
                0,
                7,
                &[attribute(3, b"eth0\0"), attribute(IFA_ADDRESS, &[10, 9, 0, 2]), attribute(IFA_LOCAL, &v4)],
            ),
            address(0, 8, &[attribute(IFA_ADDRESS, &v6.octets())]),
        ];
        let expected =
            [(IpAddr::from(v4), 7), (v6.into(), 8)].map(|(ip, interface)| InterfaceAddress { ip, interface });
        assert_eq!(read(&parts).unwrap(), (false, expected.to_vec()), "more parts follow");
        assert_eq!(read(&[message(NLMSG_DONE, &[0; 4])]).unwrap(), (true, Vec::new()));
    }

    #[test]
    fn a_refusal_and_a_malformed_message_are_errors() {
        let refused = read(&[message(NLMSG_ERROR, &(-1_i32).to_ne_bytes())]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::PERM.raw_os_error()));
        for wrong in [&[1, 2, 3][..], &[0; MESSAGE_HEADER], &[255; MESSAGE_HEADER]] {
            assert_eq!(read(&[wrong.to_vec()]).unwrap_err().kind(), io::ErrorKind::InvalidData, "{wrong:?}");
        }
        // Cut off at every length: no address, and no endless loop.
        let whole = address(0, 7, &[attribute(IFA_LOCAL, &[10, 9, 0, 1])]);
        for length in 1..whole.len() {
            assert!(read(&[whole[..length].to_vec()]).is_err(), "{length}");
        }
        assert_eq!(read(&[address(0, 7, &[vec![0; 4]])]).unwrap().1, [], "an attribute of no length");
    }

    #[test]
    fn the_kernel_tells_the_addresses_of_this_machine() {
        for InterfaceAddress { ip, interface } in own_addresses().unwrap() {
            assert!(has_address(ip) && !ip.is_loopback(), "{ip}");
            assert!(has_interface(interface), "{ip}");
        }
        assert!(has_interface(LOOPBACK_INDEX));
        assert!(!has_interface(i32::MAX.cast_unsigned()), "no interface has this index");
    }
}
