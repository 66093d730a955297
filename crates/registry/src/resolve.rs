//! Resolves the host and port that a registry lists into an address, or into the reason why there is none.
//!
//! A name is looked up with every answer, once however many instances carry it. The last result is kept for
//! two reasons: an address that is still listed stays in use, and a resolver that fails does not remove
//! instances.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use outrigger_net::parse_ip;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::{Instance, Unusable};

/// Longest wait for one name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for all names of an answer: its slowest names delay an answer by no more than this.
const ALL_LOOKUPS_TIMEOUT: Duration = Duration::from_secs(3);
/// Names that are looked up at the same time: each takes a thread of the blocking pool.
const MAX_CONCURRENT_LOOKUPS: usize = 32;

/// How long the last address of a name is used when the name cannot be looked up. After this time the
/// address may belong to another host.
const FALLBACK_TTL: Duration = Duration::from_secs(600);
/// Most names that are kept.
const MAX_REMEMBERED: usize = 4096;

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

/// The result of a look-up.
type LookupResult = Result<IpAddr, Arc<str>>;

/// Looks up every address of a name.
type LookupFn = dyn Fn(Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Resolves names.
pub(crate) struct Resolver {
    lookup: Box<LookupFn>,
    // Locked for a map operation, never over an await.
    last_addresses: Mutex<HashMap<Arc<str>, LastAddress>>,
}

/// The last used address of a name, and when it was last found.
#[derive(Debug, Clone, Copy)]
struct LastAddress {
    ip: IpAddr,
    found_at: Instant,
}

impl Resolver {
    /// A resolver that asks the system.
    pub(crate) fn new() -> Self {
        Self::with_lookup(|name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((&*name, 0)).await?;
                Ok(found.map(|addr| addr.ip()).collect())
            })
        })
    }

    fn with_lookup(
        ask: impl Fn(Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self { lookup: Box::new(ask), last_addresses: Mutex::default() }
    }

    /// Fills in every address.
    pub(crate) async fn resolve(&self, listed: Vec<UnresolvedInstance>) -> Vec<Instance> {
        let names = self.look_up_all(collect_host_names(&listed)).await;
        let with_address = |UnresolvedInstance { host, port, instance }| Instance {
            addr: socket_addr(&host, port, &names),
            ..instance
        };
        listed.into_iter().map(with_address).collect()
    }

    async fn look_up_all(&self, names: Vec<Arc<str>>) -> BTreeMap<Arc<str>, LookupResult> {
        let until = Instant::now() + ALL_LOOKUPS_TIMEOUT;
        stream::iter(names)
            .map(|name| async move {
                let found = self.look_up_one(&name, until).await;
                let found = self.choose_address(&name, found);
                (name, found)
            })
            .buffer_unordered(MAX_CONCURRENT_LOOKUPS)
            .collect()
            .await
    }

    async fn look_up_one(&self, name: &Arc<str>, last: Instant) -> Result<Vec<IpAddr>, Arc<str>> {
        let until = last.min(Instant::now() + LOOKUP_TIMEOUT);
        match timeout_at(until, (self.lookup)(name.clone())).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(error.to_string().into()),
            Err(_) => Err("the resolver did not answer in time".into()),
        }
    }

    /// The address to use, which depends on the last used one.
    fn choose_address(&self, name: &Arc<str>, found: Result<Vec<IpAddr>, Arc<str>>) -> LookupResult {
        let now = Instant::now();
        let mut last = self.last_addresses.lock();
        let before = last.get(name).copied();
        match found.and_then(|found| prefer_address(&found, before).ok_or_else(|| "no address".into())) {
            Ok(ip) => {
                if last.len() >= MAX_REMEMBERED {
                    last.retain(|_, known| now.duration_since(known.found_at) < FALLBACK_TTL);
                }
                if last.len() < MAX_REMEMBERED || before.is_some() {
                    last.insert(name.clone(), LastAddress { ip, found_at: now });
                }
                Ok(ip)
            }
            Err(reason) => before
                .filter(|known| now.duration_since(known.found_at) < FALLBACK_TTL)
                .map(|known| known.ip)
                .ok_or(reason),
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("names", &self.last_addresses.lock().len()).finish_non_exhaustive()
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

/// The last used address while it is still listed, because a resolver that rotates its list must not move
/// an instance each time. Else an IPv4 address where there is one: a name with both families is most often
/// reachable only by IPv4 inside a cluster.
fn prefer_address(found: &[IpAddr], before: Option<LastAddress>) -> Option<IpAddr> {
    let same = before.map(|known| known.ip).filter(|ip| found.contains(ip));
    same.or_else(|| found.iter().find(|ip| ip.is_ipv4()).or(found.first()).copied())
}

fn socket_addr(
    host: &Arc<str>,
    port: i64,
    names: &BTreeMap<Arc<str>, LookupResult>,
) -> Result<SocketAddr, Unusable> {
    let port = u16::try_from(port).ok().filter(|port| *port != 0).ok_or(Unusable::Port(port))?;
    let addr = match (parse_ip(host, port), names.get(host)) {
        (Some(Ok(addr)), _) => addr,
        (Some(Err(error)), _) => {
            return Err(Unusable::Address { host: host.clone(), reason: error.to_string().into() });
        }
        (None, Some(Ok(ip))) => SocketAddr::new(ip.to_canonical(), port),
        (None, Some(Err(reason))) => {
            return Err(Unusable::Unresolved { host: host.clone(), reason: reason.clone() });
        }
        (None, None) => return Err(Unusable::NoAddress),
    };
    // 0.0.0.0 stands for every address of the host that registered it; a connection to it from here would
    // reach this machine.
    if addr.ip().is_unspecified() { Err(Unusable::NoAddress) } else { Ok(addr) }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A resolver that finds these for `name`, one after the other, and then nothing.
    fn resolver_with_answers<const N: usize>(answers: [&[&str]; N]) -> Resolver {
        let parse = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let answers = Mutex::new(answers.map(parse).into_iter().collect::<VecDeque<_>>());
        Resolver::with_lookup(move |_| {
            let next = answers.lock().pop_front();
            Box::pin(async move { next.ok_or_else(|| io::Error::other("no resolver")) })
        })
    }

    async fn look_up(resolver: &Resolver) -> LookupResult {
        resolver.look_up_all(vec!["name".into()]).await.remove("name").unwrap()
    }

    fn found(ip: &str) -> LookupResult {
        Ok(ip.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_still_listed_stays_in_use_in_any_order() {
        let resolver = resolver_with_answers([
            &["::1", "10.0.0.1", "10.0.0.2"],
            &["10.0.0.2", "10.0.0.1"],
            &["10.0.0.2"],
        ]);
        for expected in ["10.0.0.1", "10.0.0.1", "10.0.0.2"] {
            assert_eq!(look_up(&resolver).await, found(expected));
        }
        assert_eq!(look_up(&resolver_with_answers([&["::2", "::1"]])).await, found("::2"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_address_stays_for_ten_minutes_when_the_resolver_fails() {
        let resolver = resolver_with_answers([&["10.0.0.1"], &[]]);
        for _ in 0..3 {
            assert_eq!(look_up(&resolver).await, found("10.0.0.1"));
        }
        tokio::time::sleep(FALLBACK_TTL).await;
        assert_eq!(look_up(&resolver).await, Err("no resolver".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_hangs_delays_an_answer_by_one_second() {
        let resolver = Resolver::with_lookup(|_| Box::pin(std::future::pending()));
        let from = Instant::now();
        assert!(look_up(&resolver).await.unwrap_err().contains("in time"));
        assert_eq!(from.elapsed(), LOOKUP_TIMEOUT);
    }

    #[tokio::test]
    async fn the_number_of_kept_names_is_bounded() {
        let resolver = Resolver::with_lookup(|_| Box::pin(async { Ok(vec![IpAddr::from([10, 0, 0, 1])]) }));
        let names = (0..MAX_REMEMBERED + 100).map(|n| format!("name-{n}").into()).collect();
        assert_eq!(resolver.look_up_all(names).await.len(), MAX_REMEMBERED + 100);
        assert_eq!(resolver.last_addresses.lock().len(), MAX_REMEMBERED);
    }
}
