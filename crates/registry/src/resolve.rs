//! Turns the host and port that a registry lists into an address, or into the reason why there is none.
//!
//! It keeps nothing: a name is asked again with every answer, once however many instances carry it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use crate::{Instance, Unusable};

/// Longest wait for one name.
const PER_NAME: Duration = Duration::from_secs(1);
/// Longest wait for all names of an answer: an answer is not held back for long by its worst entries.
const ALL_NAMES: Duration = Duration::from_secs(3);
/// Names asked at once: each takes a thread of the blocking pool.
const AT_ONCE: usize = 32;

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

/// Fills in every address.
pub(crate) async fn resolve(listed: Vec<Listed>) -> Vec<Instance> {
    let names = look_up(names_in(&listed)).await;
    listed.into_iter().map(|entry| settle(entry, &names)).collect()
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

async fn look_up(names: Vec<Arc<str>>) -> BTreeMap<Arc<str>, Found> {
    let last = Instant::now() + ALL_NAMES;
    stream::iter(names)
        .map(|name| async move {
            let found = look_up_one(&name, last).await;
            (name, found)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

async fn look_up_one(name: &str, last: Instant) -> Found {
    let until = last.min(Instant::now() + PER_NAME);
    match timeout_at(until, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(found)) => preferred(found.map(|addr| addr.ip())).ok_or_else(|| "no address".into()),
        Ok(Err(error)) => Err(error.to_string().into()),
        Err(_) => Err("the resolver did not answer in time".into()),
    }
}

/// IPv4 when there are both: a name with both is most often reachable by IPv4 only inside a cluster.
fn preferred(found: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    let mut first = None;
    for ip in found {
        if ip.is_ipv4() {
            return Some(ip);
        }
        first.get_or_insert(ip);
    }
    first
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
