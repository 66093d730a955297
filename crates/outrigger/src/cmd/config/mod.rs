//! `outrigger config`: the documents in the registry's KV, for an operator. It asks Consul itself, with the operator's own token: a
//! sidecar can write no document.
//!
//! | module | what it does |
//! |---|---|
//! | `place` | the flags: which Consul, which prefix, and what a document may set |
//! | `document` | KEY and FILE of the command line, and the check of a document before it is written |
//! | `change` | `init`, `put`, `revert`, `delete` |
//! | `show` | `get`, `diff` |
//! | `status` | which sidecars have applied what |
//! | `line_diff` | the lines in which two texts differ |

mod change;
mod document;
mod line_diff;
mod place;
mod show;
mod status;

use clap::{Args, Subcommand};

use super::report::CommandError;

/// Write, show and revert settings of services in Consul's KV, and see which sidecars have applied them
#[derive(Debug, Args)]
#[command(
    long_about = "Write, show and revert settings of services in Consul's KV (dynamic_config), and see which sidecars have applied \
                  them.\n\nKEY is defaults, services/NAME, apps/APP/defaults or apps/APP/services/NAME, also with settings/ or the \
                  whole prefix before it.\n\nThe commands ask Consul themselves, by the variables of Consul's own tools \
                  (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_CACERT, ...). The token needs key_prefix write for PREFIX/settings/ and \
                  PREFIX/history/, and read for PREFIX/receipts/.",
    after_help = "Example:\n  outrigger config init\n  outrigger config put services/payments payments.yaml\n  \
                  outrigger config status services/payments --wait"
)]
pub(super) struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    Init(change::InitArguments),
    Put(change::PutArguments),
    Get(show::GetArguments),
    Diff(show::DiffArguments),
    Revert(change::RevertArguments),
    Delete(change::DeleteArguments),
    Status(status::StatusArguments),
}

pub(super) async fn run(arguments: ConfigArguments) -> Result<(), CommandError> {
    match arguments.command {
        ConfigCommand::Init(arguments) => change::init(&arguments).await,
        ConfigCommand::Put(arguments) => change::put(&arguments).await,
        ConfigCommand::Get(arguments) => show::get(&arguments).await,
        ConfigCommand::Diff(arguments) => show::diff(&arguments).await,
        ConfigCommand::Revert(arguments) => change::revert(&arguments).await,
        ConfigCommand::Delete(arguments) => change::delete(&arguments).await,
        ConfigCommand::Status(arguments) => status::run(&arguments).await,
    }
}

#[cfg(test)]
mod tests;
