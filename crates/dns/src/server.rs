//! The DNS listener of a sidecar: bound, moved, handed over, stopped.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{Arc, OnceLock},
    time::Duration,
};

use outrigger_config::{Config, Listen};
use outrigger_discovery::Discovery;
use outrigger_net::{BindError, Inherited, ListeningSocket, bind_datagrams, bind_listen};
use outrigger_task::essential;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime::{Handle, Runtime},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    metrics::Metrics,
    resolver::Resolver,
    settings::DnsSettings,
    tcp,
    udp::{self, STOP_WITHIN},
};

/// The setting of the address.
pub const DNS_LISTEN: &str = "dns.listen";

/// How often a port is looked for that is free for UDP as well as for TCP, where the system chooses it.
const PORT_ATTEMPTS: usize = 20;

/// The DNS listener, if the settings have one. Dropping it ends every task of it.
#[derive(Debug)]
pub struct DnsServer {
    discovery: Arc<Discovery>,
    metrics: Arc<Metrics>,
    /// Cancelled: questions are read.
    accepts: CancellationToken,
    /// Where questions are answered, so that neither requests nor the control plane wait for one. Started with the first listener.
    thread: OnceLock<Runtime>,
    resolver: OnceLock<Arc<Resolver>>,
    running: Mutex<Option<RunningListener>>,
    /// The sweep of the names was started.
    sweeps: OnceLock<()>,
    /// Ends it.
    stop: CancellationToken,
}

/// Sockets at one address, for UDP and for TCP.
#[derive(Debug)]
struct Sockets {
    configured_addr: SocketAddr,
    addr: SocketAddr,
    tcp: Arc<TcpListener>,
    udp: Arc<UdpSocket>,
}

/// A listener that is bound and reads nothing yet.
#[derive(Debug)]
pub struct BoundDns(Vec<Sockets>);

/// What becomes of the listener. Dropping it undoes it.
#[derive(Debug)]
pub enum DnsChange {
    /// It stays.
    Keep,
    /// This one takes its place. `None`: there is none any more.
    Replace(Option<BoundDns>),
}

#[derive(Debug)]
struct RunningListener {
    sockets: Vec<Sockets>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl DnsServer {
    /// Without a listener. Questions are read once `accepts` is cancelled.
    ///
    /// # Errors
    /// When `metrics` has metrics of these names.
    pub fn new(
        discovery: Arc<Discovery>,
        metrics: &prometheus::Registry,
        accepts: CancellationToken,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            discovery,
            metrics: Metrics::register(metrics)?,
            accepts,
            thread: OnceLock::new(),
            resolver: OnceLock::new(),
            running: Mutex::default(),
            sweeps: OnceLock::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Binds what `new` needs beyond `old`, or takes the sockets of `inherited` that are bound there.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn prepare(
        &self,
        old: Option<&Listen>,
        new: Option<&Listen>,
        inherited: &Inherited,
    ) -> Result<DnsChange, Vec<BindError>> {
        if old == new {
            return Ok(DnsChange::Keep);
        }
        let Some(listen) = new else { return Ok(DnsChange::Replace(None)) };
        let bound = bind_listen(listen, |configured_addr, addr| {
            let thread = self.thread().map_err(|source| BindError { addr, source })?;
            let sockets = bind_both(configured_addr, addr, inherited, &thread)?;
            let addr = sockets.addr;
            Ok((sockets, addr))
        })?;
        Ok(DnsChange::Replace(Some(BoundDns(bound))))
    }

    fn thread(&self) -> io::Result<Handle> {
        if let Some(thread) = self.thread.get() {
            return Ok(thread.handle().clone());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("outrigger-dns")
            .enable_all()
            .build()?;
        Ok(self.thread.get_or_init(|| runtime).handle().clone())
    }

    /// Puts a change and other settings in place. `outbound`: what the outbound listener listens at. The questions that the listener
    /// before has read are answered, within 2 s.
    pub async fn apply(&self, change: DnsChange, config: &Config, outbound: &[SocketAddr]) {
        let settings = DnsSettings::new(config, outbound);
        let resolver = self.resolver.get_or_init(|| {
            let settings = DnsSettings::new(config, outbound);
            Arc::new(Resolver::new(settings, self.discovery.clone(), self.metrics.clone()))
        });
        resolver.settings.store(Arc::new(settings));
        let DnsChange::Replace(bound) = change else { return };
        let next = bound.and_then(|bound| self.start(bound, resolver));
        let before = std::mem::replace(&mut *self.running.lock(), next);
        if let Some(before) = before {
            info!(before = ?before.addrs(), now = ?self.addrs(), "moved the DNS listener");
            before.stop().await;
        }
    }

    fn start(&self, bound: BoundDns, resolver: &Arc<Resolver>) -> Option<RunningListener> {
        let thread = self.thread.get()?.handle();
        if self.sweeps.set(()).is_ok() {
            self.metrics.show_zeros();
            self.start_sweep(resolver, thread);
        }
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for sockets in &bound.0 {
            let (accepts, stop) = (self.accepts.clone(), stop.clone());
            let (udp, tcp, resolver) = (sockets.udp.clone(), sockets.tcp.clone(), resolver.clone());
            let serve = async move {
                if stop.run_until_cancelled(accepts.cancelled()).await.is_some() {
                    tokio::join!(
                        udp::serve(udp, resolver.clone(), stop.clone()),
                        tcp::serve(tcp, resolver, stop)
                    );
                }
            };
            tasks.spawn_on(essential("the DNS listener", serve), thread);
        }
        Some(RunningListener { sockets: bound.0, stop, tasks })
    }

    fn start_sweep(&self, resolver: &Arc<Resolver>, thread: &Handle) {
        let (resolver, stop) = (resolver.clone(), self.stop.clone());
        let sweep = async move {
            let settings = || {
                resolver.metrics.set_names(resolver.names.counts());
                resolver.settings.load().discovery
            };
            _ = stop.run_until_cancelled(resolver.names.sweep(settings)).await;
        };
        thread.spawn(essential("the sweep of the names of DNS", sweep));
    }

    /// Where it answers.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.running.lock().as_ref().map_or_else(Vec::new, RunningListener::addrs)
    }

    /// Every socket, so that another process can get it.
    ///
    /// # Errors
    /// When files are used up.
    pub fn listening_sockets(&self) -> io::Result<Vec<ListeningSocket>> {
        let running = self.running.lock();
        let mut all = Vec::new();
        for sockets in running.iter().flat_map(|running| &running.sockets) {
            for socket in [sockets.tcp.as_fd(), sockets.udp.as_fd()] {
                let socket = socket.try_clone_to_owned()?;
                let configured_addr = sockets.configured_addr;
                all.push(ListeningSocket { key: DNS_LISTEN.to_owned(), configured_addr, socket });
            }
        }
        Ok(all)
    }

    /// Reads no more questions, and returns when those that were read are answered, after 2 s at most.
    pub async fn stop(&self) {
        self.stop.cancel();
        let running = self.running.lock().take();
        if let Some(running) = running {
            running.stop().await;
        }
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        // Without waiting, because the thread that drops it may be one of another runtime.
        if let Some(runtime) = self.thread.take() {
            runtime.shutdown_background();
        }
    }
}

impl RunningListener {
    fn addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|sockets| sockets.addr).collect()
    }

    async fn stop(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(STOP_WITHIN + Duration::from_secs(1), ended).await;
    }
}

/// Both sockets at `addr`, registered in the reactor of `thread`.
fn bind_both(
    configured_addr: SocketAddr,
    addr: SocketAddr,
    inherited: &Inherited,
    thread: &Handle,
) -> Result<Sockets, BindError> {
    let mut attempts = if addr.port() == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        let tcp = inherited.take_or_bind(DNS_LISTEN, addr)?;
        let udp = match inherited.take_datagrams(DNS_LISTEN, addr) {
            Some(udp) => Ok(udp),
            None => bind_datagrams(tcp.addr),
        };
        attempts -= 1;
        let udp = match udp {
            Ok(udp) => udp,
            Err(error) if attempts == 0 || error.source.kind() != io::ErrorKind::AddrInUse => {
                return Err(error);
            }
            Err(_) => continue,
        };
        let _entered = thread.enter();
        let register = || {
            let (listener, socket) = (TcpListener::from_std(tcp.socket)?, UdpSocket::from_std(udp)?);
            Ok(Sockets { configured_addr, addr: tcp.addr, tcp: Arc::new(listener), udp: Arc::new(socket) })
        };
        return register().map_err(|source| BindError { addr, source });
    }
}
