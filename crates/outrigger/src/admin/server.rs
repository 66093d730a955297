//! Listeners and connections of the admin side and of the API: their thread, limits, time-outs and stop.
//!
//! **A thread of its own** ([`AdminThread`]): a scraper that takes long delays neither the renewal of the app's health nor a
//! watch.
//!
//! **A new connection is always accepted.** Where a listener, or one peer, has as many as it may have, the connection
//! that has been without a request for longest is closed. So idle and slow peers keep no health check waiting. Connections of the
//! API with a request under way are not closed, because an app may hold a lock by one: a new connection is closed then.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    path::Path,
    pin::{Pin, pin},
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, extract::Request};
use bytes::Bytes;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use outrigger_config::{Listen, SocketAccess};
use outrigger_net::{
    BindError, Inherited, ListeningSocket, SocketFile, bind_listen, bind_unix, is_held_back, is_own_shortage,
};
use outrigger_task::essential;
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    runtime::{Handle, Runtime},
    task::{AbortHandle, Id, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::activity::{Activity, BusyGuard, ConnectionControl};

/// Most connections, per listener, while the process is short of files.
const MAX_WHEN_SHORT: usize = 4;

/// Longest time for the head of a request, and longest idle time of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The limits of one server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerLimits {
    /// Most connections at once, per listener.
    max_connections: usize,
    /// Most of them from one peer. Less than all, so that no single peer can close those of all others.
    max_per_peer: usize,
    /// Longest age of a connection, against a client that never reads its answer. A stream may extend it.
    pub(super) max_age: Option<Duration>,
    /// An answer under way keeps its connection open: it may last as long as the app likes.
    keeps_answers: bool,
}

impl ServerLimits {
    /// For pages.
    pub(crate) const PAGES: Self = Self {
        max_connections: 128,
        max_per_peer: 64,
        max_age: Some(Duration::from_secs(300)),
        keeps_answers: false,
    };

    /// For the API, which only the local app uses: 256 locks by connections and 1024 waiting requests are its defaults.
    pub(crate) const API: Self =
        Self { max_connections: 2048, max_per_peer: 2048, max_age: None, keeps_answers: true };
}

/// Largest head, bytes.
const MAX_HEAD: usize = 64 * 1024;

/// For this long at the stop a connection that was just opened has its first request answered. At a Unix socket connections are accepted
/// still: a client may have found it before another process has taken its place, and nothing else accepts there.
const LAST_ACCEPTS: Duration = Duration::from_millis(100);
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
    /// In place of these.
    unix: Option<(UnixListener, SocketFile)>,
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
        Ok(Self { key, listeners, unix: None, thread: thread.clone(), accepts })
    }

    /// A Unix socket at `path`; see [`bind_unix`]. Clients find it at once when `accepts` is cancelled, else when it is.
    pub(crate) fn bind_unix(
        key: &'static str,
        path: &Path,
        access: &SocketAccess,
        replaces: bool,
        thread: &Handle,
        accepts: CancellationToken,
    ) -> io::Result<Self> {
        // A process that takes the place of another one replaces its socket.
        let mut bound = bind_unix(path, access, replaces || !accepts.is_cancelled())?;
        if accepts.is_cancelled() {
            bound.file.take_place()?;
        }
        let _entered = thread.enter();
        let listener = UnixListener::from_std(bound.socket)?;
        let unix = Some((listener, bound.file));
        Ok(Self { key, listeners: Vec::new(), unix, thread: thread.clone(), accepts })
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
    /// Longest wait for the answers under way at the stop, where that is not [`STOP_TIMEOUT`].
    stop_within: Arc<OnceLock<Duration>>,
    accept_tasks: JoinSet<()>,
}

impl AdminServer {
    /// Serves `router` on the listeners of `bound`.
    pub(crate) fn start(bound: BoundListeners, router: Router, limits: ServerLimits) -> Self {
        let BoundListeners { key, listeners, unix, thread, accepts } = bound;
        let addrs = listeners.iter().filter_map(|(_, listener)| listener.local_addr().ok()).collect();
        let (stop, stop_within) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let (mut accepting, mut sockets) = (JoinSet::new(), Vec::new());
        let mut all = Vec::new();
        for (configured_addr, listener) in listeners {
            let listener = Arc::new(listener);
            sockets.push((configured_addr, Arc::downgrade(&listener)));
            all.push(ServerListener::Tcp(listener));
        }
        all.extend(unix.map(|(listener, file)| ServerListener::Unix(listener, file)));
        for mut listener in all {
            let (router, stop, accepts) = (router.clone(), stop.clone(), accepts.clone());
            let stop_within = stop_within.clone();
            let accepted = async move {
                if stop.run_until_cancelled(accepts.cancelled()).await.is_some() {
                    listener.take_place();
                    let graceful = GracefulShutdown::new();
                    let mut connections = accept_connections(listener, router, limits, stop, &graceful).await;
                    let within = stop_within.get().copied().unwrap_or(STOP_TIMEOUT);
                    let _ = timeout(within, graceful.shutdown()).await;
                    connections.tasks.shutdown().await;
                }
            };
            accepting.spawn_on(essential("the acceptor of an admin listener", accepted), &thread);
        }
        Self { addrs, key, sockets, stop, stop_within, accept_tasks: accepting }
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

    /// As [`AdminServer::stop`], but lets the answers under way end for up to `within`.
    pub(crate) async fn stop_within(self, within: Duration) {
        let _ = self.stop_within.set(within);
        self.stop().await;
    }
}

/// A listener of one of the kinds.
enum ServerListener {
    Tcp(Arc<TcpListener>),
    /// Its file is removed with it.
    Unix(UnixListener, SocketFile),
}

enum AcceptedStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ServerListener {
    /// Clients find it from now on.
    fn take_place(&mut self) {
        if let Self::Unix(_, file) = self
            && let Err(error) = file.take_place()
        {
            warn!(%error, ?file, "the Unix socket of the API cannot be put in its place");
        }
    }

    async fn accept(&self) -> io::Result<(AcceptedStream, PeerKey)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((AcceptedStream::Tcp(stream), PeerKey::from(peer.ip())))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((AcceptedStream::Unix(stream), PeerKey(Ipv6Addr::LOCALHOST.into())))
            }
        }
    }
}

/// Accepts until `stop`, at a Unix socket for [`LAST_ACCEPTS`] longer. Returns the connections that are open then.
async fn accept_connections(
    listener: ServerListener,
    router: Router,
    limits: ServerLimits,
    stop: CancellationToken,
    graceful: &GracefulShutdown,
) -> Connections {
    let mut connections = Connections::new(limits);
    let mut end = pin!(async {
        stop.cancelled().await;
        sleep(LAST_ACCEPTS).await;
    });
    let mut is_stopping = false;
    loop {
        let accepts = !is_stopping || matches!(listener, ServerListener::Unix(..));
        let accepted = tokio::select! {
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                continue;
            }
            () = &mut end => break,
            () = connections.join_next() => continue,
            accepted = listener.accept(), if accepts => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let is_short = match &stream {
                    AcceptedStream::Tcp(stream) => is_held_back(stream),
                    AcceptedStream::Unix(stream) => is_held_back(stream),
                };
                let most = if is_short { MAX_WHEN_SHORT } else { limits.max_connections };
                if !connections.make_room(peer, most) {
                    debug!(peer = %peer.0, "closed a new connection: every other one has a request under way");
                    continue;
                }
                let activity = Arc::new(Activity::new(connections.started, limits.max_age));
                let control = ConnectionControl { activity: activity.clone(), stop: stop.clone() };
                let router = router.clone();
                match stream {
                    AcceptedStream::Tcp(stream) => {
                        let served = serve_connection(stream, router, limits, graceful, control);
                        connections.add(peer, activity, served);
                    }
                    AcceptedStream::Unix(stream) => {
                        let served = serve_connection(stream, router, limits, graceful, control);
                        connections.add(peer, activity, served);
                    }
                }
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
    connections
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
    limits: ServerLimits,
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
    fn new(limits: ServerLimits) -> Self {
        Self { limits, started: Instant::now(), tasks: JoinSet::new(), open: HashMap::new() }
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

    /// Closes connections until there is room for one more of `peer`, among `most`. `false`: there is none.
    fn make_room(&mut self, peer: PeerKey, most: usize) -> bool {
        let of_peer = self.open.values().filter(|one| one.peer == peer).count();
        let has_room = of_peer < self.limits.max_per_peer || self.close_idlest(|one| one.peer == peer);
        has_room && self.close_idle_until(most.saturating_sub(1))
    }

    /// Whether at most `most` connections are open now.
    fn close_idle_until(&mut self, most: usize) -> bool {
        while self.open.len() > most {
            if !self.close_idlest(|_| true) {
                return false;
            }
        }
        true
    }

    /// Closes the connection without a request for longest; where each has one under way, the one that has it for longest, except
    /// where answers are kept. `false`: none was closed.
    fn close_idlest(&mut self, wanted: impl Fn(&OpenConnection) -> bool) -> bool {
        let keeps_answers = self.limits.keeps_answers;
        let candidates = self.open.iter().filter(|(_, one)| {
            let is_kept = keeps_answers && one.activity.is_busy();
            wanted(one) && !is_kept
        });
        let Some((&id, one)) = candidates.min_by_key(|(_, one)| one.activity.order()) else { return false };
        debug!(peer = %one.peer.0, "closed a connection for another one");
        one.task.abort();
        self.open.remove(&id);
        true
    }
}

fn serve_connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: Router,
    limits: ServerLimits,
    graceful: &GracefulShutdown,
    control: ConnectionControl,
) -> impl Future<Output = ()> + Send + 'static + use<S> {
    let router = TowerToHyperService::new(router);
    let activity = control.activity.clone();
    let lifetime = activity.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(control.clone());
        let busy = activity.begin_request();
        let answer = router.call(request);
        async move {
            let answer = answer.await;
            let until_end = limits.keeps_answers.then_some(busy);
            answer.map(|answer| answer.map(|body| BusyBody { body, _busy: until_end }))
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

pin_project! {
    /// A body that keeps its connection busy until it ends.
    struct BusyBody {
        #[pin]
        body: axum::body::Body,
        _busy: Option<BusyGuard>,
    }
}

impl Body for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
