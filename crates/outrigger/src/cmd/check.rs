//! `outrigger check`: all that is wrong with the settings, or what would run.

use clap::Args;
use outrigger_config::{Environment, summary};

use super::{Failure, say, settings::Settings};

/// Check the settings: every problem with its place, or what would run
#[derive(Debug, Args)]
#[command(
    long_about = "Check the settings: every problem with its place (exit code 2), or a summary of what would run \
                  and where each value comes from (exit code 0). Connects to nothing.",
    after_help = "Example:\n  outrigger check -c outrigger.yaml"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let loaded = arguments.settings.load(&Environment::of_process())?;
    say(summary(&loaded).trim_end());
    Ok(())
}
