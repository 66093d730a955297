//! The leader or all servers of the registry stop, or the servers lose a node.

use std::{net::SocketAddr, path::Path, time::Duration};

use outrigger_tests::{
    load::{Load, LoadPlan},
    process::Process,
    registry::ConsulAgent,
    wait,
};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    caller::wait_confirmed,
    case::{CaseResult, RunLength},
    case_report::format_millis,
    cluster_testbed::{ClusterTestbed, RECOVERY_LIMIT, count_usable},
};

pub(super) async fn leader(form: RunLength) -> CaseResult {
    let mut site = ClusterTestbed::start().await?;
    let load = Load::start(site.caller.addr(), LoadPlan::mixed("orders", form.pick([400, 200])));
    load.wait_requests(200).await;
    let killed = site.cluster.kill_leader().await?;
    let at = Instant::now();
    site.cluster.leader().await?;
    let elected = at.elapsed();
    // In a full run, longer than the TTL of the checks.
    load.run_for(Duration::from_secs(form.pick([40, 5]))).await;
    site.cluster.server(killed).start().await?;
    load.run_for(Duration::from_secs(3)).await;
    let tally = load.stop().await;
    let (passing, times, usable) =
        (site.all_passing().await, site.registrations().await, count_usable(&site.caller.process).await);
    let mut row = site.report(&tally).await;
    row.require(passing, || "not all instances are passing".to_owned());
    row.require(times == 3.0, || format!("{times} registrations of three"));
    row.require(usable == 3, || format!("{usable} of three in the table"));
    row.note(format!("the next leader after {}", format_millis(elected)));
    Ok(row)
}

pub(super) async fn stopped(form: RunLength) -> CaseResult {
    let mut site = ClusterTestbed::start().await?;
    let load = Load::start(site.caller.addr(), LoadPlan::mixed("orders", form.pick([300, 150])));
    let state = tempfile::Builder::new().prefix("chaos-state-").tempdir()?;
    let (agent, listen) = (site.agent.http_addr(), outrigger_net::reserve_addr());
    // The second caller has its own load, because requests during its restart would fail for another reason.
    let other = start_caller(agent, listen, state.path()).await;
    let before = Load::start(listen, LoadPlan::mixed("orders", 100));
    load.wait_requests(200).await;
    before.wait_requests(100).await;

    site.cluster.kill_all()?;
    let gone = Instant::now();
    before.wait_requests(before.requests() + 200).await;
    let mut tally = before.stop().await;
    stop(other).await;
    let other = start_caller(agent, listen, state.path()).await;
    let after = Load::start(listen, LoadPlan::mixed("orders", 100));
    after.wait_requests(100).await;
    let from_cache = count_usable(&other).await;
    let away = Duration::from_secs(form.pick([120, 15]));
    load.run_for(away.saturating_sub(gone.elapsed())).await;
    let kept = count_usable(&site.caller.process).await;

    site.cluster.start_all().await?;
    site.cluster.join_agent(&site.agent).await?;
    let back = Instant::now();
    wait::until("all instances are passing", RECOVERY_LIMIT * 3, async || site.all_passing().await).await;
    let passing = back.elapsed();
    for process in [&site.caller.process, &other] {
        wait_confirmed(process, back).await;
    }
    let confirmed = back.elapsed();
    load.run_for(Duration::from_secs(2)).await;
    tally.0.extend(after.stop().await.0);
    tally.0.extend(load.stop().await.0);
    stop(other).await;

    let mut row = site.report(&tally).await;
    row.require(kept == 3, || format!("{kept} of three in the table"));
    row.require(from_cache == 3, || format!("{from_cache} of three in the table of the restarted one"));
    row.require(passing < RECOVERY_LIMIT, || format!("passing again only after {}", format_millis(passing)));
    row.note(format!(
        "nothing was sent to the second caller during its restart; all instances were passing {} after the servers \
         were back, and both tables were confirmed after {}",
        format_millis(passing),
        format_millis(confirmed)
    ));
    Ok(row)
}

pub(super) async fn reaped(form: RunLength) -> CaseResult {
    let mut site = ClusterTestbed::start().await?;
    let load = Load::start(site.caller.addr(), LoadPlan::mixed("orders", form.pick([400, 200])));
    load.wait_requests(200).await;
    let (mut slowest, mut fewest) = (Duration::ZERO, usize::MAX);
    for _ in 0..form.pick([5, 2]) {
        let leader = site.cluster.leader().await?;
        // A leader does this to a node that is no longer a member.
        let server = ConsulAgent(site.cluster.servers()[leader].http_addr());
        server.put("/v1/catalog/deregister", &json!({"Node": "agent1"})).await;
        let lost = Instant::now();
        let (again, usable) = site.observe_recovery(&load, lost, ClusterTestbed::all_listed).await;
        (slowest, fewest) = (slowest.max(again), fewest.min(usable));
    }
    let tally = load.stop().await;
    let mut row = site.report(&tally).await;
    row.require(slowest < RECOVERY_LIMIT, || format!("listed again only after {}", format_millis(slowest)));
    row.require(fewest == 3, || format!("{fewest} of three in the table"));
    row.note(format!("listed again within {}", format_millis(slowest)));
    Ok(row)
}

/// Starts a caller that keeps its state files in `state`; the port of `listen` is part of their names.
async fn start_caller(agent: SocketAddr, listen: SocketAddr, state: &Path) -> Process {
    let process = Process::run(&format!(
        "registry: {{consul: {{address: \"http://{agent}\"}}}}\nstate_dir: {state:?}\n\
         outbound: {{listen: \"{listen}\"}}\nupstreams: [{{service: orders}}]"
    ))
    .await;
    process.wait_ready().await;
    process
}

/// Stops the process by SIGTERM, and waits for its end.
async fn stop(mut process: Process) {
    process.signal("TERM");
    process.wait_exit(Duration::from_secs(30)).await;
}
