//! Where the app is asked: for its health, and whether its port is still open.
//!
//! An app may listen on one address alone. Without `health.address` the loopback addresses are tried, and where neither is
//! connected to, the address that is registered, if this machine has it. At an address of another machine (a load balancer, the
//! host of a container) something else may accept the connection while the app is down.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use outrigger_config::{Health, Service};
use outrigger_net::{Addresses, Fault, Lookups, has_address, parse_ip};
use outrigger_task::essential;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// The loopback addresses, in the order in which they are tried. An app may listen on only one of them.
pub(crate) const LOOPBACK_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// From the end of one look-up of a host name to the next one, at least.
const LOOKUP_PAUSE: Duration = Duration::from_secs(5);

/// The same where the name had no address.
const FAILED_LOOKUP_PAUSE: Duration = Duration::from_secs(1);

/// The addresses at which an app may listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppAddress {
    /// The port.
    pub port: u16,
    /// `health.address`: no other address is tried. A host name or an IP address.
    pub only: Option<String>,
    /// `service.address`: a host name or an IP address.
    pub registered: Option<String>,
}

impl AppAddress {
    /// Where an app may listen that is registered with `port` and perhaps `registered`, an address, and is probed by `probe`.
    pub(crate) fn new(port: u16, probe: &Health, registered: Option<&String>) -> Self {
        Self { port, only: probe.address.clone(), registered: registered.cloned() }
    }

    /// Where `service` may listen.
    pub fn of(service: &Service) -> Self {
        Self::new(service.port, &service.health, service.address.as_ref())
    }
}

/// No connection to one address of the app, so the next one is tried.
#[derive(Debug)]
pub(crate) struct NoConnection {
    /// `None`: the address is not known, because its name has none.
    ip: Option<IpAddr>,
    why: String,
    /// `None`: the machine does not have the address, so no app listens there.
    fault: Option<Fault>,
}

impl NoConnection {
    /// Whether the peer, or the network between, is at fault.
    pub(crate) fn is_of_peer(&self) -> bool {
        self.fault == Some(Fault::Peer)
    }

    pub(crate) fn new(addr: SocketAddr, fault: Fault, source: &io::Error) -> Self {
        Self { ip: Some(addr.ip()), why: format!("connect to {addr}: {source}"), fault: Some(fault) }
    }

    /// The same at an address of this machine: where the machine does not have it, no app listens there.
    fn on_this_machine(self) -> Self {
        let is_own = self.ip.is_none_or(has_address);
        Self { fault: self.fault.filter(|_| is_own), ..self }
    }
}

/// The app was connected to at none of its addresses.
#[derive(Debug)]
pub(crate) struct NotFound {
    pub(crate) why: String,
    /// Whether the failures say that the app does not listen.
    pub(crate) is_news: bool,
}

/// Finds the app at one of its addresses, and keeps in mind at which.
#[derive(Debug)]
pub(crate) struct AppFinder {
    pub(crate) address: AppAddress,
    /// Of `only`, or else of `registered`.
    host: Option<HostAddresses>,
    /// The address at which the app last answered.
    answered_at: Mutex<Option<IpAddr>>,
}

impl AppFinder {
    /// Needs a Tokio runtime.
    pub(crate) fn new(address: AppAddress) -> Self {
        let host = address.only.as_ref().or(address.registered.as_ref()).map(|host| HostAddresses::of(host));
        Self { address, host, answered_at: Mutex::new(None) }
    }

    /// The same at `host` alone, a host name or an IP address.
    pub(crate) fn at(host: &str, port: u16) -> Self {
        Self::new(AppAddress { port, only: Some(host.to_owned()), registered: None })
    }

    /// Waits until the host name has been looked up, for `limit` at most.
    pub(crate) async fn wait_for_look_up(&self, limit: Duration) {
        let Some(host) = &self.host else { return };
        host.wanted.notify_one();
        // A look-up that takes longer is no error here.
        let _ = timeout(limit, host.known.clone().wait_for(Option::is_some)).await;
    }

    /// Asks the addresses one after the other, the one at which the app last answered first, until one is connected to.
    pub(crate) async fn find<T, F>(&self, ask: impl Fn(SocketAddr) -> F) -> Result<T, NotFound>
    where
        F: Future<Output = Result<T, NoConnection>>,
    {
        let answered_at = *self.answered_at.lock();
        let mut refused = Vec::new();
        let is_given = self.address.only.is_some();
        let loopback = if is_given { Vec::new() } else { LOOPBACK_ADDRESSES.to_vec() };
        // An app that answered at the registered address is asked there first.
        let own = answered_at.filter(|ip| !is_given && !loopback.contains(ip) && has_address(*ip));
        let mut tried: Vec<IpAddr> = own.into_iter().chain(loopback).collect();
        tried.sort_by_key(|ip| Some(*ip) != answered_at);
        for ip in &tried {
            match self.ask(*ip, &ask).await {
                Ok(found) => return Ok(found),
                Err(none) => refused.push(none.on_this_machine()),
            }
        }
        // Only now, so that no name is looked up for an app that answers at a loopback address.
        match self.host.as_ref().map(HostAddresses::known) {
            None => {}
            Some(Ok(mut known)) => {
                known.retain(|ip| !tried.contains(ip) && (is_given || has_address(*ip)));
                known.sort_by_key(|ip| Some(*ip) != answered_at);
                for ip in known {
                    match self.ask(ip, &ask).await {
                        Ok(found) => return Ok(found),
                        Err(none) => refused.push(none),
                    }
                }
            }
            Some(Err(none)) => refused.push(none),
        }
        let why = refused.iter().map(|one| one.why.as_str()).collect::<Vec<_>>().join("; ");
        Err(NotFound { why, is_news: is_news(&refused, answered_at) })
    }

    /// `ip` with the port, and with the zone of `only`.
    fn addr_at(&self, ip: IpAddr) -> Result<SocketAddr, NoConnection> {
        let port = self.address.port;
        match self.address.only.as_deref().and_then(|only| parse_ip(only, port)) {
            Some(Err(error)) => {
                let why = format!("connect to {ip}: {error}");
                Err(NoConnection { ip: Some(ip), why, fault: Some(Fault::UnreachableFromHere) })
            }
            Some(Ok(addr)) if addr.ip() == ip => Ok(addr),
            _ => Ok(SocketAddr::new(ip, port)),
        }
    }

    async fn ask<T, F>(&self, ip: IpAddr, ask: &impl Fn(SocketAddr) -> F) -> Result<T, NoConnection>
    where
        F: Future<Output = Result<T, NoConnection>>,
    {
        let found = ask(self.addr_at(ip)?).await?;
        *self.answered_at.lock() = Some(ip);
        Ok(found)
    }
}

/// Whether these failures say that the app does not listen. The address at which it last answered decides; before its first
/// answer, or where that is not known, a shortage at any address leaves the question open.
fn is_news(refused: &[NoConnection], answered_at: Option<IpAddr>) -> bool {
    match refused.iter().find(|one| one.ip.is_some() && one.ip == answered_at) {
        Some(there) => there.fault == Some(Fault::Peer),
        None => {
            let any = |fault| refused.iter().any(|one| one.fault == Some(fault));
            let has_no_address = refused.iter().all(|one| one.fault.is_none());
            (any(Fault::Peer) || has_no_address) && !any(Fault::OwnShortage)
        }
    }
}

/// The addresses of a host name or of an IP address as text. A name is looked up by a task of its own, when it is asked for, so that
/// a resolver that hangs delays nothing: what was last known stays.
#[derive(Debug)]
pub(crate) struct HostAddresses {
    host: String,
    known: watch::Receiver<Lookup>,
    wanted: Arc<Notify>,
    /// `None`: the host is an IP address.
    _task: Option<AbortOnDropHandle<()>>,
}

/// The result of the last look-up. `None`: none has ended.
type Lookup = Option<Addresses>;

impl HostAddresses {
    /// Needs a Tokio runtime where `host` is a name.
    pub(crate) fn of(host: &str) -> Self {
        let wanted = Arc::new(Notify::new());
        let bare = host.split_once('%').map_or(host, |(ip, _)| ip);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            let (_, known) = watch::channel(Some(Ok([ip.to_canonical()].into())));
            return Self { host: host.to_owned(), known, wanted, _task: None };
        }
        let (sender, known) = watch::channel(None);
        let look_ups = look_up_when_wanted(host.to_owned(), sender, wanted.clone());
        let task = tokio::spawn(essential("the look-up of the app's address", look_ups));
        Self { host: host.to_owned(), known, wanted, _task: Some(AbortOnDropHandle::new(task)) }
    }

    /// What was last looked up; asks for another look-up.
    pub(crate) fn known(&self) -> Result<Vec<IpAddr>, NoConnection> {
        self.wanted.notify_one();
        let failed = |why, fault| NoConnection { ip: None, why, fault: Some(fault) };
        match &*self.known.borrow() {
            Some(Ok(addresses)) => Ok(addresses.to_vec()),
            Some(Err(why)) => {
                Err(failed(format!("look up {}: {why}", self.host), Fault::UnreachableFromHere))
            }
            None => Err(failed(format!("look up {}: no answer yet", self.host), Fault::OwnShortage)),
        }
    }
}

/// One look-up at a time, each for as long as the system's resolver takes.
async fn look_up_when_wanted(host: String, known: watch::Sender<Lookup>, wanted: Arc<Notify>) {
    let lookups = Lookups::new(1);
    loop {
        wanted.notified().await;
        let result = match lookups.look_up(&host).await {
            Ok(found) if found.is_empty() => Err("the name has no address".into()),
            found => found,
        };
        let is_found = result.is_ok();
        known.send_if_modified(|last| {
            let is_replaced = is_found || !matches!(last, Some(Ok(_)));
            if is_replaced {
                *last = Some(result);
            }
            is_replaced
        });
        sleep(if is_found { LOOKUP_PAUSE } else { FAILED_LOOKUP_PAUSE }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_this_side_is_no_news_of_the_app() {
        use Fault::{OwnShortage, Peer, UnreachableFromHere};
        let [v4, v6] = LOOPBACK_ADDRESSES;
        for (faults, answered_at, news) in [
            ([Peer, Peer], None, true),
            ([OwnShortage, OwnShortage], None, false),
            ([OwnShortage, Peer], None, false),
            ([Peer, OwnShortage], None, false),
            // The app listens at neither address that can be connected to.
            ([Peer, UnreachableFromHere], None, true),
            ([UnreachableFromHere, UnreachableFromHere], None, false),
            // Where it answered before, it cannot be asked now.
            ([UnreachableFromHere, Peer], Some(v4), false),
            ([OwnShortage, Peer], Some(v4), false),
            ([Peer, UnreachableFromHere], Some(v6), false),
            ([Peer, OwnShortage], Some(v6), false),
            ([Peer, OwnShortage], Some(v4), true),
            ([Peer, UnreachableFromHere], Some(v4), true),
        ] {
            let refused = [(v4, faults[0]), (v6, faults[1])];
            let refused = refused.map(|(ip, fault)| NoConnection {
                ip: Some(ip),
                why: String::new(),
                fault: Some(fault),
            });
            assert_eq!(is_news(&refused, answered_at), news, "{faults:?}, {answered_at:?}");
        }
    }

    #[test]
    fn an_address_that_the_machine_does_not_have_is_not_where_the_app_listens() {
        let error = io::Error::from_raw_os_error(99);
        let at = |addr: &str| {
            NoConnection::new(addr.parse().unwrap(), Fault::UnreachableFromHere, &error).on_this_machine()
        };
        assert_eq!(at("192.0.2.1:8080").fault, None);
        assert_eq!(at("127.0.0.1:8080").fault, Some(Fault::UnreachableFromHere));
        assert!(is_news(&[at("192.0.2.1:8080"), at("192.0.2.1:8080")], None));
    }

    fn app(only: Option<&str>, registered: Option<&str>) -> AppFinder {
        let [only, registered] = [only, registered].map(|host| host.map(str::to_owned));
        AppFinder::new(AppAddress { port: 8080, only, registered })
    }

    /// What is asked, in turn, while nothing answers.
    async fn asked(finder: &AppFinder) -> (Vec<IpAddr>, NotFound) {
        let asked = Mutex::new(Vec::new());
        let refuse = |addr: SocketAddr| {
            asked.lock().push(addr.ip());
            async move {
                let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
                Err::<(), _>(NoConnection::new(addr, Fault::Peer, &refused))
            }
        };
        let not_found = finder.find(refuse).await.unwrap_err();
        (asked.into_inner(), not_found)
    }

    #[tokio::test]
    async fn the_registered_address_is_asked_after_the_loopback_addresses_where_the_machine_has_it() {
        let own: IpAddr = [127, 0, 0, 2].into();
        let [v4, v6] = LOOPBACK_ADDRESSES;
        for (only, registered, expected) in [
            (None, None, vec![v4, v6]),
            (None, Some("127.0.0.2"), vec![v4, v6, own]),
            (None, Some("::ffff:127.0.0.2"), vec![v4, v6, own]),
            (None, Some("127.0.0.1"), vec![v4, v6]),
            // An address of another machine, at which another program may answer.
            (None, Some("192.0.2.1"), vec![v4, v6]),
            (Some("127.0.0.2"), Some("127.0.0.3"), vec![own]),
            (Some("192.0.2.1"), None, vec![[192, 0, 2, 1].into()]),
        ] {
            let (addresses, not_found) = asked(&app(only, registered)).await;
            assert_eq!(addresses, expected, "{only:?}, {registered:?}");
            assert!(not_found.is_news, "{not_found:?}");
        }
    }

    #[tokio::test]
    async fn a_link_local_health_address_keeps_its_zone() {
        // The loopback interface is the first one of each network namespace.
        for (only, expected) in [("fe80::1%lo", "[fe80::1%1]:8080"), ("fe80::1%7", "[fe80::1%7]:8080")] {
            let finder = app(Some(only), None);
            for _ in 0..2 {
                let answer = |addr: SocketAddr| async move { Ok::<_, NoConnection>(addr) };
                assert_eq!(finder.find(answer).await.unwrap().to_string(), expected);
            }
        }
        let (addresses, not_found) = asked(&app(Some("fe80::1%nosuch0"), None)).await;
        assert!(addresses.is_empty() && !not_found.is_news, "{not_found:?}");
        assert!(not_found.why.contains("no network interface \"nosuch0\""), "{not_found:?}");
    }

    #[tokio::test]
    async fn the_address_at_which_the_app_answered_is_asked_first() {
        let finder = app(None, Some("127.0.0.2"));
        let own: IpAddr = [127, 0, 0, 2].into();
        let answer = |addr: SocketAddr| async move {
            let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
            if addr.ip() == own { Ok(addr) } else { Err(NoConnection::new(addr, Fault::Peer, &refused)) }
        };
        assert_eq!(finder.find(answer).await.unwrap().ip(), own);
        let (addresses, _) = asked(&finder).await;
        assert_eq!(addresses, [own, LOOPBACK_ADDRESSES[0], LOOPBACK_ADDRESSES[1]]);
    }

    #[tokio::test]
    async fn a_name_is_looked_up_by_the_side_and_says_nothing_of_the_app_until_then() {
        let finder = app(Some("localhost"), None);
        let (addresses, not_found) = asked(&finder).await;
        assert!(addresses.is_empty() && !not_found.is_news, "{not_found:?}");
        let mut known = finder.host.as_ref().unwrap().known.clone();
        tokio::time::timeout(Duration::from_secs(20), known.wait_for(Option::is_some))
            .await
            .unwrap()
            .unwrap();
        let (addresses, not_found) = asked(&finder).await;
        assert!(addresses.contains(&LOOPBACK_ADDRESSES[0]) && not_found.is_news, "{addresses:?}");
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_no_news_and_says_so() {
        let finder = app(Some("app.invalid"), None);
        assert!(!asked(&finder).await.1.is_news);
        let mut known = finder.host.as_ref().unwrap().known.clone();
        // The resolver may be slow, or absent.
        let _ = tokio::time::timeout(Duration::from_secs(5), known.wait_for(Option::is_some)).await;
        let (addresses, not_found) = asked(&finder).await;
        assert!(addresses.is_empty() && !not_found.is_news, "{not_found:?}");
        assert!(not_found.why.contains("look up app.invalid"), "{not_found:?}");
    }
}
