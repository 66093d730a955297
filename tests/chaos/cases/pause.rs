//! SIGSTOP: an instance that accepts connections and does not answer. Its check in the registry stays passing.

use std::time::Duration;

use outrigger_tests::{
    load::{Load, LoadPlan},
    wait,
};
use tokio::time::Instant;

use crate::{
    case::{CaseResult, RunLength},
    case_report::format_millis,
    testbed::{SERVICE, Testbed},
};

/// Two attempts of 500 ms, the pause between them, and room for a busy machine. An attempt on the stopped instance
/// and one on another take half of it.
const MAX_TWO_ATTEMPTS: Duration = Duration::from_millis(2 * 500 + 25 + 75);
/// One second without an answer, one second until the stall is detected, and room for a busy machine.
const MAX_DEFAULT_TIME: Duration = Duration::from_secs(3);
/// Longest time until the instance is trusted again: its ejection time, and the probation request after it.
const RETURN_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn with_try_timeout(form: RunLength) -> CaseResult {
    stop_one(form, "defaults: {per_try_timeout: 500ms}", MAX_TWO_ATTEMPTS).await
}

pub(super) async fn with_defaults(form: RunLength) -> CaseResult {
    stop_one(form, "", MAX_DEFAULT_TIME).await
}

async fn stop_one(form: RunLength, settings: &str, most: Duration) -> CaseResult {
    let scene = Testbed::with_three(settings).await?;
    let victim = &scene.fleet.members[1];
    let plan = LoadPlan { connections: 160, ..LoadPlan::mixed(SERVICE, 200) };
    let load = Load::start(scene.caller.addr(), plan);
    load.wait_requests(200).await;

    let stopped = Instant::now();
    victim.signal("STOP");
    wait::until("the stopped instance is ejected", wait::TIMEOUT, async || scene.ejections().await >= 1.0)
        .await;
    let ejected = stopped.elapsed();
    load.run_for(form.pick([Duration::from_secs(10), Duration::from_secs(2)])).await;

    let before = scene.caller.metrics().await;
    victim.signal("CONT");
    let continued = Instant::now();
    scene.wait_trusted(3, RETURN_TIMEOUT).await;
    let back = continued.elapsed();
    wait::until("it gets requests again", wait::TIMEOUT, async || {
        let picks = [("instance", victim.name.as_str())];
        let picks =
            |metrics: &outrigger_tests::scrape::Scrape| metrics.sum("outrigger_instance_picks_total", &picks);
        picks(&scene.caller.metrics().await) > picks(&before) + 20.0
    })
    .await;
    load.wait_requests(load.requests() + form.pick([1000, 200])).await;

    let tally = load.stop().await;
    let mut row = scene.report(&tally).await;
    row.require_no_failed_get(&tally);
    let longest = tally.with_method("GET").longest();
    row.require(longest <= most, || format!("a GET took {}", format_millis(longest)));
    row.note(format!("longest GET {}", format_millis(longest)));
    row.note(format!("ejected {} after SIGSTOP", format_millis(ejected)));
    row.note(format!("back {} after SIGCONT", format_millis(back)));
    Ok(row)
}
