//! Every instance is down, and then back.

use std::time::Duration;

use outrigger_tests::load::{Load, LoadPlan, RequestResult};
use tokio::{net::TcpStream, time::sleep};

use super::kill::MAX_ATTEMPT_DELAY;
use crate::{
    case::{CaseResult, RunLength},
    case_report::format_millis,
    fleet::FINE_POLL_INTERVAL,
    testbed::{SERVICE, Testbed},
};

/// Longest time of a request that fails: nothing is waited for, so the bound is room for a busy machine.
const MAX_FAILURE_TIME: Duration = Duration::from_millis(500);
/// From the first instance that accepts and is passing, to the last request that fails.
const MAX_RECOVERY_TIME: Duration = Duration::from_secs(1);
/// The failures that are allowed while all instances are down.
const ALLOWED_REASONS: [&str; 4] =
    ["502 connect_failed", "503 circuit_open", "503 no_usable_instance", "404 unknown_service"];

pub(super) async fn killed(form: RunLength) -> CaseResult {
    let mut scene = Testbed::with_three("").await?;
    let mut trial = Outage::start(&mut scene).await;
    trial.load.run_for(form.pick([Duration::from_secs(15), Duration::from_secs(3)])).await;
    trial.starting = trial.load.elapsed();
    for member in &mut scene.fleet.members {
        member.start().await;
    }
    trial.back = wait_first_back(&scene, &trial.load).await;
    trial.report(&scene, form).await
}

pub(super) async fn replaced(form: RunLength) -> CaseResult {
    let mut scene = Testbed::with_three("").await?;
    scene.fleet.deregister(scene.agent).await;
    scene.fleet.register_unchecked(scene.agent).await;
    let mut trial = Outage::start(&mut scene).await;
    // The breaker is open in the middle of this time; its open times double from 1 s.
    trial.load.run_for(form.pick([Duration::from_secs(10), Duration::from_secs(5)])).await;
    scene.fleet.deregister(scene.agent).await;
    let dead = std::mem::take(&mut scene.fleet.members);
    trial.starting = trial.load.elapsed();
    for _ in &dead {
        scene.fleet.add_own_server().start().await;
    }
    let registered = scene.fleet.register_unchecked(scene.agent);
    ((), trial.back) = tokio::join!(registered, wait_first_back(&scene, &trial.load));
    // The check of the POSTs needs the logs of all instances.
    scene.fleet.members.extend(dead);
    trial.report(&scene, form).await
}

/// A load, and what happened when, counted from its beginning.
struct Outage {
    load: Load,
    /// The killing began.
    killing: Duration,
    /// All were dead.
    down: Duration,
    /// The first one was started again.
    starting: Duration,
    /// The first one accepted connections and was passing in Consul.
    back: Duration,
}

impl Outage {
    /// Kills them all, under a load.
    async fn start(scene: &mut Testbed) -> Self {
        let load = Load::start(scene.caller.addr(), LoadPlan::mixed(SERVICE, 200));
        load.wait_requests(200).await;
        let killing = load.elapsed();
        for member in &mut scene.fleet.members {
            member.kill();
        }
        let down = load.elapsed();
        Self { load, killing, down, starting: Duration::MAX, back: Duration::MAX }
    }

    async fn report(self, scene: &Testbed, form: RunLength) -> CaseResult {
        self.load.run_for(form.pick([Duration::from_secs(15), Duration::from_secs(2)])).await;
        let Self { load, killing, down, starting, back } = self;
        let tally = load.stop().await;
        let mut row = scene.report(&tally).await;

        // What was under way at the kill can have been sent, and to a dead one for a moment after it.
        let at_the_kill = |one: &RequestResult| {
            let cut = one.failed_with("502 sent_unknown") || one.failed_with("502 upstream_closed");
            cut && one.due <= down + MAX_ATTEMPT_DELAY && one.ended() >= killing
        };
        let wrong = tally.filter(|one| {
            let said = ALLOWED_REASONS.iter().any(|reason| one.failed_with(reason));
            one.failed.is_some() && !said && !at_the_kill(one)
        });
        let after = wrong.0.iter().map(|one| one.due.saturating_sub(down)).max().unwrap_or_default();
        row.require(wrong.0.is_empty(), || {
            let wrong = wrong.describe_failures();
            format!("not the right reason: {wrong}, the last {} after all were killed", format_millis(after))
        });
        let meanwhile = tally.filter(|one| one.due > down && one.ended() < starting);
        let well = meanwhile.requests() - meanwhile.failures().requests();
        row.require(well == 0, || format!("{well} were answered although no instance was up"));
        let longest = meanwhile.longest();
        row.require(longest < MAX_FAILURE_TIME, || format!("a failure took {}", format_millis(longest)));

        let last = tally.failures().0.iter().map(RequestResult::ended).max().unwrap_or_default();
        let recovered = last.saturating_sub(back);
        row.require(recovered < MAX_RECOVERY_TIME, || {
            format!("recovered after {}", format_millis(recovered))
        });
        row.note(format!("longest failure {}", format_millis(longest)));
        row.note(format!("recovered {} after the first was back", format_millis(recovered)));
        Ok(row)
    }
}

/// When the first of them accepts connections and is passing in Consul.
async fn wait_first_back(scene: &Testbed, load: &Load) -> Duration {
    loop {
        let health = scene.agent.health(SERVICE).await;
        for (id, _) in health.iter().filter(|(_, status)| status == "passing") {
            let member = scene.fleet.members.iter().find(|one| one.name == *id);
            let Some(member) = member else { continue };
            if TcpStream::connect(member.addr).await.is_ok() {
                return load.elapsed();
            }
        }
        sleep(FINE_POLL_INTERVAL).await;
    }
}
