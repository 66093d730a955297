//! `kill -9`: an instance dies without a word.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Case, Form, Need, Trouble, no_get_failed, posts_only_unknown};
use crate::{
    client::{Load, Plan, Tally},
    fleet::{Fleet, GLANCE},
    instance::Manners,
    row::{Row, millis},
    scene::{SERVICE, Scene},
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

/// Most of many.
pub(crate) const MOST: Case = Case {
    name: "kill-most",
    promise: "kill -9 of seven of nine at once at 1,000 requests a second: the same",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(60), Duration::from_secs(40)],
    run: |form| Box::pin(most(form)),
};

/// The last attempt on a dead instance comes before this.
pub(super) const LATEST: Duration = Duration::from_millis(100);
/// Looks that are further apart show nothing.
const COARSE: Duration = Duration::from_millis(250);
/// For this long its attempts are watched: longer than any back-off, shorter than its first new trial by
/// a request could be.
const WATCHED: Duration = Duration::from_millis(1500);

async fn one(form: Form) -> Result<Row, Trouble> {
    let mut scene = Scene::of_three("").await?;
    let load = loaded(&scene, form.pick([400, 300])).await;
    let mut last = Attempts::default();
    for nth in 0..form.pick([10, 2]) {
        let victim = nth % 3;
        last.and(&killed(&mut scene, &[victim]).await);
        scene.fleet.members[victim].start().await;
        scene.fleet.members[victim].behave(&busy()).await;
        scene.all_trusted().await;
        load.reaches(load.requests() + 50).await;
    }
    Ok(judge(&load.stop().await, &scene, &last).await)
}

async fn two(form: Form) -> Result<Row, Trouble> {
    at_once(Scene::of_three("").await?, &[0, 2], form).await
}

async fn most(form: Form) -> Result<Row, Trouble> {
    let mut fleet = Fleet::of(SERVICE);
    for _ in 0..9 {
        fleet.add_ours();
    }
    at_once(Scene::of(fleet, "").await?, &[0, 2, 3, 4, 5, 6, 8], form).await
}

async fn at_once(mut scene: Scene, victims: &[usize], form: Form) -> Result<Row, Trouble> {
    let load = loaded(&scene, 1000).await;
    load.reaches(form.pick([3000, 1000])).await;
    let last = killed(&mut scene, victims).await;
    load.reaches(form.pick([10_000, 4000])).await;
    Ok(judge(&load.stop().await, &scene, &last).await)
}

/// Answers take a while, so that many requests are under way wherever the kill falls: at 1,000 a second, enough
/// to take an instance out for its answers before anybody is refused.
fn busy() -> Manners {
    Manners { delay_ms: 60, ..Manners::default() }
}

async fn loaded(scene: &Scene, rate: u32) -> Load {
    for member in &scene.fleet.members {
        member.behave(&busy()).await;
    }
    let load = Load::start(scene.caller.addr(), Plan { connections: 160, ..Plan::mixed(SERVICE, rate) });
    load.reaches(200).await;
    load
}

/// When a dead instance was picked for the last time, counted from just before its kill.
#[derive(Debug, Default)]
struct Attempts {
    /// Not before this: a look that began then did not see it yet.
    after: Duration,
    /// Not after this: a look that ended then saw it.
    by: Duration,
}

impl Attempts {
    fn and(&mut self, other: &Self) {
        self.after = self.after.max(other.after);
        self.by = self.by.max(other.by);
    }
}

/// Kills these at once, and watches the sidecar's picks of them.
async fn killed(scene: &mut Scene, victims: &[usize]) -> Attempts {
    let names: Vec<String> = victims.iter().map(|at| scene.fleet.members[*at].name.clone()).collect();
    let kill = Instant::now();
    for at in victims {
        scene.fleet.members[*at].kill();
    }
    let mut seen = 0.0;
    let mut began_before = Duration::ZERO;
    let mut last = Attempts::default();
    while kill.elapsed() < WATCHED {
        let began = kill.elapsed();
        let metrics = scene.caller.metrics().await;
        let picks = |name| metrics.sum("outrigger_instance_picks_total", &[("instance", name)]);
        let now: f64 = names.iter().map(|name| picks(name)).sum();
        // One that has left the table has no series any more: less is no pick.
        if now > seen {
            last = Attempts { after: began_before, by: kill.elapsed() };
        }
        (seen, began_before) = (now, began);
        sleep(GLANCE).await;
    }
    last
}

async fn judge(tally: &Tally, scene: &Scene, last: &Attempts) -> Row {
    let mut row = scene.row(tally).await;
    no_get_failed(tally, &mut row);
    posts_only_unknown(tally, &mut row);
    row.promise(last.after < LATEST, || format!("a dead one was tried later than {}", millis(last.after)));
    let seen = last.by.saturating_sub(last.after) < COARSE;
    row.promise(seen, || format!("the last attempt fell into {} without a look", millis(last.by)));
    row.note(format!("last attempt on a dead one at most {} after the kill", millis(last.by)));
    row
}
