//! The command line: one file per command.
//!
//! | module | what the commands share |
//! |---|---|
//! | `settings` | the flags that stand for settings |
//! | `admin_client` | requests to the admin side of a running sidecar |
//! | `report` | lines on stdout, errors and their exit codes |
//! | `runtime` | the runtime and the signals |
//!
//! Exit codes: 0 success; 1 something failed while the command ran (an occupied port, a second signal during a
//! drain, a failed request in the demo); 2 the command line or the settings are wrong; 3 `config status`: not every
//! sidecar has answered. `run -- app` exits with the app's code, or as a shell does with 127 where the app does not exist and 126
//! where it cannot be executed; `lock` exits with the command's code, and has codes of its own (`lock --help`).

mod admin_client;
mod check;
mod config;
mod copy_to;
mod demo;
mod dev_registry;
mod drain;
mod events;
mod explain;
mod lock;
mod maintenance;
mod reload;
mod report;
mod run;
mod runtime;
mod settings;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use report::{print_line, print_to_stderr};
use runtime::run_on_runtime;

/// Version and commit.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("OUTRIGGER_COMMIT"), ")");

/// A sidecar that registers your app, finds the services it calls, and carries its requests to a healthy
/// instance.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version = VERSION, propagate_version = true, max_term_width = 100)]
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
    Events(events::EventsArguments),
    Explain(explain::ExplainArguments),
    Lock(Box<lock::LockArguments>),
    #[command(name = lock::REPLACER)]
    ExecGuarded(lock::ExecGuardedArguments),
    Config(config::ConfigArguments),
    DevRegistry(dev_registry::DevRegistryArguments),
    Demo(demo::DemoArguments),
    CopyTo(copy_to::CopyToArguments),
    /// Print the version and the commit, as -V does
    #[command(after_help = "Example:\n  outrigger version")]
    Version,
}

/// Parses the command line, runs the command, and returns its exit code.
pub fn main() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Run(arguments) => match run::run(&arguments) {
            // With `-- app` the app's own code.
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Command::Lock(arguments) => match lock::run(&arguments) {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Command::ExecGuarded(arguments) => return lock::exec_guarded(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Wait(arguments) => run_on_runtime(wait::run(arguments)),
        Command::Drain(arguments) => run_on_runtime(drain::run(arguments)),
        Command::Maintenance(arguments) => run_on_runtime(maintenance::run(arguments)),
        Command::Reload(arguments) => run_on_runtime(reload::run(arguments)),
        Command::Events(arguments) => run_on_runtime(events::run(arguments)),
        Command::Explain(arguments) => run_on_runtime(explain::run(arguments)),
        Command::Config(arguments) => run_on_runtime(config::run(arguments)),
        Command::DevRegistry(arguments) => run_on_runtime(dev_registry::run(arguments)),
        Command::Demo(arguments) => run_on_runtime(demo::run(arguments)),
        Command::CopyTo(arguments) => copy_to::run(&arguments),
        Command::Version => {
            print_line(format_args!("outrigger {VERSION}"));
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print_to_stderr(&failure);
            failure.code()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        CommandLine::try_parse_from(line.split_whitespace()).map(|parsed| parsed.command)
    }

    #[test]
    fn the_command_line_definition_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_ends_with_an_example() {
        let mut root = CommandLine::command();
        root.build();
        let commands: Vec<_> = root.get_subcommands().filter(|c| c.get_name() != "help").cloned().collect();
        assert_eq!(commands.len(), 15);
        for mut command in commands.into_iter().chain([root]) {
            let name = command.get_name().to_owned();
            for help in [command.render_help().to_string(), command.render_long_help().to_string()] {
                let example = help.split_once("Example:").map(|(_, rest)| rest.to_owned());
                assert!(example.is_some_and(|rest| rest.contains("outrigger")), "{name}:\n{help}");
            }
        }
    }

    #[test]
    fn the_version_has_version_and_commit() {
        let version = CommandLine::command().render_version().to_string();
        let (version, commit) = version.trim().rsplit_once(' ').unwrap();
        assert_eq!(version, format!("outrigger {}", env!("CARGO_PKG_VERSION")));
        assert!(commit.len() > 2 && commit.starts_with('(') && commit.ends_with(')'), "{commit}");
    }

    #[test]
    fn each_command_prints_the_version_with_either_flag() {
        for line in ["outrigger -V", "outrigger --version", "outrigger run -V", "outrigger drain --version"] {
            let shown = parse(line).unwrap_err();
            assert_eq!(shown.kind(), clap::error::ErrorKind::DisplayVersion, "{line}");
            assert!(shown.to_string().trim().ends_with(VERSION), "{line}: {shown}");
        }
    }

    #[test]
    fn each_command_line_of_the_manual_parses() {
        for line in [
            "outrigger run",
            "outrigger run --service orders --port 8080",
            "outrigger run -c outrigger.yaml",
            "outrigger run --replace -c outrigger.yaml",
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
            "outrigger reload --admin http://localhost:7079/",
            "outrigger events",
            "outrigger events -f --service payments",
            "outrigger events --kind instance_joined --kind instance_left --json --limit 20",
            "outrigger explain http://orders/x",
            "outrigger explain localhost:7070/svc/orders/ -H x-a:1 -X POST --json --admin localhost:7079",
            "outrigger explain orders --method PUT",
            "outrigger lock nightly -- ./backup",
            "outrigger lock -n 3 --wait 0s --on-loss kill --name me --prefix team/locks importers -- sh -c import",
            "outrigger lock --api unix:/run/outrigger/api.sock --api-token-file /t --ttl 2s nightly -- ./backup --wait",
            "outrigger config put services/payments payments.yaml",
            "outrigger config status services/payments --wait --timeout 1m",
            "outrigger version",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn a_lock_has_a_name_and_a_command_and_is_held_in_one_place() {
        for line in [
            "outrigger lock nightly",
            "outrigger lock -- ./backup",
            "outrigger lock ../nightly -- ./backup",
            "outrigger lock -n 0 nightly -- ./backup",
            "outrigger lock --api localhost:7077 --prefix locks nightly -- ./backup",
            "outrigger lock --api-token-file /t nightly -- ./backup",
            "outrigger lock --on-loss stop nightly -- ./backup",
        ] {
            assert!(parse(line).is_err(), "{line}");
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
            let parsed = match parse(&format!("outrigger wait --timeout={text}")) {
                Ok(Command::Wait(arguments)) => Some(arguments.timeout),
                _ => None,
            };
            assert_eq!(parsed, expected.map(Duration::from_millis), "{text}");
        }
    }
}
