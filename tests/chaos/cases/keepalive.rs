//! Instances that close a keep-alive connection after ten requests, with or without notice. Without notice, the
//! next request may already be sent when the close arrives.

use crate::{
    case::{CaseResult, RunLength},
    case_report::CaseReport,
    fleet::{Fleet, MemberKind},
    instance::Behaviour,
    testbed::{SERVICE, Testbed},
};
use outrigger_tests::load::{Load, LoadPlan, RequestResults};

pub(super) async fn nginx(form: RunLength) -> CaseResult {
    let mut fleet = Fleet::new(SERVICE);
    for _ in 0..3 {
        fleet.add(MemberKind::Nginx("keepalive_requests 10;".to_owned()));
    }
    let scene = Testbed::with_fleet(fleet, "").await?;
    let tally = run_load(&scene, form.pick([1500, 800]), form.pick([100_000, 4000])).await;
    let mut row = scene.report(&tally).await;
    let failed = tally.failures();
    row.require(failed.0.is_empty(), || format!("failed: {}", failed.describe_failures()));
    require_closes(&scene, &tally, &mut row).await;
    Ok(row)
}

pub(super) async fn unannounced(form: RunLength) -> CaseResult {
    let scene = Testbed::with_three("").await?;
    for member in &scene.fleet.members {
        member.set_behaviour(&Behaviour { close_after: 10, linger_ms: 2, ..Behaviour::default() }).await;
    }
    let tally = run_load(&scene, form.pick([1000, 600]), form.pick([30_000, 3000])).await;
    let mut row = scene.report(&tally).await;
    row.require_no_failed_get(&tally);
    row.require_only_unknown_posts(&tally);
    require_closes(&scene, &tally, &mut row).await;
    let metrics = scene.caller.metrics().await;
    let races = metrics.sum("outrigger_retries_total", &[("why", "race")]);
    row.note(format!("{races} requests were sent while the instance closed the connection"));
    Ok(row)
}

async fn run_load(scene: &Testbed, rate: u32, count: u64) -> RequestResults {
    let load =
        Load::start(scene.caller.addr(), LoadPlan { connections: 32, ..LoadPlan::mixed(SERVICE, rate) });
    load.wait_requests(count).await;
    load.stop().await
}

/// The case tests something only if about every tenth request opened a connection.
async fn require_closes(scene: &Testbed, tally: &RequestResults, row: &mut CaseReport) {
    let metrics = scene.caller.metrics().await;
    let opened = metrics.sum("outrigger_pool_connections_total", &[("event", "opened")]);
    // The last request of a connection may be incomplete; 12 instead of 10 allows for that.
    let least = tally.requests() as f64 / 12.0;
    row.require(opened >= least, || format!("only {opened} connections were opened"));
    row.note(format!("{opened} connections"));
}
