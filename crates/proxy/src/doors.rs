//! Which addresses are listened on, and what each is for; a reload opens and closes some of them.
//!
//! An address that stays keeps its socket, so that nobody is refused in between; when it is for another
//! service from now on, those who came in before are told with their next answer to come in anew. One
//! that goes accepts what the kernel has queued and is closed; its connections end the same way. It
//! accepts nothing itself: that is `listener`.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use arc_swap::ArcSwap;
use outrigger_config::{Config, Listen, ListenHost, Upstream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    listener::{BindError, bind},
    session::Entrance,
    upstream::{cluster::Cluster, directory::key_of},
};

/// An address that is listened on.
#[derive(Debug)]
pub(crate) struct Door {
    /// As the settings have it; port 0: the system chose.
    asked: SocketAddr,
    pub(crate) addr: SocketAddr,
    /// For who comes in now.
    pub(crate) entrance: ArcSwap<Entrance>,
    /// Cancelled: nobody comes in any more.
    pub(crate) closing: CancellationToken,
}

/// An address that is to be listened on by new settings, with its socket or the door that is there.
#[derive(Debug)]
struct Place {
    asked: SocketAddr,
    /// Which of the upstreams.
    upstream: Option<usize>,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Door(Arc<Door>),
    Socket(TcpListener, SocketAddr),
}

/// Every place of new settings; dropped, the sockets that were not there before are closed.
#[derive(Debug)]
pub(crate) struct Places(Vec<Place>);

/// What opening new places came to.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) doors: Vec<Arc<Door>>,
    /// Those of them that are new, with their sockets.
    pub(crate) opened: Vec<(Arc<Door>, TcpListener)>,
    /// Whoever came in by these is to be told.
    pub(crate) retired: Vec<Arc<Entrance>>,
}

impl Places {
    /// Holds every address of `config`: by a door of `open` where there is one, else by a socket.
    ///
    /// # Errors
    /// When an address cannot be had.
    pub(crate) fn hold(config: &Config, open: &[Arc<Door>]) -> Result<Self, BindError> {
        let mut places = Self(Vec::new());
        places.add(&config.outbound.listen, None, None, open)?;
        for (n, upstream) in config.upstreams.iter().enumerate() {
            if let Some(listen) = &upstream.listen {
                places.add(listen, Some(n), Some(upstream), open)?;
            }
        }
        Ok(places)
    }

    /// One address, or both loopback ones with one port. Without IPv6 on the machine, `localhost` is
    /// 127.0.0.1 alone.
    fn add(
        &mut self,
        listen: &Listen,
        upstream: Option<usize>,
        of: Option<&Upstream>,
        open: &[Arc<Door>],
    ) -> Result<(), BindError> {
        let hold = |asked: SocketAddr, port: u16| {
            let here = open.iter().find(|door| door.fits(asked, of));
            let held = match here {
                Some(door) => Held::Door(door.clone()),
                None => bind(SocketAddr::new(asked.ip(), port))
                    .map(|(socket, addr)| Held::Socket(socket, addr))?,
            };
            Ok(Place { asked, upstream, held })
        };
        let port = listen.port;
        match listen.host {
            ListenHost::Ip(ip) => self.0.push(hold(SocketAddr::new(ip, port), port)?),
            ListenHost::Localhost => {
                let v4 = hold((Ipv4Addr::LOCALHOST, port).into(), port)?;
                let chosen = v4.addr().port();
                self.0.push(v4);
                match hold((Ipv6Addr::LOCALHOST, port).into(), chosen) {
                    Ok(v6) => self.0.push(v6),
                    Err(error) if error.is_taken() => return Err(error),
                    Err(error) => debug!(%error, "no IPv6 loopback here"),
                }
            }
        }
        Ok(())
    }

    /// Makes doors of the places. `cluster` finds an upstream's; `closing` and `gate` make the tokens of
    /// a new door and of those who come in by it. `before`: the doors until now.
    pub(crate) fn open(
        self,
        upstreams: &[Upstream],
        before: &[Arc<Door>],
        cluster: impl Fn(&Upstream) -> Option<Arc<Cluster>>,
        token: impl Fn() -> CancellationToken,
    ) -> Moved {
        let mut moved = Moved::default();
        for Place { asked, upstream, held } in self.0 {
            let upstream = upstream.and_then(|n| upstreams.get(n));
            let cluster = upstream.and_then(&cluster);
            match held {
                Held::Door(door) if door.leads_to(cluster.as_ref()) => moved.doors.push(door),
                Held::Door(old) => {
                    // The socket is the accept task's, and goes on; what it reads is swapped.
                    let now = Entrance::new(cluster, token());
                    let service = upstream.map(|upstream| &*upstream.service);
                    info!(addr = %old.addr, service, "carrying requests to another service");
                    moved.retired.push(old.entrance.swap(now));
                    moved.doors.push(old);
                }
                Held::Socket(socket, addr) => {
                    let door = Arc::new(Door {
                        asked,
                        addr,
                        entrance: ArcSwap::new(Entrance::new(cluster, token())),
                        closing: token(),
                    });
                    moved.doors.push(door.clone());
                    moved.opened.push((door, socket));
                }
            }
        }
        for gone in before.iter().filter(|door| !moved.doors.iter().any(|one| Arc::ptr_eq(one, door))) {
            info!(addr = %gone.addr, "no longer listening; connections there end with their next answer");
            gone.closing.cancel();
            moved.retired.push(gone.entrance.load_full());
        }
        moved
    }
}

impl Place {
    fn addr(&self) -> SocketAddr {
        match &self.held {
            Held::Door(door) => door.addr,
            Held::Socket(_, addr) => *addr,
        }
    }
}

impl Door {
    /// Whether it is at `asked`. A port that the system chose is one only for what it was chosen for.
    fn fits(&self, asked: SocketAddr, of: Option<&Upstream>) -> bool {
        let entrance = self.entrance.load();
        let same = entrance.cluster.as_ref().map(|cluster| &cluster.key) == of.map(key_of).as_ref();
        self.asked == asked && (asked.port() != 0 || same)
    }

    /// The service whose own it is; `None`: services are told by name.
    pub(crate) fn service(&self) -> Option<String> {
        self.entrance.load().cluster.as_ref().map(|cluster| cluster.key.service.to_string())
    }

    fn leads_to(&self, cluster: Option<&Arc<Cluster>>) -> bool {
        match (&self.entrance.load().cluster, cluster) {
            (None, None) => true,
            (Some(now), Some(wanted)) => Arc::ptr_eq(now, wanted),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}
