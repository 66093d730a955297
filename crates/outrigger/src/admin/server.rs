//! Listeners and connections of the admin side: their thread, limits, time-outs and stop.
//!
//! **A thread of its own** ([`AdminThread`]): a scraper that takes long delays neither the renewal of the app's health nor a
//! watch.
//!
//! **A new connection is always accepted.** Where a listener, or one peer, has as many as it may have, the connection
//! that has been without a request for longest is closed. So idle and slow peers keep no health check waiting.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::{
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use outrigger_config::Listen;
use outrigger_net::{BindError, Inherited, ListeningSocket, bind_listen, is_held_back, is_own_shortage};
use outrigger_task::essential;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Handle, Runtime},
    task::{AbortHandle, Id, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::activity::{Activity, ConnectionControl};

/// Most connections at once, per listener.
const MAX_CONNECTIONS: usize = 128;

/// Most of them from one peer. Less than all, so that no single peer can close those of all others.
const MAX_PER_PEER: usize = 64;

/// Most connections, per listener, while the process is short of files.
const MAX_WHEN_SHORT: usize = 4;

/// Longest time for the head of a request, and longest idle time of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest head, bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Longest wait at the stop for the answers under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The thread of the admin side. Dropping it ends every task on it.
#[derive(Debug)]
pub(crate) struct AdminThread {
    handle: Handle,
    /// Taken when it is dropped.
    runtime: Option<Runtime>,
}

impl AdminThread {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            // For metrics, and for the file that keeps the maintenance.
            .max_blocking_threads(4)
            .thread_name("outrigger-admin")
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Where its tasks are started.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for AdminThread {
    fn drop(&mut self) {
        // Without waiting, because the thread that drops it may be one of another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Bound listeners that do not accept yet.
#[derive(Debug)]
pub(crate) struct BoundListeners {
    key: &'static str,
    listeners: Vec<(SocketAddr, TcpListener)>,
    thread: Handle,
    /// Accepts when this is cancelled.
    accepts: CancellationToken,
}

impl BoundListeners {
    /// Binds every address of `listen`, the setting `key`, or takes the sockets of `inherited` that listen there. It is to be
    /// served on `thread` when `accepts` is cancelled.
    pub(crate) fn bind(
        key: &'static str,
        listen: &Listen,
        thread: &Handle,
        inherited: &Inherited,
        accepts: CancellationToken,
    ) -> Result<Self, Vec<BindError>> {
        let bind_one = |configured_addr, addr| {
            let bound = inherited.take_or_bind(key, addr)?;
            let _entered = thread.enter();
            let listener =
                TcpListener::from_std(bound.socket).map_err(|source| BindError { addr, source })?;
            Ok(((configured_addr, listener), bound.addr))
        };
        let listeners = bind_listen(listen, bind_one)?;
        Ok(Self { key, listeners, thread: thread.clone(), accepts })
    }
}

#[cfg(test)]
impl BoundListeners {
    /// Binds every address of `listen`, to be served on `thread` at once.
    pub(crate) fn bind_for_test(listen: &Listen, thread: &Handle) -> Result<Self, Vec<BindError>> {
        let at_once = CancellationToken::new();
        at_once.cancel();
        Self::bind("admin.listen", listen, thread, &Inherited::default(), at_once)
    }
}

/// A running server. Dropping it closes every connection at once; [`AdminServer::stop`] lets answers end.
#[derive(Debug)]
pub(crate) struct AdminServer {
    pub(crate) addrs: Vec<SocketAddr>,
    key: &'static str,
    /// With the addresses of the settings. Gone when the server has stopped.
    sockets: Vec<(SocketAddr, Weak<TcpListener>)>,
    stop: CancellationToken,
    accept_tasks: JoinSet<()>,
}

impl AdminServer {
    /// Serves `router` on the listeners of `bound`.
    pub(crate) fn start(bound: BoundListeners, router: Router) -> Self {
        let BoundListeners { key, listeners, thread, accepts } = bound;
        let addrs = listeners.iter().filter_map(|(_, listener)| listener.local_addr().ok()).collect();
        let stop = CancellationToken::new();
        let (mut accepting, mut sockets) = (JoinSet::new(), Vec::new());
        for (configured_addr, listener) in listeners {
            let listener = Arc::new(listener);
            sockets.push((configured_addr, Arc::downgrade(&listener)));
            let (router, stop, accepts) = (router.clone(), stop.clone(), accepts.clone());
            let accepted = async move {
                if stop.run_until_cancelled(accepts.cancelled()).await.is_some() {
                    accept_connections(listener, router, stop.clone()).await;
                }
            };
            accepting.spawn_on(essential("the acceptor of an admin listener", accepted), &thread);
        }
        Self { addrs, key, sockets, stop, accept_tasks: accepting }
    }

    /// Every listening socket, so that another process can get it.
    ///
    /// # Errors
    /// When files are used up.
    pub(crate) fn listening_sockets(&self) -> io::Result<Vec<ListeningSocket>> {
        let open = self
            .sockets
            .iter()
            .filter_map(|(configured_addr, socket)| Some((*configured_addr, socket.upgrade()?)));
        let sockets = open.map(|(configured_addr, socket)| {
            let socket = socket.as_fd().try_clone_to_owned()?;
            Ok(ListeningSocket { key: self.key.to_owned(), configured_addr, socket })
        });
        sockets.collect()
    }

    /// Stops accepting, lets the answers under way end (2 s at most), and returns when every connection has
    /// ended.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.accept_tasks.join_next().await.is_some() {}
    }
}

async fn accept_connections(listener: Arc<TcpListener>, router: Router, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let mut connections = Connections::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            () = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let most = if is_held_back(&stream) { MAX_WHEN_SHORT } else { MAX_CONNECTIONS };
                let peer = PeerKey::from(peer.ip());
                connections.make_room(peer, most);
                let activity = Arc::new(Activity::new(connections.started));
                let control = ConnectionControl { activity: activity.clone(), stop: stop.clone() };
                let served = serve_connection(stream, router.clone(), &graceful, control);
                connections.add(peer, activity, served);
            }
            Err(error) => {
                warn!(%error, "the admin listener could not accept");
                if is_own_shortage(&error) {
                    connections.close_idle_until(MAX_WHEN_SHORT);
                }
                // Another accept at once would only use CPU.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let _ = timeout(STOP_TIMEOUT, graceful.shutdown()).await;
    connections.tasks.shutdown().await;
}

/// The peer of a connection: an IPv4 address, or an IPv6 network, of which one peer has every address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PeerKey(IpAddr);

impl From<IpAddr> for PeerKey {
    fn from(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        })
    }
}

/// The open connections of one listener.
struct Connections {
    started: Instant,
    tasks: JoinSet<()>,
    open: HashMap<Id, OpenConnection>,
}

struct OpenConnection {
    peer: PeerKey,
    activity: Arc<Activity>,
    task: AbortHandle,
}

impl Connections {
    fn new() -> Self {
        Self { started: Instant::now(), tasks: JoinSet::new(), open: HashMap::new() }
    }

    /// Waits for the end of a connection; for ever while there is none.
    async fn join_next(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        self.open.remove(&id);
    }

    fn add(
        &mut self,
        peer: PeerKey,
        activity: Arc<Activity>,
        served: impl Future<Output = ()> + Send + 'static,
    ) {
        // Contained: a panic ends one connection.
        let task = self.tasks.spawn(served);
        self.open.insert(task.id(), OpenConnection { peer, activity, task });
    }

    /// Closes connections until there is room for one more of `peer`, among `most`.
    fn make_room(&mut self, peer: PeerKey, most: usize) {
        if self.open.values().filter(|one| one.peer == peer).count() >= MAX_PER_PEER {
            self.close_idlest(|one| one.peer == peer);
        }
        self.close_idle_until(most.saturating_sub(1));
    }

    fn close_idle_until(&mut self, most: usize) {
        while self.open.len() > most {
            self.close_idlest(|_| true);
        }
    }

    /// Closes the connection without a request for longest; where each has one under way, the one that has it for longest.
    fn close_idlest(&mut self, wanted: impl Fn(&OpenConnection) -> bool) {
        let candidates = self.open.iter().filter(|(_, one)| wanted(one));
        let Some((&id, one)) = candidates.min_by_key(|(_, one)| one.activity.order()) else { return };
        debug!(peer = %one.peer.0, "closed an admin connection for another one");
        one.task.abort();
        self.open.remove(&id);
    }
}

fn serve_connection(
    stream: TcpStream,
    router: Router,
    graceful: &GracefulShutdown,
    control: ConnectionControl,
) -> impl Future<Output = ()> + Send + 'static {
    let router = TowerToHyperService::new(router);
    let activity = control.activity.clone();
    let lifetime = activity.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(control.clone());
        let busy = activity.begin_request();
        let answer = router.call(request);
        async move {
            let answer = answer.await;
            drop(busy);
            answer
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD + 16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection);
    async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                debug!(%error, "an admin connection ended with an error");
            },
            () = lifetime.outlived() => debug!("closed an admin connection at its longest age"),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Bytes, routing::get};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpSocket,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn start(listen: Listen) -> AdminServer {
        // More than the buffers of a connection hold.
        let large = Bytes::from(vec![b'x'; 16 << 20]);
        let large = move || {
            let large = large.clone();
            async move { large }
        };
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/large", get(large))
            .route("/slow", get(std::future::pending::<&str>));
        AdminServer::start(bind(&listen).unwrap(), router)
    }

    fn bind(listen: &Listen) -> Result<BoundListeners, Vec<BindError>> {
        BoundListeners::bind_for_test(listen, &Handle::current())
    }

    const ASK: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    /// A connection from `from` that has sent `text`.
    async fn connect_from(from: &str, to: SocketAddr, text: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    async fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = timeout(LONG, stream.read_to_end(&mut rest)).await.expect("closed");
        rest
    }

    async fn ask(addr: SocketAddr, text: &str) -> String {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(LONG, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn localhost_is_served_on_each_loopback_address_with_one_port() {
        let server = start(Listen::localhost(0));
        assert!(server.addrs.iter().all(|addr| addr.port() == server.addrs[0].port()));
        for addr in &server.addrs {
            let answer = ask(*addr, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
            assert!(answer.ends_with("hello"), "{answer}");
        }
        timeout(LONG, server.stop()).await.unwrap();
    }

    #[tokio::test]
    async fn an_occupied_port_is_an_error_that_names_it_and_says_what_to_do() {
        let server = start(Listen::localhost(0));
        let taken = server.addrs[0];
        let error = bind(&taken.into()).unwrap_err()[0].to_string();
        assert!(error.contains(&taken.to_string()) && error.contains("choose another port"), "{error}");
    }

    #[tokio::test]
    async fn stopping_ends_idle_connections_and_frees_the_port() {
        let server = start(Listen::localhost(0));
        let addr = server.addrs[0];
        let mut idle = TcpStream::connect(addr).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut byte = [0];
        idle.read_exact(&mut byte).await.unwrap(); // answered, then idle
        timeout(LONG, server.stop()).await.unwrap();
        let mut rest = Vec::new();
        timeout(LONG, idle.read_to_end(&mut rest)).await.unwrap().unwrap();
        bind(&addr.into()).unwrap();
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let server = start(Listen::localhost(0));
        let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(70_000));
        assert!(ask(server.addrs[0], &head).await.starts_with("HTTP/1.1 431"));
        server.stop().await;
    }

    #[tokio::test]
    async fn idle_and_slow_peers_keep_no_request_waiting_and_the_idlest_is_closed_first() {
        let server = start(Listen::from(SocketAddr::from(([127, 0, 0, 1], 0))));
        let addr = server.addrs[0];
        // Half a head, an answer that is not read, a request that is not answered: each from many peers.
        let texts = [
            "",
            "GET / HTT",
            "GET /large HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n",
        ];
        let mut slow = Vec::new();
        for nth in 0..2 * MAX_CONNECTIONS {
            let from = format!("127.0.1.{}", nth % 200 + 1);
            slow.push(connect_from(&from, addr, texts[nth % texts.len()]).await);
        }
        for _ in 0..3 {
            assert!(ask(addr, ASK).await.ends_with("hello"));
        }
        // The first of them was idle for longest.
        assert_eq!(read_to_end(slow.remove(0)).await, b"");
        timeout(LONG, server.stop()).await.unwrap();
    }

    #[tokio::test]
    async fn one_peer_closes_its_own_connections_and_none_of_another() {
        let server = start(Listen::from(SocketAddr::from(([127, 0, 0, 1], 0))));
        let addr = server.addrs[0];
        let quiet = connect_from("127.0.0.2", addr, "GET / HTTP/1.1\r\nhost: x\r\n").await;
        let mut greedy = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            greedy.push(connect_from("127.0.0.3", addr, "").await);
        }
        assert_eq!(read_to_end(greedy.remove(0)).await, b"");
        assert!(ask(addr, ASK).await.ends_with("hello"));
        let mut quiet = quiet;
        quiet.write_all(b"connection: close\r\n\r\n").await.unwrap();
        assert!(read_to_end(quiet).await.ends_with(b"hello"));
        timeout(LONG, server.stop()).await.unwrap();
    }

    /// A server of the stream of `events`, and a connection that has got its head and asked for it.
    async fn start_stream(events: &outrigger_events::Events) -> (AdminServer, TcpStream) {
        use crate::admin::pages::{EventsQuery, events_response};

        let events = events.clone();
        let page =
            get(move |connection: Option<axum::Extension<ConnectionControl>>, headers: http::HeaderMap| {
                let connection = connection.map(|axum::Extension(found)| found);
                let answer = events_response(&events, &EventsQuery::default(), connection, &headers);
                async move { answer }
            });
        let bound = bind(&Listen::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let server = AdminServer::start(bound, Router::new().route("/events", page));
        let ask = "GET /events HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n";
        let mut stream = connect_from("127.0.0.1", server.addrs[0], ask).await;
        let mut head = Vec::new();
        while !head.ends_with(b"retry: 1000\n\n\r\n") {
            head.push(timeout(LONG, stream.read_u8()).await.unwrap().unwrap());
        }
        (server, stream)
    }

    fn event(reason: impl AsRef<str>) -> outrigger_events::Event {
        outrigger_events::Event::new(outrigger_events::EventKind::RegistryLost, reason)
    }

    #[tokio::test]
    async fn a_stream_of_events_ends_whole_when_the_listener_stops() {
        let events = outrigger_events::Events::default();
        let (server, stream) = start_stream(&events).await;
        events.record(event("the last one"));
        let (rest, ()) = tokio::join!(read_to_end(stream), async {
            timeout(STOP_TIMEOUT, server.stop()).await.expect("it is not waited for");
        });
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.contains("\"reason\":\"the last one\"") && rest.ends_with("\r\n0\r\n\r\n"), "{rest}");
    }

    #[tokio::test]
    async fn a_stream_that_is_not_read_is_cut_and_one_that_is_read_is_not() {
        use outrigger_events::{EventFilter, Events, MAX_READERS, ReadFrom};

        let events = Events::default();
        let (_server, unread) = start_stream(&events).await;
        let (_other_server, mut read) = start_stream(&events).await;
        let reader = || events.reader(EventFilter::default(), ReadFrom::Newest(0));
        let mut readers: Vec<_> = (2..MAX_READERS).map(|_| reader().unwrap()).collect();
        assert!(reader().is_err());
        // From here on time passes as fast as the streams are written.
        tokio::time::pause();
        let started = Instant::now();
        let mut buffer = vec![0; 1 << 20];
        for n in 0.. {
            events.record(event(format!("{n} {}", "x".repeat(1000))));
            assert!(timeout(LONG, read.read(&mut buffer)).await.unwrap().unwrap() > 0, "it is open");
            sleep(Duration::from_millis(10)).await;
            if let Ok(another) = reader() {
                readers.push(another);
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(3600), "the stream that is not read stays");
        }
        assert!(reader().is_err(), "only one of them is cut");
        drop(unread);
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        let key = |ip: &str| PeerKey::from(ip.parse::<IpAddr>().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
    }
}
