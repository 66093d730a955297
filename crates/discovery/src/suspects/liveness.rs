//! What speaks for an instance that the registry no longer lists: it accepts a connection, or real
//! traffic to it succeeds.
//!
//! It asks and reports; what follows from it is decided in `guard.rs`.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use outrigger_registry::InstanceId;
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

/// Probes under way at once, over all services: a suspect answer must not become a burst of
/// connections.
const MAX_CONCURRENT_PROBES: usize = 8;
/// Longest time for one round of probes. Who was not reached in it is asked in the next.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);

/// A boxed answer: evidence is asked for rarely, and never by a request.
pub type ProbeFuture<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// Who can say whether an instance is there. The default of each method holds without a proxy.
pub trait Liveness: fmt::Debug + Send + Sync + 'static {
    /// Whether something at `addr` accepts a connection; cancelled after
    /// [`probe_timeout`](outrigger_config::MassLoss::probe_timeout), which counts as no. When our own resources do not
    /// allow the attempt, the answer is yes: that blames nobody.
    fn accepts_connection(&self, addr: SocketAddr) -> ProbeFuture<'_> {
        Box::pin(try_connect(addr))
    }

    /// Whether a request to this instance of `service` succeeded lately. Must not block.
    fn recently_served(&self, _service: &str, _id: &InstanceId) -> bool {
        false
    }
}

/// Connection attempts alone.
#[derive(Debug)]
pub(crate) struct ConnectProbe;

impl Liveness for ConnectProbe {}

async fn try_connect(addr: SocketAddr) -> bool {
    match TcpStream::connect(addr).await {
        Ok(_) => true,
        Err(error) => !is_evidence_of_absence(error.kind()),
    }
}

/// Whether the error is the network's word on the instance, and not our own lack of something.
fn is_evidence_of_absence(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    matches!(
        kind,
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | NetworkUnreachable
            | TimedOut
    )
}

/// Asks for evidence, a few at a time.
#[derive(Debug)]
pub(crate) struct LivenessProber {
    /// Replaced once, by the proxy, which is made after discovery.
    liveness: Mutex<Arc<dyn Liveness>>,
    permits: Semaphore,
    /// Longest wait for an answer, in milliseconds.
    probe_timeout: AtomicU64,
}

impl LivenessProber {
    pub(crate) fn new(probe: Duration) -> Self {
        let probe = AtomicU64::new(millis(probe));
        Self {
            liveness: Mutex::new(Arc::new(ConnectProbe)),
            permits: Semaphore::new(MAX_CONCURRENT_PROBES),
            probe_timeout: probe,
        }
    }

    /// From the next question on, an answer is waited for this long.
    pub(crate) fn set_probe_timeout(&self, probe: Duration) {
        self.probe_timeout.store(millis(probe), Relaxed);
    }

    pub(crate) fn set_liveness(&self, evidence: Arc<dyn Liveness>) {
        *self.liveness.lock() = evidence;
    }

    pub(crate) fn recently_served(&self, service: &str, id: &InstanceId) -> bool {
        self.liveness().recently_served(service, id)
    }

    /// Those for whom nothing speaks. `only_traffic`: that they accept connections says nothing.
    pub(crate) async fn find_silent(
        &self,
        service: &str,
        mut suspects: Vec<(InstanceId, SocketAddr, bool)>,
    ) -> Vec<InstanceId> {
        // When there are more than a round can take, each round takes others.
        fastrand::shuffle(&mut suspects);
        let evidence = self.liveness();
        let end = Instant::now() + ROUND_TIMEOUT;
        let mut asked = stream::iter(suspects)
            .map(|(id, addr, only_traffic)| {
                let evidence = evidence.clone();
                async move {
                    let there = evidence.recently_served(service, &id)
                        || !only_traffic && self.probe(&*evidence, addr).await;
                    (!there).then_some(id)
                }
            })
            .buffer_unordered(MAX_CONCURRENT_PROBES);
        let mut silent = Vec::new();
        while let Ok(Some(one)) = timeout_at(end, asked.next()).await {
            silent.extend(one);
        }
        silent
    }

    async fn probe(&self, evidence: &dyn Liveness, addr: SocketAddr) -> bool {
        // Never closed; if it were, nobody would be blamed for it.
        let Ok(_permit) = self.permits.acquire().await else { return true };
        let probe = Duration::from_millis(self.probe_timeout.load(Relaxed));
        timeout(probe, evidence.accepts_connection(addr)).await.unwrap_or(false)
    }

    fn liveness(&self) -> Arc<dyn Liveness> {
        self.liveness.lock().clone()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
