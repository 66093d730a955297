//! Programs of others against a registry and against the sidecar: client libraries with their own test suites, short
//! programs that use them, and the commands of the `consul` binary. `make test-foreign` runs them.
//!
//! ```text
//! foreign                          every suite, on what is quick: the dev registry, mostly the real Consul too
//! foreign --consul SUITE ...       these suites, also where the real Consul takes minutes
//! foreign --record SUITE ...       write what was observed into the lists
//! foreign --list                   what there is
//! ```
//!
//! Each suite has a list in `expected/`: for each of its tests and each registry whether it passes, and why it does not. A
//! test that ends otherwise than listed, that is not listed, or that is listed and did not run, is a difference. So a known
//! failure does not hide a new one, and a mended test must be marked as mended.
//!
//! The last line is `N as listed, N not as listed, N skipped`; the exit code is 1 when something is not as listed. Where
//! this machine has not the program of a suite and cannot install it, the suite is skipped with the reason.
//!
//! | module | its job |
//! |---|---|
//! | [`suite`], [`suites`] | what a suite is, and the list of all |
//! | [`expected`] | the list of a suite, and its comparison with what was observed |
//! | [`outcome`] | the lines in which a program reports its tests |
//! | [`registry`] | a registry as a process of its own, for programs that start one for each test |
//! | [`runner`] | runs the suites and prints the rows |

mod expected;
mod outcome;
mod registry;
mod runner;
mod suite;
mod suites;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Programs of others, against a registry and against the sidecar.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: runner::RunOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a registry, prints its addresses, and ends with its standard input
    #[command(hide = true)]
    Registry(registry::RegistryOptions),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = match &cli.command {
        Some(Command::Registry(options)) => runtime.block_on(registry::run(options)),
        None => runtime.block_on(runner::run(&cli.run)),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
