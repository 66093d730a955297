//! Settings in the KV that change under load while servers and agents fail; and how soon a lone change is applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_tests::{
    consul::{Consul, ConsulCluster},
    load::{Load, LoadPlan},
    process::Process,
    wait,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    caller::CallerSidecar,
    case::{CaseResult, RunLength, SetupError},
    case_report::{CaseReport, format_millis},
    cluster_testbed::ClusterTestbed,
    kv_writer::KvWriter,
};

const PREFIX: &str = "chaos";
const SETTINGS: &str = "dynamic_config: {prefix: chaos}";
/// The documents, each of which is about another layer or service.
const DOCUMENTS: [&str; 4] = ["defaults", "services/orders", "services/payments", "services/stock"];
/// Longest time from the last change until every sidecar shows it: a blocked question of before an outage has to end.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// The promise of a lone change: 99 of 100 are applied within this time.
const APPLIED_LIMIT: Duration = Duration::from_millis(100);
/// Most rounds in which the promise is measured. Other work on the machine only adds time, so one round that keeps it is enough.
const MAX_ROUNDS: usize = 3;

pub(super) async fn changed(form: RunLength) -> CaseResult {
    let mut site = ClusterTestbed::start_with(SETTINGS).await?;
    let second_agent = site.cluster.start_named_agent("agent2").await?;
    let writer = KvWriter::new(site.cluster.servers().iter().map(Consul::http_addr), PREFIX);
    let mut others = Vec::new();
    for agent in [&site.agent, &site.agent, &second_agent, &second_agent] {
        others.push(CallerSidecar::start(agent.http_addr(), "orders", SETTINGS).await);
    }
    let rate = form.pick([200, 100]);
    let loads = [&site.caller, &others[0], &others[3]]
        .map(|sidecar| Load::start(sidecar.addr(), LoadPlan::mixed("orders", rate)));

    let wanted = form.pick([1000, 150]);
    let written = Arc::new(AtomicUsize::new(0));
    let changes = write_changes(writer.clone(), wanted, form.pick([280, 80]), written.clone());
    let changes = tokio::spawn(changes);
    let reached = async |share: usize| {
        while written.load(Relaxed) * 6 < wanted * share && !changes.is_finished() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    reached(1).await;
    let killed = site.cluster.kill_leader().await?;
    site.cluster.leader().await?;
    sleep(Duration::from_secs(form.pick([20, 1]))).await;
    site.cluster.server(killed).start().await?;
    reached(2).await;
    // Not for longer: after some seconds the others see its node as failed, and all instances are on that node.
    site.agent.kill()?;
    sleep(Duration::from_secs(form.pick([2, 1]))).await;
    site.agent.start().await?;
    reached(3).await;
    site.cluster.kill_all()?;
    sleep(Duration::from_secs(form.pick([120, 6]))).await;
    site.cluster.start_all().await?;
    for agent in [&site.agent, &second_agent] {
        site.cluster.join_agent(agent).await?;
    }
    reached(4).await;
    // It leaves the cluster.
    site.agent.stop().await?;
    site.agent.start().await?;
    let last = changes.await??;

    let mut broken = Vec::new();
    let sidecars: Vec<_> =
        [&site.caller].into_iter().chain(&others).map(|sidecar| &sidecar.process).collect();
    let storm = settle(&sidecars, &writer, &last.refused, &mut broken).await?;
    // From a known state: the last good version of a document that is refused then, and one that is gone.
    for document in DOCUMENTS {
        writer.put(document, &good_document(1)).await?;
    }
    settle(&sidecars, &writer, &BTreeSet::new(), &mut broken).await?;
    let good = writer.indexes().await?;
    writer.put("services/orders", BAD_DOCUMENTS[0]).await?;
    writer.delete("services/stock").await?;
    let refused = BTreeSet::from(["services/orders".to_owned()]);
    settle(&sidecars, &writer, &refused, &mut broken).await?;
    let [kept, gone] = ["services/orders", "services/stock"].map(|name| format!("kv:{}@", writer.key(name)));
    for process in &sidecars {
        let shows = async || {
            let page = process.admin_get("/config").await.text();
            names_version(&page, &kept, good["services/orders"]) && !page.contains(&gone)
        };
        wait::until("the last good version stays, and what is gone is gone", wait::TIMEOUT, shows).await;
    }

    let mut tally = outrigger_tests::load::RequestResults::default();
    for load in loads {
        tally.0.extend(load.stop().await.0);
    }
    let mut row = site.report(&tally).await;
    row.require(broken.is_empty(), || broken.join("; "));
    row.note(format!(
        "{} changes, of them {} bad documents, {} deletions and {} rebuilt trees; all of {} sidecars had the last ones {} \
         after the last change",
        written.load(Relaxed),
        last.bad,
        last.deleted,
        last.rebuilt,
        1 + others.len(),
        format_millis(storm)
    ));
    Ok(row)
}

/// What was written.
#[derive(Debug, Default)]
struct Changes {
    /// The documents that are bad as they were written last.
    refused: BTreeSet<String>,
    bad: usize,
    deleted: usize,
    rebuilt: usize,
}

/// Makes `wanted` changes, with pauses of up to `longest_pause` ms.
async fn write_changes(
    writer: KvWriter,
    wanted: usize,
    longest_pause: u64,
    written: Arc<AtomicUsize>,
) -> Result<Changes, String> {
    let mut changes = Changes::default();
    for number in 0..wanted {
        let document = DOCUMENTS[fastrand::usize(..DOCUMENTS.len())];
        match fastrand::u32(..100) {
            // As git2consul: everything is deleted, and written again.
            _ if number % 50 == 49 => {
                writer.delete_all().await?;
                for document in DOCUMENTS {
                    sleep(Duration::from_millis(fastrand::u64(..200))).await;
                    writer.put(document, &good_document(number)).await?;
                }
                changes.refused.clear();
                changes.rebuilt += 1;
            }
            0..20 => {
                writer.put(document, BAD_DOCUMENTS[fastrand::usize(..BAD_DOCUMENTS.len())]).await?;
                changes.refused.insert(document.to_owned());
                changes.bad += 1;
            }
            20..28 => {
                writer.delete(document).await?;
                changes.refused.remove(document);
                changes.deleted += 1;
            }
            _ => {
                writer.put(document, &good_document(number)).await?;
                changes.refused.remove(document);
            }
        }
        written.fetch_add(1, Relaxed);
        sleep(Duration::from_millis(fastrand::u64(..longest_pause))).await;
    }
    Ok(changes)
}

/// Documents that are refused, for another reason each.
const BAD_DOCUMENTS: [&str; 7] = [
    "timeout: never",
    "timeout: [1",
    "timeout: 5s\nlisten: 127.0.0.1:1",
    "timeout: ${SECRET}",
    "retry: {non_idempotent: true}",
    "timeout: &a 5s\nbody_idle: *a",
    "timeout: 2s\nper_try_timeout: 3s",
];

/// A document with which no request fails: every time-out is far above what an answer takes.
fn good_document(number: usize) -> String {
    const FURTHER: [&str; 9] = [
        "retry: {max_retries: 3}",
        "retry: {max_retries: 1, budget: {ratio: 50%}}",
        "balance: random",
        "circuit_breaker: {open_for: 2s}",
        "outlier: {consecutive_failures: 7}",
        "pool: {max_idle: 64, idle_timeout: 3s}",
        "hedge: {percentile: 99%, min_delay: 300ms}",
        "a_key_of_a_newer_version: 1",
        "{}",
    ];
    let timeout = 5000 + number;
    match FURTHER[number % FURTHER.len()] {
        "{}" => format!("{{\"timeout\": \"{timeout}ms\"}}"),
        further => format!("timeout: {timeout}ms\n{further}\n"),
    }
}

/// Waits until every sidecar has the documents as they are in the KV: each is applied with its index, or refused with it. Returns how
/// long that took. Notes what did not happen in `broken`.
async fn settle(
    sidecars: &[&Process],
    writer: &KvWriter,
    refused: &BTreeSet<String>,
    broken: &mut Vec<String>,
) -> Result<Duration, SetupError> {
    let since = Instant::now();
    let indexes: BTreeMap<_, _> = writer.indexes().await?;
    for (number, process) in sidecars.iter().enumerate() {
        let mut missing = missing_documents(process, writer, &indexes, refused).await;
        while !missing.is_empty() && since.elapsed() < SETTLE_LIMIT {
            sleep(Duration::from_millis(20)).await;
            missing = missing_documents(process, writer, &indexes, refused).await;
        }
        if !missing.is_empty() {
            broken.push(format!("sidecar {number}: {}", missing.join(", ")));
            eprintln!("sidecar {number}:\n{}", process.log());
        }
    }
    Ok(since.elapsed())
}

/// The documents that the sidecar shows in another version, or not in the way that is expected.
async fn missing_documents(
    process: &Process,
    writer: &KvWriter,
    indexes: &BTreeMap<String, u64>,
    refused: &BTreeSet<String>,
) -> Vec<String> {
    let page = process.admin_get("/config").await.text();
    let events = process.admin_get("/events?kind=document_refused").await.text();
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let key = format!("kv:{}@", writer.key(document));
        let is_bad = refused.contains(document);
        let (is_as_expected, state) = match indexes.get(document) {
            Some(index) if is_bad => {
                (names_version(&events, &key, *index), format!("not refused at {index}"))
            }
            Some(index) => (names_version(&page, &key, *index), format!("not in effect at {index}")),
            None => (!page.contains(&key), "in effect, and gone".to_owned()),
        };
        if !is_as_expected {
            missing.push(format!("{document} is {state}"));
        }
    }
    missing
}

/// Whether the page names this version of the document: `kv:KEY@INDEX`.
fn names_version(page: &str, key: &str, index: u64) -> bool {
    let of_key = page.split(key).skip(1);
    let found =
        of_key.map(|rest| rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default());
    found.into_iter().any(|digits| digits == index.to_string())
}

/// How soon a lone change is in effect: on one server, and through the agent of a cluster.
pub(super) async fn lone(form: RunLength) -> CaseResult {
    let count = form.pick([300, 50]);
    let server = Consul::server().await?;
    let on_server = measure_lone(server.http_addr(), count).await?;
    drop(server);
    let cluster = ConsulCluster::start_three().await?;
    let agent = cluster.start_agent().await?;
    let through_agent = measure_lone(agent.http_addr(), count).await?;
    let mut row = CaseReport::without_requests();
    for (place, rounds) in [("one server", on_server), ("an agent of three", through_agent)] {
        let times = rounds.last().cloned().unwrap_or_default();
        let [half, most, slowest] = [0.5, 0.99, 1.0].map(|share| quantile(&times, share));
        row.require(most <= APPLIED_LIMIT, || format!("{place}: p99 {}", format_millis(most)));
        let earlier: Vec<_> =
            rounds.iter().rev().skip(1).map(|times| format_millis(quantile(times, 0.99))).collect();
        let earlier = match earlier.is_empty() {
            true => String::new(),
            false => format!("; p99 of the rounds before {}", earlier.join(" and ")),
        };
        row.note(format!(
            "{place}: {count} lone puts, p50 {}, p99 {}, slowest {}{earlier}",
            format_millis(half),
            format_millis(most),
            format_millis(slowest)
        ));
    }
    Ok(row)
}

/// The shortest of the sorted `times` that this share of them does not exceed; zero where there are none.
fn quantile(times: &[Duration], share: f64) -> Duration {
    let rank = (times.len() as f64 * share).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Rounds of `count` times until one keeps the promise, [`MAX_ROUNDS`] at most; each is sorted.
async fn measure_lone(agent: SocketAddr, count: usize) -> Result<Vec<Vec<Duration>>, SetupError> {
    let writer = KvWriter::new([agent], PREFIX);
    writer.put(".outrigger", "").await?;
    let sidecar = CallerSidecar::start(agent, "orders", SETTINGS).await;
    let mut events = open_events(sidecar.process.admin()).await?;
    // The first one starts the watch of a prefix that was empty.
    measure_round(&writer, &mut events, 1).await?;
    let mut rounds: Vec<Vec<Duration>> = Vec::new();
    while rounds.len() < MAX_ROUNDS && rounds.last().is_none_or(|times| quantile(times, 0.99) > APPLIED_LIMIT)
    {
        rounds.push(measure_round(&writer, &mut events, count).await?);
    }
    Ok(rounds)
}

/// From the moment before each put until the sidecar has recorded the event that the document is in effect; sorted.
async fn measure_round(
    writer: &KvWriter,
    events: &mut Lines<BufReader<TcpStream>>,
    count: usize,
) -> Result<Vec<Duration>, SetupError> {
    let mut times = Vec::new();
    for number in 0..count {
        let since = Instant::now();
        // Another text than the one before, also at the begin of a round.
        writer.put("defaults", &good_document(count + number)).await?;
        wait::within("the document is in effect", read_applied(events)).await?;
        times.push(since.elapsed());
        // At least 100 ms of quiet: the change is a lone one.
        sleep(Duration::from_millis(fastrand::u64(150..300))).await;
    }
    times.sort();
    Ok(times)
}

async fn open_events(admin: SocketAddr) -> Result<Lines<BufReader<TcpStream>>, SetupError> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = "GET /events?kind=document_applied&limit=0 HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    Ok(BufReader::new(stream).lines())
}

/// Reads to the next event that a document is in effect.
async fn read_applied(events: &mut Lines<BufReader<TcpStream>>) -> Result<(), SetupError> {
    while let Some(line) = events.next_line().await? {
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let event: Value = serde_json::from_str(data)?;
        if event["reason"].as_str().is_some_and(|reason| reason.ends_with("is in effect")) {
            return Ok(());
        }
    }
    Err("the stream of events ended".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_times() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        let quantiles = [0.5, 0.99, 1.0].map(|share| quantile(&times, share).as_millis());
        assert_eq!(quantiles, [50, 99, 100]);
        assert_eq!(quantile(&times[..1], 0.99), Duration::from_millis(1));
        assert_eq!(quantile(&[], 0.99), Duration::ZERO);
    }

    #[test]
    fn a_version_is_named_as_a_whole() {
        let page = "timeout: 5s  # kv:chaos/settings/defaults@813, over kv:chaos/settings/services/a@12:2:9";
        assert!(names_version(page, "kv:chaos/settings/defaults@", 813));
        assert!(names_version(page, "kv:chaos/settings/services/a@", 12));
        assert!(!names_version(page, "kv:chaos/settings/defaults@", 81));
        assert!(!names_version(page, "kv:chaos/settings/services/b@", 12));
    }
}
