//! The app of the demo: a steady stream of requests by service name, and a count of every answer.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use outrigger_task::essential;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::instance::SERVICE;

/// Connections that the requests are spread over.
const CLIENTS: u32 = 8;

/// Requests per second over all of them.
const RATE: u32 = 400;

/// Longest wait for an answer: above the sidecar's timeout, so that its error reason arrives.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Most latencies kept per instance.
const MAX_SAMPLES: usize = 1024;

/// How long a latency counts.
const LATENCY_WINDOW: Duration = Duration::from_secs(2);

/// The counted answers.
#[derive(Debug, Default)]
pub(super) struct TrafficStats {
    pub(super) requests: u64,
    pub(super) failures: u64,
    /// Failures by reason.
    pub(super) reasons: BTreeMap<String, u64>,
    pub(super) by_instance: BTreeMap<String, InstanceStats>,
}

/// Answers of one instance.
#[derive(Debug, Default)]
pub(super) struct InstanceStats {
    pub(super) count: u64,
    recent: VecDeque<(Instant, Duration)>,
}

impl InstanceStats {
    fn add(&mut self, now: Instant, latency: Duration) {
        self.count += 1;
        if self.recent.len() == MAX_SAMPLES {
            self.recent.pop_front();
        }
        self.recent.push_back((now, latency));
    }

    /// Latencies of the last two seconds, sorted.
    pub(super) fn recent(&mut self, now: Instant) -> Vec<Duration> {
        while self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > LATENCY_WINDOW) {
            self.recent.pop_front();
        }
        let mut latencies: Vec<_> = self.recent.iter().map(|(_, latency)| *latency).collect();
        latencies.sort_unstable();
        latencies
    }
}

/// The value below which `share` of the sorted values lie.
pub(super) fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share).round() as usize).copied()
}

/// Running traffic. Dropping it stops the traffic.
#[derive(Debug)]
pub(super) struct TrafficGenerator {
    stats: Arc<Mutex<TrafficStats>>,
    stop_token: CancellationToken,
    clients: JoinSet<()>,
}

impl TrafficGenerator {
    /// Starts to send to the sidecar at `addr`.
    pub(super) fn start(addr: SocketAddr) -> Self {
        let stats = Arc::new(Mutex::new(TrafficStats::default()));
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(essential("a client of the demo", run_client(addr, stats.clone(), stop.clone())));
        }
        Self { stats, stop_token: stop, clients }
    }

    pub(super) fn stats(&self) -> MutexGuard<'_, TrafficStats> {
        self.stats.lock()
    }

    /// Sends no more requests, and waits for the answers under way, which count.
    pub(super) async fn stop(&mut self) {
        self.stop_token.cancel();
        while self.clients.join_next().await.is_some() {}
    }
}

async fn run_client(addr: SocketAddr, stats: Arc<Mutex<TrafficStats>>, stop: CancellationToken) {
    // The clients start at different times, so that the stream is steady.
    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
    let mut ticks = interval(Duration::from_secs(1) * CLIENTS / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let started = Instant::now();
        let answer = timeout(RESPONSE_TIMEOUT, send_request(addr, &mut connection)).await;
        let now = Instant::now();
        let mut stats = stats.lock();
        stats.requests += 1;
        match answer.unwrap_or_else(|_| Err(format!("no answer within {RESPONSE_TIMEOUT:?}"))) {
            Ok(instance) => {
                stats.by_instance.entry(instance).or_default().add(now, now - started);
            }
            Err(reason) => {
                connection = None;
                stats.failures += 1;
                *stats.reasons.entry(reason).or_default() += 1;
            }
        }
    }
}

/// A connection to the sidecar, and the task that drives it.
struct ClientConnection {
    sender: SendRequest<Empty<Bytes>>,
    _driver: JoinSet<()>,
}

/// One request; the name of the instance that answered it.
async fn send_request(addr: SocketAddr, kept: &mut Option<ClientConnection>) -> Result<String, String> {
    let mut connection = match kept.take() {
        Some(connection) if connection.sender.is_ready() => connection,
        _ => connect(addr).await?,
    };
    let request =
        Request::get("/").header("host", SERVICE).body(Empty::new()).map_err(|error| error.to_string())?;
    let answer =
        connection.sender.send_request(request).await.map_err(|error| format!("the sidecar: {error}"))?;
    let instance = read_instance(answer).await?;
    *kept = Some(connection);
    Ok(instance)
}

async fn connect(addr: SocketAddr) -> Result<ClientConnection, String> {
    let stream =
        TcpStream::connect(addr).await.map_err(|error| format!("connect to the sidecar: {error}"))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut driver = JoinSet::new();
    // Contained: a panic ends one connection, and the next request makes another one.
    driver.spawn(async move { drop(connection.await) });
    Ok(ClientConnection { sender, _driver: driver })
}

async fn read_instance(answer: Response<Incoming>) -> Result<String, String> {
    let (head, body) = answer.into_parts();
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = body.collect().await;
    if !head.status.is_success() {
        let reason = header("x-outrigger-error").unwrap_or_else(|| "from the instance".to_owned());
        return Err(format!("{}: {reason}", head.status.as_u16()));
    }
    body.map_err(|error| format!("the answer broke off: {error}"))?;
    header("x-instance").ok_or_else(|| "an answer without an instance".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_values() {
        let sorted: Vec<_> = (1..=101).map(Duration::from_millis).collect();
        assert_eq!(quantile(&sorted, 0.5), Some(Duration::from_millis(51)));
        assert_eq!(quantile(&sorted, 0.99), Some(Duration::from_millis(100)));
        assert_eq!(quantile(&sorted[..1], 0.99), Some(Duration::from_millis(1)));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_recent_latencies_count_and_few_are_kept() {
        let mut answers = InstanceStats::default();
        for n in 0..5_000 {
            answers.add(Instant::now(), Duration::from_micros(n));
        }
        assert_eq!(answers.recent(Instant::now()).len(), MAX_SAMPLES);
        tokio::time::advance(LATENCY_WINDOW * 2).await;
        answers.add(Instant::now(), Duration::from_secs(1));
        assert_eq!(answers.recent(Instant::now()), [Duration::from_secs(1)]);
        assert_eq!(answers.count, 5_001);
    }

    #[tokio::test]
    async fn each_answer_counts_for_its_instance_and_a_killed_instance_counts_as_failure() {
        let mut instance = super::super::instance::DemoInstance::start("orders-1").await.unwrap();
        let mut traffic = TrafficGenerator::start(instance.addr);
        let until = |is: fn(&TrafficStats) -> bool| {
            let stats = traffic.stats.clone();
            timeout(Duration::from_secs(20), async move {
                while !is(&stats.lock()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        };
        until(|stats| stats.by_instance.get("orders-1").is_some_and(|answers| answers.count > 20))
            .await
            .unwrap();
        assert_eq!(traffic.stats().failures, 0);
        instance.kill().await;
        until(|stats| stats.failures > 0).await.unwrap();
        assert!(!traffic.stats().reasons.is_empty());
        traffic.stop().await;
    }
}
