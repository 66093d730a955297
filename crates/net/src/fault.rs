//! What a failed connection is about: this process, this machine's way to one peer, or the peer. The one judgement for
//! requests, probes, the health of the app and the liveness of instances.
//!
//! **By the number alone** ([`is_own_shortage`]): EMFILE, ENFILE, ENOMEM, ENOBUFS, and ENOSPC (epoll's limit of
//! watches). Every connection needs what is short, so such an error says nothing of the peer.
//!
//! **By comparison.** EADDRNOTAVAIL (also: no free port towards this peer), EADDRINUSE, EAGAIN, EACCES and EPERM (a local
//! firewall rule), EINVAL (an address that needs a scope), ENETUNREACH, ENETDOWN and EAFNOSUPPORT are this side's too,
//! but may concern one peer alone. While other instances can be connected to, that peer is of no use from here
//! ([`Fault::UnreachableFromHere`]); else it is the whole machine that is cut off ([`Fault::OwnShortage`]). Only instances
//! of services are compared with each other: the app and, usually, the agent are on this machine, and are reached without a
//! network.
//!
//! Everything else (refused, reset, timed out, host unreachable) is the peer's or the network's.

use std::{
    collections::VecDeque,
    error::Error,
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use rustix::io::Errno;

/// Peers of which the last result is kept.
const MAX_PEERS: usize = 32;

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

/// The last result of connecting to each of the last [`MAX_PEERS`] instances.
#[derive(Debug)]
pub(crate) struct RecentConnects(Mutex<VecDeque<(SocketAddr, bool)>>);

/// Those of this process: what they tell is a fact of its machine.
pub(crate) static RECENT_CONNECTS: RecentConnects = RecentConnects::new();

impl RecentConnects {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// `peer` was connected to.
    pub(crate) fn record_connected(&self, peer: SocketAddr) {
        self.record(peer, true);
    }

    /// `peer` could not be connected to, because of `error`.
    pub(crate) fn judge(&self, peer: SocketAddr, error: &io::Error) -> Fault {
        let fault = Fault::of(error);
        match fault {
            Fault::OwnShortage => {}
            Fault::UnreachableFromHere => self.record(peer, false),
            // A refusal has come all the way.
            Fault::Peer if error.kind() == io::ErrorKind::ConnectionRefused => self.record(peer, true),
            Fault::Peer => {}
        }
        if fault == Fault::UnreachableFromHere && !self.reaches_another_than(peer) {
            return Fault::OwnShortage;
        }
        fault
    }

    fn reaches_another_than(&self, peer: SocketAddr) -> bool {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.iter().any(|(other, is_reached)| *is_reached && *other != peer)
    }

    fn record(&self, peer: SocketAddr, is_reached: bool) {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = peers.iter_mut().find(|(other, _)| *other == peer) {
            known.1 = is_reached;
            return;
        }
        peers.truncate(MAX_PEERS - 1);
        peers.push_front((peer, is_reached));
    }
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

    #[test]
    fn a_shortage_is_ours_whatever_else_can_be_connected_to() {
        let recent = RecentConnects::new();
        recent.record_connected(addr("10.0.0.2:1"));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC] {
            assert!(is_own_shortage(&error(errno)), "{errno:?}");
            assert_eq!(recent.judge(addr("10.0.0.1:1"), &error(errno)), Fault::OwnShortage, "{errno:?}");
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
            let recent = RecentConnects::new();
            let (a, b) = (addr("10.0.0.1:1"), addr("10.0.0.2:1"));
            assert!(!is_own_shortage(&error(errno)));
            assert_eq!(recent.judge(a, &error(errno)), Fault::OwnShortage, "{errno:?}");
            recent.record_connected(a);
            assert_eq!(recent.judge(a, &error(errno)), Fault::OwnShortage, "its own past is no other peer");
            recent.record_connected(b);
            assert_eq!(recent.judge(a, &error(errno)), Fault::UnreachableFromHere, "{errno:?}");
            assert_eq!(recent.judge(b, &error(errno)), Fault::OwnShortage, "neither can be reached");
            assert_eq!(recent.judge(a, &error(errno)), Fault::OwnShortage, "neither can be reached");
            assert_eq!(recent.judge(b, &error(Errno::CONNREFUSED)), Fault::Peer);
            assert_eq!(recent.judge(a, &error(errno)), Fault::UnreachableFromHere, "a refusal came from b");
        }
    }

    #[test]
    fn what_the_peer_or_the_network_does_is_the_peers() {
        let recent = RecentConnects::new();
        let numbers =
            [Errno::CONNREFUSED, Errno::CONNRESET, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::PIPE];
        for errno in numbers {
            assert_eq!(recent.judge(addr("10.0.0.1:1"), &error(errno)), Fault::Peer, "{errno:?}");
        }
        let unnumbered = io::Error::other("no address");
        assert_eq!(recent.judge(addr("10.0.0.1:1"), &unnumbered), Fault::Peer);
    }

    #[test]
    fn few_peers_are_kept() {
        let recent = RecentConnects::new();
        for port in 1..=1000 {
            recent.record_connected(SocketAddr::from(([10, 0, 0, 1], port)));
        }
        assert_eq!(recent.0.lock().unwrap().len(), MAX_PEERS);
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
