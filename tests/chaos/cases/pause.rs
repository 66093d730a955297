//! SIGSTOP: an instance that accepts, and does not answer. The registry's check goes on passing.

use std::time::Duration;

use outrigger_tests::wait;
use tokio::time::Instant;

use super::{Case, Form, Need, Trouble, no_get_failed};
use crate::{
    client::{Load, Plan},
    row::{Row, millis},
    scene::{SERVICE, Scene},
};

/// One of three, each try with a time of its own.
pub(crate) const TRIES: Case = Case {
    name: "stop-one",
    promise: "SIGSTOP of one of three, SIGCONT later, per_try_timeout 500 ms: no GET fails or takes longer than \
              two tries; the stopped one is ejected, and comes back",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(120), Duration::from_secs(60)],
    run: |form| Box::pin(case(form, "defaults: {per_try_timeout: 500ms}", TWO_TRIES)),
};

/// The same by default.
pub(crate) const DEFAULT: Case = Case {
    name: "stop-default",
    promise: "the same with the default settings: no GET fails or takes longer than 3 s; the stopped one is \
              ejected, and comes back",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(120), Duration::from_secs(60)],
    run: |form| Box::pin(case(form, "", HANGS)),
};

/// Two tries of 500 ms, the pause between them, and room for a busy machine. One try of a stopped instance
/// and one of another take half of it.
const TWO_TRIES: Duration = Duration::from_millis(2 * 500 + 25 + 75);
/// A second's patience, a second until it is known that nobody is answered, and room for a busy machine.
const HANGS: Duration = Duration::from_secs(3);
/// A spell of the ejection that the pause has led to, and the trial after it.
const BACK: Duration = Duration::from_secs(30);

async fn case(form: Form, settings: &str, most: Duration) -> Result<Row, Trouble> {
    let scene = Scene::of_three(settings).await?;
    let victim = &scene.fleet.members[1];
    let plan = Plan { connections: 160, ..Plan::mixed(SERVICE, 200) };
    let load = Load::start(scene.caller.addr(), plan);
    load.reaches(200).await;

    let stopped = Instant::now();
    victim.signal("STOP");
    wait::until("the stopped instance is ejected", wait::BOUND, async || scene.ejections().await >= 1.0)
        .await;
    let ejected = stopped.elapsed();
    load.goes_on(form.pick([Duration::from_secs(10), Duration::from_secs(2)])).await;

    let before = scene.caller.metrics().await;
    victim.signal("CONT");
    let continued = Instant::now();
    scene.trusts(3, BACK).await;
    let back = continued.elapsed();
    wait::until("it gets requests again", wait::BOUND, async || {
        let picks = [("instance", victim.name.as_str())];
        let picks =
            |metrics: &outrigger_tests::scrape::Scrape| metrics.sum("outrigger_instance_picks_total", &picks);
        picks(&scene.caller.metrics().await) > picks(&before) + 20.0
    })
    .await;
    load.reaches(load.requests() + form.pick([1000, 200])).await;

    let tally = load.stop().await;
    let mut row = scene.row(&tally).await;
    no_get_failed(&tally, &mut row);
    let longest = tally.method("GET").longest();
    row.promise(longest <= most, || format!("a GET took {}", millis(longest)));
    row.note(format!("longest GET {}", millis(longest)));
    row.note(format!("ejected {} after SIGSTOP", millis(ejected)));
    row.note(format!("back {} after SIGCONT", millis(back)));
    Ok(row)
}
