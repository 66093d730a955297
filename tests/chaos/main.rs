//! Deaths, deploys and outages under a steady load, against the real binary, a real Consul and real
//! server processes. One row per case: what was promised, and whether it was kept.
//!
//! ```text
//! make chaos                       every case in full
//! chaos --short                    fewer requests and less time, the same promises: what CI runs
//! chaos --rounds 5 CASE ...        these cases, five times over
//! chaos --list                     what there is
//! ```
//!
//! It ends with `N kept, N broken, N skipped`; its exit code is 1 when a promise was broken. A case that
//! this machine cannot run (no Consul, no nginx) is skipped, and the row says why: that is no promise kept.
//!
//! | module | its job |
//! |---|---|
//! | [`case`], [`cases`] | what a case is; a file per promise, and the list of all cases |
//! | [`fleet`], [`instance`], [`nginx`] | the instances: processes of their own, to kill, stop and make ill |
//! | [`deployed`] | an instance as it is deployed: under a sidecar that registers it and runs it |
//! | [`caller`] | the binary under test, as a caller beside the app |
//! | [`testbed`] | all of these together |
//! | [`cluster_testbed`] | such instances behind an agent and three servers |
//! | [`fault`] | what stands between a caller and its registry, and spoils answers |
//! | [`resource_use`] | a caller under measurement: its files, memory and requests in flight |
//! | [`case_report`], [`runner`] | what a case came to; one after the other |
//! | [`guard`] | nothing is left running, however this program ends |
//!
//! Nothing is judged from inside the sidecar: what counts is what the client got, what the instances
//! wrote down (a POST that two of them have seen is a broken promise in every case) and the sidecar's own
//! metrics.
#![allow(clippy::expect_used, clippy::panic, reason = "a case that panics is a promise that was not kept")]

mod caller;
mod case;
mod case_report;
mod cases;
mod cluster_testbed;
mod deployed;
mod fault;
mod fleet;
mod guard;
mod instance;
mod nginx;
mod resource_use;
mod runner;
mod testbed;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Deaths, deploys and outages under load.
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
    /// A server process for the cases.
    #[command(hide = true)]
    Instance(instance::InstanceOptions),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Instance(options)) => instance::run(&options),
        None if cli.run.list => {
            for case in cases::all() {
                println!("{:<18} {}", case.name, case.promise);
            }
            ExitCode::SUCCESS
        }
        None if guard::is_guarded() => runner::run(&cli.run),
        None => guard::run(),
    }
}
