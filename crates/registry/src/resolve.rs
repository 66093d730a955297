//! Resolves the host and port that a registry lists into addresses, or into the reason why there is none.
//!
//! - **All addresses of a name** are used: each is an instance of its own, so that it is balanced, retried and ejected by itself.
//!   The first has the id that is listed; the others have `#2`, `#3` and so on behind it. An address keeps its id while the name
//!   has it.
//! - **Two families.** Where a name has IPv4 and IPv6 addresses, those of IPv6 are most often the same hosts: they are the
//!   fallback of each IPv4 address ([`NamedHost::fallback`]).
//! - **When.** A name is looked up with every answer, and when a connection was refused ([`Resolver::resolve_again`]); at most
//!   once a second, for all instances and services that have it.
//! - **A resolver that fails or hangs** removes no instance: the last addresses stay for ten minutes. Look-ups have threads of
//!   their own, so they hold up nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use outrigger_net::{Addresses, Lookups, parse_ip};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Instance, InstanceId, NamedHost, Unusable};

/// Threads for look-ups.
const LOOKUP_THREADS: usize = 8;
/// Longest wait for one name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for all names of an answer: its slowest names delay an answer by no more than this.
const ALL_LOOKUPS_TIMEOUT: Duration = Duration::from_secs(3);
/// Names that are waited for at the same time.
const MAX_CONCURRENT_LOOKUPS: usize = 64;
/// Least time between two look-ups of one name.
const MIN_LOOKUP_INTERVAL: Duration = Duration::from_secs(1);

/// How long the last addresses of a name are used when the name cannot be looked up. After this time they
/// may belong to other hosts.
const FALLBACK_TTL: Duration = Duration::from_secs(600);
/// Most names that are kept.
const MAX_REMEMBERED: usize = 4096;
/// Most addresses of a name that are used, of each family: the lowest ones.
const MAX_ADDRESSES: usize = 64;

/// An instance before its address is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnresolvedInstance {
    /// IP address or host name; empty where the registry has none.
    pub(crate) host: Arc<str>,
    /// The port as listed, possible or not.
    pub(crate) port: i64,
    /// All other fields. [`resolve`] fills in `addr`.
    pub(crate) instance: Instance,
}

/// The addresses of a name, or why there are none.
type LookupResult = Result<Arc<NameAddresses>, Arc<str>>;

/// The addresses of a name.
#[derive(Debug, PartialEq, Eq)]
struct NameAddresses {
    /// Those that are used, each at the place of its id. Never empty.
    used: Vec<IpAddr>,
    /// Those of the other family, sorted.
    fallback: Vec<IpAddr>,
}

/// Resolves names.
pub(crate) struct Resolver {
    lookups: Lookups,
    // Locked for a map operation, never over an await.
    names: Mutex<HashMap<Arc<str>, KnownName>>,
}

/// What is known of a name.
#[derive(Debug, Clone)]
struct KnownName {
    /// The last addresses, and when they were found.
    found: Option<(Arc<NameAddresses>, Instant)>,
    asked_at: Instant,
    /// Why the last look-up failed.
    fault: Option<Arc<str>>,
}

impl KnownName {
    /// The last addresses, if they may be used at `now`.
    fn usable(&self, now: Instant) -> Option<&Arc<NameAddresses>> {
        let (addresses, found_at) = self.found.as_ref()?;
        (now.duration_since(*found_at) < FALLBACK_TTL).then_some(addresses)
    }

    fn result(&self, now: Instant) -> LookupResult {
        let fault = || self.fault.clone().unwrap_or_else(|| "no address".into());
        self.usable(now).cloned().ok_or_else(fault)
    }
}

impl Resolver {
    /// A resolver that asks the system.
    pub(crate) fn new() -> Self {
        Self::with_lookups(Lookups::new(LOOKUP_THREADS))
    }

    /// A resolver that asks `lookups`.
    pub(crate) fn with_lookups(lookups: Lookups) -> Self {
        Self { lookups, names: Mutex::default() }
    }

    /// Fills in every address; an instance with several becomes several.
    pub(crate) async fn resolve(&self, listed: Vec<UnresolvedInstance>) -> Vec<Instance> {
        let names = self.look_up_all(collect_host_names(&listed)).await;
        listed.into_iter().flat_map(|one| one.with_addresses(&names)).collect()
    }

    /// Looks the host names of `instances`, which are sorted by identity, up again. `None`: their addresses are the same.
    pub(crate) async fn resolve_again(&self, instances: &[Instance]) -> Option<Vec<Instance>> {
        let (mut resolved, mut listed) = (Vec::new(), Vec::new());
        for instance in instances {
            match &instance.named {
                None => resolved.push(instance.clone()),
                // The others come from the first one.
                Some(named) if named.id != instance.id.id => {}
                Some(named) => listed.push(UnresolvedInstance {
                    host: named.host.clone(),
                    port: named.port,
                    instance: instance.clone(),
                }),
            }
        }
        if listed.is_empty() {
            return None;
        }
        resolved.extend(self.resolve(listed).await);
        resolved.sort_by(|a, b| a.id.cmp(&b.id));
        (resolved != instances).then_some(resolved)
    }

    async fn look_up_all(&self, names: Vec<Arc<str>>) -> BTreeMap<Arc<str>, LookupResult> {
        let until = Instant::now() + ALL_LOOKUPS_TIMEOUT;
        stream::iter(names)
            .map(|name| async move {
                let found = self.look_up_one(&name, until).await;
                (name, found)
            })
            .buffer_unordered(MAX_CONCURRENT_LOOKUPS)
            .collect()
            .await
    }

    async fn look_up_one(&self, name: &Arc<str>, last: Instant) -> LookupResult {
        let now = Instant::now();
        let known = self.names.lock().get(name).cloned();
        if let Some(known) = &known
            && now.duration_since(known.asked_at) < MIN_LOOKUP_INTERVAL
        {
            return known.result(now);
        }
        let has_earlier = known.is_some_and(|known| known.usable(now).is_some());
        let longest = LOOKUP_TIMEOUT.min(last.saturating_duration_since(now));
        let found = self.lookups.look_up_within(name, longest, has_earlier).await;
        self.record(name, found, now)
    }

    /// Records the end of a look-up that began at `asked_at`; `None`: it was not over in time. Returns what is to be used.
    fn record(&self, name: &Arc<str>, found: Option<Addresses>, asked_at: Instant) -> LookupResult {
        let now = Instant::now();
        let mut names = self.names.lock();
        let before = names.get(name).and_then(|known| known.usable(now)).cloned();
        let found = found.unwrap_or_else(|| Err("the resolver did not answer in time".into()));
        let found = found.and_then(|found| {
            let used = NameAddresses::choose(&found, before.as_deref());
            used.ok_or_else(|| "the name has no address".into())
        });
        let mut known = KnownName { found: None, asked_at, fault: None };
        match found {
            Ok(addresses) => known.found = Some((Arc::new(addresses), now)),
            Err(fault) => {
                known.fault = Some(fault);
                known.found = names.get(name).and_then(|known| known.found.clone());
            }
        }
        let result = known.result(now);
        if names.len() >= MAX_REMEMBERED {
            names.retain(|_, known| now.duration_since(known.asked_at) < FALLBACK_TTL);
        }
        if names.len() < MAX_REMEMBERED || names.contains_key(name) {
            names.insert(name.clone(), known);
        }
        result
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("names", &self.names.lock().len()).finish_non_exhaustive()
    }
}

impl NameAddresses {
    /// The addresses to use. IPv4 first: a name with both families is most often reachable only by IPv4 inside a cluster.
    /// `None`: there are none.
    fn choose(found: &[IpAddr], before: Option<&Self>) -> Option<Self> {
        let (mut used, mut fallback): (Vec<_>, Vec<_>) = found.iter().partition(|ip| ip.is_ipv4());
        if used.is_empty() {
            std::mem::swap(&mut used, &mut fallback);
        }
        for family in [&mut used, &mut fallback] {
            family.sort_unstable();
            family.truncate(MAX_ADDRESSES);
        }
        let before = before.map_or(&[][..], |before| &before.used);
        let used = keep_places(before, &used);
        (!used.is_empty()).then_some(Self { used, fallback })
    }
}

/// `found`, each address at the place that it has in `before`. New ones take the free places, then the last ones do, so that none
/// stays free.
fn keep_places(before: &[IpAddr], found: &[IpAddr]) -> Vec<IpAddr> {
    let mut new = found.iter().filter(|ip| !before.contains(ip)).copied();
    let mut places: Vec<_> =
        before.iter().map(|ip| if found.contains(ip) { Some(*ip) } else { new.next() }).collect();
    places.extend(new.map(Some));
    while let Some(free) = places.iter().position(Option::is_none) {
        let last = places.pop().flatten();
        if free < places.len() {
            places[free] = last;
        }
    }
    places.into_iter().flatten().collect()
}

impl UnresolvedInstance {
    /// The instance without a look-up: a host name becomes 0.0.0.0.
    pub(crate) fn without_look_up(self) -> Instance {
        let Self { host, port, instance } = self;
        let addr = listed_addr(&host, port).unwrap_or_else(|| {
            usable_port(port).map(|port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
        });
        Instance { addr, ..instance }
    }

    /// The instance once for each of its addresses; once without one.
    fn with_addresses(self, names: &BTreeMap<Arc<str>, LookupResult>) -> Vec<Instance> {
        let Self { host, port, mut instance } = self;
        let found = names.get(&host);
        let fallback = match found {
            Some(Ok(addresses)) => &addresses.fallback[..],
            _ => &[],
        };
        let named = found.is_some().then(|| {
            let id = match &instance.named {
                Some(named) => named.id.clone(),
                None => instance.id.id.clone(),
            };
            let fallback = fallback.iter().filter_map(|ip| socket_addr(*ip, port).ok()).collect();
            Arc::new(NamedHost { host: host.clone(), id, port, fallback })
        });
        instance.named.clone_from(&named);
        let addrs: Vec<_> = match (listed_addr(&host, port), found) {
            (Some(addr), _) => vec![addr],
            (None, Some(Ok(addresses))) => addresses.used.iter().map(|ip| socket_addr(*ip, port)).collect(),
            (None, Some(Err(reason))) => {
                let unresolved = Unusable::Unresolved { host, reason: reason.clone() };
                vec![usable_port(port).and(Err(unresolved))]
            }
            (None, None) => vec![usable_port(port).and(Err(Unusable::NoAddress))],
        };
        let with_addr = |(place, addr): (usize, Result<SocketAddr, Unusable>)| {
            let base = named.as_ref().map_or(&instance.id.id, |named| &named.id);
            let id = if place == 0 { base.clone() } else { format!("{base}#{}", place + 1).into() };
            Instance { id: InstanceId { id, ..instance.id.clone() }, addr, ..instance.clone() }
        };
        addrs.into_iter().enumerate().map(with_addr).collect()
    }
}

fn collect_host_names(listed: &[UnresolvedInstance]) -> Vec<Arc<str>> {
    let mut names: Vec<_> =
        listed.iter().map(|entry| &entry.host).filter(|host| is_host_name(host)).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn is_host_name(host: &str) -> bool {
    !host.is_empty() && parse_ip(host, 0).is_none()
}

fn usable_port(port: i64) -> Result<u16, Unusable> {
    u16::try_from(port).ok().filter(|port| *port != 0).ok_or(Unusable::Port(port))
}

/// The address and port to connect to, when `host` is an IP address.
fn listed_addr(host: &Arc<str>, port: i64) -> Option<Result<SocketAddr, Unusable>> {
    let found = parse_ip(host, 0)?
        .map_err(|error| Unusable::Address { host: host.clone(), reason: error.to_string().into() });
    Some(usable_port(port).and_then(|port| {
        let mut addr = found?;
        addr.set_port(port);
        specified(addr)
    }))
}

fn socket_addr(ip: IpAddr, port: i64) -> Result<SocketAddr, Unusable> {
    specified(SocketAddr::new(ip.to_canonical(), usable_port(port)?))
}

fn specified(addr: SocketAddr) -> Result<SocketAddr, Unusable> {
    // 0.0.0.0 stands for every address of the host that registered it; a connection to it from here would
    // reach this machine.
    if addr.ip().is_unspecified() { Err(Unusable::NoAddress) } else { Ok(addr) }
}

#[cfg(test)]
mod tests;
