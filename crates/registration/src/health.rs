//! Probes the local app, one probe at a time, and publishes the health when it changes. [`crate::report`] sends it
//! to the registry.

use std::{future::Future, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use outrigger_config::{Health, Probe};
use outrigger_net::{format_host_port, is_caused_by_own_shortage};
use outrigger_registry::ReportedHealth;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{
    app_address::{AppAddress, AppFinder, LOOPBACK_ADDRESSES, NoConnection},
    http_client,
    status::RegistrationState,
};

/// From the begin of one probe to the next while the app starts, that is, until its first healthy probe.
const STARTUP_INTERVAL: Duration = Duration::from_millis(500);

/// An app that was never healthy is reported in the log after this time. Until then it is starting.
const STARTUP_WARNING_AFTER: Duration = Duration::from_secs(10);

/// After this long without a probe that told the health of the app, because the sidecar lacks what a probe needs, the health is
/// unknown. As long as Consul lets a health stand that is not renewed.
const UNKNOWN_AFTER: Duration = crate::identity::TTL;

/// Probes that must have failed so, where they are rarer.
const MIN_UNKNOWN_PROBES: u32 = 3;

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeResult {
    /// `None`: the sidecar could not probe, which is no news of the app.
    pub(crate) health: Option<ReportedHealth>,
    pub(crate) detail: String,
}

/// Probes the app. Never returns: its task is aborted. `None` in the channel: no probe has ended yet.
pub(crate) async fn run_probes(
    settings: Health,
    app: AppAddress,
    results: watch::Sender<Option<ReportedHealth>>,
    state: RegistrationState,
) {
    let pause = probe_pause(settings.interval, settings.timeout);
    let prober = Prober { settings, app: AppFinder::new(app) };
    probe_repeatedly(pause, results, &state, || prober.probe()).await;
}

/// From the begin of a probe to the begin of the next one. `timeout` is subtracted, so that an app that hangs is
/// detected within `interval`. At least half of `interval`, so that the app is not probed all the time; with a
/// `timeout` above the other half, the detection takes longer than `interval`.
fn probe_pause(interval: Duration, timeout: Duration) -> Duration {
    interval.saturating_sub(timeout).max(interval / 2)
}

async fn probe_repeatedly<F, Fut>(
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
    loop {
        let began = Instant::now();
        let ProbeResult { health, detail: why } = probe().await;
        state.record_probe(&why);
        if std::mem::replace(&mut is_blind, health.is_none()) != health.is_none() {
            match health {
                None => warn!(%why, "the app cannot be probed: its last health stays"),
                Some(_) => info!(%why, "the app can be probed again"),
            }
        }
        if health.is_some() {
            last_news = Instant::now();
            state.record_unprobed(None);
        } else if last_news.elapsed() >= unknown_after && state.record_unprobed(Some(&why)) {
            warn!(%why, "the app's health is unknown: it cannot be probed from here; the registry keeps its last health");
        }
        if let Some(health) = health {
            ever_healthy |= health != ReportedHealth::Critical;
            let changed = results.send_if_modified(|last| last.replace(health) != Some(health));
            match health {
                // An app that was started a moment ago does not listen yet: that is no fault.
                ReportedHealth::Critical if is_starting && first.elapsed() < STARTUP_WARNING_AFTER => {
                    if changed {
                        info!(%why, "waiting for the local app to be healthy");
                    }
                }
                ReportedHealth::Critical if is_starting => {
                    is_starting = false;
                    warn!(%why, "the local app has not been healthy since it was started");
                }
                ReportedHealth::Critical if changed => warn!(%why, "the local app is not healthy"),
                ReportedHealth::Critical => {}
                ReportedHealth::Passing | ReportedHealth::Warning => {
                    is_starting = false;
                    if changed {
                        info!(%why, health = health_label(health), "the local app answers");
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
        timeout(limit, self.probe_addresses())
            .await
            .unwrap_or_else(|_| critical(format!("no answer on port {port} within {limit:?}")))
    }

    async fn probe_addresses(&self) -> ProbeResult {
        let limit = self.settings.timeout;
        let found = self.app.find(|addr| async move {
            match &self.settings.probe {
                Probe::Tcp => probe_tcp(addr, limit).await,
                Probe::Http(path) => probe_http(addr, &self.host_field(addr), path, limit).await,
            }
        });
        match found.await {
            Ok(result) => result,
            Err(not_found) if not_found.is_news => critical(not_found.why),
            Err(not_found) => no_news(not_found.why),
        }
    }

    /// The `Host` of a request to `addr`: the host that is configured, `localhost` for a loopback address, or else the address.
    fn host_field(&self, addr: SocketAddr) -> String {
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
    Ok(ProbeResult { health: Some(ReportedHealth::Passing), detail: format!("{addr} accepts connections") })
}

async fn probe_http(
    addr: SocketAddr,
    host: &str,
    path: &str,
    limit: Duration,
) -> Result<ProbeResult, NoConnection> {
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("outrigger-health/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Full::<Bytes>::default());
    let request = match request {
        Ok(request) => request,
        Err(error) => return Ok(critical(format!("{path} is no path: {error}"))),
    };
    match http_client::exchange(addr, request, limit).await {
        Ok(answer) => Ok(classify_status(addr, path, answer.status())),
        Err(http_client::Error::Connect { addr, fault, source }) => {
            Err(NoConnection::new(addr, fault, &source))
        }
        Err(error) => {
            let detail = outrigger_config::error_chain(&error);
            Ok(if is_caused_by_own_shortage(&error) { no_news(detail) } else { critical(detail) })
        }
    }
}

/// As for Consul's HTTP checks: 2xx passing, 429 warning, everything else critical.
fn classify_status(addr: SocketAddr, path: &str, status: StatusCode) -> ProbeResult {
    let health = match status {
        status if status.is_success() => ReportedHealth::Passing,
        StatusCode::TOO_MANY_REQUESTS => ReportedHealth::Warning,
        _ => ReportedHealth::Critical,
    };
    ProbeResult { health: Some(health), detail: format!("GET http://{addr}{path} answered {status}") }
}

fn critical(why: String) -> ProbeResult {
    ProbeResult { health: Some(ReportedHealth::Critical), detail: why }
}

fn no_news(why: String) -> ProbeResult {
    ProbeResult { health: None, detail: why }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn settings(probe: Probe) -> Health {
        Health { probe, timeout: Duration::from_secs(10), ..Health::default() }
    }

    async fn probe(settings: &Health, port: u16) -> ProbeResult {
        let app = AppFinder::new(AppAddress { port, only: None, registered: None });
        Prober { settings: settings.clone(), app }.probe().await
    }

    /// An app that answers every request with `status`; bound to `ip`.
    async fn app(ip: &str, status: u16) -> Option<(u16, tokio::task::JoinHandle<()>)> {
        let listener = TcpListener::bind((ip, 0)).await.ok()?;
        let port = listener.local_addr().ok()?.port();
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let _ = socket.read(&mut head).await;
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        Some((port, task))
    }

    async fn run_every_second<F, Fut>(results: watch::Sender<Option<ReportedHealth>>, probe: F)
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = ProbeResult>,
    {
        let state = RegistrationState::new(crate::RegistrationPhase::AwaitingApp, "orders-1");
        probe_repeatedly(Duration::from_secs(1), results, &state, probe).await;
    }

    #[tokio::test]
    async fn the_status_decides_as_in_consul() {
        for (status, health) in [
            (200, ReportedHealth::Passing),
            (204, ReportedHealth::Passing),
            (429, ReportedHealth::Warning),
            (302, ReportedHealth::Critical),
            (404, ReportedHealth::Critical),
            (503, ReportedHealth::Critical),
        ] {
            let (port, task) = app("127.0.0.1", status).await.unwrap();
            let finding = probe(&settings(Probe::Http("/healthz".into())), port).await;
            assert_eq!(finding.health, Some(health), "{finding:?}");
            assert!(finding.detail.contains(&status.to_string()), "{finding:?}");
            task.abort();
        }
    }

    #[tokio::test]
    async fn an_app_on_one_of_the_two_loopback_addresses_is_found() {
        for (ip, other) in [("127.0.0.1", "::1"), ("::1", "127.0.0.1")] {
            // The machine may have no IPv6.
            let Some((mut port, mut task)) = app(ip, 200).await else { continue };
            // The system may choose a port that another program has on the other address.
            while tokio::net::TcpStream::connect((other, port)).await.is_ok() {
                task.abort();
                (port, task) = app(ip, 200).await.unwrap();
            }
            for kind in [Probe::Tcp, Probe::Http("/".into())] {
                let finding = probe(&settings(kind), port).await;
                assert_eq!(finding.health, Some(ReportedHealth::Passing), "{ip}: {finding:?}");
            }
            task.abort();
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_critical_and_says_so() {
        let port = outrigger_net::reserve_addr().port();
        for kind in [Probe::Tcp, Probe::Http("/".into())] {
            let finding = probe(&settings(kind), port).await;
            assert_eq!(finding.health, Some(ReportedHealth::Critical));
            assert!(finding.detail.contains(&format!("127.0.0.1:{port}")), "{finding:?}");
        }
    }

    #[tokio::test]
    async fn an_app_that_listens_on_its_own_address_alone_is_found_and_asked_by_that_name() {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hosts = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = hosts.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let read = socket.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).to_ascii_lowercase();
                let host = head.lines().find_map(|line| line.strip_prefix("host: ").map(str::to_owned));
                seen.lock().unwrap().extend(host);
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        let own = || Some("127.0.0.2".to_owned());
        for (only, registered) in [(None, own()), (own(), None), (own(), Some("127.0.0.3".to_owned()))] {
            for kind in [Probe::Tcp, Probe::Http("/".into())] {
                let settings = Health { address: only.clone(), ..settings(kind) };
                let app = AppAddress { port, only: only.clone(), registered: registered.clone() };
                let finding = Prober { settings, app: AppFinder::new(app) }.probe().await;
                assert_eq!(finding.health, Some(ReportedHealth::Passing), "{finding:?}");
                assert!(finding.detail.contains("127.0.0.2"), "{finding:?}");
            }
        }
        assert_eq!(*hosts.lock().unwrap(), vec![format!("127.0.0.2:{port}"); 3]);
        let other = AppAddress { port, only: Some("127.0.0.1".into()), registered: own() };
        let finding = Prober { settings: settings(Probe::Tcp), app: AppFinder::new(other) }.probe().await;
        assert_eq!(finding.health, Some(ReportedHealth::Critical), "health.address alone is asked");
    }

    #[tokio::test]
    async fn an_app_that_accepts_and_never_answers_is_critical_after_the_time_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = Health { timeout: Duration::from_millis(50), ..settings(Probe::Http("/".into())) };
        let finding = probe(&silent, port).await;
        assert_eq!(finding.health, Some(ReportedHealth::Critical));
        assert!(finding.detail.contains("50ms"), "{finding:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn probes_never_overlap_and_slow_ones_follow_each_other() {
        let (results, _keep) = watch::channel(None);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let starts = Arc::new(std::sync::Mutex::new(Vec::new()));
        let task = tokio::spawn(run_every_second(results, {
            let (running, most, starts) = (running.clone(), most.clone(), starts.clone());
            move || {
                let (running, most) = (running.clone(), most.clone());
                starts.lock().unwrap().push(Instant::now());
                async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_secs(5)).await; // slower than the interval
                    running.fetch_sub(1, Ordering::SeqCst);
                    ProbeResult { health: Some(ReportedHealth::Passing), detail: String::new() }
                }
            }
        }));
        tokio::time::sleep(Duration::from_secs(30)).await;
        task.abort();
        assert_eq!(most.load(Ordering::SeqCst), 1);
        let starts = starts.lock().unwrap();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == Duration::from_secs(5)), "{starts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_hangs_is_detected_within_the_interval_at_any_time() {
        let settings = Health::default();
        for after in (0..4000).step_by(50).map(Duration::from_millis) {
            let (results, mut received) = watch::channel(None);
            let hangs = Instant::now() + Duration::from_secs(10) + after;
            let limit = settings.timeout;
            let state = RegistrationState::new(crate::RegistrationPhase::AwaitingApp, "orders-1");
            let task = tokio::spawn(async move {
                probe_repeatedly(probe_pause(settings.interval, limit), results, &state, || async move {
                    if Instant::now() < hangs {
                        return ProbeResult { health: Some(ReportedHealth::Passing), detail: String::new() };
                    }
                    tokio::time::sleep(limit).await;
                    critical("hung".into())
                })
                .await;
            });
            received.wait_for(|health| *health == Some(ReportedHealth::Critical)).await.unwrap();
            task.abort();
            assert!(
                hangs.elapsed() <= settings.interval,
                "{:?} when it hangs after {after:?}",
                hangs.elapsed()
            );
        }
    }

    #[test]
    fn a_long_time_out_does_not_shorten_the_pause_below_half_the_interval() {
        let seconds = Duration::from_secs;
        for (interval, timeout, expected) in [(10, 1, 9), (10, 5, 5), (10, 9, 5), (2, 2, 1)] {
            assert_eq!(probe_pause(seconds(interval), seconds(timeout)), seconds(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_health_of_an_app_that_cannot_be_probed_is_unknown_after_a_while_and_stays() {
        let second = Duration::from_secs(1);
        for (pause, known_for) in [(second, 30 * second), (20 * second, 60 * second)] {
            for health in [ReportedHealth::Passing, ReportedHealth::Critical] {
                let (results, received) = watch::channel(None);
                let state = RegistrationState::new(crate::RegistrationPhase::AwaitingApp, "orders-1");
                let can_probe = Arc::new(AtomicBool::new(true));
                let task = tokio::spawn({
                    let (state, can_probe) = (state.clone(), can_probe.clone());
                    async move {
                        probe_repeatedly(pause, results, &state, || async {
                            match can_probe.load(Ordering::SeqCst) {
                                true => ProbeResult { health: Some(health), detail: "well".into() },
                                false => no_news("Too many open files".into()),
                            }
                        })
                        .await;
                    }
                });
                tokio::time::sleep(100 * second).await;
                assert_eq!(state.current().unprobed, None);
                can_probe.store(false, Ordering::SeqCst);
                tokio::time::sleep(known_for - pause - second / 2).await;
                assert_eq!(state.current().unprobed, None, "{pause:?}");
                tokio::time::sleep(pause + second).await;
                assert_eq!(state.current().unprobed.as_deref(), Some("Too many open files"), "{pause:?}");
                tokio::time::sleep(3600 * second).await;
                assert_eq!(*received.borrow(), Some(health), "the last health stays");
                can_probe.store(true, Ordering::SeqCst);
                tokio::time::sleep(pause + second).await;
                assert_eq!(state.current().unprobed, None);
                task.abort();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_changes_are_published_and_a_sidecar_that_cannot_probe_publishes_none() {
        let (results, mut received) = watch::channel(None);
        let probes = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(run_every_second(results, {
            let probes = probes.clone();
            move || {
                let health = match probes.fetch_add(1, Ordering::SeqCst) {
                    0..3 => Some(ReportedHealth::Critical),
                    // The sidecar cannot probe.
                    7..9 => None,
                    _ => Some(ReportedHealth::Passing),
                };
                async move { ProbeResult { health, detail: String::new() } }
            }
        }));
        let mut seen = Vec::new();
        let _ = timeout(Duration::from_secs(60), async {
            while received.changed().await.is_ok() {
                seen.push(*received.borrow_and_update());
            }
        })
        .await;
        task.abort();
        assert_eq!(seen, [Some(ReportedHealth::Critical), Some(ReportedHealth::Passing)]);
        assert!(probes.load(Ordering::SeqCst) > 20);
    }
}
