//! The servers of the admin side, which other settings may move.

use std::{io, net::SocketAddr, time::Duration};

use axum::Router;
use outrigger_net::ListeningSocket;
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::timeout};
use tracing::info;

use crate::admin::{AdminServer, BoundListeners, ServerLimits};

/// What becomes of a server. Dropping it undoes it.
#[derive(Debug)]
pub(super) enum ServerChange {
    Keep,
    /// `None`: there is no such server any more.
    Replace(Option<BoundListeners>),
}

impl ServerChange {
    /// Binds by `bind` what `new` needs beyond `old`.
    pub(super) fn bind<L: PartialEq, E>(
        old: Option<L>,
        new: Option<L>,
        bind: impl FnOnce(L) -> Result<BoundListeners, E>,
    ) -> Result<Self, E> {
        if old == new {
            return Ok(Self::Keep);
        }
        let bound = new.map(bind).transpose()?;
        Ok(Self::Replace(bound))
    }
}

/// The server for this machine, and the one for the network. They are no part of the
/// [`Components`](super::components::Components), because their pages hold these.
#[derive(Debug, Default)]
pub(super) struct AdminServers {
    pub(super) admin: ServerSlot,
    pub(super) metrics: ServerSlot,
    /// The API for the app.
    pub(super) api: ServerSlot,
    /// Servers that end their last answers.
    retired: Mutex<JoinSet<()>>,
    /// Servers of the API that accept nothing any more: their answers under way go on.
    retired_apis: Mutex<JoinSet<()>>,
}

/// Longer than any answer of the API: the end of the process comes first.
const UNTIL_THE_END: Duration = Duration::from_secs(u32::MAX as u64);

/// A server, if there is one.
#[derive(Debug, Default)]
pub(super) struct ServerSlot(Mutex<Option<AdminServer>>);

impl ServerSlot {
    /// Puts a change in place. Returns the server that was replaced.
    pub(super) fn replace(
        &self,
        bound: Option<BoundListeners>,
        router: Router,
        limits: ServerLimits,
    ) -> Option<AdminServer> {
        let server = bound.map(|bound| AdminServer::start(bound, router, limits));
        let before = std::mem::replace(&mut *self.0.lock(), server)?;
        info!(before = ?before.addrs, now = ?self.addrs(), "moved a listener");
        Some(before)
    }

    /// Every listening socket, so that another process can get it.
    ///
    /// # Errors
    /// When files are used up.
    pub(super) fn listening_sockets(&self) -> io::Result<Vec<ListeningSocket>> {
        self.0.lock().as_ref().map_or_else(|| Ok(Vec::new()), AdminServer::listening_sockets)
    }

    /// Where it listens.
    pub(super) fn addrs(&self) -> Vec<SocketAddr> {
        self.0.lock().as_ref().map_or_else(Vec::new, |server| server.addrs.clone())
    }
}

impl AdminServers {
    /// Lets a server that was replaced end its answers, and returns at once: the answer to this reload may be one of them.
    pub(super) fn retire(&self, server: AdminServer) {
        let mut retired = self.retired.lock();
        while retired.try_join_next().is_some() {}
        // Contained: the server that was replaced.
        retired.spawn(server.stop());
    }

    /// Closes the listeners of a server of the API, and lets its answers under way go on until they end or this process does: an app
    /// may hold a lock by one.
    pub(super) fn retire_api(&self, server: AdminServer) {
        let mut retired = self.retired_apis.lock();
        while retired.try_join_next().is_some() {}
        // Contained: the server that was replaced.
        retired.spawn(server.stop_within(UNTIL_THE_END));
    }

    /// Stops every server, and returns when their connections have ended. Answers of the API may take `api_within`.
    pub(super) async fn stop(&self, api_within: Duration) {
        let api = self.api.0.lock().take();
        let stop_api = async {
            if let Some(server) = api {
                server.stop_within(api_within).await;
            }
        };
        let stop_pages = async {
            for slot in [&self.admin, &self.metrics] {
                let server = slot.0.lock().take();
                if let Some(server) = server {
                    server.stop().await;
                }
            }
        };
        let mut retired_apis = std::mem::take(&mut *self.retired_apis.lock());
        let end_retired_apis = async {
            let _ = timeout(api_within, async { while retired_apis.join_next().await.is_some() {} }).await;
            retired_apis.shutdown().await;
        };
        tokio::join!(stop_api, stop_pages, end_retired_apis);
        let mut retired = std::mem::take(&mut *self.retired.lock());
        while retired.join_next().await.is_some() {}
    }
}
