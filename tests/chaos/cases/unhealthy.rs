//! One of three instances answers errors, or answers slowly.

use outrigger_tests::{
    load::{Load, LoadPlan, RequestResults},
    wait,
};

use crate::{
    case::{CaseResult, RunLength},
    case_report::CaseReport,
    instance::Behaviour,
    testbed::{SERVICE, Testbed},
};

pub(super) async fn busy(form: RunLength) -> CaseResult {
    let scene = Testbed::with_three("").await?;
    let busy = Behaviour { status: 503, ..Behaviour::default() };
    let (tally, out) = run_with_unhealthy(
        &scene,
        &busy,
        LoadPlan::mixed(SERVICE, form.pick([300, 600])),
        form.pick([9000, 2400]),
    )
    .await;
    Ok(report(&scene, &tally, out).await)
}

pub(super) async fn slow(form: RunLength) -> CaseResult {
    let scene = Testbed::with_three("defaults: {per_try_timeout: 300ms}").await?;
    let slow = Behaviour { delay_ms: 2000, ..Behaviour::default() };
    let plan = LoadPlan { connections: 160, ..LoadPlan::mixed(SERVICE, form.pick([300, 600])) };
    let (tally, out) = run_with_unhealthy(&scene, &slow, plan, form.pick([9000, 2400])).await;
    Ok(report(&scene, &tally, out).await)
}

pub(super) async fn broken(form: RunLength) -> CaseResult {
    let scene = Testbed::with_three("").await?;
    let broken = Behaviour { status: 500, ..Behaviour::default() };
    // The limit is for 60 s at 200 requests a second; a short run has a higher rate.
    let (rate, count) = form.pick([(200, 60 * 200), (800, 4800)]);
    let (tally, out) = run_with_unhealthy(&scene, &broken, LoadPlan::mixed(SERVICE, rate), count).await;
    let mut row = scene.report(&tally).await;
    let share = tally.failed_share();
    row.require(share < 0.01, || format!("{} failed", percent(share)));
    row.require(out <= 100, || format!("ejected after {out} of its requests"));
    row.note(format!("{} failed, ejected after {out} of its requests", percent(share)));
    Ok(row)
}

/// Runs a load with one failing instance. Returns the results, and how many requests that instance had received when
/// it was first ejected.
async fn run_with_unhealthy(
    scene: &Testbed,
    failing: &Behaviour,
    plan: LoadPlan,
    count: u64,
) -> (RequestResults, u64) {
    let member = &scene.fleet.members[1];
    member.set_behaviour(failing).await;
    let load = Load::start(scene.caller.addr(), plan);
    wait::until("the failing instance is ejected", wait::TIMEOUT, async || scene.ejections().await >= 1.0)
        .await;
    let out = member.request_count().await;
    load.wait_requests(count).await;
    (load.stop().await, out)
}

async fn report(scene: &Testbed, tally: &RequestResults, out: u64) -> CaseReport {
    let mut row = scene.report(tally).await;
    let share = tally.with_method("GET").failed_share();
    row.require(share < 0.001, || format!("{} of the GETs failed", percent(share)));
    row.note(format!("{} of the GETs failed, ejected after {out} of its requests", percent(share)));
    row
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}
