//! Data-plane threads: each a current-thread runtime that owns its connections.
//!
//! A worker gets bare sockets, for a registered one cannot change its reactor. Its connections are
//! tasks of a set that it owns: stopping the worker ends them.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    io::Line,
    listener::{self, Bound},
    serve,
    session::{Entrance, Session, Shared},
};

/// How often a worker looks at its watch.
const LAG_TICK: Duration = Duration::from_secs(1);

/// What a worker is told.
pub(crate) enum Order {
    /// Accept on this socket, and share out what comes.
    Listen(Bound),
    /// Serve this connection.
    Serve { stream: std::net::TcpStream, peer: SocketAddr, entrance: Arc<Entrance> },
}

/// One worker, seen from outside.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    /// Connections it has.
    pub(crate) connections: AtomicUsize,
    orders: UnboundedSender<Order>,
}

impl Worker {
    /// Hands over an order; false when the worker has stopped.
    pub(crate) fn order(&self, order: Order) -> bool {
        self.orders.send(order).is_ok()
    }
}

/// Every worker, and who ends them.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) workers: Arc<[Arc<Worker>]>,
    /// Refuses new connections; those there end when they are done.
    pub(crate) drain: CancellationToken,
    /// Ends everything.
    kill: CancellationToken,
    hands: Mutex<Vec<Hand>>,
}

/// How a worker is waited for.
#[derive(Debug)]
enum Hand {
    Thread(JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

/// What a worker needs to begin.
struct Start {
    me: Arc<Worker>,
    all: Arc<[Arc<Worker>]>,
    orders: UnboundedReceiver<Order>,
    shared: Arc<Shared>,
    kill: CancellationToken,
}

impl Crew {
    /// Starts `threads` workers, or with 0 one on the caller's runtime.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub(crate) fn start(threads: usize, shared: &Arc<Shared>) -> io::Result<Self> {
        let drain = CancellationToken::new();
        let kill = CancellationToken::new();
        let (workers, inboxes): (Vec<_>, Vec<_>) = (0..threads.max(1))
            .map(|index| {
                let (orders, inbox) = unbounded_channel();
                (Arc::new(Worker { index, connections: AtomicUsize::new(0), orders }), inbox)
            })
            .unzip();
        let workers: Arc<[_]> = workers.into();
        let mut hands = Vec::new();
        for (me, orders) in workers.iter().zip(inboxes) {
            let start = Start {
                me: me.clone(),
                all: workers.clone(),
                orders,
                shared: shared.clone(),
                kill: kill.clone(),
            };
            hands.push(if threads == 0 {
                Hand::Task(tokio::spawn(start.run()))
            } else {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let name = format!("worker-{}", me.index);
                let body = move || runtime.block_on(start.run());
                Hand::Thread(std::thread::Builder::new().name(name).spawn(body)?)
            });
        }
        Ok(Self { workers, drain, kill, hands: Mutex::new(hands) })
    }

    /// Ends every worker and waits for it, at most `bound` in all.
    pub(crate) async fn stop(&self, bound: Duration) {
        self.kill.cancel();
        let hands = std::mem::take(&mut *self.hands.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = async {
            for hand in hands {
                match hand {
                    Hand::Task(task) => drop(task.await),
                    Hand::Thread(thread) => drop(tokio::task::spawn_blocking(move || thread.join()).await),
                }
            }
        };
        if tokio::time::timeout(bound, joined).await.is_err() {
            warn!(?bound, "a worker did not stop in time, leaving it behind");
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl Start {
    async fn run(mut self) {
        let mut tasks = JoinSet::new();
        let lag = self.shared.metrics.lag(self.me.index);
        let mut tick = tokio::time::interval(LAG_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let kill = self.kill.clone();
        loop {
            tokio::select! {
                () = kill.cancelled() => break,
                at = tick.tick() => lag.set((Instant::now() - at).as_secs_f64()),
                Some(_) = tasks.join_next() => {}
                Some(order) = self.orders.recv() => self.obey(order, &mut tasks),
            }
        }
        tasks.shutdown().await;
    }

    fn obey(&self, order: Order, tasks: &mut JoinSet<()>) {
        match order {
            Order::Listen(bound) => {
                tasks.spawn(listener::accept(bound, self.all.clone(), self.shared.clone()));
            }
            Order::Serve { stream, peer, entrance } => {
                let counted = Counted::new(&self.me, &self.shared);
                match self.session(stream, peer, entrance) {
                    Ok(session) => {
                        let gate = session.entrance.gate.clone();
                        tasks.spawn(async move {
                            serve::serve(session, gate).await;
                            drop(counted);
                        });
                    }
                    Err(error) => warn!(%peer, %error, "app connection could not be set up"),
                }
            }
        }
    }

    fn session(
        &self,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        entrance: Arc<Entrance>,
    ) -> io::Result<Arc<Session>> {
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let line = Line::new(stream);
        Ok(Session::new(self.shared.clone(), entrance, self.me.index, peer, local, line))
    }
}

/// One connection, counted for its worker and for the limit.
struct Counted {
    worker: Arc<Worker>,
    shared: Arc<Shared>,
}

impl Counted {
    fn new(worker: &Arc<Worker>, shared: &Arc<Shared>) -> Self {
        Self { worker: worker.clone(), shared: shared.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.worker.connections.fetch_sub(1, Relaxed);
        self.shared.connections.fetch_sub(1, Relaxed);
    }
}
