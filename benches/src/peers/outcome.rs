//! The results of all rounds as a table.

use super::{
    load::{CONNECTIONS, STEADY},
    proxy::ProxyProgram,
    turn::{LoadCost, TurnResult},
};
use crate::{
    report::{Finding, Section, Table},
    stats::{Samples, ThreeDigits},
};

/// MiB.
const MEMORY: f64 = 15.0;

/// A proxy and its turns, one per round.
#[derive(Debug)]
pub(super) struct ProxyResults {
    pub(super) proxy: ProxyProgram,
    pub(super) version: String,
    pub(super) turns: Vec<TurnResult>,
}

impl ProxyResults {
    fn samples(&self, of: impl Fn(&TurnResult) -> f64) -> Samples {
        Samples::new(self.turns.iter().map(of))
    }
}

/// One of a turn's two loads.
type OfLoad = fn(&TurnResult) -> &LoadCost;

/// A line of the table.
struct TableLine {
    what: String,
    of: fn(&TurnResult) -> f64,
}

fn lines() -> Vec<TableLine> {
    let line = |what: String, of| TableLine { what, of };
    let full = |what| format!("{what}, {CONNECTIONS} connections in a row");
    let steady = |what| format!("{what}, {STEADY} requests/s");
    vec![
        line(full("CPU per request, µs"), |turn| turn.full.cpu),
        line(steady("CPU per request, µs"), |turn| turn.steady.cpu),
        line(full("requests/s"), |turn| turn.full.seen.requests as f64 / turn.full.seen.seconds),
        line(full("p50, ms"), |turn| turn.full.seen.p50),
        line(full("p99, ms"), |turn| turn.full.seen.p99),
        line(steady("requests/s carried"), |turn| {
            turn.steady.seen.requests as f64 / turn.steady.seen.seconds
        }),
        line(steady("p50, ms"), |turn| turn.steady.seen.p50),
        line(steady("p99, ms"), |turn| turn.steady.seen.p99),
        line("memory when idle, MiB".into(), |turn| turn.idle_memory),
        line("memory per idle connection, KiB".into(), |turn| turn.per_connection),
        line("failed requests".into(), |turn| (turn.full.seen.failed + turn.steady.seen.failed) as f64),
    ]
}

/// The section about `contestants`; the first is Outrigger.
pub(super) fn section(contestants: &[ProxyResults], absent: &[String], connections: usize) -> Section {
    let heads = contestants.iter().map(|one| format!("{} {}", one.proxy, one.version));
    let mut table =
        Table::new("Median (least to greatest) over the rounds", ["".to_owned()].into_iter().chain(heads));
    for TableLine { what, of } in lines() {
        table.row([what].into_iter().chain(contestants.iter().map(|one| one.samples(of).spread())));
    }
    let mut section = Section::new("Peers");
    for finding in findings(contestants) {
        section = section.finding(finding);
    }
    let rounds = contestants.first().map_or(0, |one| one.turns.len());
    section = section.table(table).remark(format!(
        "{rounds} rounds, in turns; {connections} idle connections; others used {} of the machine while load was on.",
        noise(contestants)
    ));
    absent.iter().fold(section, |section, why| section.remark(format!("Left out: {why}.")))
}

fn findings(contestants: &[ProxyResults]) -> Vec<Finding> {
    let find = |proxy| contestants.iter().find(|one| one.proxy == proxy);
    let Some(ours) = find(ProxyProgram::Outrigger) else { return Vec::new() };
    let memory = ours.samples(|turn| turn.idle_memory).median();
    let mut findings = vec![Finding::below("memory when idle", memory, "MiB", MEMORY)];
    let loads: [(_, OfLoad); 2] =
        [("in a row", |turn| &turn.full), ("at a steady rate", |turn| &turn.steady)];
    for (load, of) in loads {
        for peer in contestants.iter().filter(|one| one.proxy != ProxyProgram::Outrigger) {
            // Within a round, so that other load affects both.
            let ratios =
                ours.turns.iter().zip(&peer.turns).map(|(ours, theirs)| of(ours).cpu / of(theirs).cpu);
            let ratio = Samples::new(ratios);
            let what = format!("CPU per request {load}, as a multiple of {}'s in the same round", peer.proxy);
            findings.push(match peer.proxy {
                ProxyProgram::Haproxy => Finding::below(what, ratio.median(), "", 1.0),
                _ => Finding::plain(what, ThreeDigits(ratio.median()).to_string()),
            });
        }
    }
    findings
}

fn noise(contestants: &[ProxyResults]) -> String {
    let turns = contestants.iter().flat_map(|one| &one.turns);
    let shares =
        Samples::new(turns.flat_map(|turn| [turn.full.noise, turn.steady.noise]).map(|share| share * 100.0));
    format!("{} % (median; at most {} %)", ThreeDigits(shares.median()), ThreeDigits(shares.max()))
}
