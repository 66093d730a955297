//! The results of all rounds as tables, findings and a chart.

use std::collections::BTreeMap;

use super::{
    counts::CountResult,
    load::{BackendGroup, Load},
    memory::MemoryUse,
    proxy::ProxyProgram,
    turn::LoadCost,
};
use crate::{
    chart::{Chart, ChartGroup},
    report::{Finding, Section, Table},
    stats::{Samples, ThreeDigits, ratios},
};

/// A proxy and what was measured of it.
#[derive(Debug)]
pub(super) struct ProxyResults {
    pub(super) proxy: ProxyProgram,
    pub(super) version: String,
    /// The loads of each round.
    pub(super) turns: Vec<BTreeMap<Load, LoadCost>>,
    /// Each round's.
    pub(super) memory: Vec<MemoryUse>,
    pub(super) instructions: Vec<CountResult>,
    pub(super) syscalls: Vec<CountResult>,
}

/// What a figure should be at most.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// As a multiple of this proxy's.
    Multiple(ProxyProgram, f64),
    /// In its own unit.
    Value(f64),
}

/// A figure of every proxy.
struct Row {
    what: String,
    unit: &'static str,
    bound: Option<Bound>,
    /// For each proxy a value per round; empty where it was not measured.
    values: Vec<Vec<f64>>,
}

/// A value of one run of a load.
type CostValue = fn(&LoadCost) -> f64;

/// The bound of the processor time of a load.
fn bound_of(load: Load) -> Bound {
    use ProxyProgram::{Haproxy, Nginx};
    match load {
        Load::Get1k | Load::Get1m | Load::Connect | Load::Steady => Bound::Multiple(Nginx, 1.0),
        Load::Get16k => Bound::Multiple(Nginx, 0.85),
        Load::Post64k | Load::Post16m => Bound::Multiple(Haproxy, 0.9),
    }
}

/// Each number of connections with the bounds of its instructions and its system calls.
const COUNT_BOUNDS: [(usize, f64, f64); 2] = [(16, 14_000.0, 4.2), (1, 20_000.0, 8.0)];
/// MiB, when idle.
const IDLE_MEMORY: f64 = 7.0;
/// KiB per idle connection.
const CONNECTION_MEMORY: f64 = 1.2;

fn rows(proxies: &[ProxyResults]) -> Vec<Row> {
    let row = |what: String, unit, bound, of: &dyn Fn(&ProxyResults) -> Vec<f64>| Row {
        what,
        unit,
        bound: Some(bound),
        values: proxies.iter().map(of).collect(),
    };
    let costs = Load::ALL.into_iter().map(|load| {
        row(load.shape().title.into(), "µs of CPU", bound_of(load), &|one| one.of(load, |cost| cost.cpu))
    });
    let memory = [
        row("memory when idle".into(), "MiB", Bound::Value(IDLE_MEMORY), &|one| {
            one.memory.iter().map(|memory| memory.idle).collect()
        }),
        row("memory per idle connection".into(), "KiB", Bound::Value(CONNECTION_MEMORY), &|one| {
            one.memory.iter().map(|memory| memory.per_connection).collect()
        }),
    ];
    let counts =
        |what: &'static str, of: fn(&ProxyResults) -> &[CountResult], bound: fn((usize, f64, f64)) -> f64| {
            COUNT_BOUNDS.map(|bounds| {
                let (connections, ..) = bounds;
                let plural = if connections == 1 { "" } else { "s" };
                let title = format!("{what} per request, {connections} connection{plural}");
                row(title, "", Bound::Value(bound(bounds)), &|one| {
                    let found = of(one).iter().filter(|count| count.connections == connections);
                    found.map(|count| count.per_request).collect()
                })
            })
        };
    let instructions =
        counts("instructions in user space", |one| &one.instructions, |(_, instructions, _)| instructions);
    let syscalls = counts("system calls", |one| &one.syscalls, |(.., syscalls)| syscalls);
    let all = costs.chain(memory).chain(instructions).chain(syscalls);
    all.filter(|row| row.values.iter().any(|values| !values.is_empty())).collect()
}

impl ProxyResults {
    /// Nothing is measured yet.
    pub(super) fn new(proxy: ProxyProgram, version: String) -> Self {
        Self {
            proxy,
            version,
            turns: Vec::new(),
            memory: Vec::new(),
            instructions: Vec::new(),
            syscalls: Vec::new(),
        }
    }

    /// A value of each round's run of `load`.
    fn of(&self, load: Load, value: impl Fn(&LoadCost) -> f64) -> Vec<f64> {
        self.turns.iter().filter_map(|turn| turn.get(&load)).map(value).collect()
    }
}

/// The section about `proxies`; the first is Outrigger.
pub(super) fn section(proxies: &[ProxyResults], absent: &[String], connections: usize) -> Section {
    let rows = rows(proxies);
    let mut section = Section::new("Peers");
    for finding in rows.iter().filter_map(|row| finding(row, proxies)) {
        section = section.finding(finding);
    }
    section = section.table(cost_table(&rows, proxies));
    for table in [delay_table(proxies), syscall_table(proxies)].into_iter().flatten() {
        section = section.table(table);
    }
    let rounds = proxies.iter().map(|one| one.turns.len()).max().unwrap_or(0);
    section = section.remark(format!("{rounds} rounds in turns. {} idle connections.", connections));
    section = section.remark(failures(proxies));
    let uploads = |load: Load| load.shape().group == BackendGroup::Uploads;
    if proxies.iter().flat_map(|one| &one.turns).flat_map(BTreeMap::keys).any(|load| uploads(*load)) {
        section = section.remark(
            "nginx writes an upload of more than 16 KiB to a file before it sends it on (its default), so HAProxy is the \
             yardstick of uploads.",
        );
    }
    if let Some(noise) = noise(proxies) {
        section = section.remark(noise);
    }
    let section = absent.iter().fold(section, |section, why| section.remark(format!("Left out: {why}.")));
    section.with_chart(chart(proxies, rounds))
}

fn position(proxies: &[ProxyResults], proxy: ProxyProgram) -> Option<usize> {
    proxies.iter().position(|one| one.proxy == proxy)
}

/// Ours as a multiple of a peer's.
fn multiple(row: &Row, proxies: &[ProxyResults], peer: ProxyProgram) -> Option<Samples> {
    let theirs = row.values.get(position(proxies, peer)?)?;
    let ratios = ratios(row.values.first()?, theirs);
    (ratios.count() > 0).then_some(ratios)
}

fn finding(row: &Row, proxies: &[ProxyResults]) -> Option<Finding> {
    let what = &row.what;
    match row.bound? {
        Bound::Multiple(peer, bound) => {
            let what = format!("CPU per request, {what}, as a multiple of {peer}'s in the same round");
            Some(Finding::at_most(what, &multiple(row, proxies, peer)?, "", bound))
        }
        Bound::Value(bound) => {
            let ours = Samples::new(row.values.first()?.iter().copied());
            (ours.count() > 0).then(|| Finding::at_most(what, &ours, row.unit, bound))
        }
    }
}

fn heads(proxies: &[ProxyResults]) -> impl Iterator<Item = String> {
    proxies.iter().map(|one| format!("{} {}", one.proxy, one.version))
}

fn cell(values: &[f64]) -> String {
    if values.is_empty() { "–".into() } else { Samples::new(values.iter().copied()).middle() }
}

fn cost_table(rows: &[Row], proxies: &[ProxyResults]) -> Table {
    let peers = [ProxyProgram::Nginx, ProxyProgram::Haproxy];
    let caption = "Median (first to third quartile) over the rounds; CPU is user and system time per request";
    let heads = ["".to_owned()].into_iter().chain(heads(proxies));
    let mut table = Table::new(caption, heads.chain(peers.map(|peer| format!("÷ {peer}"))));
    for row in rows {
        let what = if row.unit.is_empty() { row.what.clone() } else { format!("{}, {}", row.what, row.unit) };
        let ratio = |peer| multiple(row, proxies, peer).map_or("–".into(), |ratio| ratio.middle());
        table.row(
            [what].into_iter().chain(row.values.iter().map(|values| cell(values))).chain(peers.map(ratio)),
        );
    }
    table
}

/// Throughput and delay of every load. The servers and the load generator share one core, so both are of the whole arrangement.
fn delay_table(proxies: &[ProxyResults]) -> Option<Table> {
    let measured: Vec<Load> = Load::ALL
        .into_iter()
        .filter(|&load| proxies.iter().any(|one| !one.of(load, |_| 0.0).is_empty()))
        .collect();
    if measured.is_empty() {
        return None;
    }
    let mut table = Table::new("Throughput and delay", ["".to_owned()].into_iter().chain(heads(proxies)));
    for load in measured {
        let lines: [(&str, CostValue); 3] = [
            ("requests/s", |cost| cost.seen.requests as f64 / cost.seen.seconds),
            ("p50, ms", |cost| cost.seen.p50),
            ("p99, ms", |cost| cost.seen.p99),
        ];
        for (what, of) in lines {
            let cells = proxies.iter().map(|one| cell(&one.of(load, of)));
            table.row([format!("{}: {what}", load.shape().title)].into_iter().chain(cells));
        }
    }
    Some(table)
}

/// The system calls by name.
fn syscall_table(proxies: &[ProxyResults]) -> Option<Table> {
    const RARE: f64 = 0.005;
    let mut table = Table::new("System calls per request, by name", ["proxy", "connections", "calls"]);
    let mut empty = true;
    for one in proxies {
        for count in &one.syscalls {
            let frequent = count.by_name.iter().filter(|(_, calls)| *calls >= RARE);
            let calls: Vec<String> =
                frequent.map(|(name, calls)| format!("{name} {}", ThreeDigits(*calls))).collect();
            table.row([one.proxy.to_string(), count.connections.to_string(), calls.join(", ")]);
            empty = false;
        }
    }
    (!empty).then_some(table)
}

fn failures(proxies: &[ProxyResults]) -> String {
    let mut failed = Vec::new();
    for one in proxies {
        for load in Load::ALL {
            let count: f64 = one.of(load, |cost| cost.seen.failed as f64).iter().sum();
            if count > 0.0 {
                failed.push(format!("{count} of {} with {}", load.name(), one.proxy));
            }
        }
    }
    if failed.is_empty() {
        "No request failed.".into()
    } else {
        format!("Failed requests: {}.", failed.join("; "))
    }
}

fn noise(proxies: &[ProxyResults]) -> Option<String> {
    let costs = proxies.iter().flat_map(|one| &one.turns).flat_map(BTreeMap::values);
    let shares = Samples::new(costs.map(|cost| cost.noise * 100.0));
    (shares.count() > 0).then(|| {
        format!(
            "Other processes used {} % (median; at most {} %) of the machine while load was on.",
            ThreeDigits(shares.median()),
            ThreeDigits(shares.max())
        )
    })
}

/// Each proxy's processor time as a multiple of nginx's.
fn chart(proxies: &[ProxyResults], rounds: usize) -> Option<Chart> {
    let nginx = proxies.get(position(proxies, ProxyProgram::Nginx)?)?;
    let others: Vec<&ProxyResults> = proxies.iter().filter(|one| one.proxy != ProxyProgram::Nginx).collect();
    let group = |load: Load| {
        let theirs = nginx.of(load, |cost| cost.cpu);
        let bars = others.iter().map(|one| ratios(&one.of(load, |cost| cost.cpu), &theirs).quartiles());
        (!theirs.is_empty()).then(|| ChartGroup { name: load.shape().title.into(), bars: bars.collect() })
    };
    let groups: Vec<ChartGroup> = Load::ALL.into_iter().filter_map(group).collect();
    (!groups.is_empty()).then(|| Chart {
        title: format!("CPU per request, as a multiple of nginx {}'s", nginx.version),
        subtitle: format!(
            "One worker each on one core; median and quartiles of {rounds} rounds in turns; less is better"
        ),
        yardstick: format!("nginx {}", nginx.version),
        series: others.iter().map(|one| format!("{} {}", one.proxy, one.version)).collect(),
        groups,
    })
}
