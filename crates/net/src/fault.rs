//! What a failed connection is about: this process, this machine's way to one peer, or the peer. The one judgement for
//! requests, probes, the health of the app and the liveness of instances.
//!
//! **By the number alone** ([`is_own_shortage`]): EMFILE, ENFILE, ENOMEM, ENOBUFS, and ENOSPC (epoll's limit of
//! watches). Every connection needs what is short, so such an error says nothing of the peer.
//!
//! **By comparison.** EADDRNOTAVAIL (also: no free port towards this peer), EADDRINUSE, EAGAIN, EACCES and EPERM (a local
//! firewall rule), EINVAL (an address that needs a scope), ENETUNREACH, ENETDOWN and EAFNOSUPPORT are this side's too,
//! but may concern one peer alone. While other instances can be connected to, that peer is of no use from here
//! ([`Fault::UnreachableFromHere`]); else it is the whole machine that is cut off ([`Fault::OwnShortage`]). Two things say
//! that others can be connected to:
//!
//! - Another instance of any service was reached within [`RECENT`], and is not on this machine, because what is on this machine
//!   is reached without a network. For the same reason the app and the agent are not compared.
//! - The caller knows of another instance that can be used instead, wherever it is ([`crate::connect_to_instance`]).
//!
//! Everything else (refused, reset, timed out, host unreachable) is the peer's or the network's.

use std::{
    collections::VecDeque,
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::io::Errno;
use tokio::time::Instant;

use crate::bind::has_address;

/// Most peers that are kept: those that were reached last.
const MAX_PEERS: usize = 32;

/// How long a connection tells that this machine has a network.
const RECENT: Duration = Duration::from_secs(10);

/// What a failed connection is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This process or this machine: no evidence against any peer.
    OwnShortage,
    /// This machine's way to this peer, although it reaches others. The peer cannot be used from here; whether it works is
    /// not known.
    UnreachableFromHere,
    /// The peer, or the network between.
    Peer,
}

/// Whether every connection of this process would fail with `error`: it is out of files, memory or buffers.
pub fn is_own_shortage(error: &io::Error) -> bool {
    const NUMBERS: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC];
    has_number(error, &NUMBERS)
}

/// [`is_own_shortage`] of the error of the operating system that caused `error`, however deep it lies.
pub fn is_caused_by_own_shortage(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|error| error.downcast_ref::<io::Error>().is_some_and(is_own_shortage))
}

/// `error` and its causes.
pub(crate) fn causes<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // An `io::Error` is no source of the error that it holds: its own source is the source of that one.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        held.map(|held| held as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

/// Whether `error` is this side's, and perhaps about one peer alone.
fn is_local(error: &io::Error) -> bool {
    const NUMBERS: [Errno; 9] = [
        Errno::ADDRNOTAVAIL,
        Errno::ADDRINUSE,
        Errno::AGAIN,
        Errno::ACCESS,
        Errno::PERM,
        Errno::INVAL,
        Errno::NETUNREACH,
        Errno::NETDOWN,
        Errno::AFNOSUPPORT,
    ];
    has_number(error, &NUMBERS)
}

fn has_number(error: &io::Error, numbers: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|number| numbers.iter().any(|one| one.raw_os_error() == number))
}

/// What to do about an error of this side; `None`: it is the peer's or the network's.
pub(crate) fn cure(error: &io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(error)? {
        Errno::MFILE => "raise the limit of open files of this process (`ulimit -n`, LimitNOFILE)",
        Errno::NFILE => "raise the limit of open files of this machine (fs.file-max)",
        Errno::NOMEM | Errno::NOBUFS => "this machine is out of memory or socket buffers",
        Errno::NOSPC => "raise the limit of watched files of this user (fs.epoll.max_user_watches)",
        Errno::ADDRNOTAVAIL | Errno::ADDRINUSE | Errno::AGAIN => {
            "no local address or port is free for it: see `ip address` and net.ipv4.ip_local_port_range"
        }
        Errno::ACCESS | Errno::PERM => {
            "a firewall rule or a route of this machine forbids it: see `ip route` and the rules"
        }
        Errno::INVAL => {
            "the address cannot be connected to from here, as one that needs a network interface beside it"
        }
        Errno::NETUNREACH | Errno::NETDOWN | Errno::AFNOSUPPORT => {
            "this machine has no route to it: see `ip route` and `ip -6 route`"
        }
        _ => return None,
    })
}

impl Fault {
    /// The fault of a connection that is compared with no other.
    pub(crate) fn of(error: &io::Error) -> Self {
        if is_own_shortage(error) {
            Self::OwnShortage
        } else if is_local(error) {
            Self::UnreachableFromHere
        } else {
            Self::Peer
        }
    }
}

/// When each of the last [`MAX_PEERS`] instances outside this machine was reached, the newest first.
#[derive(Debug)]
pub(crate) struct RecentConnects(Mutex<VecDeque<(SocketAddr, Instant)>>);

/// Those of this process: what they tell is a fact of its machine.
pub(crate) static RECENT_CONNECTS: RecentConnects = RecentConnects::new();

impl RecentConnects {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// `peer` was connected to, from the address `own` of this machine.
    pub(crate) fn record_connected(&self, peer: SocketAddr, own: Option<IpAddr>, now: Instant) {
        // A connection to an address of this machine has that address at both ends.
        if own != Some(peer.ip()) && !is_local_address(peer.ip()) {
            self.record_reached(peer, now);
        }
    }

    /// `peer` could not be connected to, because of `error`. `reaches_another`: whether another instance can be used in its
    /// place; it is asked only where the answer decides.
    pub(crate) fn judge(
        &self,
        peer: SocketAddr,
        error: &io::Error,
        now: Instant,
        reaches_another: impl FnOnce() -> bool,
    ) -> Fault {
        match Fault::of(error) {
            Fault::UnreachableFromHere => {
                let has_network = self.forget_and_look(peer, now);
                if has_network || reaches_another() { Fault::UnreachableFromHere } else { Fault::OwnShortage }
            }
            // A refusal has come all the way.
            Fault::Peer if error.kind() == io::ErrorKind::ConnectionRefused => {
                if !is_local_address(peer.ip()) && !has_address(peer.ip()) {
                    self.record_reached(peer, now);
                }
                Fault::Peer
            }
            fault @ (Fault::OwnShortage | Fault::Peer) => fault,
        }
    }

    /// Removes `peer`. Returns whether another one was reached lately.
    fn forget_and_look(&self, peer: SocketAddr, now: Instant) -> bool {
        let mut reached = self.lock();
        reached.retain(|(other, _)| *other != peer);
        reached.iter().any(|(_, at)| now.saturating_duration_since(*at) <= RECENT)
    }

    fn record_reached(&self, peer: SocketAddr, now: Instant) {
        let mut reached = self.lock();
        reached.retain(|(other, _)| *other != peer);
        reached.truncate(MAX_PEERS - 1);
        reached.push_front((peer, now));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(SocketAddr, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether every machine has the address, for itself.
fn is_local_address(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn error(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.raw_os_error())
    }

    const LOCAL: [Errno; 9] = [
        Errno::ADDRNOTAVAIL,
        Errno::ADDRINUSE,
        Errno::AGAIN,
        Errno::ACCESS,
        Errno::PERM,
        Errno::INVAL,
        Errno::NETUNREACH,
        Errno::NETDOWN,
        Errno::AFNOSUPPORT,
    ];

    /// The connections of a machine, and its clock. No address of these tests is one of this machine.
    struct Machine {
        recent: RecentConnects,
        now: Instant,
    }

    impl Machine {
        fn new() -> Self {
            Self { recent: RecentConnects::new(), now: Instant::now() }
        }

        fn reach(&self, peer: &str) {
            self.recent.record_connected(addr(peer), Some([203, 0, 113, 9].into()), self.now);
        }

        fn judge(&self, peer: &str, errno: Errno) -> Fault {
            self.recent.judge(addr(peer), &error(errno), self.now, || false)
        }
    }

    const A: &str = "203.0.113.1:1";
    const B: &str = "203.0.113.2:1";

    #[test]
    fn a_shortage_is_ours_whatever_else_can_be_connected_to() {
        let machine = Machine::new();
        machine.reach(B);
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC] {
            assert!(is_own_shortage(&error(errno)), "{errno:?}");
            let fault = machine.recent.judge(addr(A), &error(errno), machine.now, || true);
            assert_eq!(fault, Fault::OwnShortage, "{errno:?}");
        }
    }

    #[test]
    fn every_error_of_this_side_has_a_cure_of_its_own_and_no_other_one_has() {
        let own = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC];
        for errno in own.into_iter().chain(LOCAL) {
            let told = cure(&error(errno)).unwrap_or_else(|| panic!("{errno:?} has no cure"));
            assert_eq!(told.contains("ulimit"), errno == Errno::MFILE, "{errno:?}: {told}");
        }
        for errno in [Errno::CONNREFUSED, Errno::CONNRESET, Errno::TIMEDOUT, Errno::HOSTUNREACH] {
            assert_eq!(cure(&error(errno)), None, "{errno:?}");
        }
        assert_eq!(cure(&io::Error::other("no address")), None);
    }

    #[test]
    fn a_local_error_is_ours_until_another_peer_is_reached() {
        for errno in LOCAL {
            let machine = Machine::new();
            assert!(!is_own_shortage(&error(errno)));
            assert_eq!(machine.judge(A, errno), Fault::OwnShortage, "{errno:?}");
            machine.reach(A);
            assert_eq!(machine.judge(A, errno), Fault::OwnShortage, "its own past is no other peer");
            machine.reach(B);
            assert_eq!(machine.judge(A, errno), Fault::UnreachableFromHere, "{errno:?}");
            assert_eq!(machine.judge(B, errno), Fault::OwnShortage, "neither can be reached");
            assert_eq!(machine.judge(A, errno), Fault::OwnShortage, "neither can be reached");
            assert_eq!(machine.judge(B, Errno::CONNREFUSED), Fault::Peer);
            assert_eq!(machine.judge(A, errno), Fault::UnreachableFromHere, "a refusal came from b");
        }
    }

    #[test]
    fn what_was_reached_long_ago_says_nothing_of_the_network() {
        let mut machine = Machine::new();
        machine.reach(B);
        machine.now += RECENT;
        assert_eq!(machine.judge(A, Errno::NETUNREACH), Fault::UnreachableFromHere);
        machine.now += Duration::from_millis(1);
        assert_eq!(machine.judge(A, Errno::NETUNREACH), Fault::OwnShortage);
        machine.reach(B);
        assert_eq!(machine.judge(A, Errno::NETUNREACH), Fault::UnreachableFromHere, "reached once more");
    }

    #[test]
    fn what_is_on_this_machine_says_nothing_of_the_network() {
        for peer in
            ["127.0.0.1:1", "127.9.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "0.0.0.0:1", "203.0.113.9:1"]
        {
            let machine = Machine::new();
            machine.reach(peer);
            assert_eq!(machine.judge(A, Errno::NETUNREACH), Fault::OwnShortage, "{peer}");
        }
        let machine = Machine::new();
        machine.judge("127.0.0.1:1", Errno::CONNREFUSED);
        assert_eq!(machine.judge(A, Errno::NETUNREACH), Fault::OwnShortage);
    }

    #[test]
    fn another_instance_that_can_be_used_instead_decides_wherever_it_is() {
        let machine = Machine::new();
        for (errno, expected) in [
            (Errno::NETUNREACH, Fault::UnreachableFromHere),
            (Errno::MFILE, Fault::OwnShortage),
            (Errno::CONNRESET, Fault::Peer),
        ] {
            let fault = machine.recent.judge(addr(A), &error(errno), machine.now, || true);
            assert_eq!(fault, expected, "{errno:?}");
        }
    }

    #[test]
    fn what_the_peer_or_the_network_does_is_the_peers() {
        let machine = Machine::new();
        let numbers =
            [Errno::CONNREFUSED, Errno::CONNRESET, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::PIPE];
        for errno in numbers {
            assert_eq!(machine.judge(A, errno), Fault::Peer, "{errno:?}");
        }
        let unnumbered = io::Error::other("no address");
        assert_eq!(machine.recent.judge(addr(A), &unnumbered, machine.now, || true), Fault::Peer);
    }

    #[test]
    fn the_peers_that_were_reached_last_are_kept() {
        let machine = Machine::new();
        machine.reach(A);
        for port in 1..=1000 {
            machine.reach(&format!("203.0.113.3:{port}"));
            machine.reach(A);
        }
        let reached = machine.recent.lock();
        assert_eq!(reached.len(), MAX_PEERS);
        assert_eq!(reached[0].0, addr(A));
        assert_eq!(reached.iter().filter(|(peer, _)| *peer == addr(A)).count(), 1);
    }

    #[test]
    fn a_shortage_is_found_below_other_errors() {
        #[derive(Debug, thiserror::Error)]
        #[error("exchange")]
        struct Outer(#[source] io::Error);
        assert!(is_caused_by_own_shortage(&Outer(error(Errno::NOBUFS))));
        assert!(is_caused_by_own_shortage(&Outer(io::Error::other(error(Errno::MFILE)))));
        assert!(!is_caused_by_own_shortage(&Outer(error(Errno::CONNRESET))));
    }
}
