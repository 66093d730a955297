//! `kill -9`: an instance dies without a word.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Case, Form, Need, Trouble, no_get_failed, posts_only_unknown};
use crate::{
    client::{Load, Plan, Tally},
    fleet::GLANCE,
    row::{Row, millis},
    scene::{SERVICE, Scene},
    sidecar::Caller,
};

/// One of three, again and again.
pub(crate) const ONE: Case = Case {
    name: "kill-one",
    promise: "kill -9 of one of three, ten times: no GET fails, a POST only as sent_unknown; \
              the dead one is not tried later than 100 ms after",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(180), Duration::from_secs(60)],
    run: |form| Box::pin(one(form)),
};

/// Two of three.
pub(crate) const TWO: Case = Case {
    name: "kill-two",
    promise: "kill -9 of two of three at once at 1,000 requests a second: the same",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(60), Duration::from_secs(40)],
    run: |form| Box::pin(two(form)),
};

/// The last attempt on a dead instance comes before this.
const LATEST: Duration = Duration::from_millis(100);
/// For this long its attempts are watched: longer than any back-off, shorter than its first new trial by
/// a request could be.
const WATCHED: Duration = Duration::from_millis(1500);

async fn one(form: Form) -> Result<Row, Trouble> {
    let mut scene = Scene::of_three("").await?;
    let load = Load::start(scene.caller.addr(), Plan::mixed(SERVICE, form.pick([400, 300])));
    load.reaches(200).await;
    let mut last = Duration::ZERO;
    for nth in 0..form.pick([10, 2]) {
        let victim = nth % 3;
        last = last.max(killed(&mut scene, &[victim]).await);
        scene.fleet.members[victim].start().await;
        scene.all_trusted().await;
        load.reaches(load.requests() + 50).await;
    }
    Ok(judge(&load.stop().await, &scene, last).await)
}

async fn two(form: Form) -> Result<Row, Trouble> {
    let mut scene = Scene::of_three("").await?;
    let load = Load::start(scene.caller.addr(), Plan::mixed(SERVICE, 1000));
    load.reaches(form.pick([3000, 1000])).await;
    let last = killed(&mut scene, &[0, 2]).await;
    load.reaches(form.pick([10_000, 4000])).await;
    Ok(judge(&load.stop().await, &scene, last).await)
}

/// Kills these at once, and says when the sidecar last picked one of them, counted from the kill.
async fn killed(scene: &mut Scene, victims: &[usize]) -> Duration {
    let names: Vec<String> = victims.iter().map(|at| scene.fleet.members[*at].name.clone()).collect();
    let picks = async |caller: &Caller| -> f64 {
        let metrics = caller.metrics().await;
        names.iter().map(|name| metrics.sum("outrigger_instance_picks_total", &[("instance", name)])).sum()
    };
    for at in victims {
        scene.fleet.members[*at].kill();
    }
    let at = Instant::now();
    let mut seen = picks(&scene.caller).await;
    // Nothing is known of before the first look: it is counted as a pick.
    let mut last = at.elapsed();
    while at.elapsed() < WATCHED {
        sleep(GLANCE).await;
        let now = picks(&scene.caller).await;
        // One that has left the table has no series any more: less is no pick.
        if now > seen {
            last = at.elapsed();
        }
        seen = now;
    }
    last
}

async fn judge(tally: &Tally, scene: &Scene, last: Duration) -> Row {
    let mut row = scene.row(tally).await;
    no_get_failed(tally, &mut row);
    posts_only_unknown(tally, &mut row);
    row.promise(last < LATEST, || format!("the dead one was tried {} after", millis(last)));
    row.note(format!("last attempt on a dead one {} after the kill", millis(last)));
    row
}
