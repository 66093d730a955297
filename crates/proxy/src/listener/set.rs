//! Which addresses are listened on, and what each is for; a reload opens and closes some of them.
//!
//! An address that stays keeps its socket, so that nobody is refused in between; when it is for another
//! service from now on, those who came in before are told with their next answer to come in anew. One
//! that goes accepts what the kernel has queued and is closed; its connections end the same way. It
//! accepts nothing itself: that is `listener`.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use arc_swap::ArcSwap;
use outrigger_config::{Config, Listen, Upstream};
use outrigger_net::{BindError, bind, bind_listen};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    session::ListenerKind,
    upstream::{cluster::Cluster, manager::upstream_key},
};

/// An address that is listened on.
#[derive(Debug)]
pub(crate) struct Listener {
    /// As the settings have it; port 0: the system chose.
    configured_addr: SocketAddr,
    pub(crate) addr: SocketAddr,
    /// For who comes in now.
    pub(crate) kind: ArcSwap<ListenerKind>,
    /// Cancelled: nobody comes in any more.
    pub(crate) stop_accepting: CancellationToken,
}

/// An address that is to be listened on by new settings, with its socket or the door that is there.
#[derive(Debug)]
struct PlannedListener {
    configured_addr: SocketAddr,
    /// Which of the upstreams.
    upstream: Option<usize>,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Kept(Arc<Listener>),
    New(TcpListener, SocketAddr),
}

/// Every place of new settings; dropped, the sockets that were not there before are closed.
#[derive(Debug)]
pub(crate) struct ListenerPlan(Vec<PlannedListener>);

/// What opening new places came to.
#[derive(Debug, Default)]
pub(crate) struct ListenerChange {
    pub(crate) listeners: Vec<Arc<Listener>>,
    /// Those of them that are new, with their sockets.
    pub(crate) opened: Vec<(Arc<Listener>, TcpListener)>,
    /// Whoever came in by these is to be told.
    pub(crate) retired: Vec<Arc<ListenerKind>>,
}

impl ListenerPlan {
    /// Holds every address of `config`: by a door of `open` where there is one, else by a socket.
    ///
    /// # Errors
    /// When an address cannot be had.
    pub(crate) fn bind(config: &Config, open: &[Arc<Listener>]) -> Result<Self, BindError> {
        let mut plan = Self(Vec::new());
        plan.plan_address(&config.outbound.listen, None, None, open)?;
        for (n, upstream) in config.upstreams.iter().enumerate() {
            if let Some(listen) = &upstream.listen {
                plan.plan_address(listen, Some(n), Some(upstream), open)?;
            }
        }
        Ok(plan)
    }

    /// Every address of one setting.
    fn plan_address(
        &mut self,
        listen: &Listen,
        upstream: Option<usize>,
        of: Option<&Upstream>,
        open: &[Arc<Listener>],
    ) -> Result<(), BindError> {
        let planned = bind_listen(listen, |configured_addr, addr| {
            let existing = open.iter().find(|listener| listener.is_reusable_for(configured_addr, of));
            let (socket, addr) = match existing {
                Some(listener) => (Socket::Kept(listener.clone()), listener.addr),
                None => {
                    let bound = bind(addr)?;
                    (Socket::New(bound.socket, bound.addr), bound.addr)
                }
            };
            Ok((PlannedListener { configured_addr, upstream, socket }, addr))
        })?;
        self.0.extend(planned);
        Ok(())
    }

    /// Makes doors of the places. `cluster` finds an upstream's; `closing` and `gate` make the tokens of
    /// a new door and of those who come in by it. `before`: the doors until now.
    pub(crate) fn apply(
        self,
        upstreams: &[Upstream],
        before: &[Arc<Listener>],
        cluster: impl Fn(&Upstream) -> Option<Arc<Cluster>>,
        token: impl Fn() -> CancellationToken,
    ) -> ListenerChange {
        let mut change = ListenerChange::default();
        for PlannedListener { configured_addr, upstream, socket } in self.0 {
            let upstream = upstream.and_then(|n| upstreams.get(n));
            let cluster = upstream.and_then(&cluster);
            match socket {
                Socket::Kept(listener) if listener.serves(cluster.as_ref()) => {
                    change.listeners.push(listener)
                }
                Socket::Kept(listener) => {
                    // The socket is the accept task's, and goes on; what it reads is swapped.
                    let new_kind = ListenerKind::new(cluster, token());
                    let service = upstream.map(|upstream| &*upstream.service);
                    info!(addr = %listener.addr, service, "carrying requests to another service");
                    change.retired.push(listener.kind.swap(new_kind));
                    change.listeners.push(listener);
                }
                Socket::New(socket, addr) => {
                    let listener = Arc::new(Listener {
                        configured_addr,
                        addr,
                        kind: ArcSwap::new(ListenerKind::new(cluster, token())),
                        stop_accepting: token(),
                    });
                    change.listeners.push(listener.clone());
                    change.opened.push((listener, socket));
                }
            }
        }
        for removed in
            before.iter().filter(|listener| !change.listeners.iter().any(|one| Arc::ptr_eq(one, listener)))
        {
            info!(addr = %removed.addr, "no longer listening; connections there end with their next answer");
            removed.stop_accepting.cancel();
            change.retired.push(removed.kind.load_full());
        }
        change
    }
}

impl Listener {
    /// Whether it is at `asked`. A port that the system chose is one only for what it was chosen for.
    fn is_reusable_for(&self, configured_addr: SocketAddr, of: Option<&Upstream>) -> bool {
        let kind = self.kind.load();
        let same = kind.cluster.as_ref().map(|cluster| &cluster.key) == of.map(upstream_key).as_ref();
        self.configured_addr == configured_addr && (configured_addr.port() != 0 || same)
    }

    /// The service whose own it is; `None`: services are told by name.
    pub(crate) fn service(&self) -> Option<String> {
        self.kind.load().cluster.as_ref().map(|cluster| cluster.key.service.to_string())
    }

    fn serves(&self, cluster: Option<&Arc<Cluster>>) -> bool {
        match (&self.kind.load().cluster, cluster) {
            (None, None) => true,
            (Some(current), Some(wanted)) => Arc::ptr_eq(current, wanted),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}
