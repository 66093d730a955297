//! How soon a document in Consul's KV is in effect, and what it costs Consul.
//!
//! Processes of `outrigger run` with `dynamic_config`, and a real Consul. The time runs from just before the request that
//! writes the document (including its connection) until the sidecar's stream of events says that it is in effect. What the
//! sidecars ask of Consul is counted in a proxy between them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use outrigger_tests::{
    consul::{Consul, ConsulCluster, http},
    process::Process,
    registry_proxy::RegistryProxy,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime,
    time::{Instant, sleep, timeout},
};

use crate::{
    Effort, Error, clock,
    error::doing,
    report::{Finding, Section, Table},
    stats::{Samples, ThreeDigits},
};

/// Longest wait for one document to be in effect.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(20);
/// Shortest pause between two documents, so that each is a lone one; up to as much again is added at random.
const PAUSE: Duration = Duration::from_millis(200);
/// The target for a lone put, milliseconds.
const TARGET: f64 = 100.0;
/// Sidecars that are counted.
const SIDECARS: usize = 50;
/// Writes elsewhere in the KV.
const WRITES: usize = 1_000;
/// How long the counting goes on after a change. Receipts come up to 2 s later.
const AFTER: Duration = Duration::from_secs(6);
const FOLDER: &str = "/v1/kv/bench/settings/";

/// Measures the time until a document is in effect, and counts the questions of many sidecars. Without a Consul program the
/// section says so.
///
/// # Errors
/// Consul does not start or refuses a document, or a document does not arrive.
pub fn run(effort: Effort) -> Result<Section, Error> {
    if let Err(why) = Consul::find() {
        return Ok(Section::new("Settings").remark(format!("Not measured: {why}")));
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(doing("build a runtime"))?.block_on(measure(effort))
}

async fn measure(effort: Effort) -> Result<Section, Error> {
    let rounds = effort.choose(300, 10);
    let one = {
        let server = Consul::server().await.map_err(doing("start Consul"))?;
        time_documents(server.http_addr(), rounds).await?
    };
    let three = {
        let cluster = ConsulCluster::start_three().await.map_err(doing("start three servers"))?;
        let agent = cluster.start_agent().await.map_err(doing("start an agent"))?;
        time_documents(agent.http_addr(), rounds).await?
    };
    let counts = count_questions(effort.choose(SIDECARS, 5), effort.choose(WRITES, 50)).await?;

    let mut table = Table::new(
        "Milliseconds from sending a document to Consul until the sidecar says that it is in effect",
        ["registry", "documents", "p50", "p99", "greatest"],
    );
    let mut section = Section::new("Settings");
    for (registry, samples) in [("one server", one), ("an agent of three servers", three)] {
        let [p50, p99, greatest] =
            [samples.median(), samples.percentile(0.99), samples.max()].map(ThreeDigits);
        table.row([
            registry.to_owned(),
            samples.count().to_string(),
            p50.to_string(),
            p99.to_string(),
            greatest.to_string(),
        ]);
        let what = format!("a lone document in the KV until it is in effect, {registry}, p99");
        section = section.finding(Finding::below(what, samples.percentile(0.99), "ms", TARGET));
    }
    let QuestionCounts {
        sidecars,
        writes,
        woken_by_others,
        woken_by_change,
        writes_after_change,
        all_asked_again,
    } = counts;
    let mut questions = Table::new(
        format!("Requests of {sidecars} sidecars at Consul, least to greatest of one sidecar"),
        ["after", "answered questions about settings", "writes"],
    );
    questions.row([format!("{writes} writes of other keys"), span(&woken_by_others), "0 to 0".to_owned()]);
    questions.row(["one changed document".to_owned(), span(&woken_by_change), span(&writes_after_change)]);
    let greatest = |counts: &[u64]| Samples::new([counts.iter().max().map_or(0.0, |count| *count as f64)]);
    Ok(section
        .finding(Finding::at_most(
            format!("wake-ups by {writes} writes of other keys, the most of {sidecars} sidecars"),
            &greatest(&woken_by_others),
            "",
            0.0,
        ))
        .finding(Finding::at_most(
            format!("wake-ups by one changed document, the most of {sidecars} sidecars"),
            &greatest(&woken_by_change),
            "",
            1.0,
        ))
        .finding(Finding::at_most(
            format!("writes after one changed document, the most of {sidecars} sidecars"),
            &greatest(&writes_after_change),
            "",
            1.0,
        ))
        .table(table)
        .table(questions)
        .remark(format!("All {sidecars} sidecars had the changed document, and waited again, after {all_asked_again:.0} ms.")))
}

fn span(counts: &[u64]) -> String {
    let [least, greatest] =
        [counts.iter().min(), counts.iter().max()].map(|count| count.copied().unwrap_or(0));
    format!("{least} to {greatest}")
}

fn settings(registry: SocketAddr) -> String {
    format!(
        "registry: {{consul: {{address: \"http://{registry}\"}}}}\ndynamic_config: {{prefix: bench}}\nworkers: 1\n"
    )
}

/// Puts lone documents, and returns the milliseconds until each was in effect.
async fn time_documents(registry: SocketAddr, rounds: u32) -> Result<Samples, Error> {
    put(registry, &format!("{FOLDER}.outrigger"), "").await?;
    let sidecar = Process::run(&settings(registry)).await;
    let mut events = AppliedDocuments::open(sidecar.admin()).await?;
    // The first one is not counted: the watch may still begin.
    put(registry, &format!("{FOLDER}defaults"), "max_pending: 1\n").await?;
    events.next().await?;
    let mut samples = Vec::new();
    for round in 0..rounds {
        sleep(PAUSE + PAUSE.mul_f64(fastrand::f64())).await;
        let document = format!("timeout: {}ms\n", 1_000 + round);
        let path = format!("{FOLDER}services/orders-{}", round % 10);
        let start = clock::now();
        let (sent, seen) = tokio::join!(put(registry, &path, &document), events.next());
        sent?;
        samples.push((seen? - start).as_secs_f64() * 1e3);
    }
    Ok(Samples::new(samples))
}

async fn put(registry: SocketAddr, path: &str, body: &str) -> Result<(), Error> {
    let answer = http::put(registry, path, body).await.map_err(doing(format!("PUT {path}")))?;
    if answer.status().is_success() {
        return Ok(());
    }
    Err(Error::new(format!("PUT {path}: Consul answered {}", answer.status())))
}

/// The stream of a sidecar's events.
struct AppliedDocuments {
    stream: TcpStream,
    read: String,
}

impl AppliedDocuments {
    async fn open(admin: SocketAddr) -> Result<Self, Error> {
        let mut stream = TcpStream::connect(admin).await.map_err(doing("connect to the admin side"))?;
        let request = format!(
            "GET /events?kind=document_applied&limit=0 HTTP/1.1\r\nHost: {admin}\r\nAccept: text/event-stream\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.map_err(doing("ask for events"))?;
        let mut events = Self { stream, read: String::new() };
        events.read_past("\r\n\r\n").await?;
        Ok(events)
    }

    /// When the next document was in effect.
    async fn next(&mut self) -> Result<std::time::Instant, Error> {
        self.read_past("is in effect").await?;
        Ok(clock::now())
    }

    /// Reads up to this text and drops it.
    async fn read_past(&mut self, text: &str) -> Result<(), Error> {
        let reads = async {
            loop {
                if let Some(at) = self.read.find(text) {
                    self.read.drain(..at + text.len());
                    return Ok(());
                }
                let mut bytes = [0; 4096];
                let count = self.stream.read(&mut bytes).await.map_err(doing("read events"))?;
                if count == 0 {
                    return Err(Error::new(format!(
                        "the stream of events ended before {text:?}: {}",
                        self.read
                    )));
                }
                self.read.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        };
        timeout(ARRIVAL_TIMEOUT, reads).await.map_err(doing(format!("wait for {text:?} in the events")))?
    }
}

/// What sidecars ask of Consul, one figure for each sidecar.
struct QuestionCounts {
    sidecars: usize,
    writes: usize,
    woken_by_others: Vec<u64>,
    woken_by_change: Vec<u64>,
    writes_after_change: Vec<u64>,
    /// Milliseconds.
    all_asked_again: f64,
}

async fn count_questions(sidecars: usize, writes: usize) -> Result<QuestionCounts, Error> {
    // All sidecars share one address, and with it Consul's limit for one.
    let limits = "limits { http_max_conns_per_client = 4096 }";
    let consul = Consul::server_with(limits).await.map_err(doing("start Consul"))?;
    let addr = consul.http_addr();
    put(addr, &format!("{FOLDER}.outrigger"), "").await?;
    let mut proxies = Vec::new();
    let mut processes = Vec::new();
    for _ in 0..sidecars {
        let proxy = RegistryProxy::start(addr).await;
        processes.push(Process::run(&settings(proxy.addr())).await);
        proxies.push(proxy);
    }
    let all = |of: fn(&BTreeMap<String, u64>) -> u64| -> Vec<u64> {
        proxies.iter().map(|proxy| of(&proxy.requests())).collect()
    };
    wait_until("each sidecar waits for a change", || all(questions).iter().all(|count| *count > 0)).await?;
    // The first receipts are written by then.
    sleep(AFTER).await;

    let before = all(questions);
    for n in 0..writes {
        put(addr, &format!("/v1/kv/elsewhere/{n}"), "x").await?;
    }
    sleep(Duration::from_secs(1)).await;
    let woken_by_others = differences(&before, &all(questions));

    let (before, written) = (all(questions), all(changes));
    let start = Instant::now();
    put(addr, &format!("{FOLDER}defaults"), "max_pending: 7\n").await?;
    wait_until("each sidecar has the changed document", || {
        differences(&before, &all(questions)).iter().all(|count| *count > 0)
    })
    .await?;
    let all_asked_again = start.elapsed().as_secs_f64() * 1e3;
    sleep(AFTER).await;
    Ok(QuestionCounts {
        sidecars,
        writes,
        woken_by_others,
        woken_by_change: differences(&before, &all(questions)),
        writes_after_change: differences(&written, &all(changes)),
        all_asked_again,
    })
}

/// Questions about the settings that wait for a change: each one after the first follows an answer.
fn questions(requests: &BTreeMap<String, u64>) -> u64 {
    requests.get(&format!("GET {FOLDER} blocking")).copied().unwrap_or(0)
}

/// Requests that change a key. Sessions are not counted: their renewals come by time.
fn changes(requests: &BTreeMap<String, u64>) -> u64 {
    let is_change = |kind: &str| {
        kind.starts_with("PUT /v1/kv/") || kind.starts_with("DELETE /v1/kv/") || kind == "PUT /v1/txn"
    };
    requests.iter().filter(|(kind, _)| is_change(kind)).map(|(_, count)| count).sum()
}

fn differences(before: &[u64], after: &[u64]) -> Vec<u64> {
    before.iter().zip(after).map(|(before, after)| after - before).collect()
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) -> Result<(), Error> {
    let end = Instant::now() + ARRIVAL_TIMEOUT;
    while !condition() {
        if Instant::now() > end {
            return Err(Error::new(format!("not within {} s: {what}", ARRIVAL_TIMEOUT.as_secs())));
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
