//! Data-plane threads: each has a current-thread runtime, accepts connections of the app, up to the limit, and owns those
//! that it was given.
//!
//! A worker gets sockets that no runtime has registered, because a registered socket cannot change its runtime.
//! Its connections are tasks of its runtime: stopping the worker ends them. The worker's loop does not join them:
//! that would wake it at the begin and at the end of each connection. A panic ends one connection; in the loop of a worker or in an
//! acceptor it cannot be contained, and ends the process (crate `task`).
//!
//! An acceptor that fails is no reason to end: its socket listens on, the kernel queues connections, and what is missing (memory,
//! files) comes back. It is tried again, after pauses of at most [`SET_UP_BACKOFF`].

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use outrigger_net::{Acceptor, BACKLOG, accept_queued};
use outrigger_policy::Backoff;
use outrigger_task::{EndOnPanic, essential};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    context::{ConnectionInfo, ConnectionTable, ListenerKind, ListenerState, ProxyContext, WorkerContext},
    downstream::{reject_connection, serve},
    listener::set::BoundListener,
    metrics::cells::{Block, WorkerCells},
    reason::Reason,
    streams::serve_streams,
    tcp,
    transport::channel::Channel,
};

/// How often a worker measures the lag of its runtime.
const LAG_TICK: Duration = Duration::from_secs(1);
/// Pause after an accept that failed: because file descriptors or memory ran out, or for a reason that the next accept would find
/// again. A connection that ended before it was accepted needs none.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);
/// Pauses after which a socket that could not be set up is tried again.
const SET_UP_BACKOFF: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(5) };
/// Connections above the limit that are rejected with a response at the same time; further ones are closed
/// without a response.
const MAX_REJECTIONS_UNDER_WAY: usize = 64;
/// Connections that are accepted before those that are open get their turn.
const ACCEPTS_PER_TURN: usize = 32;

/// What the message of a process that a panic ends says.
const WORKER: &str = "a worker";
const ACCEPTOR: &str = "the acceptor of a listener";

/// A command to a worker.
pub(crate) enum Command {
    /// Accept on this socket, and give the connections to the workers.
    Listen(BoundListener),
    /// Serve this connection.
    Serve(AcceptedConnection),
    /// Wake every connection: one of their drain signals is given.
    Wake,
    /// Panic, in the loop or in the task of a connection.
    #[cfg(test)]
    Panic { in_loop: bool },
}

/// A worker, as the acceptors see it.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    /// Open connections.
    pub(crate) connections: AtomicUsize,
    commands: UnboundedSender<Command>,
}

impl Worker {
    /// Sends a command. False: the worker has stopped.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }
}

/// Every worker, and the means to stop them.
#[derive(Debug)]
pub(crate) struct WorkerPool {
    pub(crate) workers: Arc<[Arc<Worker>]>,
    /// Cancelled: no connection is accepted, and the open ones end with their request.
    pub(crate) drain: CancellationToken,
    /// Cancelled: every worker ends at once.
    kill: CancellationToken,
    handles: Mutex<Vec<WorkerHandle>>,
}

/// The thread or task of a worker.
#[derive(Debug)]
enum WorkerHandle {
    Thread(JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

/// The loop of one worker.
struct WorkerTask {
    own: Arc<OwnWorker>,
    workers: Arc<[Arc<Worker>]>,
    commands: UnboundedReceiver<Command>,
    kill: CancellationToken,
}

/// A worker, as the tasks on its runtime see it.
struct OwnWorker {
    worker: Arc<Worker>,
    shared: Arc<WorkerContext>,
    /// What ends the connections' tasks, and waits for their end, where the runtime is not the worker's own.
    lent: Option<(CancellationToken, TaskTracker)>,
}

impl WorkerPool {
    /// Starts `threads` workers, or with 0 one on the caller's runtime.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be created.
    pub(crate) fn start(threads: usize, context: &Arc<ProxyContext>) -> io::Result<Self> {
        Self::start_with(threads, context, start_worker)
    }

    /// As [`WorkerPool::start`]; `start_worker` starts a worker on a thread of its own, or on the caller's runtime.
    fn start_with(
        threads: usize,
        context: &Arc<ProxyContext>,
        start_worker: impl Fn(WorkerTask, bool) -> io::Result<WorkerHandle>,
    ) -> io::Result<Self> {
        let (drain, kill) = (CancellationToken::new(), CancellationToken::new());
        let (workers, queues): (Vec<_>, Vec<_>) = (0..threads.max(1))
            .map(|index| {
                let (commands, queue) = unbounded_channel();
                (Arc::new(Worker { index, connections: AtomicUsize::new(0), commands }), queue)
            })
            .unzip();
        let workers: Arc<[_]> = workers.into();
        let mut handles = Vec::new();
        for (worker, commands) in workers.iter().zip(queues) {
            let own = Arc::new(OwnWorker {
                worker: worker.clone(),
                shared: Arc::new(WorkerContext {
                    context: context.clone(),
                    index: worker.index,
                    table: ConnectionTable::default(),
                }),
                lent: (threads == 0).then(|| (kill.child_token(), TaskTracker::new())),
            });
            let task = WorkerTask { own, workers: workers.clone(), commands, kill: kill.clone() };
            match start_worker(task, threads > 0) {
                Ok(handle) => handles.push(handle),
                Err(error) => {
                    kill.cancel();
                    // None has a connection yet, so each ends at once.
                    handles.into_iter().for_each(WorkerHandle::join);
                    return Err(error);
                }
            }
        }
        Ok(Self { workers, drain, kill, handles: Mutex::new(handles) })
    }

    /// Open connections.
    pub(crate) fn connections(&self) -> usize {
        open_connections(&self.workers)
    }

    /// Wakes every connection, so that each sees whether its drain signal is given.
    pub(crate) fn waker(&self) -> impl Fn() + Send + use<> {
        let workers = self.workers.clone();
        move || {
            for worker in &*workers {
                worker.send(Command::Wake);
            }
        }
    }

    /// Ends every worker, and waits at most `bound` in total.
    pub(crate) async fn stop(&self, bound: Duration) {
        self.kill.cancel();
        let handles = std::mem::take(&mut *self.handles.lock());
        let joined = async {
            for handle in handles {
                match handle {
                    WorkerHandle::Task(task) => drop(task.await),
                    WorkerHandle::Thread(thread) => {
                        drop(tokio::task::spawn_blocking(move || thread.join()).await)
                    }
                }
            }
        };
        if tokio::time::timeout(bound, joined).await.is_err() {
            warn!(?bound, "a worker did not stop in time and is abandoned");
        }
    }
}

fn start_worker(task: WorkerTask, on_thread: bool) -> io::Result<WorkerHandle> {
    if !on_thread {
        return Ok(WorkerHandle::Task(tokio::spawn(essential(WORKER, task.run()))));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let name = format!("worker-{}", task.own.worker.index);
    let body = move || {
        let _guard = EndOnPanic::new(WORKER);
        runtime.block_on(task.run());
    };
    // Contained: `body` ends the process itself.
    Ok(WorkerHandle::Thread(std::thread::Builder::new().name(name).spawn(body)?))
}

impl WorkerHandle {
    /// Waits for the end of a thread that was told to end. A task ends with the caller's runtime.
    fn join(self) {
        if let Self::Thread(thread) = self {
            // A panic has ended the process.
            let _ = thread.join();
        }
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl WorkerTask {
    async fn run(mut self) {
        let mut acceptors = JoinSet::new();
        let shared = self.own.shared.clone();
        let lag = shared.context.metrics.worker_lag(shared.index);
        let mut tick = tokio::time::interval(LAG_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let kill = self.kill.clone();
        let mut killed = pin!(kill.cancelled());
        loop {
            tokio::select! {
                () = &mut killed => break,
                at = tick.tick() => {
                    let now = Instant::now();
                    lag.set((now - at).as_secs_f64());
                    shared.table.wake_idle(now);
                }
                Some(_) = acceptors.join_next() => {}
                Some(command) = self.commands.recv() => self.run_command(command, &mut acceptors),
            }
        }
        acceptors.shutdown().await;
        self.own.end_connections().await;
    }

    fn run_command(&self, command: Command, acceptors: &mut JoinSet<()>) {
        match command {
            Command::Listen(bound) => {
                let (own, workers, counted) = (self.own.clone(), self.workers.clone(), self.workers.clone());
                let open = move || open_connections(&counted);
                let assign = move |accepted| assign_to_worker(&workers, &own, accepted);
                let acceptor = run_acceptor(bound, self.own.shared.clone(), open, assign);
                acceptors.spawn(essential(ACCEPTOR, acceptor));
            }
            Command::Serve(accepted) => self.own.begin_connection(accepted),
            Command::Wake => self.own.shared.table.wake_all(),
            #[cfg(test)]
            Command::Panic { in_loop: true } => panic!("a fault of the loop"),
            #[cfg(test)]
            Command::Panic { in_loop: false } => {
                self.own.worker.connections.fetch_add(1, Relaxed);
                let guard = ConnectionGuard(self.own.clone());
                // Contained: as a connection.
                self.own.spawn(async move {
                    let _guard = guard;
                    panic!("a fault of a connection")
                });
            }
        }
    }
}

impl OwnWorker {
    /// Serves a connection that is counted for this worker.
    fn begin_connection(self: &Arc<Self>, accepted: AcceptedConnection) {
        let guard = ConnectionGuard(self.clone());
        let peer = accepted.peer;
        match self.set_up(accepted) {
            Ok((info, channel)) => match &info.listener.kind {
                ListenerKind::ByName | ListenerKind::Service(_) => {
                    // Contained: a panic ends one connection.
                    self.spawn(serve_connection(info, channel, guard));
                }
                ListenerKind::Tcp(own) => {
                    let own = own.clone();
                    // Contained: as above.
                    self.spawn(tcp::serve(info, own, channel, guard));
                }
            },
            Err(error) => warn!(%peer, %error, "an app connection could not be set up"),
        }
    }

    fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        match &self.lent {
            // Contained: a panic ends one connection.
            None => drop(tokio::spawn(connection)),
            Some((kill, tracker)) => {
                // Contained: a panic ends one connection.
                tracker.spawn(kill.clone().run_until_cancelled_owned(connection));
            }
        }
    }

    /// Ends the connections' tasks on a runtime that goes on; one of the worker's own ends with it, and so do its tasks.
    async fn end_connections(&self) {
        if let Some((kill, tracker)) = &self.lent {
            kill.cancel();
            tracker.close();
            tracker.wait().await;
        }
    }

    fn set_up(&self, accepted: AcceptedConnection) -> io::Result<(ConnectionInfo, Channel)> {
        let AcceptedConnection { stream, peer, listener_addr, state } = accepted;
        let stream = TcpStream::from_std(stream)?;
        // Only a listener on every address of the machine leaves open which one was called.
        let local = if listener_addr.ip().is_unspecified() { stream.local_addr()? } else { listener_addr };
        let info =
            ConnectionInfo { worker: self.shared.clone(), listener: state, peer, local, is_http2: false };
        Ok((info, Channel::new(stream.into())))
    }
}

/// Serves a connection of either version of HTTP until its end. `guard` is dropped then.
#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
pub(crate) fn serve_connection(
    info: ConnectionInfo,
    mut channel: Channel,
    guard: impl Send,
) -> impl Future<Output = ()> + Send {
    async move {
        let _guard = &guard;
        if serve(&info, &mut channel).await {
            // Boxed: an idle connection of HTTP/1.1 does not carry the room.
            Box::pin(serve_streams(info, channel)).await;
        }
    }
}

/// An accepted connection, which is counted among the open ones.
#[derive(Debug)]
pub(crate) struct AcceptedConnection {
    /// Without a runtime: the worker that gets the connection registers the socket with its own.
    pub(crate) stream: std::net::TcpStream,
    /// The app's address.
    pub(crate) peer: SocketAddr,
    /// The address of the listener.
    pub(crate) listener_addr: SocketAddr,
    /// The state of the listener at the accept.
    pub(crate) state: Arc<ListenerState>,
}

/// Accepts until the listener stops. `open`: how many connections the workers have. `assign` gives them one more.
async fn run_acceptor(
    bound: BoundListener,
    worker: Arc<WorkerContext>,
    open: impl Fn() -> usize,
    assign: impl Fn(AcceptedConnection),
) {
    let BoundListener { socket, listener } = bound;
    let listener_addr = listener.addr;
    let mut acceptor = None;
    let mut rejections = JoinSet::new();
    let mut is_failing = false;
    // Acceptors share a worker, so that none adds a connection between the look at `open` and `assign`.
    let take = |stream: std::net::TcpStream, peer, rejections: &mut JoinSet<()>| {
        let state = listener.state.load_full();
        let most = state.settings.load().outbound.limits.max_connections;
        if open() < most {
            return assign(AcceptedConnection { stream, peer, listener_addr, state });
        }
        worker.cells().record_refusal(Reason::TooManyConnections);
        if let ListenerKind::Tcp(own) = &state.kind {
            return tcp::reject_connection(stream, &own.label, peer, &state.settings.load());
        }
        if rejections.len() < MAX_REJECTIONS_UNDER_WAY
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            // Contained: a panic ends one connection, and is counted.
            rejections.spawn(reject_connection(stream.into(), most));
        }
    };
    loop {
        let Some(registered) = &acceptor else {
            let set_up = set_up(&socket, listener_addr, Acceptor::new);
            acceptor = listener.stop_accepting.run_until_cancelled(set_up).await;
            if acceptor.is_none() {
                break;
            }
            continue;
        };
        let mut queue = tokio::select! {
            queue = registered.queue() => match queue {
                Ok(queue) => queue,
                Err(error) => {
                    warn!(addr = %listener_addr, %error, "a listening socket left its reactor, setting it up again");
                    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                    acceptor = None;
                    continue;
                }
            },
            Some(ended) = rejections.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    worker.cells().record_refusal(Reason::Internal);
                }
                continue;
            }
            () = listener.stop_accepting.cancelled() => break,
        };
        let mut left = ACCEPTS_PER_TURN;
        while left > 0
            && let Some(accepted) = queue.accept()
        {
            left -= 1;
            match accepted {
                Ok((stream, peer)) => {
                    is_failing = false;
                    let stream = leave_held_back_files(stream, &listener.stop_accepting).await;
                    take(stream, peer, &mut rejections);
                }
                Err(error) => {
                    let is_aborted = error.kind() == io::ErrorKind::ConnectionAborted;
                    // While files are short, every accept fails: one line for the row.
                    if is_aborted || !is_failing {
                        warn!(addr = %listener_addr, %error, "accept failed");
                    }
                    if !is_aborted {
                        is_failing = true;
                        tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                    }
                    break;
                }
            }
        }
        if left == 0 {
            // More may be queued; the connections get their turn first.
            tokio::task::yield_now().await;
        }
    }
    // A connection that the kernel has accepted already is served, not reset. New ones may come meanwhile. Where another process has
    // the socket, the close resets none, and the connections are the other's.
    let most = if listener.is_handed_over() { 0 } else { BACKLOG };
    for _ in 0..most {
        match accept_queued(&socket) {
            Ok((stream, peer)) => take(stream, peer, &mut rejections),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => {
                warn!(%error, "accept failed; what is still queued is reset");
                break;
            }
        }
    }
    drop((acceptor, socket));
    // Each ends within the time that it lingers.
    while rejections.join_next().await.is_some() {}
}

/// Sets a listening socket up with `register`, at some time.
async fn set_up<T>(
    socket: &Arc<TcpListener>,
    addr: SocketAddr,
    register: impl Fn(Arc<TcpListener>) -> io::Result<T>,
) -> T {
    let mut failures = 0;
    loop {
        match register(socket.clone()) {
            Ok(registered) => {
                if failures > 0 {
                    info!(%addr, "accepting connections");
                }
                return registered;
            }
            Err(error) => {
                if failures == 0 {
                    warn!(%addr, %error, "a listening socket could not be set up; its connections wait until it can");
                }
                tokio::time::sleep(SET_UP_BACKOFF.pause(failures, fastrand::u64(..))).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

/// Waits until the connection needs no file that is held back for probes, the agent and the admin side. Meanwhile nothing else
/// is accepted: connections wait in the kernel's queue.
async fn leave_held_back_files(
    mut stream: std::net::TcpStream,
    stop: &CancellationToken,
) -> std::net::TcpStream {
    let mut waits = false;
    loop {
        stream = match outrigger_net::leave_held_back(stream) {
            Ok(stream) => return stream,
            Err(stream) => stream,
        };
        if !std::mem::replace(&mut waits, true) {
            warn!("out of files: app connections wait until others end; raise the limit (ulimit -n)");
        }
        // When the listener closes, the connection is served all the same.
        if stop.run_until_cancelled(tokio::time::sleep(ACCEPT_ERROR_PAUSE)).await.is_none() {
            return stream;
        }
    }
}

/// Open connections of all workers.
fn open_connections(workers: &[Arc<Worker>]) -> usize {
    workers.iter().map(|worker| worker.connections.load(Relaxed)).sum()
}

/// Gives a connection to the worker with the fewest, or closes it when that has stopped. `own`: the worker that accepts.
fn assign_to_worker(workers: &[Arc<Worker>], own: &Arc<OwnWorker>, accepted: AcceptedConnection) {
    let Some(worker) = workers.iter().min_by_key(|worker| worker.connections.load(Relaxed)) else { return };
    worker.connections.fetch_add(1, Relaxed);
    if Arc::ptr_eq(worker, &own.worker) {
        own.begin_connection(accepted);
    } else if !worker.send(Command::Serve(accepted)) {
        worker.connections.fetch_sub(1, Relaxed);
    }
}

/// Counts a connection for its worker, until it is dropped.
struct ConnectionGuard(Arc<OwnWorker>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        count_end(&self.0.worker.connections, self.0.shared.cells());
    }
}

/// Called when a connection's task drops what it holds, which may be because it panicked. A panic ends that connection alone.
fn count_end(open: &AtomicUsize, cells: &Block<WorkerCells>) {
    open.fetch_sub(1, Relaxed);
    if std::thread::panicking() {
        cells.record_refusal(Reason::Internal);
    }
}

#[cfg(test)]
mod tests;
