//! Steady traffic, counted by what the app sees.
#![allow(clippy::expect_used, reason = "a harness fails its test by panicking")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{client::Client, wait, wire::Wire};

/// Longest wait for one exchange: longer than any time-out of the sidecar's.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(25);
/// A run ends by itself after this many requests.
const MAX_REQUESTS: u64 = 2_000_000;

/// What a run sends.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// The `Host` of each request.
    pub host: String,
    /// Connections at once, each with one request after the other.
    pub clients: usize,
    /// Methods in turn. POST and PUT carry a short body.
    pub methods: Vec<&'static str>,
    /// Pause of each client between two requests.
    pub pause: Duration,
    /// Requests on one connection before it is opened anew. 0: never.
    pub per_connection: usize,
}

impl LoadPlan {
    /// Eight clients that GET from `host` without much of a pause.
    pub fn get(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            clients: 8,
            methods: vec!["GET"],
            pause: Duration::from_millis(2),
            per_connection: 0,
        }
    }

    /// These methods instead.
    #[must_use]
    pub fn methods(mut self, methods: &[&'static str]) -> Self {
        self.methods = methods.to_vec();
        self
    }
}

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadTally {
    /// Whole answers with a status below 500.
    pub ok: u64,
    /// Everything else, by what it was.
    pub failed: BTreeMap<String, u64>,
    /// Whole answers by `x-instance`.
    pub by_instance: BTreeMap<String, u64>,
}

impl LoadTally {
    fn add(&mut self, outcome: Result<String, String>) {
        match outcome {
            Ok(instance) => {
                self.ok += 1;
                *self.by_instance.entry(instance).or_default() += 1;
            }
            Err(why) => *self.failed.entry(why).or_default() += 1,
        }
    }

    /// Requests that failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// That something was sent, and nothing failed.
    ///
    /// # Panics
    /// Otherwise; the text lists the failures.
    #[track_caller]
    pub fn assert_clean(&self, at_least: u64) {
        assert!(self.failed.is_empty(), "failed: {:#?}, ok: {}", self.failed, self.ok);
        assert!(self.ok >= at_least, "only {} requests", self.ok);
    }
}

#[derive(Debug)]
struct LoadRun {
    plan: LoadPlan,
    target: SocketAddr,
    stop: AtomicBool,
    sent: AtomicU64,
    tally: Mutex<LoadTally>,
}

/// A run in progress.
#[derive(Debug)]
pub struct Load {
    run: Arc<LoadRun>,
    clients: JoinSet<()>,
}

impl Load {
    /// Begins it.
    pub fn start(target: SocketAddr, plan: LoadPlan) -> Self {
        let clients = plan.clients;
        let run = Arc::new(LoadRun {
            plan,
            target,
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            tally: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(run_client(Arc::clone(&run)));
        }
        Self { run, clients: tasks }
    }

    /// What came of it so far.
    pub fn tally(&self) -> LoadTally {
        self.run.tally.lock().clone()
    }

    /// Waits until `more` requests have succeeded from now on.
    pub async fn wait_successes(&self, more: u64) {
        let goal = self.tally().ok + more;
        wait::until_true(&format!("{more} more requests succeed"), || self.tally().ok >= goal).await;
    }

    /// Ends it: every exchange under way is finished first.
    pub async fn stop(mut self) -> LoadTally {
        self.run.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a load client does not panic");
        }
        self.tally()
    }
}

async fn run_client(run: Arc<LoadRun>) {
    let mut connection: Option<(Client, usize)> = None;
    while !run.stop.load(Ordering::SeqCst) {
        let nth = run.sent.fetch_add(1, Ordering::SeqCst);
        if nth >= MAX_REQUESTS {
            return;
        }
        let method = run.plan.methods[usize::try_from(nth).unwrap_or(0) % run.plan.methods.len()];
        let outcome = match timeout(EXCHANGE_TIMEOUT, send_request(&run, &mut connection, method)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("{method}: nothing within {EXCHANGE_TIMEOUT:?}")),
        };
        if outcome.is_err() {
            connection = None;
        }
        run.tally.lock().add(outcome);
        sleep(run.plan.pause).await;
    }
}

async fn send_request(
    run: &LoadRun,
    connection: &mut Option<(Client, usize)>,
    method: &str,
) -> Result<String, String> {
    let (mut client, used) = match connection.take() {
        Some(open) => open,
        None => {
            let stream = TcpStream::connect(run.target).await.map_err(|error| format!("connect: {error}"))?;
            (Client { wire: Wire::new(stream) }, 0)
        }
    };
    let (length, body) = match method {
        "POST" | "PUT" => ("Content-Length: 4\r\n", "body"),
        _ => ("", ""),
    };
    let request = format!("{method} / HTTP/1.1\r\nHost: {}\r\n{length}\r\n{body}", run.plan.host);
    let failed = |why: &dyn std::fmt::Display| format!("{method}: {why}");
    client.try_send(request).await.map_err(|cut| failed(&cut))?;
    let response = client.try_response_to(method).await.map_err(|cut| failed(&cut))?;
    if let Some(cut) = &response.body_error {
        return Err(failed(cut));
    }
    if response.status >= 500 {
        return Err(failed(&format!("{} {} {}", response.status, response.reason(), response.text())));
    }
    let goes_on = run.plan.per_connection == 0 || used + 1 < run.plan.per_connection;
    if goes_on && !response.field("connection").eq_ignore_ascii_case("close") {
        *connection = Some((client, used + 1));
    }
    Ok(response.instance().to_owned())
}
