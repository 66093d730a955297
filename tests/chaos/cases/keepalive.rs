//! Instances that close a keep-alive connection after ten requests, with a word or without one: then the
//! next request may be on its way when the close comes.

use std::time::Duration;

use super::{Case, Requirement, RunLength, SetupError, require_no_failed_get, require_only_unknown_posts};
use crate::{
    case_report::CaseReport,
    fleet::{Fleet, MemberKind},
    instance::Behaviour,
    load::{RateLoad, RatePlan, RequestResults},
    testbed::{SERVICE, Testbed},
};

/// With a word, as nginx does.
pub(crate) const NGINX: Case = Case {
    name: "close-nginx",
    promise: "three nginx with keepalive_requests 10, 100,000 requests: none fails, GET or POST",
    needs: &[Requirement::Consul, Requirement::Nginx],
    limit: [Duration::from_secs(400), Duration::from_secs(60)],
    run: |form| Box::pin(nginx(form)),
};

/// Without one.
pub(crate) const UNANNOUNCED: Case = Case {
    name: "close-unannounced",
    promise: "three instances that close after 10 requests and do not say so: no GET fails, a POST only as \
              sent_unknown",
    needs: &[Requirement::Consul],
    limit: [Duration::from_secs(120), Duration::from_secs(60)],
    run: |form| Box::pin(unannounced(form)),
};

async fn nginx(form: RunLength) -> Result<CaseReport, SetupError> {
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

async fn unannounced(form: RunLength) -> Result<CaseReport, SetupError> {
    let scene = Testbed::with_three("").await?;
    for member in &scene.fleet.members {
        member.set_behaviour(&Behaviour { close_after: 10, linger_ms: 2, ..Behaviour::default() }).await;
    }
    let tally = run_load(&scene, form.pick([1000, 600]), form.pick([30_000, 3000])).await;
    let mut row = scene.report(&tally).await;
    require_no_failed_get(&tally, &mut row);
    require_only_unknown_posts(&tally, &mut row);
    require_closes(&scene, &tally, &mut row).await;
    let metrics = scene.caller.metrics().await;
    let races = metrics.sum("outrigger_retries_total", &[("why", "race")]);
    row.note(format!("{races} requests met a close half-way"));
    Ok(row)
}

async fn run_load(scene: &Testbed, rate: u32, count: u64) -> RequestResults {
    let load =
        RateLoad::start(scene.caller.addr(), RatePlan { connections: 32, ..RatePlan::mixed(SERVICE, rate) });
    load.wait_requests(count).await;
    load.stop().await
}

/// Without a connection for about every ten requests, nothing was tried.
async fn require_closes(scene: &Testbed, tally: &RequestResults, row: &mut CaseReport) {
    let metrics = scene.caller.metrics().await;
    let opened = metrics.sum("outrigger_pool_connections_total", &[("event", "opened")]);
    // Of its last request a connection may see the beginning only.
    let least = tally.requests() as f64 / 12.0;
    row.require(opened >= least, || format!("only {opened} connections were opened"));
    row.note(format!("{opened} connections"));
}
