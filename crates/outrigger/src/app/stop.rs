//! The way out: callers are drained, listeners close, requests in flight end.

use std::future::Future;

use outrigger_config::{Config, Service};
use outrigger_registration::wait_until_port_closed;
use tracing::warn;

use super::App;

/// What the stop cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownSummary {
    /// Requests and tunnels that did not end within `drain.timeout`.
    pub aborted: usize,
}

impl App {
    /// Ends every wait for callers while the sidecar leaves: the app has ended for good, or a second signal asks
    /// for it.
    pub fn skip_waits(&self) {
        self.running.components.lifecycle.handle().drain().skip_waits.cancel();
    }

    /// Resolves when no process listens on the app's port any more, after `drain.timeout` at most; at once
    /// where no service is configured.
    pub async fn app_port_closed(&self) {
        let Config { service: Some(Service { port, .. }), drain, .. } = self.config() else { return };
        if tokio::time::timeout(drain.timeout, wait_until_port_closed(port)).await.is_err() {
            warn!(port, after = ?drain.timeout, "the app still listens, stopping all the same");
        }
    }

    /// Leaves the registry, goes on routing, and returns when it is safe to stop the app: after at most 20 s
    /// plus `drain.max_propagation` or `drain.unobserved_wait`.
    pub async fn drain(&self) {
        self.running.components.lifecycle.drain().await;
    }

    /// Serves until `signal`, then calls [`App::shutdown`].
    pub async fn run_until(self, signal: impl Future<Output = ()>) -> ShutdownSummary {
        signal.await;
        self.shutdown().await
    }

    /// Drains, closes the listeners, waits for requests in flight up to `drain.timeout`, and returns
    /// when every task and thread has ended.
    pub async fn shutdown(self) -> ShutdownSummary {
        let grace = self.config().drain.timeout;
        let stop_traffic = async {
            self.running.components.proxy.close_listeners();
            self.running.components.proxy.shutdown(grace).await.aborted
        };
        let aborted = self.running.components.lifecycle.drain_and_stop(stop_traffic).await;
        // A reload could open a listener that is closed here.
        self.reload_task.abort();
        let _ = self.reload_task.await;
        self.running.servers.stop().await;
        self.running.components.discovery.shutdown().await;
        ShutdownSummary { aborted }
    }
}
