//! Sockets that the app connects to: bound first, accepted from later, shared out evenly.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use outrigger_config::{Listen, ListenHost};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    io::Line,
    serve,
    session::{Entrance, Shared},
    upstream::connect::is_local,
    worker::{Order, Worker},
};

/// Connections that the kernel keeps for us between two accepts.
const BACKLOG: i32 = 1024;
/// Pause after an accept that failed for want of files or memory: trying at once would only burn CPU.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections turned away at once with an answer; beyond, without.
const TURNED_AWAY: usize = 64;

/// A socket that listens, and what it is for.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: std::net::TcpListener,
    pub(crate) entrance: Arc<Entrance>,
}

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listen on {addr}{}", hint(source))]
pub struct BindError {
    /// Where.
    pub addr: SocketAddr,
    /// Why not.
    #[source]
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": the address is taken, by another sidecar perhaps; stop that one or choose another port"
        }
        io::ErrorKind::PermissionDenied => ": not allowed; ports below 1024 need a privilege",
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
        _ => "",
    }
}

/// Binds an address, or both loopback ones with one port.
///
/// # Errors
/// When an address cannot be had. Without IPv6 on the machine, `localhost` is 127.0.0.1 alone.
pub(crate) fn bind(listen: &Listen) -> Result<Vec<(std::net::TcpListener, SocketAddr)>, BindError> {
    match listen.host {
        ListenHost::Ip(ip) => Ok(vec![bind_one(SocketAddr::new(ip, listen.port))?]),
        ListenHost::Localhost => {
            let v4 = bind_one((Ipv4Addr::LOCALHOST, listen.port).into())?;
            match bind_one((Ipv6Addr::LOCALHOST, v4.1.port()).into()) {
                Ok(v6) => Ok(vec![v4, v6]),
                Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => Err(error),
                Err(error) => {
                    debug!(%error, "no IPv6 loopback here");
                    Ok(vec![v4])
                }
            }
        }
    }
}

fn bind_one(addr: SocketAddr) -> Result<(std::net::TcpListener, SocketAddr), BindError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let socket: std::net::TcpListener = socket.into();
        let local = socket.local_addr()?;
        Ok((socket, local))
    };
    open().map_err(|source| BindError { addr, source })
}

/// Accepts until we drain, and gives each connection to the worker that has the fewest.
pub(crate) async fn accept(
    bound: Bound,
    workers: Arc<[Arc<Worker>]>,
    shared: Arc<Shared>,
    drain: CancellationToken,
) {
    let listener = match TcpListener::from_std(bound.socket) {
        Ok(listener) => listener,
        Err(error) => return warn!(%error, "listener could not be set up"),
    };
    let mut turned_away = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = turned_away.join_next() => continue,
            () = drain.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accept failed");
                if is_local(&error) {
                    tokio::time::sleep(PAUSE).await;
                }
                continue;
            }
        };
        let most = shared.outbound.limits.max_connections;
        if shared.connections.fetch_add(1, Relaxed) >= most {
            shared.connections.fetch_sub(1, Relaxed);
            shared.metrics.refused(crate::error::Reason::TooManyConnections);
            if turned_away.len() < TURNED_AWAY {
                turned_away.spawn(serve::turn_away(Line::new(stream), most));
            }
            continue;
        }
        let fewest = workers.iter().min_by_key(|worker| worker.connections.load(Relaxed));
        let handed = fewest.is_some_and(|worker| {
            worker.connections.fetch_add(1, Relaxed);
            let entrance = bound.entrance.clone();
            stream.into_std().is_ok_and(|stream| worker.order(Order::Serve { stream, peer, entrance }))
        });
        if !handed {
            shared.connections.fetch_sub(1, Relaxed);
        }
    }
    drop(listener);
    turned_away.shutdown().await;
}
