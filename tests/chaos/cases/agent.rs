//! The agent beside the apps loses all that it knew, and is back with nothing.

use std::time::Duration;

use outrigger_tests::wait;
use tokio::{net::TcpStream, time::Instant};

use super::{Case, Form, Need, Trouble};
use crate::{
    client::{Load, Plan},
    cluster::{AGAIN, Site},
    row::{Row, millis},
};

/// The agent forgets.
pub(crate) const EMPTIED: Case = Case {
    name: "agent-emptied",
    promise: "the agent is restarted with empty data: 0 failed, the table is kept, everybody is registered again \
              less than 10 s after it is back",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(240), Duration::from_secs(120)],
    run: |form| Box::pin(agent(form)),
};

/// How the agent ends, and how long it is away.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// SIGTERM: it leaves the cluster first, and its node and all its services with it.
    Stopped(Duration),
    /// SIGKILL: the servers list everybody until they notice.
    Killed(Duration),
}

async fn agent(form: Form) -> Result<Row, Trouble> {
    let mut site = Site::new().await?;
    let load = Load::start(site.caller.addr(), Plan::mixed("orders", form.pick([400, 200])));
    load.reaches(200).await;
    let at_once = Duration::ZERO;
    let losses = [
        Loss::Stopped(at_once),
        Loss::Killed(at_once),
        Loss::Stopped(Duration::from_secs(15)),
        Loss::Killed(Duration::from_secs(15)),
    ];
    let (mut slowest, mut fewest) = (Duration::ZERO, usize::MAX);
    for loss in losses.into_iter().take(form.pick([4, 2])) {
        let (again, usable) = forgotten(&mut site, loss, &load).await?;
        (slowest, fewest) = (slowest.max(again), fewest.min(usable));
    }
    let tally = load.stop().await;
    if slowest >= AGAIN || fewest < 3 {
        site.tell();
    }
    let mut row = site.row(&tally).await;
    row.promise(slowest < AGAIN, || format!("registered again only after {}", millis(slowest)));
    row.promise(fewest == 3, || format!("{fewest} of three in the table"));
    row.note(format!("registered again within {}", millis(slowest)));
    Ok(row)
}

/// Loses the agent and its data. How long everybody took to be registered again, from when it answered
/// anything at all, and the fewest that the caller could choose from.
async fn forgotten(site: &mut Site, loss: Loss, load: &Load) -> Result<(Duration, usize), Trouble> {
    let away = match loss {
        Loss::Stopped(away) => away,
        Loss::Killed(away) => {
            site.agent.kill()?;
            away
        }
    };
    site.agent.wipe().await?;
    load.goes_on(away).await;
    site.agent.spawn()?;
    let at = site.agent.http_addr();
    wait::until("the agent answers", wait::BOUND, async || TcpStream::connect(at).await.is_ok()).await;
    let back = Instant::now();
    Ok(site.watched(load, back, Site::passing).await)
}
