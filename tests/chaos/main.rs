//! Deaths, deploys and outages under a steady load, against the real binary, a real Consul and real
//! server processes. One row per case: the promise, and whether it was kept.
//!
//! ```text
//! make chaos                       every case in full
//! chaos --short                    fewer requests and less time, the same promises: what CI runs
//! chaos --rounds 5 CASE ...        these cases, five times over
//! chaos --minutes 60 soak          the soak for an hour
//! chaos --list                     what there is
//! ```
//!
//! The last line is `N kept, N broken, N skipped`; the exit code is 1 when a promise was broken. A case that
//! this machine cannot run (no Consul, no nginx) is skipped, and the row gives the reason; a skipped case does
//! not count as kept.
//!
//! | module | its job |
//! |---|---|
//! | [`case`], [`cases`] | what a case is; a file per promise, and the list of all cases |
//! | [`fleet`], [`instance`], [`nginx`] | the instances: separate processes that a case kills, stops or makes fail |
//! | [`deployed`] | an instance as it is deployed: under a sidecar that registers it and runs it |
//! | [`caller`] | the binary under test, as a caller beside the app |
//! | [`testbed`] | Consul, instances and a caller together |
//! | [`cluster_testbed`] | such instances behind an agent and three servers |
//! | [`lock_app`], [`lock_testbed`] | an app that wants locks; ten of them with their sidecars, behind two agents |
//! | [`lock_log`], [`lock_audit`] | what these apps were told, and whether two held a lock at once |
//! | [`kv_writer`] | writes documents of settings into the KV of a cluster |
//! | [`fault`] | a proxy between a caller and its registry that replaces answers by wrong ones |
//! | [`resource_use`] | a caller under measurement: its files, memory and requests in flight |
//! | [`case_report`], [`runner`] | the result of a case; runs the cases |
//! | [`guard`] | kills every process that is left when this program ends |
//!
//! The results come from the client's answers, from the request logs of the instances (a POST in two logs is a
//! broken promise in every case) and from the sidecar's metrics.
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
mod kv_writer;
mod lock_app;
mod lock_audit;
mod lock_log;
mod lock_testbed;
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
