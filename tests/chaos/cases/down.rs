//! Every instance is down, and then back.

use std::time::Duration;

use tokio::{net::TcpStream, time::sleep};

use super::{Case, Form, Need, Trouble, kill::LATEST};
use crate::{
    client::{Answer, Load, Plan},
    fleet::GLANCE,
    row::{Row, millis},
    scene::{SERVICE, Scene},
};

/// They die, and come back under their old registration.
pub(crate) const KILLED: Case = Case {
    name: "all-down",
    promise: "all instances die and come back: requests fail fast and say why meanwhile, and succeed within 1 s \
              of the first one accepting and passing in Consul",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(120), Duration::from_secs(60)],
    run: |form| Box::pin(killed(form)),
};

/// They die and nobody notices, until others are there in their place: by then the breaker waits for long,
/// and those it could ask are gone.
pub(crate) const REPLACED: Case = Case {
    name: "all-replaced",
    promise: "all instances die, stay in Consul as passing, and are replaced by new ones elsewhere: the same",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(120), Duration::from_secs(60)],
    run: |form| Box::pin(replaced(form)),
};

/// Nothing is waited for: the rest is room for a busy machine.
const FAST: Duration = Duration::from_millis(500);
/// From the first instance that accepts and is passing, to the last request that fails.
const RECOVERED: Duration = Duration::from_secs(1);
/// What may be said while all are down.
const REASONS: [&str; 4] =
    ["502 connect_failed", "503 circuit_open", "503 no_usable_instance", "404 unknown_service"];

async fn killed(form: Form) -> Result<Row, Trouble> {
    let mut scene = Scene::of_three("").await?;
    let mut trial = Trial::start(&mut scene).await;
    trial.load.goes_on(form.pick([Duration::from_secs(15), Duration::from_secs(3)])).await;
    trial.starting = trial.load.elapsed();
    for member in &mut scene.fleet.members {
        member.start().await;
    }
    trial.back = first_back(&scene, &trial.load).await;
    trial.judge(&scene, form).await
}

async fn replaced(form: Form) -> Result<Row, Trouble> {
    let mut scene = Scene::of_three("").await?;
    scene.fleet.deregister(scene.agent).await;
    scene.fleet.register_unchecked(scene.agent).await;
    let mut trial = Trial::start(&mut scene).await;
    // In the middle of one of the breaker's spells, which double from 1 s.
    trial.load.goes_on(form.pick([Duration::from_secs(10), Duration::from_secs(5)])).await;
    scene.fleet.deregister(scene.agent).await;
    let dead = std::mem::take(&mut scene.fleet.members);
    trial.starting = trial.load.elapsed();
    for _ in &dead {
        scene.fleet.add_ours().start().await;
    }
    let registered = scene.fleet.register_unchecked(scene.agent);
    ((), trial.back) = tokio::join!(registered, first_back(&scene, &trial.load));
    // For the audit.
    scene.fleet.members.extend(dead);
    trial.judge(&scene, form).await
}

/// A load, and what happened when, counted from its beginning.
struct Trial {
    load: Load,
    /// The killing began.
    killing: Duration,
    /// All were dead.
    down: Duration,
    /// The first one was started again.
    starting: Duration,
    /// The first one accepted connections and was passing in Consul.
    back: Duration,
}

impl Trial {
    /// Kills them all, under a load.
    async fn start(scene: &mut Scene) -> Self {
        let load = Load::start(scene.caller.addr(), Plan::mixed(SERVICE, 200));
        load.reaches(200).await;
        let killing = load.elapsed();
        for member in &mut scene.fleet.members {
            member.kill();
        }
        let down = load.elapsed();
        Self { load, killing, down, starting: Duration::MAX, back: Duration::MAX }
    }

    async fn judge(self, scene: &Scene, form: Form) -> Result<Row, Trouble> {
        self.load.goes_on(form.pick([Duration::from_secs(15), Duration::from_secs(2)])).await;
        let Self { load, killing, down, starting, back } = self;
        let tally = load.stop().await;
        let mut row = scene.row(&tally).await;

        // What was under way at the kill can have been sent, and to a dead one for a moment after it.
        let at_the_kill = |one: &Answer| {
            let cut = one.is("502 sent_unknown") || one.is("502 upstream_closed");
            cut && one.due <= down + LATEST && one.ended() >= killing
        };
        let wrong = tally.only(|one| {
            let said = REASONS.iter().any(|reason| one.is(reason));
            one.failed.is_some() && !said && !at_the_kill(one)
        });
        let after = wrong.0.iter().map(|one| one.due.saturating_sub(down)).max().unwrap_or_default();
        row.promise(wrong.0.is_empty(), || {
            let wrong = wrong.failed_by_class();
            format!("not the right reason: {wrong}, the last {} after all were killed", millis(after))
        });
        let meanwhile = tally.only(|one| one.due > down && one.ended() < starting);
        let well = meanwhile.requests() - meanwhile.failed().requests();
        row.promise(well == 0, || format!("{well} were answered by nobody"));
        let longest = meanwhile.longest();
        row.promise(longest < FAST, || format!("a failure took {}", millis(longest)));

        let last = tally.failed().0.iter().map(Answer::ended).max().unwrap_or_default();
        let recovered = last.saturating_sub(back);
        row.promise(recovered < RECOVERED, || format!("recovered after {}", millis(recovered)));
        row.note(format!("longest failure {}", millis(longest)));
        row.note(format!("recovered {} after the first was back", millis(recovered)));
        Ok(row)
    }
}

/// When the first of them accepts connections and is passing in Consul.
async fn first_back(scene: &Scene, load: &Load) -> Duration {
    loop {
        let health = scene.agent.health(SERVICE).await;
        for (id, _) in health.iter().filter(|(_, status)| status == "passing") {
            let member = scene.fleet.members.iter().find(|one| one.name == *id);
            let Some(member) = member else { continue };
            if TcpStream::connect(member.addr).await.is_ok() {
                return load.elapsed();
            }
        }
        sleep(GLANCE).await;
    }
}
