//! Another process takes this one's place: the listening sockets and the registration are left to it.

use std::{io, time::Duration};

use outrigger_net::ListeningSocket;
use outrigger_registration::HandOver;

use super::{
    App, ShutdownSummary,
    servers::ServerSlot,
    stop::{LOCKS_END_WITHIN, end_locks, stop_app_config},
};

/// How long an idle connection of the app may wait for its last request, because a request may be on its way.
const IDLE_GRACE: Duration = Duration::from_secs(10);

impl App {
    /// Accepts, where nothing was accepted yet, and registers the app once it is healthy.
    pub fn take_place(&self) {
        let components = &self.running.components;
        let was_held_back = !components.accepts.is_cancelled();
        components.proxy.start();
        components.accepts.cancel();
        components.app_started.cancel();
        if was_held_back {
            self.restore_locks();
        }
    }

    /// Takes over what an earlier process left of its locks. To be called once, when no other process has them any more.
    pub(super) fn restore_locks(&self) {
        if let Some(locks) = self.running.components.locks.clone() {
            // Contained: leases of an earlier run; without them their locks are free when the sessions expire.
            tokio::spawn(async move { locks.restore().await });
        }
    }

    /// Every listening socket, for the process that takes this one's place.
    ///
    /// # Errors
    /// When files are used up.
    pub fn listening_sockets(&self) -> io::Result<Vec<ListeningSocket>> {
        let servers = &self.running.servers;
        let of_servers = [&servers.admin, &servers.metrics, &servers.api].map(ServerSlot::listening_sockets);
        let mut sockets = self.running.components.proxy.listening_sockets()?;
        sockets.extend(self.running.components.dns.listening_sockets()?);
        for of_server in of_servers {
            sockets.extend(of_server?);
        }
        Ok(sockets)
    }

    /// Whether the app is being withdrawn, or is withdrawn.
    pub fn is_leaving(&self) -> bool {
        self.running.components.lifecycle.handle().is_leaving()
    }

    /// Leaves the registrations to another process. Serves on.
    pub async fn leave_registrations(&self, how: HandOver) {
        self.running.components.lifecycle.hand_over(how).await;
        // Last: from now on no process renews the leases, until the other one has read them.
        if let Some(locks) = &self.running.components.locks {
            locks.hand_over().await;
        }
    }

    /// Registers the app again, because the other process has ended.
    pub async fn take_registration_back(&self) {
        if let Some(locks) = &self.running.components.locks {
            locks.take_back().await;
        }
        self.running.components.lifecycle.take_back().await;
    }

    /// Ends after [`App::leave_registrations`]: accepts nothing more, because the other process does, and returns when the requests in
    /// flight have ended, after `drain.timeout` and 20 s at most. A connection of the app ends with its next response.
    pub async fn finish_handed_over(self) -> ShutdownSummary {
        let grace = self.config().drain.timeout;
        self.running.components.files.stop();
        // A reload could open a listener.
        self.reload_task.abort();
        self.running.layers.stop().await;
        let _ = self.reload_task.await;
        let components = &self.running.components;
        let idle = IDLE_GRACE.min(grace);
        tokio::join!(
            end_locks(components.locks.clone(), grace),
            self.running.servers.stop(grace + LOCKS_END_WITHIN),
            components.dns.stop(),
            components.proxy.hand_over_listeners(idle)
        );
        let stop_traffic = async { components.proxy.shutdown(grace).await.aborted };
        // Withdraws nothing: the registration is left to the other process.
        let aborted = components.lifecycle.drain_and_stop(stop_traffic).await;
        stop_app_config(components).await;
        components.discovery.shutdown().await;
        ShutdownSummary { aborted }
    }
}
