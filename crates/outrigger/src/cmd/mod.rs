//! The command line. Each command is a file; what they share is here: version, exit codes, durations.
//!
//! Exit codes: 0 all went well; 1 something failed while running (an occupied port, a second signal
//! during a drain, a failed request in the demo); 2 the command line or the settings are wrong. `run -- app`
//! ends with the app's code; 127 and 126, as in a shell, where the app is not there or cannot be run.

mod check;
mod copy_to;
mod demo;
mod dev_registry;
mod drain;
mod maintenance;
mod reload;
mod run;
mod settings;
mod sidecar;
mod wait;

use std::{fmt, io::Write as _, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

/// Version and commit.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("OUTRIGGER_COMMIT"), ")");

/// A sidecar that registers your app, finds the services it calls, and carries its requests to a
/// healthy instance.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version = VERSION, max_term_width = 100)]
#[command(after_help = "Example:\n  outrigger run --service orders --port 8080\n  \
                        curl -H 'Host: payments' localhost:7070/\n\nStart with: outrigger demo")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArguments),
    Check(check::CheckArguments),
    Wait(wait::WaitArguments),
    Drain(drain::DrainArguments),
    Maintenance(maintenance::MaintenanceArguments),
    Reload(reload::ReloadArguments),
    DevRegistry(dev_registry::DevRegistryArguments),
    Demo(demo::DemoArguments),
    CopyTo(copy_to::CopyToArguments),
}

/// Parses the command line, does what it asks, and says with which code to exit.
pub fn main() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Run(arguments) => match run::run(&arguments) {
            // The app's own, where there is one.
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Command::Check(arguments) => check::run(&arguments),
        Command::Wait(arguments) => run_on_runtime(wait::run(arguments)),
        Command::Drain(arguments) => run_on_runtime(drain::run(arguments)),
        Command::Maintenance(arguments) => run_on_runtime(maintenance::run(arguments)),
        Command::Reload(arguments) => run_on_runtime(reload::run(arguments)),
        Command::DevRegistry(arguments) => run_on_runtime(dev_registry::run(arguments)),
        Command::Demo(arguments) => run_on_runtime(demo::run(arguments)),
        Command::CopyTo(arguments) => copy_to::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // stderr may be closed; there is nobody else to tell.
            let _ = writeln!(std::io::stderr(), "{failure}");
            failure.code()
        }
    }
}

/// Why a command ends with another code than 0. Displays as what is printed to stderr.
#[derive(Debug)]
enum CommandError {
    /// The settings are wrong: 2.
    Settings(String),
    /// Something failed while running: 1.
    Running(String),
}

impl CommandError {
    fn running(what: impl Into<String>) -> Self {
        Self::Running(what.into())
    }

    fn code(&self) -> ExitCode {
        match self {
            Self::Settings(_) => ExitCode::from(2),
            Self::Running(_) => ExitCode::from(1),
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(problems) => f.write_str(problems),
            Self::Running(what) => write!(f, "outrigger: {what}"),
        }
    }
}

/// Longest wait for threads that are busy with something blocking (a name being resolved) at the end.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs a command on a runtime of its own: the control plane's single thread.
fn run_on_runtime<T>(command: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::running(format!("start the runtime: {error}")))?;
    let done = runtime.block_on(command);
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    done
}

/// Parses `250ms`, `5s`, `1m` for flags.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(milliseconds)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| "not a duration; write 500ms, 30s or 2m".to_owned())
}

/// Writes a line for people to stdout. A closed stdout (`| head`) is no failure.
fn print_line(line: impl fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        CommandLine::try_parse_from(line.split_whitespace()).map(|parsed| parsed.command)
    }

    #[test]
    fn the_definition_holds_together() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_ends_with_an_example() {
        let mut root = CommandLine::command();
        root.build();
        let commands: Vec<_> = root.get_subcommands().filter(|c| c.get_name() != "help").cloned().collect();
        assert_eq!(commands.len(), 9);
        for mut command in commands.into_iter().chain([root]) {
            let name = command.get_name().to_owned();
            for help in [command.render_help().to_string(), command.render_long_help().to_string()] {
                let example = help.split_once("Example:").map(|(_, rest)| rest.to_owned());
                assert!(example.is_some_and(|rest| rest.contains("outrigger")), "{name}:\n{help}");
            }
        }
    }

    #[test]
    fn the_version_says_version_and_commit() {
        let version = CommandLine::command().render_version().to_string();
        let (version, commit) = version.trim().rsplit_once(' ').unwrap();
        assert_eq!(version, format!("outrigger {}", env!("CARGO_PKG_VERSION")));
        assert!(commit.len() > 2 && commit.starts_with('(') && commit.ends_with(')'), "{commit}");
    }

    #[test]
    fn each_command_line_of_the_manual_is_understood() {
        for line in [
            "outrigger run",
            "outrigger run --service orders --port 8080",
            "outrigger run -c outrigger.yaml",
            "outrigger run -c outrigger.yaml --tag v2 --tag eu --health-http /healthz --access-log",
            "outrigger check -c outrigger.yaml",
            "outrigger check --service orders --port 8080",
            "outrigger dev-registry",
            "outrigger dev-registry --listen 127.0.0.1:0",
            "outrigger run --service orders --port 8080 -- ./orders --verbose --port 8080",
            "outrigger run --on-app-exit restart -- ./orders",
            "outrigger wait",
            "outrigger wait --registered --admin localhost:7079 --timeout 25s",
            "outrigger maintenance on --reason upgrade",
            "outrigger maintenance off",
            "outrigger maintenance status --admin localhost:7079",
            "outrigger drain",
            "outrigger drain --wait --admin localhost:7079 --timeout 25s",
            "outrigger demo --stay --duration 12s --plain",
            "outrigger copy-to /shared",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn a_mistyped_flag_gets_a_suggestion() {
        let error = parse("outrigger run --servise orders").unwrap_err().to_string();
        assert!(error.contains("--service"), "{error}");
        let error = parse("outrigger demmo").unwrap_err().to_string();
        assert!(error.contains("'demo'"), "{error}");
    }

    #[test]
    fn durations_of_flags_have_a_unit() {
        for (text, expected) in [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("2m", Some(120_000)),
            ("0s", Some(0)),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615m", None),
        ] {
            assert_eq!(duration(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
    }
}
