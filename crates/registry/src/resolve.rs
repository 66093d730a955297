//! Turns the host and port that a registry lists into an address, or into the reason why there is none.
//!
//! A name is asked again with every answer, once however many instances carry it. What it came to is
//! remembered for two things: an address that is still good is kept, and a resolver that fails does
//! not take instances away.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use tokio::time::{Instant, timeout_at};

use crate::{Instance, Unusable};

/// Longest wait for one name.
const PER_NAME: Duration = Duration::from_secs(1);
/// Longest wait for all names of an answer: an answer is not held back for long by its worst entries.
const ALL_NAMES: Duration = Duration::from_secs(3);
/// Names asked at once: each takes a thread of the blocking pool.
const AT_ONCE: usize = 32;

/// How long the last address of a name stands in for one that cannot be looked up. Then somebody else
/// may have the address.
const KEPT: Duration = Duration::from_secs(600);
/// Most names that are remembered.
const MOST_KEPT: usize = 4096;

/// An entry as listed: its address is still words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// IP address or host name; empty where the registry has none.
    pub(crate) host: Arc<str>,
    /// As listed, possible or not.
    pub(crate) port: i64,
    /// Everything else. Its `addr` is filled in by [`resolve`].
    pub(crate) instance: Instance,
}

/// What a name came to.
type Found = Result<IpAddr, Arc<str>>;

/// Asks for every address of a name.
type Ask = dyn Fn(Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Looks names up.
pub(crate) struct Resolver {
    ask: Box<Ask>,
    // Held for a map operation, never over an await.
    last: Mutex<HashMap<Arc<str>, Known>>,
}

/// The address of a name that was given out last, and when it was last found.
#[derive(Debug, Clone, Copy)]
struct Known {
    ip: IpAddr,
    at: Instant,
}

impl Resolver {
    /// One that asks the system.
    pub(crate) fn new() -> Self {
        Self::asking(|name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((&*name, 0)).await?;
                Ok(found.map(|addr| addr.ip()).collect())
            })
        })
    }

    fn asking(
        ask: impl Fn(Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self { ask: Box::new(ask), last: Mutex::default() }
    }

    /// Fills in every address.
    pub(crate) async fn resolve(&self, listed: Vec<Listed>) -> Vec<Instance> {
        let names = self.look_up(names_in(&listed)).await;
        listed.into_iter().map(|entry| settle(entry, &names)).collect()
    }

    async fn look_up(&self, names: Vec<Arc<str>>) -> BTreeMap<Arc<str>, Found> {
        let until = Instant::now() + ALL_NAMES;
        stream::iter(names)
            .map(|name| async move {
                let found = self.look_up_one(&name, until).await;
                let found = self.remembered(&name, found);
                (name, found)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }

    async fn look_up_one(&self, name: &Arc<str>, last: Instant) -> Result<Vec<IpAddr>, Arc<str>> {
        let until = last.min(Instant::now() + PER_NAME);
        match timeout_at(until, (self.ask)(name.clone())).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(error.to_string().into()),
            Err(_) => Err("the resolver did not answer in time".into()),
        }
    }

    /// The address to use, in the light of the one that was used last.
    fn remembered(&self, name: &Arc<str>, found: Result<Vec<IpAddr>, Arc<str>>) -> Found {
        let now = Instant::now();
        let mut last = self.lock();
        let before = last.get(name).copied();
        match found.and_then(|found| preferred(&found, before).ok_or_else(|| "no address".into())) {
            Ok(ip) => {
                if last.len() >= MOST_KEPT {
                    last.retain(|_, known| now.duration_since(known.at) < KEPT);
                }
                if last.len() < MOST_KEPT || before.is_some() {
                    last.insert(name.clone(), Known { ip, at: now });
                }
                Ok(ip)
            }
            Err(reason) => {
                before.filter(|known| now.duration_since(known.at) < KEPT).map(|known| known.ip).ok_or(reason)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("names", &self.lock().len()).finish_non_exhaustive()
    }
}

fn names_in(listed: &[Listed]) -> Vec<Arc<str>> {
    let mut names: Vec<_> =
        listed.iter().map(|entry| &entry.host).filter(|host| is_name(host)).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn is_name(host: &str) -> bool {
    !host.is_empty() && host.parse::<IpAddr>().is_err()
}

/// The one from before while it is still among them: a resolver that lists them in turns must not move
/// an instance each time. Else IPv4 when there are both: a name with both is most often reachable by
/// IPv4 only inside a cluster.
fn preferred(found: &[IpAddr], before: Option<Known>) -> Option<IpAddr> {
    let same = before.map(|known| known.ip).filter(|ip| found.contains(ip));
    same.or_else(|| found.iter().find(|ip| ip.is_ipv4()).or(found.first()).copied())
}

fn settle(entry: Listed, names: &BTreeMap<Arc<str>, Found>) -> Instance {
    let addr = address(&entry.host, entry.port, names);
    Instance { addr, ..entry.instance }
}

fn address(host: &Arc<str>, port: i64, names: &BTreeMap<Arc<str>, Found>) -> Result<SocketAddr, Unusable> {
    let port = u16::try_from(port).ok().filter(|port| *port != 0).ok_or(Unusable::Port(port))?;
    let ip = match (host.parse::<IpAddr>(), names.get(host)) {
        (Ok(ip), _) => ip,
        (Err(_), Some(Ok(ip))) => *ip,
        (Err(_), Some(Err(reason))) => {
            return Err(Unusable::Unresolved { host: host.clone(), reason: reason.clone() });
        }
        (Err(_), None) => return Err(Unusable::NoAddress),
    };
    // 0.0.0.0 says "every address of mine": called from here it would be this machine.
    if ip.is_unspecified() { Err(Unusable::NoAddress) } else { Ok(SocketAddr::new(ip, port)) }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A resolver that finds these for `name`, one after the other, and then nothing.
    fn finding<const N: usize>(answers: [&[&str]; N]) -> Resolver {
        let parse = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let answers = Mutex::new(answers.map(parse).into_iter().collect::<VecDeque<_>>());
        Resolver::asking(move |_| {
            let next = answers.lock().unwrap().pop_front();
            Box::pin(async move { next.ok_or_else(|| io::Error::other("no resolver")) })
        })
    }

    async fn ask(resolver: &Resolver) -> Found {
        resolver.look_up(vec!["name".into()]).await.remove("name").unwrap()
    }

    fn found(ip: &str) -> Found {
        Ok(ip.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_still_listed_is_kept_whatever_the_order() {
        let resolver = finding([&["::1", "10.0.0.1", "10.0.0.2"], &["10.0.0.2", "10.0.0.1"], &["10.0.0.2"]]);
        for expected in ["10.0.0.1", "10.0.0.1", "10.0.0.2"] {
            assert_eq!(ask(&resolver).await, found(expected));
        }
        assert_eq!(ask(&finding([&["::2", "::1"]])).await, found("::2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_fails_takes_nothing_away_for_ten_minutes() {
        let resolver = finding([&["10.0.0.1"], &[]]);
        for _ in 0..3 {
            assert_eq!(ask(&resolver).await, found("10.0.0.1"));
        }
        tokio::time::sleep(KEPT).await;
        assert_eq!(ask(&resolver).await, Err("no resolver".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_hangs_is_waited_for_one_second() {
        let resolver = Resolver::asking(|_| Box::pin(std::future::pending()));
        let from = Instant::now();
        assert!(ask(&resolver).await.unwrap_err().contains("in time"));
        assert_eq!(from.elapsed(), PER_NAME);
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let resolver = Resolver::asking(|_| Box::pin(async { Ok(vec![IpAddr::from([10, 0, 0, 1])]) }));
        let names = (0..MOST_KEPT + 100).map(|n| format!("name-{n}").into()).collect();
        assert_eq!(resolver.look_up(names).await.len(), MOST_KEPT + 100);
        assert_eq!(resolver.lock().len(), MOST_KEPT);
    }
}
