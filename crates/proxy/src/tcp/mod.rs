//! A connection at a TCP listener: one connection to an instance, and bytes both ways.
//!
//! The instance is picked and connected to before a byte of the app is read, because many protocols begin with the server. Nothing that
//! goes through is looked at. A connection that cannot be made ends with a reset, so that the app does not take it for one that the
//! instance closed in order.
//!
//! | module | its part |
//! |---|---|
//! | `route` | the service and the subset, by splits and failovers |
//! | `connect` | the instance: pick, permit, connect, perhaps at another one |
//! | `proxy_protocol` | what the instance is told of the app's connection |
//! | `account` | counts, and the line of the access log |

mod account;
pub(crate) mod connect;
mod proxy_protocol;
pub(crate) mod route;

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use outrigger_config::TcpSettings;
use outrigger_net::{LazyTimer, Stream};
use tokio::time::Instant;
use tracing::info;

use self::{
    account::TcpAccount,
    connect::{Connected, connect},
    route::TcpRoute,
};
use crate::{
    context::{ConnectionInfo, DownstreamSettings},
    limit::{limit, service_limit},
    metrics::labels::TcpResult,
    reason::{Reason, Refusal},
    transport::{
        channel::Channel,
        pool::OpenConnection,
        tunnel::{self, TunnelBounds, TunnelEnd},
    },
    upstream::cluster::Cluster,
};

/// Carries a connection of a listener of `own` until its end. `guard` is dropped at the end.
pub(crate) async fn serve(info: ConnectionInfo, own: Arc<Cluster>, app: Channel, guard: impl Send) {
    let _guard = &guard;
    let cells = info.worker.cells();
    let _active = cells.gauge_guard(&cells.active);
    let settings = info.listener.settings.load_full();
    let tcp = settings.tcp_of(&own.key).copied().unwrap_or_default();
    let mut account = TcpAccount::new(&info, &own, settings.access_log);
    let mut ends = Ends { app, instance: None, resets: true };
    match open(&info, &own, tcp, &mut account).await {
        Ok((route, connected, _place)) => {
            let Connected { lease, stream, open: _open } = connected;
            let instance = ends.instance.insert(Channel::new(stream));
            let header = proxy_protocol::header(tcp.proxy_protocol, info.peer, info.local);
            if !header.is_empty() {
                instance.queue(|outbox| outbox.push(&header));
            }
            let endpoint = lease.endpoint();
            let has_left = || route.with_owner(endpoint, |owner, _| owner.has_left(endpoint));
            let bounds = TunnelBounds { idle: tcp.idle, grace: tcp.grace };
            let before = header.len() as u64;
            let note_moved = |app: &Channel, instance: &Channel| {
                account.note_bytes(instance.written.saturating_sub(before), app.written);
            };
            let mut timer = LazyTimer::new();
            let ended =
                tunnel::carry(&mut ends.app, instance, &mut timer, bounds, has_left, note_moved).await;
            ends.resets = matches!(ended, TunnelEnd::Idle | TunnelEnd::InstanceGone);
            account.complete(TcpResult::from(ended));
        }
        Err(refusal) => account.refuse(refusal),
    }
}

/// Finds an instance, and connects to it.
async fn open(
    info: &ConnectionInfo,
    own: &Arc<Cluster>,
    tcp: TcpSettings,
    account: &mut TcpAccount,
) -> Result<(TcpRoute, Connected, Option<OpenConnection>), Refusal> {
    let place = match tcp.max_connections {
        None => None,
        Some(most) => Some(own.take_tcp_place(most).ok_or_else(|| {
            let limit = service_limit(&own.label, "tcp.max_connections", most);
            let detail = format!("{}: as many connections are open as may be; {limit}", own.label);
            Refusal::new(Reason::TooManyConnections, detail)
        })?),
    };
    let route = TcpRoute::find(info.clusters(), own).await?;
    account.set_service(&route);
    let connected =
        connect(&route, info, account.started, |endpoint| account.count_attempt(&route, endpoint)).await?;
    account.set_connected(Instant::now());
    Ok((route, connected, place))
}

/// Resets a connection to `service` above the limit of all listeners when it is dropped.
pub(crate) fn reject_connection(
    stream: TcpStream,
    service: &str,
    peer: SocketAddr,
    settings: &DownstreamSettings,
) {
    if let Ok(stream) = tokio::net::TcpStream::from_std(stream) {
        Stream::from(stream).reset_on_close();
    }
    if settings.access_log {
        let most = settings.outbound.limits.max_connections;
        let limit = limit("outbound.limits", "max_connections", most);
        let reason = Reason::TooManyConnections.label();
        info!(target: "outrigger::access", %peer, service, result = "refused", reason, detail = limit, "connection");
    }
}

/// Both connections. A task that is ended from outside drops them: each side then gets a reset, which tells it that bytes may be missing.
struct Ends {
    app: Channel,
    instance: Option<Channel>,
    resets: bool,
}

impl Drop for Ends {
    fn drop(&mut self) {
        if self.resets {
            for channel in [Some(&mut self.app), self.instance.as_mut()].into_iter().flatten() {
                channel.stream.reset_on_close();
            }
        }
    }
}
