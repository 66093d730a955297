//! The way out: callers are drained, listeners close, requests in flight end.

use std::{future::Future, time::Duration};

use futures_util::future::join_all;
use outrigger_config::{AwaitApp, Config};
use outrigger_locks::LockManager;
use outrigger_registration::{AppAddress, wait_until_port_closed};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::{App, components::Components};

/// What the stop cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownSummary {
    /// Requests and tunnels that did not end within `drain.timeout`.
    pub aborted: usize,
}

/// What must be true of an app that another process stops, before the listeners may close.
#[derive(Debug, Clone, PartialEq, Eq)]
enum AppCondition {
    None,
    /// No process listens on any of the app's ports.
    PortsClosed(Vec<AppAddress>),
    /// The app has no connection open to the sidecar.
    NoConnection,
    /// No connection of the app carries a request.
    NoActiveConnection,
}

impl AppCondition {
    fn of(config: &Config, is_process_one: bool) -> Self {
        let has_service = !config.services.is_empty();
        match config.drain.await_app {
            AwaitApp::Off => Self::None,
            AwaitApp::Connections => Self::NoConnection,
            AwaitApp::Auto if !is_process_one && has_service => Self::None,
            AwaitApp::Auto if !is_process_one => Self::NoActiveConnection,
            AwaitApp::On | AwaitApp::Auto if has_service => {
                Self::PortsClosed(config.services.iter().map(AppAddress::of).collect())
            }
            AwaitApp::On | AwaitApp::Auto => Self::NoConnection,
        }
    }
}

/// Longest wait for the registry to end the sessions of locks that are still held.
pub(super) const LOCKS_END_WITHIN: Duration = Duration::from_secs(5);

/// Longest wait for the last answers of the API.
const API_STOP_WITHIN: Duration = Duration::from_secs(2);

/// Pause between two looks at a count.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

async fn wait_until_zero(count: impl Fn() -> usize) {
    while count() > 0 {
        sleep(POLL_INTERVAL).await;
    }
}

impl App {
    /// Ends every wait for callers while the sidecar leaves: the app has ended for good, or a second signal asks
    /// for it.
    pub fn skip_waits(&self) {
        self.running.components.lifecycle.handle().drain().skip_waits.cancel();
    }

    /// Resolves when the app, which another process started and stops, needs the listeners no more, by `drain.await_app`:
    /// after `drain.timeout` at most, and not before `drain.linger`. Returns what is left of `drain.timeout` for the requests in flight: where
    /// the app's connections were waited for, their requests were, too.
    pub async fn app_done(&self) -> Duration {
        let config = self.config();
        let (drain, condition) = (config.drain, AppCondition::of(&config, std::process::id() == 1));
        let began = Instant::now();
        let done = async {
            if timeout(drain.timeout, self.wait_for(&condition)).await.is_err() {
                warn!(?condition, after = ?drain.timeout, "the app is not done, stopping all the same");
            }
            match condition {
                AppCondition::None | AppCondition::PortsClosed(_) => drain.timeout,
                AppCondition::NoConnection | AppCondition::NoActiveConnection => {
                    drain.timeout.saturating_sub(began.elapsed())
                }
            }
        };
        tokio::join!(done, sleep(drain.linger)).0
    }

    async fn wait_for(&self, condition: &AppCondition) {
        let proxy = &self.running.components.proxy;
        match condition {
            AppCondition::None => {}
            AppCondition::PortsClosed(apps) => {
                join_all(apps.iter().cloned().map(wait_until_port_closed)).await;
            }
            AppCondition::NoConnection => wait_until_zero(|| proxy.open_connections()).await,
            AppCondition::NoActiveConnection => wait_until_zero(|| proxy.active_connections()).await,
        }
    }

    /// Leaves the registry, goes on routing, and returns when it is safe to stop the app: after at most 20 s
    /// plus `drain.max_propagation` or `drain.unobserved_wait`.
    pub async fn drain(&self) {
        if let Some(locks) = &self.running.components.locks {
            locks.drain();
        }
        self.running.components.lifecycle.drain().await;
    }

    /// Ends without leaving the registry and without a wait for requests in flight, because nothing can be reached. What was learned
    /// is written, so that the next start has it; that takes 5 s at most.
    pub(crate) async fn abandon(self) {
        self.reload_task.abort();
        tokio::join!(self.running.layers.stop(), stop_app_config(&self.running.components));
        self.running.components.discovery.shutdown().await;
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
        self.shutdown_within(grace).await
    }

    /// As [`App::shutdown`], with `grace` in place of `drain.timeout`.
    pub async fn shutdown_within(self, grace: Duration) -> ShutdownSummary {
        // The slot of a restart is no lock that the app holds.
        self.running.components.files.stop();
        let locks = self.running.components.locks.clone();
        if let Some(locks) = &locks {
            locks.drain();
        }
        // The app has ended before: what it holds is not given back any more.
        let locks_within = if self.running.components.runs_app { Duration::ZERO } else { grace };
        let stop_traffic = async {
            self.running.components.proxy.close_listeners();
            let (ended, ()) =
                tokio::join!(self.running.components.proxy.shutdown(grace), end_locks(locks, locks_within));
            ended.aborted
        };
        let aborted = self.running.components.lifecycle.drain_and_stop(stop_traffic).await;
        // A reload could open a listener that is closed here.
        self.reload_task.abort();
        self.running.layers.stop().await;
        let _ = self.reload_task.await;
        // Every stream of a lock has ended.
        tokio::join!(self.running.servers.stop(API_STOP_WITHIN), self.running.components.dns.stop());
        stop_app_config(&self.running.components).await;
        self.running.components.discovery.shutdown().await;
        ShutdownSummary { aborted }
    }
}

/// To be called when the API answers no more: its answers are those of what is followed.
pub(super) async fn stop_app_config(components: &Components) {
    if let Some(app_config) = &components.app_config {
        app_config.stop().await;
    }
}

/// Waits for the locks that the app holds as for its requests in flight, then ends the rest: told first.
pub(super) async fn end_locks(locks: Option<LockManager>, grace: Duration) {
    let Some(locks) = locks else { return };
    let _ = timeout(grace, locks.wait_until_free()).await;
    locks.shutdown(LOCKS_END_WITHIN).await;
}

#[cfg(test)]
mod tests {
    use outrigger_config::{Environment, Overrides, load};

    use super::{AppCondition::*, *};

    #[test]
    fn what_the_listeners_wait_for() {
        let closed = |ports: &[u16]| {
            let app = |port: &u16| AppAddress { port: *port, only: Option::None, registered: Option::None };
            PortsClosed(ports.iter().map(app).collect())
        };
        let (none, one) = ("", "service: {name: orders, port: 8080}\n");
        let two = "services: [{name: orders, port: 8080}, {name: orders-admin, port: 8081}]\n";
        // (await_app, services, process 1)
        for (await_app, services, is_process_one, expected) in [
            ("auto", one, true, closed(&[8080])),
            ("auto", two, true, closed(&[8080, 8081])),
            ("auto", one, false, None),
            ("auto", two, false, None),
            ("auto", none, true, NoConnection),
            ("auto", none, false, NoActiveConnection),
            ("on", one, false, closed(&[8080])),
            ("on", two, false, closed(&[8080, 8081])),
            ("on", none, false, NoConnection),
            ("connections", one, false, NoConnection),
            ("connections", none, false, NoConnection),
            ("off", one, true, None),
            ("off", none, true, None),
        ] {
            let text = format!("{services}drain: {{await_app: {await_app}}}");
            let config = load(Some(("test.yaml", &text)), &Environment::default(), &Overrides::default());
            let condition = AppCondition::of(&config.unwrap().config, is_process_one);
            assert_eq!(condition, expected, "{text} {is_process_one}");
        }
    }
}
