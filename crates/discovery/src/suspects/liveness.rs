//! Signs of life of an instance that the registry no longer lists: it accepts a connection, or requests
//! to it succeed. What follows from them is decided in `guard.rs`.

use std::{fmt, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use outrigger_net::{Fault, Purpose, connect_to_any};
use outrigger_registry::InstanceId;
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

/// Most concurrent probes, over all services: a suspect answer must not cause a burst of connections.
const MAX_CONCURRENT_PROBES: usize = 8;
/// Longest time for one round of probes. An instance that is not probed in it is probed in the next.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);

/// Most further addresses of one instance that are probed, so that a probe ends within the round.
const MAX_OTHERS: usize = 3;

/// A suspect, and how its signs of life are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SuspectToProbe {
    pub(crate) id: InstanceId,
    pub(crate) addr: SocketAddr,
    /// Further addresses of the host name that the registry lists for it.
    pub(crate) others: Box<[SocketAddr]>,
    /// Only traffic counts, because an instance on a lost node may still accept connections. It is not probed.
    pub(crate) only_traffic: bool,
}

impl SuspectToProbe {
    /// All its addresses.
    pub(crate) fn addrs(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.addr).chain(self.others.iter().copied())
    }
}

/// The result of a probe. Boxed, because probes are rare and no request waits for one.
pub type ProbeFuture<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// Reports whether an instance is alive. The defaults need no proxy.
pub trait Liveness: fmt::Debug + Send + Sync + 'static {
    /// Whether a process at `addr`, or at one of `others`, the other addresses of the same instance, accepts a connection; each
    /// has `within` ([`probe_timeout`](outrigger_config::MassLoss::probe_timeout)) of its own. When this side
    /// prevents the attempt (file descriptors, ports, no route), the result is yes: that is no evidence
    /// against the instance.
    fn accepts_connection<'a>(
        &'a self,
        addr: SocketAddr,
        others: &'a [SocketAddr],
        within: Duration,
    ) -> ProbeFuture<'a> {
        Box::pin(try_connect(addr, others, within))
    }

    /// Whether a request to this instance of `service` succeeded lately. Must not block.
    fn recently_served(&self, _service: &str, _id: &InstanceId) -> bool {
        false
    }
}

/// Probes by connection attempts only.
#[derive(Debug)]
pub(crate) struct ConnectProbe;

impl Liveness for ConnectProbe {}

async fn try_connect(addr: SocketAddr, others: &[SocketAddr], within: Duration) -> bool {
    match connect_to_any(addr, others, within, Purpose::Probe, || false).await {
        Ok(_) => true,
        // A fault of this side is no news of the instance.
        Err(error) => error.fault != Fault::Peer,
    }
}

/// Probes instances, a few at a time.
#[derive(Debug)]
pub(crate) struct LivenessProber {
    /// Replaced once by the proxy, which is created after discovery.
    liveness: Mutex<Arc<dyn Liveness>>,
    permits: Semaphore,
}

impl LivenessProber {
    pub(crate) fn new() -> Self {
        Self { liveness: Mutex::new(Arc::new(ConnectProbe)), permits: Semaphore::new(MAX_CONCURRENT_PROBES) }
    }

    pub(crate) fn set_liveness(&self, liveness: Arc<dyn Liveness>) {
        *self.liveness.lock() = liveness;
    }

    pub(crate) fn recently_served(&self, service: &str, id: &InstanceId) -> bool {
        self.liveness().recently_served(service, id)
    }

    /// The suspects without a sign of life.
    pub(crate) async fn find_silent(
        &self,
        service: &str,
        mut suspects: Vec<SuspectToProbe>,
        probe_timeout: Duration,
    ) -> Vec<InstanceId> {
        // So that each round probes others, when there are more suspects than fit into one round.
        fastrand::shuffle(&mut suspects);
        let liveness = self.liveness();
        let end = Instant::now() + ROUND_TIMEOUT;
        let mut probes = stream::iter(suspects)
            .map(|suspect| {
                let liveness = liveness.clone();
                async move {
                    let alive = liveness.recently_served(service, &suspect.id)
                        || !suspect.only_traffic && self.probe(&*liveness, &suspect, probe_timeout).await;
                    (!alive).then_some(suspect.id)
                }
            })
            .buffer_unordered(MAX_CONCURRENT_PROBES);
        let mut silent = Vec::new();
        while let Ok(Some(one)) = timeout_at(end, probes.next()).await {
            silent.extend(one);
        }
        silent
    }

    async fn probe(&self, liveness: &dyn Liveness, suspect: &SuspectToProbe, within: Duration) -> bool {
        // Never closed; if it were, that would be no evidence against the instance.
        let Ok(_permit) = self.permits.acquire().await else { return true };
        let others = &suspect.others[..suspect.others.len().min(MAX_OTHERS)];
        // The addresses are tried at the same time, or one after the other.
        let longest = within * (1 + others.len() as u32);
        timeout(longest, liveness.accepts_connection(suspect.addr, others, within)).await.unwrap_or(false)
    }

    fn liveness(&self) -> Arc<dyn Liveness> {
        self.liveness.lock().clone()
    }
}

#[cfg(test)]
mod tests;
