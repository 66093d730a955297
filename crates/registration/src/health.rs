//! Probes the local app, one probe at a time, and publishes the health when it changes. [`crate::report`] sends it
//! to the registry.

use std::{future::Future, net::SocketAddr, time::Duration};

use outrigger_config::{Health, Probe};
use outrigger_net::format_host_port;
use outrigger_registry::ReportedHealth;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{
    app_address::{AppAddress, AppFinder, LOOPBACK_ADDRESSES, NoConnection},
    status::RegistrationState,
};

mod http;
mod result;

pub use self::result::{HealthReason, ReasonKind};
use self::result::{ProbeResult, critical, no_news, passing};

/// From the begin of one probe to the next while the app starts, that is, until its first healthy probe.
const STARTUP_INTERVAL: Duration = Duration::from_millis(500);

/// An app that was never healthy is reported in the log after this time. Until then it is starting.
const STARTUP_WARNING_AFTER: Duration = Duration::from_secs(10);

/// After this long without a probe that told the health of the app, because the sidecar lacks what a probe needs, the health is
/// unknown. As long as Consul lets a health stand that is not renewed.
const UNKNOWN_AFTER: Duration = crate::identity::TTL;

/// Probes that must have failed so, where they are rarer.
const MIN_UNKNOWN_PROBES: u32 = 3;

/// Most kinds of reasons that are logged until the app is healthy again.
const MAX_LOGGED_KINDS: usize = 8;

/// Probes the app of `service`. Never returns: its task is aborted. `None` in the channel: no probe has ended yet.
pub(crate) async fn run_probes(
    service: String,
    settings: Health,
    app: AppAddress,
    results: watch::Sender<Option<ReportedHealth>>,
    state: RegistrationState,
) {
    let pause = probe_pause(settings.interval, settings.timeout);
    let prober = Prober { settings, app: AppFinder::new(app) };
    probe_repeatedly(&service, pause, results, &state, || prober.probe()).await;
}

/// From the begin of a probe to the begin of the next one. `timeout` is subtracted, so that an app that hangs is
/// detected within `interval`. At least half of `interval`, so that the app is not probed all the time; with a
/// `timeout` above the other half, the detection takes longer than `interval`.
fn probe_pause(interval: Duration, timeout: Duration) -> Duration {
    interval.saturating_sub(timeout).max(interval / 2)
}

async fn probe_repeatedly<F, Fut>(
    service: &str,
    pause: Duration,
    results: watch::Sender<Option<ReportedHealth>>,
    state: &RegistrationState,
    mut probe: F,
) where
    F: FnMut() -> Fut,
    Fut: Future<Output = ProbeResult>,
{
    let (mut ever_healthy, mut is_blind) = (false, false);
    let first = Instant::now();
    let mut last_news = first;
    let unknown_after = UNKNOWN_AFTER.max(pause * MIN_UNKNOWN_PROBES);
    // A reload begins the probes anew; then the app is not starting.
    let mut is_starting = results.borrow().is_none();
    // Of the reasons why the app is not healthy: the current one, and those that were logged.
    let (mut kind_before, mut logged) = (None, Vec::new());
    let id = state.current().id;
    loop {
        let began = Instant::now();
        let ProbeResult { health, kind, detail: why } = probe().await;
        state.record_probe(&why);
        if std::mem::replace(&mut is_blind, health.is_none()) != health.is_none() {
            match health {
                None => warn!(service, id, %why, "the app cannot be probed: its last health stays"),
                Some(_) => info!(service, id, %why, "the app can be probed again"),
            }
        }
        if health.is_some() {
            last_news = Instant::now();
            state.record_unprobed(None);
        } else if last_news.elapsed() >= unknown_after && state.record_unprobed(Some(&why)) {
            warn!(
                service,
                id,
                %why,
                "the app's health is unknown: it cannot be probed from here; the registry keeps its last health"
            );
        }
        if let Some(health) = health {
            let is_healthy = health != ReportedHealth::Critical;
            ever_healthy |= is_healthy;
            if kind.is_none() || kind != kind_before {
                // Before the health is sent, so that the report of a new health has its reason.
                state.record_reason(kind.map(|kind| HealthReason { health, kind, text: why.clone() }));
            }
            kind_before = kind;
            if is_healthy {
                logged.clear();
                state.record_healthy_probe(began);
            }
            let is_other = kind.is_some_and(|kind| {
                let is_other = logged.len() < MAX_LOGGED_KINDS && !logged.contains(&kind);
                logged.extend(is_other.then_some(kind));
                is_other
            });
            let changed = results.send_if_modified(|last| last.replace(health) != Some(health));
            match health {
                // An app that was started a moment ago does not listen yet: that is no fault.
                ReportedHealth::Critical if is_starting && first.elapsed() < STARTUP_WARNING_AFTER => {
                    if changed || is_other {
                        info!(service, id, %why, "waiting for the local app to be healthy");
                    }
                }
                ReportedHealth::Critical if is_starting => {
                    is_starting = false;
                    warn!(service, id, %why, "the local app has not been healthy since it was started");
                }
                ReportedHealth::Critical if changed => {
                    warn!(service, id, %why, "the local app is not healthy");
                }
                ReportedHealth::Critical if is_other => {
                    warn!(service, id, %why, "the local app is not healthy for another reason");
                }
                ReportedHealth::Critical => {}
                ReportedHealth::Passing | ReportedHealth::Warning => {
                    is_starting = false;
                    if changed {
                        info!(service, id, %why, health = health_label(health), "the local app answers");
                    }
                }
            }
        }
        tokio::select! {
            () = sleep_until(began + if ever_healthy { pause } else { pause.min(STARTUP_INTERVAL) }) => {}
            () = state.wait_probe_request() => {}
        }
    }
}

/// The name on pages and in logs.
pub fn health_label(health: ReportedHealth) -> &'static str {
    match health {
        ReportedHealth::Passing => "passing",
        ReportedHealth::Warning => "warning",
        ReportedHealth::Critical => "critical",
    }
}

/// What probes share.
struct Prober {
    settings: Health,
    app: AppFinder,
}

impl Prober {
    /// One probe of all addresses of the app, within one time-out.
    async fn probe(&self) -> ProbeResult {
        let (port, limit) = (self.app.address.port, self.settings.timeout);
        timeout(limit, self.probe_addresses()).await.unwrap_or_else(|_| {
            critical(ReasonKind::Silent, &format!("no answer on port {port} within {limit:?}"))
        })
    }

    async fn probe_addresses(&self) -> ProbeResult {
        let limit = self.settings.timeout;
        let found = self.app.find(|addr| async move {
            match &self.settings.probe {
                Probe::Tcp => probe_tcp(addr, limit).await,
                Probe::Http(path) => http::probe(&self.settings, path, addr, self.host_field(addr)).await,
            }
        });
        match found.await {
            Ok(result) => result,
            Err(not_found) if not_found.is_news => critical(ReasonKind::Refused, &not_found.why),
            Err(not_found) => no_news(&not_found.why),
        }
    }

    /// The `Host` of a request to `addr`: the host that is configured, `localhost` for a loopback address, or else the address.
    fn host_field(&self, addr: SocketAddr) -> String {
        if let Some(host) = &self.settings.host {
            return host.clone();
        }
        match &self.settings.address {
            Some(host) => format_host_port(host, addr.port()),
            None if LOOPBACK_ADDRESSES.contains(&addr.ip()) => format_host_port("localhost", addr.port()),
            None => addr.to_string(),
        }
    }
}

async fn probe_tcp(addr: SocketAddr, limit: Duration) -> Result<ProbeResult, NoConnection> {
    outrigger_net::connect(addr, limit)
        .await
        .map_err(|error| NoConnection::new(addr, error.fault, &error.source))?;
    Ok(passing(&format!("{addr} accepts connections")))
}

#[cfg(test)]
mod tests;
