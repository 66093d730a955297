//! The registry's servers go away, the leader or all of them, or forget.

use std::{net::SocketAddr, path::Path, time::Duration};

use outrigger_tests::{process::Process, registry::Agent, wait};
use serde_json::json;
use tokio::time::Instant;

use super::{Case, Form, Need, Trouble};
use crate::{
    client::{Load, Plan},
    cluster::{AGAIN, Site, confirmed, usable},
    fleet::free_addr,
    row::{Row, millis},
};

/// The leader is killed.
pub(crate) const LEADER: Case = Case {
    name: "leader-killed",
    promise: "Consul's leader is killed (-9): 0 failed, nothing is registered anew",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(120), Duration::from_secs(90)],
    run: |form| Box::pin(leader(form)),
};

/// All servers are.
pub(crate) const ALL: Case = Case {
    name: "servers-stopped",
    promise: "all servers stopped for 2 minutes, and a caller's sidecar restarted meanwhile: 0 failed, the table is \
              kept, also by the restarted one",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(300), Duration::from_secs(150)],
    run: |form| Box::pin(servers(form)),
};

/// They go on, and have lost the node.
pub(crate) const REAPED: Case = Case {
    name: "node-reaped",
    promise: "the servers lose the node and all its services, while its agent thinks that they know it: 0 failed, \
              the table is kept, everybody is listed again in less than 10 s",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(180), Duration::from_secs(90)],
    run: |form| Box::pin(reaped(form)),
};

async fn leader(form: Form) -> Result<Row, Trouble> {
    let mut site = Site::new().await?;
    let load = Load::start(site.caller.addr(), Plan::mixed("orders", form.pick([400, 200])));
    load.reaches(200).await;
    let killed = site.cluster.kill_leader().await?;
    let at = Instant::now();
    site.cluster.leader().await?;
    let elected = at.elapsed();
    // Longer than the checks live without being renewed.
    load.goes_on(Duration::from_secs(form.pick([40, 5]))).await;
    site.cluster.server(killed).start().await?;
    load.goes_on(Duration::from_secs(3)).await;
    let tally = load.stop().await;
    let (passing, times, usable) =
        (site.passing().await, site.registrations().await, usable(&site.caller.process).await);
    let mut row = site.row(&tally).await;
    row.promise(passing, || "not everybody is passing".to_owned());
    row.promise(times == 3.0, || format!("{times} registrations of three"));
    row.promise(usable == 3, || format!("{usable} of three in the table"));
    row.note(format!("the next leader after {}", millis(elected)));
    Ok(row)
}

async fn servers(form: Form) -> Result<Row, Trouble> {
    let mut site = Site::new().await?;
    let load = Load::start(site.caller.addr(), Plan::mixed("orders", form.pick([300, 150])));
    let state = tempfile::Builder::new().prefix("chaos-state-").tempdir()?;
    let (agent, listen) = (site.agent.http_addr(), free_addr());
    // A second caller, with a load of its own: what is sent to it while it is away would say nothing.
    let other = restartable(agent, listen, state.path()).await;
    let before = Load::start(listen, Plan::mixed("orders", 100));
    load.reaches(200).await;
    before.reaches(100).await;

    site.cluster.kill_all()?;
    let gone = Instant::now();
    before.reaches(before.requests() + 200).await;
    let mut tally = before.stop().await;
    stop(other).await;
    let other = restartable(agent, listen, state.path()).await;
    let after = Load::start(listen, Plan::mixed("orders", 100));
    after.reaches(100).await;
    let recalled = usable(&other).await;
    let away = Duration::from_secs(form.pick([120, 15]));
    load.goes_on(away.saturating_sub(gone.elapsed())).await;
    let kept = usable(&site.caller.process).await;

    site.cluster.start_all().await?;
    site.cluster.join(&site.agent).await?;
    let back = Instant::now();
    wait::until("everybody is passing", AGAIN * 3, async || site.passing().await).await;
    let passing = back.elapsed();
    for process in [&site.caller.process, &other] {
        confirmed(process, back).await;
    }
    let heard = back.elapsed();
    load.goes_on(Duration::from_secs(2)).await;
    tally.0.extend(after.stop().await.0);
    tally.0.extend(load.stop().await.0);
    stop(other).await;

    let mut row = site.row(&tally).await;
    row.promise(kept == 3, || format!("{kept} of three in the table"));
    row.promise(recalled == 3, || format!("{recalled} of three in the table of the restarted one"));
    row.promise(passing < AGAIN, || format!("passing again only after {}", millis(passing)));
    row.note(format!(
        "nothing was sent to the second caller while it restarted; with the servers back all are passing after {}, \
         and both tables confirmed after {}",
        millis(passing),
        millis(heard)
    ));
    Ok(row)
}

async fn reaped(form: Form) -> Result<Row, Trouble> {
    let mut site = Site::new().await?;
    let load = Load::start(site.caller.addr(), Plan::mixed("orders", form.pick([400, 200])));
    load.reaches(200).await;
    let (mut slowest, mut fewest) = (Duration::ZERO, usize::MAX);
    for _ in 0..form.pick([5, 2]) {
        let leader = site.cluster.leader().await?;
        // What the leader does to a node that is no member any more.
        let server = Agent(site.cluster.servers()[leader].http_addr());
        server.put("/v1/catalog/deregister", &json!({"Node": "agent1"})).await;
        let lost = Instant::now();
        let (again, usable) = site.watched(&load, lost, Site::listed).await;
        (slowest, fewest) = (slowest.max(again), fewest.min(usable));
    }
    let tally = load.stop().await;
    let mut row = site.row(&tally).await;
    row.promise(slowest < AGAIN, || format!("listed again only after {}", millis(slowest)));
    row.promise(fewest == 3, || format!("{fewest} of three in the table"));
    row.note(format!("listed again within {}", millis(slowest)));
    Ok(row)
}

/// A caller that keeps what it knows in `state`, under the name of the port that it listens on.
async fn restartable(agent: SocketAddr, listen: SocketAddr, state: &Path) -> Process {
    let process = Process::run(&format!(
        "registry: {{consul: {{address: \"http://{agent}\"}}}}\nstate_dir: {state:?}\n\
         outbound: {{listen: \"{listen}\"}}\nupstreams: [{{service: orders}}]"
    ))
    .await;
    process.ready().await;
    process
}

/// SIGTERM, and its end.
async fn stop(mut process: Process) {
    process.signal("TERM");
    process.ended(Duration::from_secs(30)).await;
}
