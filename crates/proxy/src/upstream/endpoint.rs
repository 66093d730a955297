//! An instance that the sidecar calls, with its load, its connections and its counts.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_config as config;
use outrigger_net::{DialError, Purpose, Stream, connect_to_any, tls::ClientTls};
use outrigger_policy::{
    Cursor, LoadBalancer, LoadMeasure, Outcome, PeakEwma,
    outlier_detection::{EjectionState, EndpointStats, LossEvent, stall::Stall},
};
use outrigger_registry::{InstanceId, NamedHost};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    metrics::{
        cells::{Block, ServiceCells},
        labels::PoolEvent,
    },
    transport::{
        exchange::Exchange,
        pool::{CheckoutError, ConnectionPool, OpenConnection, Permits},
        streams::{ALPN_HTTP1, ALPN_HTTP2, SharedConnections},
    },
    upstream::{
        connect::{connect_detail, connect_outcome},
        endpoint_tls::EndpointTls,
    },
};

/// One instance. An instance that is registered anew gets a new endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: InstanceId,
    /// The label of its cluster.
    pub(crate) service: Arc<str>,
    pub(crate) addr: SocketAddr,
    /// The host name that the address comes from, with addresses to connect to where this one fails.
    pub(crate) named: Option<Arc<NamedHost>>,
    pub(crate) create_index: u64,
    /// `None`: it is called without TLS.
    pub(crate) tls: Option<EndpointTls>,
    pub(crate) pool: ConnectionPool<Box<Exchange>>,
    /// The results of its attempts; the cluster's detector reads them.
    pub(crate) stats: EndpointStats,
    pub(crate) stall: Stall,
    pub(crate) losses: LossEvent,
    /// Recorded only while the balancer goes by it.
    pub(crate) response_time: PeakEwma,
    /// Picks, and attempts that count against the instance; read by a scrape.
    pub(crate) picks: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Its last response was one of HTTP/1.0.
    is_http10: AtomicBool,
    /// The registry says that it speaks HTTP/2.
    says_http2: bool,
    /// It chose HTTP/2 in a TLS handshake (ALPN).
    chose_http2: AtomicBool,
    /// The connections of HTTP/2, of an endpoint that has had any.
    streams: OnceLock<Box<SharedConnections>>,
    workers: usize,
    retired: AtomicBool,
    /// The registry lists it as draining.
    draining: AtomicBool,
    /// It has refused a connection since it drains.
    refused: AtomicBool,
    /// One permit for each connection that a request may hold.
    permits: Permits,
}

impl AsRef<EndpointStats> for Endpoint {
    fn as_ref(&self) -> &EndpointStats {
        &self.stats
    }
}

/// Which idle connections a request may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckoutRequest<'a> {
    pub(crate) worker: usize,
    pub(crate) policy: &'a config::Policy,
    pub(crate) cells: &'a Block<ServiceCells>,
    /// The request goes as HTTP/2.
    pub(crate) is_http2: bool,
    /// Whether the request may be sent again if the connection turns out to be closed.
    pub(crate) is_repeatable: bool,
    pub(crate) now: Instant,
}

/// For which request a connection is made, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectRequest<'a> {
    pub(crate) worker: usize,
    pub(crate) cells: &'a Block<ServiceCells>,
    pub(crate) timeout: Duration,
    /// Most bytes of the fields of a response.
    pub(crate) head: usize,
    /// The request goes as HTTP/2.
    pub(crate) is_http2: bool,
    /// The request asks for another protocol.
    pub(crate) upgrades: bool,
}

/// A connection that is idle for less is not peeked at before a request that may be repeated: the
/// keep-alive race covers a close in that time, and a peek costs a system call per request.
const SKIP_PEEK_WITHIN: Duration = Duration::from_millis(10);

impl Endpoint {
    pub(crate) fn new(
        id: InstanceId,
        addr: SocketAddr,
        create_index: u64,
        workers: usize,
        policy: &config::Policy,
        now: std::time::Instant,
    ) -> Self {
        Self {
            id,
            service: Arc::default(),
            addr,
            named: None,
            create_index,
            tls: None,
            pool: ConnectionPool::new(workers),
            stats: EndpointStats::new(now),
            stall: Stall::new(now),
            losses: LossEvent::new(now),
            response_time: PeakEwma::new(now),
            picks: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            is_http10: AtomicBool::new(false),
            says_http2: false,
            chose_http2: AtomicBool::new(false),
            streams: OnceLock::new(),
            workers,
            retired: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            permits: Permits::new(max_permits(policy)),
        }
    }

    /// The same of a cluster.
    pub(crate) fn of_service(self, label: &Arc<str>) -> Self {
        Self { service: label.clone(), ..self }
    }

    /// The same of a host name.
    pub(crate) fn with_name(self, named: Option<Arc<NamedHost>>) -> Self {
        Self { named, ..self }
    }

    /// The same, of which the registry says whether it speaks HTTP/2.
    pub(crate) fn speaking_http2(self, says_http2: bool) -> Self {
        Self { says_http2, ..self }
    }

    /// Whether the registry says that it speaks HTTP/2.
    pub(crate) fn says_http2(&self) -> bool {
        self.says_http2
    }

    /// Whether it speaks HTTP/2: the registry says so, or it chose so in a TLS handshake.
    pub(crate) fn speaks_http2(&self) -> bool {
        self.says_http2 || self.chose_http2.load(Relaxed)
    }

    /// The same, called with TLS. After [`Endpoint::of_service`].
    pub(crate) fn with_tls(self, client: Option<&Arc<ClientTls>>) -> Self {
        let tls = client.map(|client| EndpointTls::new(client.clone(), &self.service));
        Self { tls, ..self }
    }

    /// Whether it is called with these TLS settings.
    pub(crate) fn has_tls(&self, client: Option<&Arc<ClientTls>>) -> bool {
        match (&self.tls, client) {
            (Some(tls), Some(client)) => tls.is_of(client),
            (None, None) => true,
            _ => false,
        }
    }

    /// A new connection to the instance for bytes of the app, within `within`, encrypted where the settings say so. `alpn`: the one
    /// protocol that a TLS handshake offers; `None`: those of the settings. `reaches_another`: as for [`connect_to_any`].
    pub(crate) async fn open(
        &self,
        within: Duration,
        purpose: Purpose,
        alpn: Option<&[u8]>,
        reaches_another: impl FnOnce() -> bool,
    ) -> Result<Stream, CheckoutError> {
        let deadline = Instant::now() + within;
        let dialled = self.dial(within, purpose, reaches_another).await;
        let socket = dialled.map_err(|error| CheckoutError {
            outcome: connect_outcome(&error),
            detail: connect_detail(&error),
        })?;
        let Some(tls) = &self.tls else { return Ok(socket.into()) };
        match timeout_at(deadline, tls.connect(socket, self.addr, alpn)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(refusal)) => {
                let outcome = if refusal.is_fault { Outcome::TlsFailed } else { Outcome::ConnectFailed };
                Err(CheckoutError { outcome, detail: refusal.detail })
            }
            Err(_) => {
                let detail = format!(
                    "{} accepted the connection, and did not finish the TLS handshake within {within:?}; does it speak TLS on this port?",
                    self.addr
                );
                Err(CheckoutError { outcome: Outcome::ConnectTimeout, detail })
            }
        }
    }

    /// A new TCP connection to the instance, at any of its addresses. `reaches_another`: as for [`connect_to_any`].
    pub(crate) async fn dial(
        &self,
        within: Duration,
        purpose: Purpose,
        reaches_another: impl FnOnce() -> bool,
    ) -> Result<TcpStream, DialError> {
        let others = self.named.as_ref().map_or(&[][..], |named| &named.fallback);
        connect_to_any(self.addr, others, within, purpose, reaches_another).await
    }

    /// Changes the most requests in flight. Permits beyond it stay with their requests.
    pub(crate) fn set_max_permits(&self, policy: &config::Policy) {
        self.permits.set_most(max_permits(policy));
    }

    /// Whether requests wait for the instance and it responds to none.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stall.is_stalled(|| Instant::now().into_std())
    }

    /// Whether a request succeeded within `within`, and the endpoint is not ejected.
    pub(crate) fn succeeded_within(&self, within: Duration, now: Instant) -> bool {
        self.stats.admits(true) && self.stall.succeeded_within(within, now.into_std())
    }

    /// Whether it last spoke HTTP/1.0: it takes no chunks, and sends no interim responses.
    pub(crate) fn is_http10(&self) -> bool {
        self.is_http10.load(Relaxed)
    }

    /// Notes the version of a response.
    pub(crate) fn note_version(&self, minor: u8) {
        let is_http10 = minor == 0;
        if self.is_http10() != is_http10 {
            self.is_http10.store(is_http10, Relaxed);
        }
    }

    /// Counts a failed attempt against the instance.
    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Whether a pick may take the endpoint: a View may list one that has left or is ejected. `retryable`:
    /// the request can be retried, so it may decide a probation.
    pub(crate) fn is_usable(&self, retryable: bool) -> bool {
        !self.retired.load(Relaxed) && self.stats.admits(retryable)
    }

    /// Whether it has left.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Whether it is neither ejected, nor on probation, nor has it left. In panic mode no endpoint is.
    pub(crate) fn is_healthy(&self) -> bool {
        !self.retired.load(Relaxed) && self.stats.ejection_state() == EjectionState::Healthy
    }

    /// Whether it is ejected. In panic mode no endpoint is.
    pub(crate) fn is_ejected(&self) -> bool {
        self.stats.ejection_state() == EjectionState::Ejected
    }

    /// Notes whether the registry lists it as draining.
    pub(crate) fn set_draining(&self, draining: bool) {
        if self.draining.swap(draining, Relaxed) != draining {
            self.refused.store(false, Relaxed);
        }
    }

    /// Notes the outcome of an attempt: an endpoint that drains is used until it refuses a connection.
    pub(crate) fn note_outcome(&self, outcome: Outcome) {
        let refuses = matches!(outcome, Outcome::ConnectRefused | Outcome::ConnectFailed);
        if refuses && self.draining.load(Relaxed) {
            self.refused.store(true, Relaxed);
        }
    }

    /// Whether a pick may take it as a last resort, which an endpoint that drains is until it has refused a connection.
    pub(crate) fn is_usable_as_last_resort(&self, retryable: bool) -> bool {
        !self.refused.load(Relaxed) && self.is_usable(retryable)
    }

    /// Ends the picks and closes idle connections, because the instance has left the registry. Requests in
    /// flight finish.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
        self.pool.close();
        if let Some(streams) = self.streams.get() {
            streams.close();
        }
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.permits.used()
    }

    /// Its load by a measure of the balancer.
    fn load(&self, measure: LoadMeasure) -> u64 {
        match measure {
            LoadMeasure::InFlight => self.in_flight() as u64,
            LoadMeasure::ResponseTime => self.response_time.load(self.in_flight(), Instant::now().into_std()),
        }
    }

    /// A permit, if one is free and no request waits for it.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<InFlight> {
        self.permits.try_take().then(|| InFlight { endpoint: self.clone() })
    }

    /// Waits for a permit, after the requests that wait already.
    ///
    /// # Errors
    /// [`Outcome::Overloaded`] when `pool.max_waiting` requests wait already.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        policy: &config::Policy,
    ) -> Result<InFlight, CheckoutError> {
        let Some(turn) = self.permits.wait(policy.pool.max_waiting) else {
            let detail = format!(
                "{} on node {}: {} under way and {} waiting, the most that pool.max_connections and pool.max_waiting allow",
                self.id.id,
                self.id.node,
                config::count(self.permits.most(), "request"),
                policy.pool.max_waiting
            );
            return Err(CheckoutError { outcome: Outcome::Overloaded, detail });
        };
        turn.await;
        Ok(InFlight { endpoint: self.clone() })
    }

    /// An idle connection that is still good.
    pub(crate) fn take_idle(&self, request: &CheckoutRequest<'_>) -> Option<Box<Exchange>> {
        if request.is_http2 {
            let stream = self.streams.get()?.open(request.worker, request.now)?;
            request.cells.record_pool_event(PoolEvent::Reused);
            return Some(stream);
        }
        let pool = &request.policy.pool;
        let (limit, skip_peek) = if request.is_repeatable {
            (pool.idle_timeout, SKIP_PEEK_WITHIN)
        } else {
            (pool.non_idempotent_max_idle, Duration::ZERO)
        };
        let is_stale = |idle: &mut Box<Exchange>, asks| idle.is_stale(asks);
        let stale = || request.cells.record_pool_event(PoolEvent::Stale);
        let idle = self.pool.checkout(request.worker, limit, skip_peek, request.now, is_stale, stale)?;
        request.cells.record_pool_event(PoolEvent::Reused);
        Some(idle)
    }

    /// A new connection, or a stream of one of HTTP/2 that the requests of the worker share: of one that takes one more, else of a new
    /// one, which one request at a time makes. `reaches_another`: as of [`connect_to_any`].
    pub(crate) async fn connect(
        &self,
        request: ConnectRequest<'_>,
        reaches_another: impl FnOnce() -> bool,
    ) -> Result<Box<Exchange>, CheckoutError> {
        // A switch to another protocol is one of HTTP/1.1 (RFC 9113 §8.6).
        let alpn = match (request.is_http2, request.upgrades) {
            (true, _) => Some(ALPN_HTTP2),
            (false, true) => Some(ALPN_HTTP1),
            (false, false) => None,
        };
        let connect = self.connect_stream(request.cells, request.timeout, alpn, reaches_another);
        if request.is_http2 {
            return self.streams().open_or_connect(request.worker, request.head, connect).await;
        }
        let (stream, open) = connect.await?;
        if stream.alpn() == Some(ALPN_HTTP2) {
            self.chose_http2.store(true, Relaxed);
            return self.streams().add(request.worker, request.head, stream, open).await;
        }
        Ok(Exchange::new(stream, open, Instant::now()))
    }

    /// As [`Endpoint::connect`], for bytes of any protocol.
    pub(crate) async fn connect_stream(
        &self,
        cells: &Block<ServiceCells>,
        timeout: Duration,
        alpn: Option<&[u8]>,
        reaches_another: impl FnOnce() -> bool,
    ) -> Result<(Stream, OpenConnection), CheckoutError> {
        // A permit includes a connection, also when a reload has reduced the number since.
        let most = self.permits.most().max(self.in_flight());
        let Some(open) = self.pool.reserve(most) else {
            let detail = format!("{} on node {}: pool.max_connections are open", self.id.id, self.id.node);
            return Err(CheckoutError { outcome: Outcome::Overloaded, detail });
        };
        // Boxed, because it is large.
        let stream = Box::pin(self.open(timeout, Purpose::Traffic, alpn, reaches_another)).await?;
        cells.record_pool_event(PoolEvent::Opened);
        Ok((stream, open))
    }

    fn streams(&self) -> &SharedConnections {
        self.streams.get_or_init(|| Box::new(SharedConnections::new(self.workers)))
    }

    /// Closes the connections that have been idle for `limit`.
    pub(crate) fn sweep(&self, limit: Duration, now: Instant) {
        self.pool.sweep(limit, now);
        if let Some(streams) = self.streams.get() {
            streams.sweep(limit, now);
        }
    }
}

/// The most permits that a policy allows.
fn max_permits(policy: &config::Policy) -> usize {
    policy.pool.max_connections.max(1)
}

/// One attempt's permit: counts a request as in flight at the endpoint until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) endpoint: Arc<Endpoint>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.permits.give_back();
    }
}

/// A usable one of these; one that is stalled only if there is no other. `is_first`: for the first attempt of a request.
#[inline]
pub(crate) fn pick_among(
    endpoints: &[Arc<Endpoint>],
    balancer: &LoadBalancer,
    cursor: &Cursor,
    is_first: bool,
    is_usable: impl Fn(&Endpoint) -> bool,
) -> Option<Arc<Endpoint>> {
    if !is_first {
        return pick_for_retry(endpoints, balancer, cursor, is_usable);
    }
    let random = fastrand::u64(..);
    let responsive = |at: usize| is_usable(&endpoints[at]) && !endpoints[at].is_stalled();
    let load = |at: usize, measure| endpoints[at].load(measure);
    match balancer.pick_first_by(cursor, random, responsive, load) {
        Some(at) => Some(endpoints[at].clone()),
        None => pick_stalled(endpoints, balancer, cursor, is_usable),
    }
}

/// As [`pick_among`], where none that is not stalled is usable.
#[cold]
fn pick_stalled(
    endpoints: &[Arc<Endpoint>],
    balancer: &LoadBalancer,
    cursor: &Cursor,
    is_usable: impl Fn(&Endpoint) -> bool,
) -> Option<Arc<Endpoint>> {
    let load = |at: usize, measure| endpoints[at].load(measure);
    let at = balancer.pick_first_by(cursor, fastrand::u64(..), |at| is_usable(&endpoints[at]), load)?;
    Some(endpoints[at].clone())
}

/// As [`pick_among`], for another attempt of a request.
#[cold]
fn pick_for_retry(
    endpoints: &[Arc<Endpoint>],
    balancer: &LoadBalancer,
    cursor: &Cursor,
    is_usable: impl Fn(&Endpoint) -> bool,
) -> Option<Arc<Endpoint>> {
    let load = |at: usize, measure| endpoints[at].load(measure);
    let pick =
        |wanted: &dyn Fn(usize) -> bool| balancer.pick_retry_by(cursor, fastrand::u64(..), wanted, load);
    let at = pick(&|at| is_usable(&endpoints[at]) && !endpoints[at].is_stalled())
        .or_else(|| pick(&|at| is_usable(&endpoints[at])))?;
    Some(endpoints[at].clone())
}

/// Whether a pick may take the endpoint, and not only because panic mode lets it take any.
pub(crate) fn is_healthy(one: &Endpoint, retryable: bool) -> bool {
    one.is_usable(retryable) && one.stats.ejection_state() != EjectionState::Panic
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use super::*;

    fn endpoint(most: usize) -> (Arc<Endpoint>, config::Policy) {
        let mut policy = config::Policy::default();
        policy.pool.max_connections = most;
        policy.pool.max_waiting = 3;
        let id = InstanceId { datacenter: "dc1".into(), node: "n".into(), id: "a".into() };
        let now = Instant::now().into_std();
        (Arc::new(Endpoint::new(id, "127.0.0.1:1".parse().unwrap(), 1, 1, &policy, now)), policy)
    }

    #[tokio::test]
    async fn permits_are_given_in_the_order_of_arrival_and_never_beyond_the_limit() {
        let (endpoint, policy) = endpoint(1);
        let held = endpoint.try_acquire().unwrap();
        assert!(endpoint.try_acquire().is_none());
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(endpoint.acquire(&policy))).collect();
        for one in &mut waiting {
            assert!(poll_fn(|cx| Poll::Ready(one.as_mut().poll(cx).is_pending())).await);
        }
        assert!(endpoint.acquire(&policy).await.is_err(), "max_waiting");
        drop(held);
        assert!(endpoint.try_acquire().is_none(), "the first of the waiting requests comes first");
        // A request that stops waiting passes its turn on, and one that comes later does not take it.
        drop(waiting.remove(0));
        let mut late = Box::pin(endpoint.acquire(&policy));
        assert!(poll_fn(|cx| Poll::Ready(late.as_mut().poll(cx).is_pending())).await);
        drop(late);
        let second = waiting.remove(0).await.unwrap();
        assert!(poll_fn(|cx| Poll::Ready(waiting[0].as_mut().poll(cx).is_pending())).await);
        assert_eq!(endpoint.in_flight(), 1);
        drop(second);
        assert!(waiting.remove(0).await.is_ok());
        assert_eq!(endpoint.in_flight(), 0);
    }

    #[tokio::test]
    async fn an_endpoint_is_connected_to_at_another_address_of_its_name() {
        let bound = outrigger_net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (id, policy) = (endpoint(1).0.id.clone(), endpoint(1).1);
        let at = |addr, fallback: &[SocketAddr]| {
            let (host, listed) = ("orders.example".into(), id.id.clone());
            let named = NamedHost { host, id: listed, port: 80, fallback: fallback.into() };
            let now = Instant::now().into_std();
            Endpoint::new(id.clone(), addr, 1, 1, &policy, now).with_name(Some(Arc::new(named)))
        };
        let closed = outrigger_net::reserve_addr();
        let found =
            at(closed, &[closed, bound.addr]).dial(Duration::from_secs(20), Purpose::Traffic, || false).await;
        assert_eq!(found.unwrap().peer_addr().unwrap(), bound.addr);
        let error =
            at(closed, &[]).dial(Duration::from_secs(20), Purpose::Traffic, || false).await.unwrap_err();
        assert_eq!(connect_outcome(&error), Outcome::ConnectRefused);
    }

    #[tokio::test]
    async fn a_limit_that_is_raised_lets_waiting_requests_go_on() {
        let (endpoint, policy) = endpoint(1);
        let held = endpoint.try_acquire().unwrap();
        let mut waiting = Box::pin(endpoint.acquire(&policy));
        assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
        let mut more = policy.clone();
        more.pool.max_connections = 2;
        endpoint.set_max_permits(&more);
        let second = waiting.await.unwrap();
        endpoint.set_max_permits(&policy);
        drop(held);
        assert!(endpoint.try_acquire().is_none(), "one of one is in use");
        drop(second);
        assert!(endpoint.try_acquire().is_some());
    }
}
