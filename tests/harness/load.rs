//! The app's load: steady requests on keep-alive connections, and the result of each request.
//!
//! At a fixed rate ([`Pace::Rate`], an open loop) a request is due whatever the answers before it take, and
//! its time counts from when it was due: a stall cannot hide behind requests that were not sent during it.
//! A request uses the next free connection, so there must be enough connections. Each request carries a
//! number of its own (`x-load-id`), which shows in an instance's log whether a request was executed twice.
#![allow(clippy::expect_used, reason = "a harness fails its test by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    client::Client,
    wait,
    wire::{Wire, WireError},
};

/// Longest wait for one answer: longer than any time-out of the sidecar.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
/// A load ends by itself after this time.
const MAX_RUN_TIME: Duration = Duration::from_secs(20 * 60);

/// Two loads of one process never use the same number, because they may share an instance's log.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// When requests are sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Each connection pauses this long between two requests.
    Pause(Duration),
    /// This many requests are due in a second, over all connections.
    Rate(u32),
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// The `Host` of each request.
    pub host: String,
    /// Connections at once, each with one request after the other.
    pub connections: usize,
    /// Methods in turn. POST and PUT carry a short body.
    pub methods: &'static [&'static str],
    /// When requests are sent.
    pub pace: Pace,
    /// Requests on one connection before it is opened anew. 0: no limit.
    pub per_connection: usize,
    /// Lowest status that counts as a failure.
    pub failure_status: u16,
}

impl LoadPlan {
    /// Eight connections that GET from `host` with a pause of 2 ms. A status of 500 and above is a failure.
    pub fn get(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            connections: 8,
            methods: &["GET"],
            pace: Pace::Pause(Duration::from_millis(2)),
            per_connection: 0,
            failure_status: 500,
        }
    }

    /// `rate` requests in a second on 64 connections, GET and POST in turn. A status of 400 and above is a
    /// failure.
    pub fn mixed(host: &str, rate: u32) -> Self {
        Self {
            connections: 64,
            methods: &["GET", "POST"],
            pace: Pace::Rate(rate),
            failure_status: 400,
            ..Self::get(host)
        }
    }

    /// The same plan with these methods.
    #[must_use]
    pub fn methods(self, methods: &'static [&'static str]) -> Self {
        Self { methods, ..self }
    }
}

/// The result of one request.
#[derive(Debug, Clone)]
pub struct RequestResult {
    /// Its number.
    pub id: u64,
    /// Its method.
    pub method: &'static str,
    /// When it was due, since the load began.
    pub due: Duration,
    /// From `due` to the last byte of the answer, or to the failure.
    pub took: Duration,
    /// The failure: `502 sent_unknown`, `503` (an instance's own answer), `cut`, `reset`, ….
    /// `None`: a whole answer with a status below [`LoadPlan::failure_status`].
    pub failed: Option<String>,
}

impl RequestResult {
    /// When it ended, since the load began.
    pub fn ended(&self) -> Duration {
        self.due + self.took
    }

    /// Whether it failed in this way.
    pub fn failed_with(&self, class: &str) -> bool {
        self.failed.as_deref() == Some(class)
    }
}

/// The results of a load, or of a part of it.
#[derive(Debug, Clone, Default)]
pub struct RequestResults(pub Vec<RequestResult>);

impl RequestResults {
    /// The results for which `chosen` holds.
    pub fn filter(&self, chosen: impl Fn(&RequestResult) -> bool) -> Self {
        Self(self.0.iter().filter(|one| chosen(one)).cloned().collect())
    }

    /// The results of requests with this method.
    pub fn with_method(&self, method: &str) -> Self {
        self.filter(|one| one.method == method)
    }

    /// How many requests.
    pub fn requests(&self) -> u64 {
        self.0.len() as u64
    }

    /// The results of requests that failed.
    pub fn failures(&self) -> Self {
        self.filter(|one| one.failed.is_some())
    }

    /// Share of the requests that failed.
    pub fn failed_share(&self) -> f64 {
        self.failures().0.len() as f64 / self.0.len().max(1) as f64
    }

    /// How many requests failed, by method and failure.
    pub fn count_failures(&self) -> BTreeMap<(&'static str, String), u64> {
        let mut classes = BTreeMap::new();
        for one in &self.0 {
            if let Some(why) = &one.failed {
                *classes.entry((one.method, why.clone())).or_default() += 1;
            }
        }
        classes
    }

    /// [`RequestResults::count_failures`] as text; "0" without failures.
    pub fn describe_failures(&self) -> String {
        let classes = self.count_failures();
        let words = classes.iter().map(|((method, why), count)| format!("{count} {method} {why}"));
        if classes.is_empty() { "0".to_owned() } else { words.collect::<Vec<_>>().join(", ") }
    }

    /// The longest time of a request.
    pub fn longest(&self) -> Duration {
        self.0.iter().map(|one| one.took).max().unwrap_or_default()
    }

    /// Numbers of the POSTs that succeeded.
    pub fn successful_posts(&self) -> BTreeSet<u64> {
        self.0.iter().filter(|one| one.method == "POST" && one.failed.is_none()).map(|one| one.id).collect()
    }

    /// Asserts that at least `at_least` requests were sent, and that none failed.
    ///
    /// # Panics
    /// Otherwise; the text lists the failures.
    #[track_caller]
    pub fn assert_clean(&self, at_least: u64) {
        let (requests, failed) = (self.requests(), self.describe_failures());
        assert!(failed == "0" && requests >= at_least, "{requests} requests, failed: {failed}");
    }
}

#[derive(Debug)]
struct LoadState {
    plan: LoadPlan,
    target: SocketAddr,
    begun: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    results: Mutex<Vec<RequestResult>>,
}

impl LoadState {
    /// Waits until request number `nth` is due on a connection that is free. When it was due, since the
    /// load began; `None`: the load has ended.
    async fn wait_due(&self, nth: u64) -> Option<Duration> {
        let due = match self.plan.pace {
            Pace::Pause(pause) => {
                sleep(pause).await;
                self.begun.elapsed()
            }
            Pace::Rate(rate) => {
                let due = Duration::from_nanos(nth.saturating_mul(1_000_000_000) / u64::from(rate.max(1)));
                sleep_until(self.begun + due).await;
                due
            }
        };
        (!self.stop.load(Relaxed) && due <= MAX_RUN_TIME).then_some(due)
    }
}

/// A running load. It ends when it is dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<LoadState>,
    connections: JoinSet<()>,
}

impl Load {
    /// Starts the load.
    pub fn start(target: SocketAddr, plan: LoadPlan) -> Self {
        let connections = plan.connections;
        let shared = Arc::new(LoadState {
            plan,
            target,
            begun: Instant::now(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            results: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(run_connection(Arc::clone(&shared)));
        }
        Self { shared, connections: tasks }
    }

    /// Time since the load began.
    pub fn elapsed(&self) -> Duration {
        self.shared.begun.elapsed()
    }

    /// The results so far.
    pub fn tally(&self) -> RequestResults {
        RequestResults(self.shared.results.lock().clone())
    }

    /// How many requests have ended so far.
    pub fn requests(&self) -> u64 {
        self.shared.results.lock().len() as u64
    }

    /// Waits until `more` requests have succeeded from now on.
    pub async fn wait_successes(&self, more: u64) {
        let successes =
            || self.shared.results.lock().iter().filter(|one| one.failed.is_none()).count() as u64;
        let goal = successes() + more;
        wait::until_true(&format!("{more} more requests succeed"), || successes() >= goal).await;
    }

    /// Waits until `count` requests have ended.
    pub async fn wait_requests(&self, count: u64) {
        while self.requests() < count {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets the load run for this time.
    pub async fn run_for(&self, time: Duration) {
        sleep(time).await;
    }

    /// Ends the load after the answers to the requests under way.
    pub async fn stop(mut self) -> RequestResults {
        self.shared.stop.store(true, Relaxed);
        while let Some(ended) = self.connections.join_next().await {
            ended.expect("a load's connection does not panic");
        }
        self.tally()
    }
}

async fn run_connection(shared: Arc<LoadState>) {
    let mut open: Option<(Client, usize)> = None;
    loop {
        let nth = shared.next.fetch_add(1, Relaxed);
        let Some(due) = shared.wait_due(nth).await else { return };
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
        shared.results.lock().push(RequestResult { id, method, due, took, failed });
    }
}

/// One exchange. The connection is in `open` afterwards if it can carry another request.
///
/// # Errors
/// The failure, as in [`RequestResult::failed`].
async fn send_request(
    shared: &LoadState,
    open: &mut Option<(Client, usize)>,
    method: &str,
    id: u64,
) -> Result<(), String> {
    let (mut client, used) = match open.take() {
        Some(open) => open,
        None => {
            let stream = TcpStream::connect(shared.target).await;
            let stream = stream.map_err(|error| format!("connect: {}", error.kind()))?;
            (Client { wire: Wire::new(stream) }, 0)
        }
    };
    let (framing, body) = match method {
        "POST" | "PUT" => ("Content-Length: 4\r\n", "body"),
        _ => ("", ""),
    };
    let LoadPlan { host, per_connection, failure_status, .. } = &shared.plan;
    let request = format!("{method} / HTTP/1.1\r\nHost: {host}\r\nx-load-id: {id}\r\n{framing}\r\n{body}");
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
    if response.status >= *failure_status {
        return Err(format!("{} {}", response.status, response.reason()).trim_end().to_owned());
    }
    let reused = *per_connection == 0 || used + 1 < *per_connection;
    if reused && !response.field("connection").eq_ignore_ascii_case("close") {
        *open = Some((client, used + 1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{self, Gate, Instance};

    fn plan(connections: usize) -> LoadPlan {
        LoadPlan { connections, ..LoadPlan::mixed("a", 100) }
    }

    #[tokio::test]
    async fn a_stall_is_counted_for_each_request_that_was_due_in_it() {
        let gate = Gate::closed();
        let opened = gate.clone();
        let server = Instance::scripted("a", move |_| instance::Answer::ok("late").when(&opened)).await;
        let load = Load::start(server.addr(), plan(2));
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
        let load = Load::start(server.addr(), plan(4));
        load.wait_requests(4).await;
        let classes = load.stop().await.count_failures();
        let classes: Vec<_> = classes.keys().map(|(method, why)| (*method, why.as_str())).collect();
        assert_eq!(classes, [("GET", "503 circuit_open"), ("POST", "closed")]);

        let load = Load::start(instance::refusing_addr(), plan(1));
        load.wait_requests(1).await;
        assert_eq!(load.stop().await.0[0].failed.as_deref(), Some("connect: connection refused"));
    }
}
