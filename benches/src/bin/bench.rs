//! Measures Outrigger. `bench all` also writes `benches/results`.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::{Parser, ValueEnum};
use outrigger_benches::{
    Effort, Error, balancers, locks,
    machine::{Machine, Noise, load_average},
    names,
    peers::{self, Figure, PeerOptions},
    picks, propagation,
    report::{Section, Summary},
    scrape, settings, update, zones,
};
use outrigger_tests::process;

/// Measures picks, table updates, scrapes, requests beside other proxies, the way from Consul to the table and to the settings,
/// locks, and names by DNS.
#[derive(Debug, Parser)]
#[command(after_help = "Example: bench peers --quick get-1k post-64k")]
struct Arguments {
    /// What to measure. `all` also writes benches/results.
    #[arg(value_enum, default_value_t = Part::All)]
    part: Part,
    /// Of the peers' part, what to measure. Default: all.
    #[arg(value_enum, value_name = "LOAD")]
    figures: Vec<Figure>,
    /// Few and short rounds; the peers' part without Envoy. Writes nothing.
    #[arg(long)]
    quick: bool,
    /// Rounds of the peers' loads. Default: 9, or 3 with --quick.
    #[arg(long, value_name = "COUNT")]
    rounds: Option<usize>,
    /// The binary to measure. Default: this checkout's release build, which is built first.
    #[arg(long, value_name = "PATH")]
    outrigger: Option<PathBuf>,
    /// A directory for the profiles of callgrind, for callgrind_annotate. Default: they are not kept.
    #[arg(long, value_name = "DIRECTORY")]
    profiles: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Nanoseconds per pick.
    Picks,
    /// An update of 10,000 instances.
    Update,
    /// A scrape of /metrics at 256 services.
    Scrape,
    /// Requests through Outrigger, nginx, HAProxy and Envoy.
    Peers,
    /// From a change in Consul to the table.
    Propagation,
    /// From a document in Consul's KV to the settings; what 50 sidecars ask.
    Settings,
    /// Locks: alone, contended, held.
    Locks,
    /// Answers by DNS.
    Names,
    /// A gibibyte through a TCP listener, beside HAProxy.
    Tcp,
    /// Zones: a simulation, which is not part of `all`.
    Zones,
    /// One slow instance: a simulation, which is not part of `all`.
    Balancers,
    /// All of these.
    All,
}

impl Part {
    /// Whether it starts processes of the measured binary.
    fn needs_binary(self) -> bool {
        matches!(self, Self::Peers | Self::Tcp | Self::Settings | Self::Locks | Self::Names)
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", outrigger_config::error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let effort = if arguments.quick { Effort::Quick } else { Effort::Full };
    let parts = match arguments.part {
        Part::All => vec![
            Part::Picks,
            Part::Update,
            Part::Scrape,
            Part::Propagation,
            Part::Settings,
            Part::Locks,
            Part::Names,
            Part::Tcp,
            Part::Peers,
        ],
        part => vec![part],
    };
    if !parts.contains(&Part::Peers) && !arguments.figures.is_empty() {
        return Err(Error::new("measure single loads: they belong to the part `peers`"));
    }
    if parts.iter().any(|part| part.needs_binary()) {
        if arguments.outrigger.is_none() {
            // Before any measurement, because the build uses both cores for minutes.
            build_outrigger()?;
        }
        process::set_binary(binary(arguments));
    }
    let (machine, load) = (Machine::detect(), load_average());
    let mut sections = Vec::new();
    for part in parts {
        eprintln!("measuring {}", name(part));
        let noise = Noise::begin(&[])?;
        let section = measure(part, arguments, effort)?;
        let noise = match part {
            // These parts report it themselves: here their servers would count as other processes.
            Part::Peers | Part::Tcp | Part::Propagation | Part::Settings | Part::Locks | Part::Names => None,
            _ => Some(noise.end()?),
        };
        sections.push(match noise {
            Some(share) => {
                section.remark(format!("Others used {:.0} % of the machine meanwhile.", share * 100.0))
            }
            None => section,
        });
    }
    let load = format!("{load} before and {} after", load_average());
    let text = page(&machine, &load, arguments, &sections);
    // Fails only when stdout is closed.
    let _ = writeln!(io::stdout(), "{text}");
    if arguments.part == Part::All && effort == Effort::Full && arguments.figures.is_empty() {
        write_results(&text, &sections)?;
    }
    Ok(())
}

/// Writes the page and the chart into `benches/results`.
fn write_results(text: &str, sections: &[Section]) -> Result<(), Error> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let write = |name: &str, text: &str| {
        let file = directory.join(name);
        eprintln!("writing {}", file.display());
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&file, text))
            .map_err(|error| Error::at(format!("write {}", file.display()), error))
    };
    let chart = sections.iter().find_map(Section::chart);
    if let Some(chart) = chart {
        write("latest.svg", &chart.to_string())?;
    }
    let image = chart.map_or("", |_| "![CPU per request beside nginx](latest.svg)\n\n");
    write(
        "latest.md",
        &format!(
            "# Results\n\nWritten by `make bench`, not by hand. [benches/README.md](../README.md) says how it is measured.\n\n\
             {image}{}\n",
            text.trim()
        ),
    )
}

fn measure(part: Part, arguments: &Arguments, effort: Effort) -> Result<Section, Error> {
    match part {
        Part::Picks => picks::run(effort),
        Part::Update => update::run(effort),
        Part::Scrape => scrape::run(effort),
        Part::Propagation => propagation::run(effort),
        Part::Settings => settings::run(effort),
        Part::Locks => locks::run(effort),
        Part::Names => names::run(effort),
        Part::Tcp => peers::tcp::run(&binary(arguments), effort, arguments.rounds),
        Part::Zones => zones::run(effort),
        Part::Balancers => balancers::run(effort),
        Part::Peers | Part::All => {
            let options = PeerOptions {
                effort,
                rounds: arguments.rounds,
                figures: arguments.figures.clone(),
                profiles: arguments.profiles.clone(),
            };
            peers::run(&binary(arguments), &options)
        }
    }
}

fn name(part: Part) -> String {
    part.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn page(machine: &Machine, load: &str, arguments: &Arguments, sections: &[Section]) -> String {
    let mut command = format!("bench {}", name(arguments.part));
    for figure in arguments.figures.iter().filter_map(ValueEnum::to_possible_value) {
        command = format!("{command} {}", figure.get_name());
    }
    if arguments.quick {
        command.push_str(" --quick");
    }
    if let Some(rounds) = arguments.rounds {
        command = format!("{command} --rounds {rounds}");
    }
    let sections_text: Vec<String> = sections.iter().map(ToString::to_string).collect();
    format!(
        "Machine: {machine}. Command: `{command}`. Load average: {load}.\n\n{}\n{}",
        Summary(sections),
        sections_text.join("\n")
    )
}

/// The binary that is measured.
fn binary(arguments: &Arguments) -> PathBuf {
    let built = || {
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
        target.join("release/outrigger")
    };
    arguments.outrigger.clone().unwrap_or_else(built)
}

/// Builds this checkout's release build.
fn build_outrigger() -> Result<(), Error> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--package", "outrigger"]).current_dir(workspace());
    match build.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Error::new("build outrigger: see above")),
        Err(error) => Err(Error::at("run cargo", error)),
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
