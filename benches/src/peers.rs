//! What a request costs end to end, beside nginx, HAProxy and Envoy.
//!
//! The proxies take turns, so that other load on the machine affects all of them. The proxy has one
//! core; backends and load generator share another one. Every process is started here and on loopback.

mod backends;
mod client;
mod counts;
mod generator;
mod load;
mod memory;
mod outcome;
mod process;
mod proxy;
pub mod tcp;
mod template;
mod tools;
mod turn;
mod uploads;

use std::path::{Path, PathBuf};

use tokio::runtime;

use self::{backends::Backends, outcome::ProxyResults, proxy::ProxyProgram, tools::Tools, turn::PeerSetup};
use crate::{Effort, Error, error::doing, machine, report::Section};

pub use load::{Figure, Load};

/// Idle connections per proxy.
const IDLE_CONNECTIONS: usize = 4000;
/// Open files that are reserved for other uses than idle connections.
const SPARE_FILES: usize = 1000;

/// What to measure, and how.
#[derive(Debug, Clone)]
pub struct PeerOptions {
    /// A quick run leaves Envoy out, and measures the memory in one round.
    pub effort: Effort,
    /// Rounds of every load. Absent: 9, or 3 in a quick run.
    pub rounds: Option<usize>,
    /// Empty: all figures.
    pub figures: Vec<Figure>,
    /// A directory that receives callgrind's profiles. Absent: they are not kept.
    pub profiles: Option<PathBuf>,
}

impl PeerOptions {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(self.effort.choose(9, 3)).max(1)
    }

    fn measures(&self, figure: Figure) -> bool {
        self.figures.is_empty() || self.figures.contains(&figure)
    }

    fn loads(&self) -> Vec<Load> {
        Load::ALL.into_iter().filter(|&load| self.measures(Figure::Cost(load))).collect()
    }
}

/// Measures `outrigger` (the binary) and every peer that is installed.
///
/// # Errors
/// There is no load generator, or a proxy does not start.
pub fn run(outrigger: &Path, options: &PeerOptions) -> Result<Section, Error> {
    let cores = machine::cores()?;
    let [core, other_core, ..] = cores[..] else {
        return Ok(Section::new("Peers")
            .remark("Not measured: it takes two cores, one for the proxy and one for the load."));
    };
    let tools = Tools::find()?;
    let dir = tempfile::Builder::new().prefix("outrigger-bench-").tempdir();
    let dir = dir.map_err(doing("make a directory"))?;
    let proxies = ProxyProgram::ALL.len();
    let mut setup = PeerSetup {
        dir: dir.path(),
        wrk: tools.require("wrk")?,
        h2load: tools.require("h2load")?,
        core,
        other_core,
        backends: Backends::start(tools.require("nginx")?, dir.path(), other_core)?,
        // The bench holds the app's ends of all proxies at once.
        connections: IDLE_CONNECTIONS.min(machine::file_limit()?.saturating_sub(SPARE_FILES) / proxies),
        effort: options.effort,
    };
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(doing("build a runtime"))?;
    runtime.block_on(async {
        setup.backends.until_ready().await?;
        measure(&setup, outrigger, &tools, options).await
    })
}

async fn measure(
    setup: &PeerSetup<'_>,
    outrigger: &Path,
    tools: &Tools,
    options: &PeerOptions,
) -> Result<Section, Error> {
    let mut absent = Vec::new();
    let mut present = Vec::new();
    for proxy in ProxyProgram::ALL {
        if proxy == ProxyProgram::Envoy && options.effort == Effort::Quick {
            absent.push("Envoy, in a quick run".to_owned());
            continue;
        }
        match proxy.program(outrigger, tools) {
            Ok(program) => present.push((ProxyResults::new(proxy, proxy.version(&program)), program)),
            Err(why) => absent.push(format!("{proxy}, because {why}")),
        }
    }
    rounds(setup, &mut present, options).await?;
    for (results, program) in &mut present {
        if !matches!(results.proxy, ProxyProgram::Outrigger | ProxyProgram::Nginx) {
            continue;
        }
        if options.measures(Figure::Instructions) {
            let profiles = options.profiles.as_deref();
            match setup.instructions(results.proxy, program, tools, profiles).await {
                Ok(counts) => results.instructions = counts,
                Err(error) => absent.push(left_out("instructions", results.proxy, &error)),
            }
        }
        if options.measures(Figure::Syscalls) {
            match setup.syscalls(results.proxy, program, tools).await {
                Ok(counts) => results.syscalls = counts,
                Err(error) => absent.push(left_out("system calls", results.proxy, &error)),
            }
        }
    }
    let results: Vec<ProxyResults> = present.into_iter().map(|(results, _)| results).collect();
    Ok(outcome::section(&results, &absent, setup.connections))
}

/// callgrind and strace are not needed for the other figures.
fn left_out(what: &str, proxy: ProxyProgram, error: &Error) -> String {
    format!("the {what} of {proxy}, because of: {}", outrigger_config::error_chain(error))
}

async fn rounds(
    setup: &PeerSetup<'_>,
    present: &mut [(ProxyResults, PathBuf)],
    options: &PeerOptions,
) -> Result<(), Error> {
    let (rounds, loads) = (options.rounds(), options.loads());
    for round in 1..=rounds {
        if options.measures(Figure::Memory) && (round == 1 || options.effort == Effort::Full) {
            eprintln!("  round {round} of {rounds}, memory");
            let proxies: Vec<_> =
                present.iter().map(|(results, program)| (results.proxy, program.as_path())).collect();
            let memory = setup.memory(&proxies).await?;
            present.iter_mut().zip(memory).for_each(|((results, _), memory)| results.memory.push(memory));
        }
        if loads.is_empty() {
            continue;
        }
        for (results, program) in &mut *present {
            let turn = setup.turn(results.proxy, program, &loads).await?;
            let costs: Vec<String> =
                turn.iter().map(|(load, cost)| format!("{} {:.1}", load.name(), cost.cpu)).collect();
            eprintln!("  round {round} of {rounds}, {}: µs of CPU: {}", results.proxy, costs.join(", "));
            results.turns.push(turn);
        }
    }
    Ok(())
}
