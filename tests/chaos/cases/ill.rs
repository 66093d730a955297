//! One of three instances is ill: it answers, and nothing good.

use std::time::Duration;

use outrigger_tests::wait;

use super::{Case, Form, Need, Trouble};
use crate::{
    client::{Load, Plan, Tally},
    instance::Manners,
    row::Row,
    scene::{SERVICE, Scene},
};

/// 503 to everything.
pub(crate) const BUSY: Case = Case {
    name: "one-503",
    promise: "one of three answers 503 to everything: fewer than 0.1 % of the GETs fail",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(120), Duration::from_secs(60)],
    run: |form| Box::pin(busy(form)),
};

/// 500 to everything.
pub(crate) const BROKEN: Case = Case {
    name: "one-500",
    promise: "one of three answers 500 to everything: it is out within 100 of its requests, and fewer than 1 % of \
              all fail over 60 s",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(150), Duration::from_secs(60)],
    run: |form| Box::pin(broken(form)),
};

/// Two seconds for everything.
pub(crate) const SLOW: Case = Case {
    name: "one-slow",
    promise: "one of three takes 2 s, per_try_timeout 300 ms: fewer than 0.1 % of the GETs fail",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(120), Duration::from_secs(60)],
    run: |form| Box::pin(slow(form)),
};

async fn busy(form: Form) -> Result<Row, Trouble> {
    let scene = Scene::of_three("").await?;
    let busy = Manners { status: 503, ..Manners::default() };
    let (tally, out) =
        under(&scene, &busy, Plan::mixed(SERVICE, form.pick([300, 600])), form.pick([9000, 2400])).await;
    Ok(judge(&scene, &tally, out).await)
}

async fn slow(form: Form) -> Result<Row, Trouble> {
    let scene = Scene::of_three("defaults: {per_try_timeout: 300ms}").await?;
    let slow = Manners { delay_ms: 2000, ..Manners::default() };
    let plan = Plan { connections: 160, ..Plan::mixed(SERVICE, form.pick([300, 600])) };
    let (tally, out) = under(&scene, &slow, plan, form.pick([9000, 2400])).await;
    Ok(judge(&scene, &tally, out).await)
}

async fn broken(form: Form) -> Result<Row, Trouble> {
    let scene = Scene::of_three("").await?;
    let broken = Manners { status: 500, ..Manners::default() };
    // The share is of 60 s: in less time it takes as many requests.
    let (rate, count) = form.pick([(200, 60 * 200), (800, 4800)]);
    let (tally, out) = under(&scene, &broken, Plan::mixed(SERVICE, rate), count).await;
    let mut row = scene.row(&tally).await;
    let share = tally.failed_share();
    row.promise(share < 0.01, || format!("{} failed", percent(share)));
    row.promise(out <= 100, || format!("out after {out} of its requests"));
    row.note(format!("{} failed, out after {out} of its requests", percent(share)));
    Ok(row)
}

/// A load with one ill instance: what it came to, and how many requests the ill one had seen when it was
/// first out.
async fn under(scene: &Scene, ill: &Manners, plan: Plan, count: u64) -> (Tally, u64) {
    let member = &scene.fleet.members[1];
    member.behave(ill).await;
    let load = Load::start(scene.caller.addr(), plan);
    wait::until("the ill instance is ejected", wait::BOUND, async || scene.ejections().await >= 1.0).await;
    let out = member.report().await.requests;
    load.reaches(count).await;
    (load.stop().await, out)
}

async fn judge(scene: &Scene, tally: &Tally, out: u64) -> Row {
    let mut row = scene.row(tally).await;
    let share = tally.method("GET").failed_share();
    row.promise(share < 0.001, || format!("{} of the GETs failed", percent(share)));
    row.note(format!("{} of the GETs failed, out after {out} of its requests", percent(share)));
    row
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}
