//! The agent of the node loses all its data and restarts empty.

use std::time::Duration;

use outrigger_tests::{
    load::{Load, LoadPlan},
    wait,
};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    case::{CaseResult, RunLength, SetupError},
    case_report::format_millis,
    cluster_testbed::{ClusterTestbed, RECOVERY_LIMIT},
};

/// How the agent ends, and how long it is away.
#[derive(Debug, Clone, Copy)]
enum AgentLoss {
    /// SIGTERM: the agent leaves the cluster first, with its node and all its services.
    Stopped(Duration),
    /// SIGKILL: the servers list all instances until they detect the loss.
    Killed(Duration),
}

pub(super) async fn emptied(form: RunLength) -> CaseResult {
    let mut site = ClusterTestbed::start().await?;
    let load = Load::start(site.caller.addr(), LoadPlan::mixed("orders", form.pick([400, 200])));
    load.wait_requests(200).await;
    let at_once = Duration::ZERO;
    let losses = [
        AgentLoss::Stopped(at_once),
        AgentLoss::Killed(at_once),
        AgentLoss::Stopped(Duration::from_secs(15)),
        AgentLoss::Killed(Duration::from_secs(15)),
    ];
    let (mut slowest, mut fewest) = (Duration::ZERO, usize::MAX);
    for loss in losses.into_iter().take(form.pick([4, 2])) {
        let (again, usable) = lose_agent(&mut site, loss, &load).await?;
        (slowest, fewest) = (slowest.max(again), fewest.min(usable));
    }
    let tally = load.stop().await;
    if slowest >= RECOVERY_LIMIT || fewest < 3 {
        site.print_logs();
    }
    let mut row = site.report(&tally).await;
    row.require(slowest < RECOVERY_LIMIT, || {
        format!("registered again only after {}", format_millis(slowest))
    });
    row.require(fewest == 3, || format!("{fewest} of three in the table"));
    row.note(format!("registered again within {}", format_millis(slowest)));
    Ok(row)
}

/// Loses the agent and its data. Returns the time from the agent's first answer until all instances were registered
/// again, and the smallest number of instances that the caller could choose from meanwhile.
async fn lose_agent(
    site: &mut ClusterTestbed,
    loss: AgentLoss,
    load: &Load,
) -> Result<(Duration, usize), SetupError> {
    let away = match loss {
        AgentLoss::Stopped(away) => away,
        AgentLoss::Killed(away) => {
            site.agent.kill()?;
            away
        }
    };
    site.agent.wipe().await?;
    load.run_for(away).await;
    site.agent.spawn()?;
    let at = site.agent.http_addr();
    wait::until("the agent answers", wait::TIMEOUT, async || TcpStream::connect(at).await.is_ok()).await;
    let back = Instant::now();
    Ok(site.observe_recovery(load, back, ClusterTestbed::all_passing).await)
}
