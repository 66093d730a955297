//! What a lock costs: acquired and released alone, handed over under contention, and held.
//!
//! A real Consul server and processes of `outrigger run` with `api`. All times are wall time on this machine, and all HTTP goes
//! over the harness's plain client on a kept connection, except that a lock held by a connection takes a connection each.

mod client;
mod commands;
mod contention;
mod timing;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use client::{LockClient, LockStream};
use outrigger_tests::{consul::Consul, memory, process::Process};
use timing::timed;
use tokio::{runtime, time::sleep};

use crate::{
    Effort, Error,
    error::doing,
    report::{Finding, Section, Table},
    stats::{Samples, ThreeDigits},
};

/// Locks that are held at once.
const HELD: usize = 200;
/// How long the memory may settle.
const SETTLE: Duration = Duration::from_secs(5);

/// Measures locks. Without a Consul program the section says so.
///
/// # Errors
/// Consul or a sidecar does not start, or refuses.
pub fn run(effort: Effort) -> Result<Section, Error> {
    match Consul::find() {
        Err(why) => Ok(Section::new("Locks").remark(format!("Not measured: {why}"))),
        Ok(consul) => {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(doing("build a runtime"))?.block_on(measure(effort, consul))
        }
    }
}

async fn measure(effort: Effort, consul: PathBuf) -> Result<Section, Error> {
    // The waiters of one address are more than Consul allows one by default.
    let limits = "limits { http_max_conns_per_client = 4096 }";
    let server = Consul::server_with(limits).await.map_err(doing("start Consul"))?;
    let registry = server.http_addr();
    let mut section = Section::new("Locks");

    let mut alone = Table::new(
        "Milliseconds to acquire a free lock and release it, one after the other",
        ["by", "samples", "p50", "p99", "greatest"],
    );
    let rounds = effort.choose(300, 10);
    let (sidecar, api) = sidecar(registry).await;
    let mut rows = vec![
        ("our API, by a lease", by_lease(api, rounds).await?),
        ("our API, by a connection", by_connection(api, rounds).await?),
        ("session, acquire, release, destroy at Consul", at_consul(registry, rounds).await?),
    ];
    let starts = effort.choose(60, 3);
    rows.push(("the process `consul lock`", commands::consul_lock(&consul, registry, starts).await?));
    if let Some(samples) = commands::outrigger_lock(registry, starts).await? {
        rows.push(("the process `outrigger lock`", samples));
    }
    for (by, samples) in &rows {
        alone.row(row(by, samples));
        section = section.finding(Finding::plain(
            format!("acquire and release a free lock, {by}"),
            format!(
                "p50 {} ms, p99 {} ms",
                ThreeDigits(samples.median()),
                ThreeDigits(samples.percentile(0.99))
            ),
        ));
    }

    let mut contended = Table::new(
        format!(
            "Milliseconds from the release until the next of {} waiters is told, or runs",
            contention::WAITERS
        ),
        ["by", "samples", "p50", "p99", "greatest"],
    );
    let (other, other_api) = self::sidecar(registry).await;
    let handed_over = contention::by_connections([api, other_api], effort.choose(200, 10)).await?;
    drop(other);
    let by_processes =
        commands::hand_over(&consul, registry, effort.choose(10, 3), effort.choose(10, 2)).await?;
    for (by, samples) in [("our API, two sidecars", &handed_over), ("processes `consul lock`", &by_processes)]
    {
        contended.row(row(by, samples));
        section = section.finding(Finding::plain(
            format!("a contended lock from its release to the next holder, {by}"),
            format!(
                "p50 {} ms, p99 {} ms",
                ThreeDigits(samples.median()),
                ThreeDigits(samples.percentile(0.99))
            ),
        ));
    }
    drop(sidecar);

    let held = effort.choose(HELD, 20);
    let mut memory = Table::new(
        format!("Resident memory of a sidecar, KiB; {held} locks of different names"),
        ["held by", "without locks", "with them", "per lock"],
    );
    for (by, [without, with]) in [
        ("leases", held_by_leases(registry, held).await?),
        ("connections", held_by_connections(registry, held).await?),
    ] {
        let per_lock = (with.saturating_sub(without)) as f64 / 1024.0 / held as f64;
        memory.row([
            by.to_owned(),
            (without / 1024).to_string(),
            (with / 1024).to_string(),
            ThreeDigits(per_lock).to_string(),
        ]);
        section = section.finding(Finding::plain(
            format!("memory per lock, by {by}"),
            format!("{} KiB", ThreeDigits(per_lock)),
        ));
    }
    Ok(section.table(alone).table(contended).table(memory))
}

fn row(by: &str, samples: &Samples) -> [String; 5] {
    let [p50, p99, greatest] = [samples.median(), samples.percentile(0.99), samples.max()].map(ThreeDigits);
    [by.to_owned(), samples.count().to_string(), p50.to_string(), p99.to_string(), greatest.to_string()]
}

/// A sidecar with the API, and the API's address.
async fn sidecar(registry: SocketAddr) -> (Process, SocketAddr) {
    let api = outrigger_net::reserve_addr();
    let process = Process::run(&format!(
        "registry: {{consul: {{address: \"http://{registry}\"}}}}\napi: {{listen: \"{api}\"}}\nworkers: 1\n"
    ))
    .await;
    process.wait_ready().await;
    (process, api)
}

async fn by_lease(api: SocketAddr, rounds: usize) -> Result<Samples, Error> {
    let mut client = LockClient::connect(api).await;
    timed(rounds, async |_| {
        let lease = client.acquire("bench/lease").await?;
        client.release("bench/lease", &lease).await
    })
    .await
}

/// The release has no answer: the next acquisition waits for it. So a sample is from one lock to the next.
async fn by_connection(api: SocketAddr, rounds: usize) -> Result<Samples, Error> {
    let mut held = LockStream::hold(api, "bench/connection?wait=10s").await?;
    timed(rounds, async |_| {
        held.close();
        held = LockStream::hold(api, "bench/connection?wait=10s").await?;
        Ok(())
    })
    .await
}

async fn at_consul(registry: SocketAddr, rounds: usize) -> Result<Samples, Error> {
    let mut client = LockClient::connect(registry).await;
    timed(rounds, async |_| {
        let session = client.create_session().await?;
        client.put_at_consul(&format!("/v1/kv/bench/direct?acquire={session}")).await?;
        client.put_at_consul(&format!("/v1/kv/bench/direct?release={session}")).await?;
        client.put_at_consul(&format!("/v1/session/destroy/{session}")).await
    })
    .await
}

/// Resident memory without locks and with them.
async fn held_by_leases(registry: SocketAddr, count: usize) -> Result<[u64; 2], Error> {
    let (sidecar, api) = sidecar(registry).await;
    let mut client = LockClient::connect(api).await;
    let without = before_locks(&sidecar, &mut client).await?;
    for n in 0..count {
        client.acquire(&format!("bench/memory/lease-{n}")).await?;
    }
    sleep(SETTLE).await;
    Ok([without, memory::resident_memory(Some(sidecar.pid()))])
}

async fn held_by_connections(registry: SocketAddr, count: usize) -> Result<[u64; 2], Error> {
    let (sidecar, api) = sidecar(registry).await;
    let mut client = LockClient::connect(api).await;
    let without = before_locks(&sidecar, &mut client).await?;
    let mut held = Vec::new();
    for n in 0..count {
        held.push(LockStream::hold(api, &format!("bench/memory/connection-{n}?wait=10s")).await?);
    }
    sleep(SETTLE).await;
    let with = memory::resident_memory(Some(sidecar.pid()));
    drop(held);
    Ok([without, with])
}

/// The memory after one lock that is given back: what locks need once is not a lock's.
async fn before_locks(sidecar: &Process, client: &mut LockClient) -> Result<u64, Error> {
    let lease = client.acquire("bench/memory/first").await?;
    client.release("bench/memory/first", &lease).await?;
    sleep(SETTLE).await;
    Ok(memory::resident_memory(Some(sidecar.pid())))
}
