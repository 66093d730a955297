//! Measures Outrigger. `bench all` also writes the table in `benches/README.md`.

use std::{
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::{Parser, ValueEnum};
use outrigger_benches::{
    Effort, Error,
    machine::{Machine, Noise, load_average},
    peers, picks, propagation,
    report::{self, Section, Summary},
    update,
};

/// Measures picks, table updates, requests beside other proxies, and the way from Consul to the table.
#[derive(Debug, Parser)]
#[command(after_help = "Example: bench peers --quick")]
struct Arguments {
    /// What to measure. `all` also writes benches/README.md.
    #[arg(value_enum, default_value_t = Part::All)]
    part: Part,
    /// Few and short rounds, to check that the measurement works. Writes nothing.
    #[arg(long)]
    quick: bool,
    /// The binary to measure. Default: this checkout's release build, which is built first.
    #[arg(long, value_name = "PATH")]
    outrigger: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Nanoseconds per pick.
    Picks,
    /// An update of 10,000 instances.
    Update,
    /// Requests through Outrigger, nginx, HAProxy and Envoy.
    Peers,
    /// From a change in Consul to the table.
    Propagation,
    /// All of these.
    All,
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
        Part::All => vec![Part::Picks, Part::Update, Part::Propagation, Part::Peers],
        part => vec![part],
    };
    if parts.contains(&Part::Peers) && arguments.outrigger.is_none() {
        // Before any measurement, because the build uses both cores for minutes.
        build_outrigger()?;
    }
    let (machine, load) = (Machine::detect(), load_average());
    let mut sections = Vec::new();
    for part in parts {
        eprintln!("measuring {}", name(part));
        let noise = Noise::begin(&[])?;
        let section = measure(part, arguments, effort)?;
        let noise = match part {
            // These parts report it themselves: here their servers would count as other processes.
            Part::Peers | Part::Propagation => None,
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
    if arguments.part == Part::All && effort == Effort::Full {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        report::write(&file, &text)?;
        eprintln!("written to {}", file.display());
    }
    Ok(())
}

fn measure(part: Part, arguments: &Arguments, effort: Effort) -> Result<Section, Error> {
    match part {
        Part::Picks => picks::run(effort),
        Part::Update => update::run(effort),
        Part::Propagation => propagation::run(effort),
        Part::Peers | Part::All => peers::run(&binary(arguments), effort),
    }
}

fn name(part: Part) -> String {
    part.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn page(machine: &Machine, load: &str, arguments: &Arguments, sections: &[Section]) -> String {
    let quick = if arguments.quick { " --quick" } else { "" };
    let sections_text: Vec<String> = sections.iter().map(ToString::to_string).collect();
    format!(
        "Machine: {machine}. Command: `bench {}{quick}`. Load average: {load}.\n\n{}\n{}",
        name(arguments.part),
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
