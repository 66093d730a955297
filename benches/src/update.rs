//! How long an update takes, and whether the number of services matters.
//!
//! A scripted registry returns 10,000 instances that were created before, so that reading an answer is
//! not part of the figures. One thread runs everything, and its processor time is the cost.

mod fixture;
mod plan;
mod registry;
mod rig;

use std::time::Duration;

use tokio::runtime;

use self::{
    plan::{Reach, UpdateKind, UpdatePlan},
    rig::UpdateRig,
};
use crate::{
    Effort, Error,
    clock::Stopwatch,
    error::doing,
    report::{Finding, Section, Table},
    stats::{Samples, ThreeDigits},
};

/// Milliseconds.
const TARGET: f64 = 10.0;

/// The names of the kinds of [`UpdateKind`] in the tables.
const KINDS: [&str; 3] = ["one instance's health", "every instance's health", "all instances replaced"];

/// The result of one line.
#[derive(Debug)]
struct UpdateResult {
    /// Milliseconds of processor time, for each kind of change.
    updates: [Samples; 3],
    /// Time until every service had its first answer.
    start: Duration,
}

impl UpdateResult {
    fn worst(&self) -> f64 {
        self.updates.iter().map(Samples::median).fold(0.0, f64::max)
    }
}

/// Measures updates of one service of 10,000 instances, alone and beside many others.
///
/// # Errors
/// Discovery cannot be set up, or an update does not arrive.
pub fn run(effort: Effort) -> Result<Section, Error> {
    let (rounds, many) = (effort.choose(9, 2), effort.choose(10_000, 200));
    let heads = ["until", "services"].into_iter().chain(KINDS).chain(["start, s"]);
    let caption = "Milliseconds of processor time per update of 10,000 instances, median (least to greatest); \
                   seconds until all services had their first answer";
    let (mut table, mut section) = (Table::new(caption, heads), Section::new("Updates"));
    for (reach, until) in [(Reach::Snapshot, "a follower has it"), (Reach::View, "the proxy picks by it")] {
        let (alone, among) =
            (UpdatePlan { reach, services: 1, rounds }, UpdatePlan { reach, services: many, rounds });
        let (alone, among) = (measure(alone)?, measure(among)?);
        for (services, line) in [(1, &alone), (many, &among)] {
            let cells = line.updates.iter().map(Samples::spread);
            let start = ThreeDigits(line.start.as_secs_f64()).to_string();
            table.row([until.to_owned(), services.to_string()].into_iter().chain(cells).chain([start]));
        }
        for (kind, samples) in KINDS.into_iter().zip(&among.updates) {
            let what = format!("{kind} of 10,000, among {many} services, until {until}");
            section = section.finding(Finding::below(what, samples.median(), "ms", TARGET));
        }
        let ratio = format!("{:.2}", among.worst() / alone.worst());
        let what = "the slowest of these, as a multiple of it without other services";
        section = section.finding(Finding::plain(what, ratio));
    }
    Ok(section.table(table).remark(format!("{rounds} updates of each kind, after one that is not counted.")))
}

/// Starts discovery and changes the large service.
fn measure(plan: UpdatePlan) -> Result<UpdateResult, Error> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(doing("build a runtime"))?.block_on(async {
        let began = Stopwatch::start();
        let rig = UpdateRig::start(plan).await?;
        let start = began.elapsed().wall;
        let updates = [
            rig.samples(UpdateKind::One, plan.rounds).await?,
            rig.samples(UpdateKind::Health, plan.rounds).await?,
            rig.samples(UpdateKind::Others, plan.rounds).await?,
        ];
        rig.stop().await;
        Ok(UpdateResult { updates, start })
    })
}
