//! `kill -9`: an instance dies without notice.

use std::time::Duration;

use outrigger_tests::load::{Load, LoadPlan, RequestResults};
use tokio::time::{Instant, sleep};

use crate::{
    case::{CaseResult, RunLength},
    case_report::{CaseReport, format_millis},
    fleet::{FINE_POLL_INTERVAL, Fleet},
    instance::Behaviour,
    testbed::{SERVICE, Testbed},
};

/// Longest time from the kill to the last attempt on a dead instance.
pub(super) const MAX_ATTEMPT_DELAY: Duration = Duration::from_millis(100);
/// Longest gap between two measurements. A longer gap makes the result useless.
const MAX_POLL_GAP: Duration = Duration::from_millis(250);
/// How long the attempts on a dead instance are watched: longer than any back-off, shorter than the time until the
/// first probation request can be sent to the instance.
const WATCH_TIME: Duration = Duration::from_millis(1500);

pub(super) async fn one(form: RunLength) -> CaseResult {
    let mut scene = Testbed::with_three("").await?;
    let load = start_load(&scene, form.pick([400, 300])).await;
    let mut last = LastAttempt::default();
    for nth in 0..form.pick([10, 2]) {
        let victim = nth % 3;
        last.merge(&kill_and_watch(&mut scene, &[victim]).await);
        scene.fleet.members[victim].start().await;
        scene.fleet.members[victim].set_behaviour(&slow_behaviour()).await;
        scene.wait_all_trusted().await;
        load.wait_requests(load.requests() + 50).await;
    }
    Ok(report(&load.stop().await, &scene, &last).await)
}

pub(super) async fn two(form: RunLength) -> CaseResult {
    at_once(Testbed::with_three("").await?, &[0, 2], form).await
}

pub(super) async fn most(form: RunLength) -> CaseResult {
    let mut fleet = Fleet::new(SERVICE);
    for _ in 0..9 {
        fleet.add_own_server();
    }
    at_once(Testbed::with_fleet(fleet, "").await?, &[0, 2, 3, 4, 5, 6, 8], form).await
}

async fn at_once(mut scene: Testbed, victims: &[usize], form: RunLength) -> CaseResult {
    let load = start_load(&scene, 1000).await;
    load.wait_requests(form.pick([3000, 1000])).await;
    let last = kill_and_watch(&mut scene, victims).await;
    load.wait_requests(form.pick([10_000, 4000])).await;
    Ok(report(&load.stop().await, &scene, &last).await)
}

/// Slow answers, so that many requests are in flight at the kill. At 1,000 requests a second that is enough to eject an
/// instance for its cut answers before a connect is refused.
fn slow_behaviour() -> Behaviour {
    Behaviour { delay_ms: 60, ..Behaviour::default() }
}

async fn start_load(scene: &Testbed, rate: u32) -> Load {
    for member in &scene.fleet.members {
        member.set_behaviour(&slow_behaviour()).await;
    }
    let load =
        Load::start(scene.caller.addr(), LoadPlan { connections: 160, ..LoadPlan::mixed(SERVICE, rate) });
    load.wait_requests(200).await;
    load
}

/// When a dead instance was picked for the last time, counted from just before the kill.
#[derive(Debug, Default)]
struct LastAttempt {
    /// Lower bound: the last measurement without the pick began then.
    earliest: Duration,
    /// Upper bound: the first measurement with the pick ended then.
    latest: Duration,
}

impl LastAttempt {
    fn merge(&mut self, other: &Self) {
        self.earliest = self.earliest.max(other.earliest);
        self.latest = self.latest.max(other.latest);
    }
}

/// Kills these instances at once, and watches how often the sidecar picks them.
async fn kill_and_watch(scene: &mut Testbed, victims: &[usize]) -> LastAttempt {
    let names: Vec<String> = victims.iter().map(|at| scene.fleet.members[*at].name.clone()).collect();
    let kill = Instant::now();
    for at in victims {
        scene.fleet.members[*at].kill();
    }
    let mut seen = 0.0;
    let mut began_before = Duration::ZERO;
    let mut last = LastAttempt::default();
    while kill.elapsed() < WATCH_TIME {
        let began = kill.elapsed();
        let metrics = scene.caller.metrics().await;
        let picks = |name| metrics.sum("outrigger_instance_picks_total", &[("instance", name)]);
        let now: f64 = names.iter().map(|name| picks(name)).sum();
        // The series of an instance ends when the instance leaves the table, so a lower sum is no pick.
        if now > seen {
            last = LastAttempt { earliest: began_before, latest: kill.elapsed() };
        }
        (seen, began_before) = (now, began);
        sleep(FINE_POLL_INTERVAL).await;
    }
    last
}

async fn report(tally: &RequestResults, scene: &Testbed, last: &LastAttempt) -> CaseReport {
    let mut row = scene.report(tally).await;
    row.require_no_failed_get(tally);
    row.require_only_unknown_posts(tally);
    row.require(last.earliest < MAX_ATTEMPT_DELAY, || {
        format!("a dead instance was tried later than {}", format_millis(last.earliest))
    });
    let seen = last.latest.saturating_sub(last.earliest) < MAX_POLL_GAP;
    row.require(seen, || {
        format!(
            "the last attempt was before {}, after too long a gap between two measurements",
            format_millis(last.latest)
        )
    });
    row.note(format!(
        "last attempt on a dead instance at most {} after the kill",
        format_millis(last.latest)
    ));
    row
}
