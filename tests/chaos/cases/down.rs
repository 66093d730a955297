//! All instances are down, and then up again.

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

/// Longest time of a request that fails. Such a request waits for nothing; the bound is room for a busy machine.
const MAX_FAILURE_TIME: Duration = Duration::from_millis(500);
/// Longest time from the first instance that accepts connections and is passing to the last request that fails.
const MAX_RECOVERY_TIME: Duration = Duration::from_secs(1);
/// The failures that are allowed while all instances are down.
const ALLOWED_REASONS: [&str; 4] =
    ["502 connect_failed", "503 circuit_open", "503 no_usable_instance", "404 unknown_service"];

pub(super) async fn killed(form: RunLength) -> CaseResult {
    let mut scene = Testbed::with_three("").await?;
    let mut outage = Outage::start(&mut scene).await;
    outage.load.run_for(form.pick([Duration::from_secs(15), Duration::from_secs(3)])).await;
    outage.starting = outage.load.elapsed();
    for member in &mut scene.fleet.members {
        member.start().await;
    }
    outage.back = wait_first_back(&scene, &outage.load).await;
    outage.report(&scene, form).await
}

pub(super) async fn replaced(form: RunLength) -> CaseResult {
    let mut scene = Testbed::with_three("").await?;
    scene.fleet.deregister(scene.agent).await;
    scene.fleet.register_unchecked(scene.agent).await;
    let mut outage = Outage::start(&mut scene).await;
    // The breaker is open in the middle of this time; its open times double from 1 s.
    outage.load.run_for(form.pick([Duration::from_secs(10), Duration::from_secs(5)])).await;
    scene.fleet.deregister(scene.agent).await;
    let dead = std::mem::take(&mut scene.fleet.members);
    outage.starting = outage.load.elapsed();
    for _ in &dead {
        scene.fleet.add_own_server().start().await;
    }
    let registered = scene.fleet.register_unchecked(scene.agent);
    ((), outage.back) = tokio::join!(registered, wait_first_back(&scene, &outage.load));
    // The check of the POSTs needs the logs of all instances.
    scene.fleet.members.extend(dead);
    outage.report(&scene, form).await
}

/// A load, and the times of the events, counted from its start.
struct Outage {
    load: Load,
    /// The first kill.
    killing: Duration,
    /// All instances were dead.
    down: Duration,
    /// The first instance was started again.
    starting: Duration,
    /// The first instance accepted connections and was passing in Consul.
    back: Duration,
}

impl Outage {
    /// Kills all instances under a load.
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

        // A request that was in flight at the kill may have been sent; so may a request to a dead instance shortly
        // after the kill.
        let at_the_kill = |one: &RequestResult| {
            let cut = one.failed_with("502 sent_unknown") || one.failed_with("502 upstream_closed");
            cut && one.due <= down + MAX_ATTEMPT_DELAY && one.ended() >= killing
        };
        let wrong = tally.filter(|one| {
            let allowed = ALLOWED_REASONS.iter().any(|reason| one.failed_with(reason));
            one.failed.is_some() && !allowed && !at_the_kill(one)
        });
        let after = wrong.0.iter().map(|one| one.due.saturating_sub(down)).max().unwrap_or_default();
        row.require(wrong.0.is_empty(), || {
            let wrong = wrong.describe_failures();
            format!("a wrong reason: {wrong}, the last {} after all were killed", format_millis(after))
        });
        let meanwhile = tally.filter(|one| one.due > down && one.ended() < starting);
        let answered = meanwhile.requests() - meanwhile.failures().requests();
        row.require(answered == 0, || format!("{answered} were answered although no instance was up"));
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

/// Waits until the first instance accepts connections and is passing in Consul. Returns that time of the load.
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
