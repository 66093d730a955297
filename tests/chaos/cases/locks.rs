//! Ten apps contend for a mutex and a semaphore while servers, agents and sidecars fail. `consul lock` contends for the mutex too.

use std::time::Duration;

use outrigger_tests::{
    load::{Load, LoadPlan},
    process::Process,
    registry::ConsulAgent,
    wait,
};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    case::{CaseResult, RunLength, SetupError},
    case_report::format_millis,
    lock_app::HeldBy,
    lock_audit::HoldEnd,
    lock_log::{ContendedLock, HoldNumber},
    lock_testbed::{AgentNumber, LockTestbed, MUTEX, POOL, apps_with},
};

/// Longest time until every app has held each of its locks again after the last fault: a lock-delay, and the turns of the others.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
/// Longest time until a hold that met a fault has ended, or a lease is renewed again: the session's time to live, and some.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time that a sidecar takes to stop: its drain and the end of its sessions.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn contended(form: RunLength) -> CaseResult {
    let mut bed = LockTestbed::start().await?;
    let load = Load::start(bed.site.caller.addr(), LoadPlan::mixed("orders", form.pick([300, 150])));
    load.wait_requests(100).await;
    load.run_for(Duration::from_secs(form.pick([10, 1]))).await;
    let mut unmet = Vec::new();
    for round in 0..form.pick([3, 1]) {
        leader_killed(&mut bed, form).await?;
        let is_heard = round == 1;
        agent_away(&mut bed, form, is_heard, &mut unmet).await?;
        sidecars_killed(&mut bed, &mut unmet).await;
        servers_stopped(&mut bed, form, &mut unmet).await?;
        sidecar_replaced(&mut bed, &mut unmet).await;
        sidecars_drained(&mut bed, &mut unmet).await;
    }
    let (over, since) = (Instant::now(), bed.log.now());
    let mut waiting = bed.waiting_since(since);
    while !waiting.is_empty() && over.elapsed() < PROGRESS_LIMIT {
        load.run_for(Duration::from_millis(50)).await;
        waiting = bed.waiting_since(since);
    }
    let all_served = over.elapsed();
    unmet.extend(bed.stop_apps().await);
    let tally = load.stop().await;

    let LockTestbed { site, log, .. } = bed;
    let mut row = site.report(&tally).await;
    let breaches = log.breaches();
    row.require(breaches.is_empty(), || breaches.join("; "));
    row.require(unmet.is_empty(), || unmet.join("; "));
    row.require(waiting.is_empty(), || {
        format!("not acquired within {}: {}", format_millis(PROGRESS_LIMIT), waiting.join(", "))
    });
    log.describe().into_iter().for_each(|words| row.note(words));
    row.note(format!("every app held each lock again within {}", format_millis(all_served)));
    Ok(row)
}

async fn leader_killed(bed: &mut LockTestbed, form: RunLength) -> Result<(), SetupError> {
    bed.keep(&[]);
    let cluster = &mut bed.site.cluster;
    let killed = cluster.kill_leader().await?;
    cluster.leader().await?;
    tokio::time::sleep(Duration::from_secs(form.pick([10, 1]))).await;
    cluster.server(killed).start().await?;
    Ok(())
}

/// The sessions of the first agent's node end, and the agent stays away for longer than the lock-delay: what its sidecars hold
/// passes to those of the second agent. Meanwhile a sidecar of the second agent is frozen. `is_heard`: the agent leaves the cluster
/// and answers its sidecars meanwhile. Otherwise the machine is lost, and an operator removes its node: no sidecar hears of it.
async fn agent_away(
    bed: &mut LockTestbed,
    form: RunLength,
    is_heard: bool,
    unmet: &mut Vec<String>,
) -> Result<(), SetupError> {
    let of_first = [HeldBy::Connection, HeldBy::Lease].map(|by| apps_with(by, AgentNumber::First)).concat();
    let of_second = [HeldBy::Connection, HeldBy::Lease].map(|by| apps_with(by, AgentNumber::Second)).concat();
    // The semaphore is full of holders behind both agents.
    bed.keep(&[(MUTEX, &of_first), (POOL, &of_second)]);
    let (_, cut_off) = bed.wait_holder(MUTEX, &of_first).await;
    let (frozen, silent) = bed.wait_holder(POOL, &of_second).await;
    bed.keep(&[(MUTEX, &of_first), (POOL, &of_first), (POOL, &[frozen])]);
    bed.wait_holder(POOL, &of_first).await;
    bed.sidecar(frozen).process.signal("STOP");
    if is_heard {
        bed.site.agent.stop().await?;
    } else {
        bed.site.agent.kill()?;
        let leader = bed.site.cluster.leader().await?;
        let server = ConsulAgent(bed.site.cluster.servers()[leader].http_addr());
        server.put("/v1/catalog/deregister", &json!({"Node": bed.site.agent.node()})).await;
    }
    tokio::time::sleep(Duration::from_secs(form.pick([40, 13]))).await;
    wait_end(bed, MUTEX, cut_off, "the agent was away", HoldEnd::is_loss, unmet).await;
    wait_end(bed, POOL, silent, "the sidecar was frozen", HoldEnd::is_loss, unmet).await;
    bed.sidecar(frozen).process.signal("CONT");
    bed.keep(&[]);
    bed.site.agent.start().await?;
    Ok(())
}

/// A lock held by a connection is lost with its sidecar; a lease is taken over by the next process.
async fn sidecars_killed(bed: &mut LockTestbed, unmet: &mut Vec<String>) {
    let (by_connection, by_lease) =
        (apps_with(HeldBy::Connection, AgentNumber::Second), apps_with(HeldBy::Lease, AgentNumber::First));
    bed.keep(&[(MUTEX, &by_connection), (POOL, &by_lease)]);
    let (app, hold) = bed.wait_holder(MUTEX, &by_connection).await;
    bed.sidecar(app).kill_and_restart().await;
    wait_end(bed, MUTEX, hold, "the sidecar was killed", |end| *end == HoldEnd::Cut, unmet).await;

    let (app, lease) = bed.wait_holder(POOL, &by_lease).await;
    bed.sidecar(app).kill_and_restart().await;
    wait_renewal(bed, POOL, lease, "the sidecar was killed and started again", unmet).await;
    bed.keep(&[]);
}

async fn servers_stopped(
    bed: &mut LockTestbed,
    form: RunLength,
    unmet: &mut Vec<String>,
) -> Result<(), SetupError> {
    let all: Vec<_> = (1..10).collect();
    bed.keep(&[(MUTEX, &all), (POOL, &all)]);
    let (_, hold) = bed.wait_holder(POOL, &all).await;
    bed.site.cluster.kill_all()?;
    tokio::time::sleep(Duration::from_secs(form.pick([120, 12]))).await;
    wait_end(bed, POOL, hold, "all servers were away", HoldEnd::is_loss, unmet).await;
    bed.keep(&[]);
    bed.site.cluster.start_all().await?;
    for agent in [&bed.site.agent, &bed.second_agent] {
        bed.site.cluster.join_agent(agent).await?;
    }
    Ok(())
}

/// `run --replace` hands the leases over.
async fn sidecar_replaced(bed: &mut LockTestbed, unmet: &mut Vec<String>) {
    let by_lease = apps_with(HeldBy::Lease, AgentNumber::Second);
    bed.keep(&[(POOL, &by_lease)]);
    let (app, lease) = bed.wait_holder(POOL, &by_lease).await;
    let mut old = bed.sidecar(app).replace().await;
    wait_renewal(bed, POOL, lease, "the sidecar was replaced", unmet).await;
    bed.keep(&[]);
    wait_exit(&mut old, "the replaced sidecar", unmet).await;
}

/// An app that heeds the drain gives its lock back; one that does not is told the loss before the sidecar ends.
async fn sidecars_drained(bed: &mut LockTestbed, unmet: &mut Vec<String>) {
    for (agent, is_heeded) in [(AgentNumber::First, true), (AgentNumber::Second, false)] {
        let by_connection = apps_with(HeldBy::Connection, agent);
        bed.keep(&[(POOL, &by_connection)]);
        let (app, hold) = bed.wait_holder(POOL, &by_connection).await;
        let sidecar = bed.sidecar(app);
        sidecar.process.signal("TERM");
        wait_exit(&mut sidecar.process, "the drained sidecar", unmet).await;
        sidecar.start_again().await;
        let expected = match is_heeded {
            true => HoldEnd::Released,
            false => HoldEnd::Told("drained".to_owned()),
        };
        wait_end(bed, POOL, hold, "the sidecar was drained", |end| *end == expected, unmet).await;
    }
    bed.keep(&[]);
}

/// Notes that the hold did not end as `is_expected` after `fault`.
async fn wait_end(
    bed: &LockTestbed,
    lock: ContendedLock,
    number: HoldNumber,
    fault: &str,
    is_expected: impl Fn(&HoldEnd) -> bool,
    unmet: &mut Vec<String>,
) {
    let end = || bed.log.hold(lock, number).and_then(|hold| hold.ended);
    if !wait_until(|| end().is_some()).await {
        unmet.push(format!("{fault}, and a hold of {} did not end", lock.name));
    } else if let Some((_, how)) = end().filter(|(_, how)| !is_expected(how)) {
        unmet.push(format!("{fault}, and a hold of {} ended by {}", lock.name, how.name()));
    }
}

/// Notes that the lease did not go on after `fault`.
async fn wait_renewal(
    bed: &LockTestbed,
    lock: ContendedLock,
    number: HoldNumber,
    fault: &str,
    unmet: &mut Vec<String>,
) {
    let since = bed.log.now();
    let hold = || bed.log.hold(lock, number);
    let is_over = || {
        hold().is_none_or(|hold| hold.ended.is_some() || hold.renewed.is_some_and(|renewed| renewed > since))
    };
    wait_until(is_over).await;
    if let Some((_, how)) = hold().and_then(|hold| hold.ended) {
        unmet.push(format!("{fault}, and a lease of {} ended by {}", lock.name, how.name()));
    }
}

/// Whether `condition` came to hold within [`EFFECT_TIMEOUT`].
async fn wait_until(condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + EFFECT_TIMEOUT;
    while !condition() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    condition()
}

async fn wait_exit(process: &mut Process, what: &str, unmet: &mut Vec<String>) {
    let status = process.wait_exit(STOP_TIMEOUT.max(wait::TIMEOUT)).await;
    if !status.success() {
        unmet.push(format!("{what} ended with {status}"));
    }
}
