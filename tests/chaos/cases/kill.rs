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

/// The last attempt on a dead instance comes before this.
pub(super) const MAX_ATTEMPT_DELAY: Duration = Duration::from_millis(100);
/// Measurements that are further apart show nothing.
const MAX_POLL_GAP: Duration = Duration::from_millis(250);
/// For this long its attempts are watched: longer than any back-off, shorter than its first new trial by
/// a request could be.
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

/// Answers take a while, so that many requests are under way wherever the kill falls: at 1,000 a second, enough
/// to take an instance out for its answers before a connect is refused.
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

/// When a dead instance was picked for the last time, counted from just before its kill.
#[derive(Debug, Default)]
struct LastAttempt {
    /// Not before this: a measurement that began then did not show it yet.
    earliest: Duration,
    /// Not after this: a measurement that ended then showed it.
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
        // An instance that has left the table has no series any more: a lower sum is no pick.
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
        format!("a dead one was tried later than {}", format_millis(last.earliest))
    });
    let seen = last.latest.saturating_sub(last.earliest) < MAX_POLL_GAP;
    row.require(seen, || format!("the last attempt fell into {} without a look", format_millis(last.latest)));
    row.note(format!("last attempt on a dead one at most {} after the kill", format_millis(last.latest)));
    row
}
