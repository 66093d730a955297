//! Plans the listeners of new settings, and puts the plan in place: at the start, and at each reload.
//!
//! An address that stays keeps its socket, so that no connection is refused meanwhile. Where its service
//! changes, the next response on each earlier connection closes that connection. An address that is removed
//! accepts what the kernel has queued, then its socket is closed; its connections end in the same way.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use outrigger_config::{Config, Listen, Protocol, Upstream, error_chain};
use outrigger_net::{BindError, Inherited, bind_listen};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    context::{DownstreamSettings, ListenerKind, ListenerState},
    upstream::{
        cluster::{Cluster, ClusterKey},
        manager::upstream_key,
    },
};

/// The key of the listener where each request names its service.
const OUTBOUND_LISTEN: &str = "outbound.listen";

/// The key of the listener of one service.
fn upstream_listen_key(of: &ClusterKey) -> String {
    format!("upstreams.{of}.listen")
}

/// A listener that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{key}")]
pub struct ListenError {
    /// Its setting: `outbound.listen`, `upstreams.orders.listen`.
    pub key: String,
    /// The address, and why.
    #[source]
    pub source: BindError,
}

/// Every listener that could not be opened; at least one.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|error| error_chain(error)).collect::<Vec<_>>().join("\n"))]
pub struct ListenErrors(pub Vec<ListenError>);

/// An address that the proxy listens on.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The address of the settings; with port 0 the system chose the port of `addr`.
    pub(crate) configured_addr: SocketAddr,
    pub(crate) addr: SocketAddr,
    /// For the connections that it accepts from now on.
    pub(crate) state: ArcSwap<ListenerState>,
    /// Cancelled: the listener accepts nothing more.
    pub(crate) stop_accepting: CancellationToken,
    /// Gone when the listener has stopped.
    socket: Weak<TcpListener>,
    is_handed_over: AtomicBool,
}

impl Listener {
    /// The name of the service that every request goes to; `None`: each request names its own.
    pub(crate) fn service(&self) -> Option<String> {
        self.state.load().kind.cluster().map(|cluster| cluster.key.service.to_string())
    }

    /// The setting that the listener is of, and its socket; `None`: it has stopped.
    pub(crate) fn shared_socket(&self) -> Option<(String, Arc<TcpListener>)> {
        let key = match self.state.load().kind.cluster() {
            Some(cluster) => upstream_listen_key(&cluster.key),
            None => OUTBOUND_LISTEN.to_owned(),
        };
        Some((key, self.socket.upgrade()?))
    }

    /// Accepts nothing more, because another process has the socket too. What it accepted is served, and each response
    /// closes its connection.
    pub(crate) fn hand_over(&self) {
        self.is_handed_over.store(true, Relaxed);
        self.state.load().retire();
        self.stop_accepting.cancel();
    }

    /// Whether [`Listener::hand_over`] was called: another process accepts what the kernel has queued.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.is_handed_over.load(Relaxed)
    }
}

/// A listener with its socket, which no acceptor has yet.
#[derive(Debug)]
pub(crate) struct BoundListener {
    pub(crate) socket: Arc<TcpListener>,
    pub(crate) listener: Arc<Listener>,
}

/// An address of new settings, with the listener that has it already or a new socket.
#[derive(Debug)]
struct PlannedListener {
    configured_addr: SocketAddr,
    /// Index of the upstream that has this address.
    upstream: Option<usize>,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Kept(Arc<Listener>),
    New(TcpListener, SocketAddr),
}

/// Every address of new settings. Dropping the plan closes the new sockets.
#[derive(Debug)]
pub(crate) struct ListenerPlan(Vec<PlannedListener>);

/// The listeners after a plan was put in place, and what changed.
#[derive(Debug, Default)]
pub(crate) struct ListenerChange {
    pub(crate) listeners: Vec<Arc<Listener>>,
    /// The new ones of `listeners`.
    pub(crate) opened: Vec<BoundListener>,
    /// States that no listener has any more; connections still have them.
    pub(crate) retired: Vec<Arc<ListenerState>>,
}

impl ListenerPlan {
    /// Finds a listener of `open` or a socket of `inherited` for every address of `config`, or binds a socket.
    ///
    /// # Errors
    /// When an address cannot be bound: all that cannot.
    pub(crate) fn bind(
        config: &Config,
        open: &[Arc<Listener>],
        inherited: &Inherited,
    ) -> Result<Self, ListenErrors> {
        let mut plan = Self(Vec::new());
        let mut errors = Vec::new();
        let mut note = |key: &str, failed: Vec<BindError>| {
            errors.extend(failed.into_iter().map(|source| ListenError { key: key.to_owned(), source }));
        };
        if let Err(failed) =
            plan.plan_address(OUTBOUND_LISTEN, &config.outbound.listen, None, open, inherited)
        {
            note(OUTBOUND_LISTEN, failed);
        }
        for (n, upstream) in config.upstreams.iter().enumerate() {
            let Some(listen) = &upstream.listen else { continue };
            let key = upstream_listen_key(&upstream_key(upstream));
            if let Err(failed) = plan.plan_address(&key, listen, Some((n, upstream)), open, inherited) {
                note(&key, failed);
            }
        }
        if errors.is_empty() { Ok(plan) } else { Err(ListenErrors(errors)) }
    }

    /// Plans the addresses of one `listen` setting, `key`.
    fn plan_address(
        &mut self,
        key: &str,
        listen: &Listen,
        upstream: Option<(usize, &Upstream)>,
        open: &[Arc<Listener>],
        inherited: &Inherited,
    ) -> Result<(), Vec<BindError>> {
        let (upstream, of) = upstream.unzip();
        let planned = bind_listen(listen, |configured_addr, addr| {
            let existing = open.iter().find(|listener| is_reusable(listener, configured_addr, of));
            let (socket, addr) = match existing {
                Some(listener) => (Socket::Kept(listener.clone()), listener.addr),
                None => {
                    let bound = inherited.take_or_bind(key, addr)?;
                    (Socket::New(bound.socket, bound.addr), bound.addr)
                }
            };
            Ok((PlannedListener { configured_addr, upstream, socket }, addr))
        })?;
        self.0.extend(planned);
        Ok(())
    }

    /// Makes the planned listeners, and stops those of `before` that are not among them. `settings` is what
    /// their connections follow; `cluster` finds the cluster of an upstream; `token` makes a token that is
    /// cancelled when the proxy drains.
    pub(crate) fn apply(
        self,
        config: &Config,
        before: &[Arc<Listener>],
        settings: &Arc<ArcSwap<DownstreamSettings>>,
        cluster: impl Fn(&Upstream) -> Option<Arc<Cluster>>,
        token: impl Fn() -> CancellationToken,
    ) -> ListenerChange {
        let mut change = ListenerChange::default();
        for PlannedListener { configured_addr, upstream, socket } in self.0 {
            let upstream = upstream.and_then(|n| config.upstreams.get(n));
            let kind = match upstream.and_then(|upstream| Some((upstream.protocol, cluster(upstream)?))) {
                None => ListenerKind::ByName,
                Some((Protocol::Tcp, cluster)) => ListenerKind::Tcp(cluster),
                Some((_, cluster)) => ListenerKind::Service(cluster),
            };
            match socket {
                Socket::Kept(listener) if listener.state.load().kind.is_same(&kind) => {
                    change.listeners.push(listener)
                }
                Socket::Kept(listener) => {
                    // The accept task keeps the socket, and reads the state for each connection.
                    let state = ListenerState::new(kind, settings.clone(), token());
                    let service = upstream.map(|upstream| &*upstream.service);
                    info!(addr = %listener.addr, service, "carrying connections to another service, or by another protocol");
                    change.retired.push(listener.state.swap(state));
                    change.listeners.push(listener);
                }
                Socket::New(socket, addr) => {
                    let socket = Arc::new(socket);
                    let state = ListenerState::new(kind, settings.clone(), token());
                    let listener = Arc::new(Listener {
                        configured_addr,
                        addr,
                        state: ArcSwap::new(state),
                        stop_accepting: token(),
                        socket: Arc::downgrade(&socket),
                        is_handed_over: AtomicBool::new(false),
                    });
                    change.listeners.push(listener.clone());
                    change.opened.push(BoundListener { socket, listener });
                }
            }
        }
        for removed in
            before.iter().filter(|listener| !change.listeners.iter().any(|one| Arc::ptr_eq(one, listener)))
        {
            info!(addr = %removed.addr, "no longer listening; connections there end with their next response");
            removed.stop_accepting.cancel();
            change.retired.push(removed.state.load_full());
        }
        change
    }
}

/// Whether `listener` has the address of the settings. A port that the system chose stays with the upstream
/// that it was chosen for.
fn is_reusable(listener: &Listener, configured_addr: SocketAddr, upstream: Option<&Upstream>) -> bool {
    if listener.configured_addr != configured_addr {
        return false;
    }
    let state = listener.state.load();
    configured_addr.port() != 0
        || state.kind.cluster().map(|cluster| &cluster.key) == upstream.map(upstream_key).as_ref()
}
