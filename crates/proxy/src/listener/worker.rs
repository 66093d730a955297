//! Data-plane threads: each has a current-thread runtime and owns its connections.
//!
//! A worker gets sockets that no runtime has registered, because a registered socket cannot change its runtime.
//! Its connections are tasks that it owns: stopping the worker ends them.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    context::{ConnectionInfo, ConnectionTable, ProxyContext, WorkerContext},
    downstream::serve,
    listener::{
        accept::{AcceptedConnection, run_acceptor},
        end_on_panic::{EndOnPanic, end_on_panic},
        set::BoundListener,
    },
    metrics::cells::{Block, WorkerCells},
    reason::Reason,
    transport::channel::Channel,
};

/// How often a worker measures the lag of its runtime.
const LAG_TICK: Duration = Duration::from_secs(1);

/// A command to a worker.
pub(crate) enum Command {
    /// Accept on this socket, and give the connections to the workers.
    Listen(BoundListener),
    /// Serve this connection.
    Serve(AcceptedConnection),
    /// Wake every connection: one of their drain signals is given.
    Wake,
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
    worker: Arc<Worker>,
    workers: Arc<[Arc<Worker>]>,
    commands: UnboundedReceiver<Command>,
    shared: Arc<WorkerContext>,
    kill: CancellationToken,
}

impl WorkerPool {
    /// Starts `threads` workers, or with 0 one on the caller's runtime.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be created.
    pub(crate) fn start(threads: usize, context: &Arc<ProxyContext>) -> io::Result<Self> {
        let drain = CancellationToken::new();
        let kill = CancellationToken::new();
        let (workers, queues): (Vec<_>, Vec<_>) = (0..threads.max(1))
            .map(|index| {
                let (commands, queue) = unbounded_channel();
                (Arc::new(Worker { index, connections: AtomicUsize::new(0), commands }), queue)
            })
            .unzip();
        let workers: Arc<[_]> = workers.into();
        let mut handles = Vec::new();
        for (worker, commands) in workers.iter().zip(queues) {
            let task = WorkerTask {
                worker: worker.clone(),
                workers: workers.clone(),
                commands,
                shared: Arc::new(WorkerContext {
                    context: context.clone(),
                    index: worker.index,
                    table: ConnectionTable::default(),
                }),
                kill: kill.clone(),
            };
            handles.push(if threads == 0 {
                WorkerHandle::Task(tokio::spawn(task.run()))
            } else {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let name = format!("worker-{}", worker.index);
                let body = move || {
                    let _guard = EndOnPanic("a worker");
                    runtime.block_on(task.run());
                };
                WorkerHandle::Thread(std::thread::Builder::new().name(name).spawn(body)?)
            });
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

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl WorkerTask {
    async fn run(mut self) {
        let mut tasks = JoinSet::new();
        let lag = self.shared.context.metrics.worker_lag(self.worker.index);
        let mut tick = tokio::time::interval(LAG_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let kill = self.kill.clone();
        loop {
            tokio::select! {
                () = kill.cancelled() => break,
                at = tick.tick() => {
                    let now = Instant::now();
                    lag.set((now - at).as_secs_f64());
                    self.shared.table.wake_idle(now);
                }
                Some(ended) = tasks.join_next() => count_panic(ended, self.shared.cells()),
                Some(command) = self.commands.recv() => self.run_command(command, &mut tasks),
            }
        }
        tasks.shutdown().await;
    }

    fn run_command(&self, command: Command, tasks: &mut JoinSet<()>) {
        match command {
            Command::Listen(bound) => {
                let (workers, counted) = (self.workers.clone(), self.workers.clone());
                let open = move || open_connections(&counted);
                let assign = move |accepted| assign_to_worker(&workers, accepted);
                let acceptor = run_acceptor(bound, self.shared.clone(), open, assign);
                tasks.spawn(end_on_panic("the acceptor of a listener", acceptor));
            }
            Command::Serve(accepted) => {
                let guard = ConnectionGuard(self.worker.clone());
                let peer = accepted.peer;
                match self.set_up(accepted) {
                    Ok((info, channel)) => drop(tasks.spawn(serve(info, channel, guard))),
                    Err(error) => warn!(%peer, %error, "an app connection could not be set up"),
                }
            }
            Command::Wake => self.shared.table.wake_all(),
        }
    }

    fn set_up(&self, accepted: AcceptedConnection) -> io::Result<(ConnectionInfo, Channel)> {
        let AcceptedConnection { stream, peer, listener_addr, state } = accepted;
        let stream = TcpStream::from_std(stream)?;
        // Only a listener on every address of the machine leaves open which one was called.
        let local = if listener_addr.ip().is_unspecified() { stream.local_addr()? } else { listener_addr };
        let info = ConnectionInfo { worker: self.shared.clone(), listener: state, peer, local };
        Ok((info, Channel::new(stream.into())))
    }
}

/// Counts a connection's task that panicked. The panic has ended that connection alone.
fn count_panic(ended: Result<(), JoinError>, cells: &Block<WorkerCells>) {
    if ended.is_err_and(|error| error.is_panic()) {
        cells.record_refusal(Reason::Internal);
    }
}

/// Open connections of all workers.
fn open_connections(workers: &[Arc<Worker>]) -> usize {
    workers.iter().map(|worker| worker.connections.load(Relaxed)).sum()
}

/// Gives a connection to the worker with the fewest, or closes it when that has stopped.
fn assign_to_worker(workers: &[Arc<Worker>], accepted: AcceptedConnection) {
    let Some(worker) = workers.iter().min_by_key(|worker| worker.connections.load(Relaxed)) else { return };
    worker.connections.fetch_add(1, Relaxed);
    if !worker.send(Command::Serve(accepted)) {
        worker.connections.fetch_sub(1, Relaxed);
    }
}

/// Counts a connection for its worker, until it is dropped.
struct ConnectionGuard(Arc<Worker>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_panic_in_a_connections_task_is_counted_and_ends_no_other() {
        let metrics = Metrics::new(0).unwrap();
        let mut tasks = JoinSet::new();
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn(async { panic!("a fault of the sidecar") });
        tasks.spawn(async { released.await.unwrap() });
        count_panic(tasks.join_next().await.unwrap(), metrics.workers.at(0));
        assert_eq!(metrics.workers.sum(|cells| cells.refusals(Reason::Internal)), 1);
        release.send(()).unwrap();
        count_panic(tasks.join_next().await.unwrap(), metrics.workers.at(0));
        assert_eq!(metrics.workers.sum(|cells| cells.refusals(Reason::Internal)), 1);
    }
}
