//! The app: a steady load that does not wait for anybody.
//!
//! Requests are due at a fixed rate, whatever the answers take (an open loop), and each is counted from
//! when it was due: a stall cannot hide behind the requests that were not sent during it. A request goes
//! out on the next connection that is free; there have to be enough of them. Each carries a number of its
//! own (`x-chaos-id`), by which the instances' books show what was done twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_tests::{
    client::Client,
    wire::{Wire, WireError},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

/// Longest wait for one answer: longer than any time-out of the sidecar's.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
/// A load ends by itself after this.
const MAX_RUN_TIME: Duration = Duration::from_secs(20 * 60);

/// Numbers are given out once per process, so that two loads on one fleet share a book.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct RatePlan {
    /// The `Host` of each request.
    pub(crate) host: String,
    /// Requests due in a second.
    pub(crate) rate: u32,
    /// Keep-alive connections.
    pub(crate) connections: usize,
    /// Methods in turn; all but GET carry a short body.
    pub(crate) methods: &'static [&'static str],
}

impl RatePlan {
    /// GETs and POSTs in turn.
    pub(crate) fn mixed(host: &str, rate: u32) -> Self {
        Self { host: host.to_owned(), rate, connections: 64, methods: &["GET", "POST"] }
    }

    fn due(&self, nth: u64) -> Duration {
        Duration::from_nanos(nth.saturating_mul(1_000_000_000) / u64::from(self.rate.max(1)))
    }
}

/// What one request came to.
#[derive(Debug, Clone)]
pub(crate) struct RequestResult {
    /// Its number.
    pub(crate) id: u64,
    /// Its method.
    pub(crate) method: &'static str,
    /// When it was due, from the load's beginning.
    pub(crate) due: Duration,
    /// From then to the last byte of the answer, or to what it failed by.
    pub(crate) took: Duration,
    /// What it failed by: `502 sent_unknown`, `503` (an instance's own), `cut`, `refused`, ….
    /// `None`: a whole answer below 400.
    pub(crate) failed: Option<String>,
}

impl RequestResult {
    /// When it ended, from the load's beginning.
    pub(crate) fn ended(&self) -> Duration {
        self.due + self.took
    }

    /// Whether this is what it failed by.
    pub(crate) fn failed_with(&self, class: &str) -> bool {
        self.failed.as_deref() == Some(class)
    }
}

/// Everything that a load came to, or a part of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestResults(pub(crate) Vec<RequestResult>);

impl RequestResults {
    /// The part for which `chosen` holds.
    pub(crate) fn filter(&self, chosen: impl Fn(&RequestResult) -> bool) -> Self {
        Self(self.0.iter().filter(|one| chosen(one)).cloned().collect())
    }

    /// The part with this method.
    pub(crate) fn with_method(&self, method: &str) -> Self {
        self.filter(|one| one.method == method)
    }

    /// How many requests.
    pub(crate) fn requests(&self) -> u64 {
        self.0.len() as u64
    }

    /// Those that failed.
    pub(crate) fn failures(&self) -> Self {
        self.filter(|one| one.failed.is_some())
    }

    /// Share of the requests that failed.
    pub(crate) fn failed_share(&self) -> f64 {
        self.failures().0.len() as f64 / self.0.len().max(1) as f64
    }

    /// How many failed, by method and what they failed by.
    pub(crate) fn count_failures(&self) -> BTreeMap<(&'static str, String), u64> {
        let mut classes = BTreeMap::new();
        for one in &self.0 {
            if let Some(why) = &one.failed {
                *classes.entry((one.method, why.clone())).or_default() += 1;
            }
        }
        classes
    }

    /// The same in words.
    pub(crate) fn describe_failures(&self) -> String {
        let classes = self.count_failures();
        let words = classes.iter().map(|((method, why), count)| format!("{count} {method} {why}"));
        if classes.is_empty() { "0".to_owned() } else { words.collect::<Vec<_>>().join(", ") }
    }

    /// The longest that a request took.
    pub(crate) fn longest(&self) -> Duration {
        self.0.iter().map(|one| one.took).max().unwrap_or_default()
    }

    /// Numbers of the POSTs that were answered well.
    pub(crate) fn successful_posts(&self) -> BTreeSet<u64> {
        self.0.iter().filter(|one| one.method == "POST" && one.failed.is_none()).map(|one| one.id).collect()
    }
}

#[derive(Debug)]
struct RateLoadState {
    plan: RatePlan,
    target: SocketAddr,
    begun: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    answers: Mutex<Vec<RequestResult>>,
}

impl RateLoadState {
    fn answers(&self) -> MutexGuard<'_, Vec<RequestResult>> {
        self.answers.lock()
    }
}

/// A load under way. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct RateLoad {
    shared: Arc<RateLoadState>,
    connections: JoinSet<()>,
}

impl RateLoad {
    /// Begins it.
    pub(crate) fn start(target: SocketAddr, plan: RatePlan) -> Self {
        let connections = plan.connections;
        let shared = Arc::new(RateLoadState {
            plan,
            target,
            begun: Instant::now(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            answers: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(run_connection(Arc::clone(&shared)));
        }
        Self { shared, connections: tasks }
    }

    /// Time since its beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.shared.begun.elapsed()
    }

    /// What it has come to so far.
    pub(crate) fn tally(&self) -> RequestResults {
        RequestResults(self.shared.answers().clone())
    }

    /// How many requests have ended so far.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.answers().len() as u64
    }

    /// Waits until `count` requests have ended.
    pub(crate) async fn wait_requests(&self, count: u64) {
        while self.requests() < count {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Goes on for a while.
    pub(crate) async fn run_for(&self, time: Duration) {
        // It is the load that is waited for, and not that something has happened meanwhile.
        sleep(time).await;
    }

    /// Ends it: every request under way has its answer first.
    pub(crate) async fn stop(mut self) -> RequestResults {
        self.shared.stop.store(true, Relaxed);
        while let Some(ended) = self.connections.join_next().await {
            ended.expect("a load's connection does not panic");
        }
        self.tally()
    }
}

async fn run_connection(shared: Arc<RateLoadState>) {
    let mut open: Option<Client> = None;
    loop {
        let nth = shared.next.fetch_add(1, Relaxed);
        let due = shared.plan.due(nth);
        sleep_until(shared.begun + due).await;
        if shared.stop.load(Relaxed) || due > MAX_RUN_TIME {
            return;
        }
        let method = shared.plan.methods[usize::try_from(nth).unwrap_or(0) % shared.plan.methods.len()];
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let failed = match timeout(ANSWER_TIMEOUT, send_request(&shared, &mut open, method, id)).await {
            Ok(ended) => ended.err(),
            Err(_) => Some(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs())),
        };
        if failed.is_some() {
            open = None;
        }
        let took = shared.begun.elapsed().saturating_sub(due);
        shared.answers().push(RequestResult { id, method, due, took, failed });
    }
}

/// One exchange, or what it failed by.
async fn send_request(
    shared: &RateLoadState,
    open: &mut Option<Client>,
    method: &str,
    id: u64,
) -> Result<(), String> {
    let mut client = match open.take() {
        Some(client) => client,
        None => {
            let stream = TcpStream::connect(shared.target).await;
            let stream = stream.map_err(|error| format!("connect: {}", error.kind()))?;
            Client { wire: Wire::new(stream) }
        }
    };
    let (framing, body) = match method {
        "GET" => ("", ""),
        _ => ("Content-Length: 4\r\n", "body"),
    };
    let host = &shared.plan.host;
    let request = format!("{method} / HTTP/1.1\r\nHost: {host}\r\nx-chaos-id: {id}\r\n{framing}\r\n{body}");
    let cut = |cut: WireError| match cut {
        WireError::Closed => "closed".to_owned(),
        WireError::Reset => "reset".to_owned(),
        WireError::Malformed(why) => format!("no HTTP: {why}"),
    };
    client.try_send(request).await.map_err(cut)?;
    let response = client.try_response_to(method).await.map_err(cut)?;
    if response.body_error.is_some() {
        return Err("cut".to_owned());
    }
    if response.status >= 400 {
        return Err(format!("{} {}", response.status, response.reason()).trim_end().to_owned());
    }
    if !response.field("connection").eq_ignore_ascii_case("close") {
        *open = Some(client);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use outrigger_tests::instance::{self, Gate, Instance};

    use super::*;

    fn plan(connections: usize) -> RatePlan {
        RatePlan { connections, ..RatePlan::mixed("a", 100) }
    }

    #[tokio::test]
    async fn a_stall_is_counted_for_each_request_that_was_due_in_it() {
        let gate = Gate::closed();
        let opened = gate.clone();
        let server = Instance::scripted("a", move |_| instance::Answer::ok("late").when(&opened)).await;
        let load = RateLoad::start(server.addr(), plan(2));
        while load.elapsed() < Duration::from_millis(500) {
            sleep(Duration::from_millis(10)).await;
        }
        gate.open();
        load.wait_requests(50).await;
        let tally = load.stop().await;
        // Two connections could be stalled; what was due behind them was stalled too.
        let stalled = tally.filter(|one| one.took >= Duration::from_millis(100));
        assert!(stalled.requests() >= 30, "{tally:?}");
        assert!(tally.failures().0.is_empty() && tally.longest() >= Duration::from_millis(450), "{tally:?}");
    }

    #[tokio::test]
    async fn a_failure_is_counted_by_method_and_by_what_it_was() {
        let server = Instance::scripted("a", |request| match request.method() {
            "GET" => instance::Answer::status(503, "no").field("x-outrigger-error", "circuit_open"),
            _ => instance::Answer::raw("").then_close(),
        })
        .await;
        let load = RateLoad::start(server.addr(), plan(4));
        load.wait_requests(4).await;
        let classes = load.stop().await.count_failures();
        let classes: Vec<_> = classes.keys().map(|(method, why)| (*method, why.as_str())).collect();
        assert_eq!(classes, [("GET", "503 circuit_open"), ("POST", "closed")]);

        let load = RateLoad::start(instance::refusing_addr(), plan(1));
        load.wait_requests(1).await;
        assert_eq!(load.stop().await.0[0].failed.as_deref(), Some("connect: connection refused"));
    }
}
