//! Port numbers for tests: a number that no other test gets, for a listener that starts later or never. Not behind the
//! feature `testing`: the programs of the tests then take the same build of every crate as the binary under test.
//!
//! A test that binds port 0, notes the number and closes the listener gives the number back to the kernel. The kernel may
//! then give it to any connection or listener before the test uses it. These numbers lie outside the range that the
//! kernel assigns from, and each one is reserved by a Unix socket with an abstract name, which vanishes with the process.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixListener},
    },
    sync::{Mutex, PoisonError},
};

use socket2::{Domain, Socket, Type};

/// The lowest number given. Lower ones are common ports of servers.
const LOWEST: u16 = 10_000;

/// The reservations of this process.
static HELD: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// An address of 127.0.0.1 with a free TCP port that is reserved for the caller until its process ends, on all loopback addresses, among
/// all processes of this network namespace that call this function. Nothing listens on it.
///
/// # Panics
///
/// When no port is left.
#[must_use]
#[expect(clippy::expect_used, reason = "only tests call it, and a test cannot go on without a port")]
pub fn reserve_addr() -> SocketAddr {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let highest = lowest_port_of_the_kernel();
    let count = u32::from(highest.saturating_sub(LOWEST));
    // Each process begins elsewhere, so that a port is seldom used again soon.
    let start = std::process::id().wrapping_mul(97);
    let mut ports =
        (0..count).map(|step| LOWEST + u16::try_from(start.wrapping_add(step) % count).unwrap_or(0));
    let (addr, reservation) = ports.find_map(reserve).expect("a free port below those of the kernel");
    held.push(reservation);
    addr
}

/// `None`: the port is reserved already, or in use.
fn reserve(port: u16) -> Option<(SocketAddr, UnixListener)> {
    let name = UnixAddr::from_abstract_name(format!("outrigger-test-port-{port}")).ok()?;
    let reservation = UnixListener::bind_addr(&name).ok()?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bind(addr).is_ok().then_some((addr, reservation))
}

/// A socket that is bound and does not listen: an error says that the port is in use. A process that another thread forks
/// meanwhile holds a copy of it until it executes its program. A copy of a listener would take the port from the caller.
fn bind(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// The first port that the kernel assigns by itself (`ip_local_port_range`), or 32768, its default.
fn lowest_port_of_the_kernel() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|lowest| *lowest > LOWEST)
        .unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::TcpListener};

    #[test]
    fn each_call_gives_another_port_that_nothing_listens_on() {
        let addrs: HashSet<_> = (0..200).map(|_| super::reserve_addr()).collect();
        assert_eq!(addrs.len(), 200);
        for addr in addrs {
            assert!(addr.port() < super::lowest_port_of_the_kernel());
            TcpListener::bind(addr).unwrap();
        }
    }

    #[test]
    fn the_socket_that_finds_a_port_free_hinders_no_listener_and_a_listener_hinders_it() {
        let addr = super::reserve_addr();
        let copy_in_a_child = super::bind(addr).unwrap();
        let listener = TcpListener::bind(addr).unwrap();
        drop(copy_in_a_child);
        super::bind(addr).unwrap_err();
        drop(listener);
        super::bind(addr).unwrap();
    }
}
