//! `outrigger lock`: runs a command while it holds a lock, as `consul lock` does.
//!
//! | module | its job |
//! |---|---|
//! | `registry` | holds the lock in Consul itself |
//! | `sidecar` | holds it by a lease of a sidecar |
//! | `wanted` | what is asked for, and why it is not had |

mod registry;
mod sidecar;
mod wanted;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};
use outrigger_config::{Environment, parse_duration};
use outrigger_locks::LockName;
use outrigger_registration::host_name;
use tokio::time::Instant;

use super::{
    report::CommandError,
    runtime::{run_on_runtime, signal_error},
    settings::RegistryFlags,
};
use crate::{
    process::{CaughtSignals, GuardedCommand, LossPolicy, replace_process},
    telemetry::error_chain,
};
use registry::{OwnHold, RegistryChoice, RegistryLocks};
use sidecar::{SidecarLease, SidecarLocks};
use wanted::{NotHeld, Wanted, say};

/// The lock was lost, and the command was stopped.
const LOST: u8 = 4;

/// The name of the hidden command that becomes the command under a lock.
pub(super) const REPLACER: &str = "exec-guarded";

/// Run a command while it holds a lock
#[derive(Debug, Args)]
#[command(
    long_about = "Run a command while it holds a lock in Consul, as 'consul lock' does: both exclude each other, \
                  'outrigger lock jobs' and 'consul lock locks/jobs'. With -n above 1 it is a semaphore. With --api a \
                  sidecar holds the lock, and this command needs no access to Consul.\n\nThe command has the standard streams of this \
                  process, and nothing else is written to stdout. Its environment has OUTRIGGER_LOCK_TOKEN (the fencing token, \
                  larger for each later holder), OUTRIGGER_LOCK_NAME and CONSUL_LOCK_HELD=true. It is no shell command: \
                  write -- sh -c '…' for one. TERM, INT, QUIT and the other signals that can be passed on reach it; a second TERM, INT or \
                  QUIT kills it. The lock is given back when the command and its process group have ended, not before.\n\nWhen the lock is lost, because Consul does not answer or \
                  an operator frees it, the command is stopped (--on-loss). A loss is told before another can hold the lock, unless an operator frees its key. When this process is killed, the \
                  command gets SIGKILL, and the lock opens when its session has expired.",
    after_help = "Exit codes:\n  the command's own, or 128 plus the number of the signal that ended it; 126 and 127 when it \
                  cannot be executed or does not exist\n  1    the process cannot catch signals\n  2    the command line or the settings are wrong\n  3    not acquired: others hold the \
                  lock for the whole --wait\n  4    the lock was lost, and the command was stopped (not with --on-loss ignore)\n  5    the lock cannot \
                  be asked for: the registry or the sidecar does not answer or refuses, or the lock has another -n\n  128+N  a signal \
                  ended the wait for the lock\n\nExample:\n  outrigger lock nightly -- ./backup\n  outrigger lock -n 3 --wait 0s importers -- \
                  sh -c './import && ./index'\n  outrigger lock --api localhost:7077 nightly -- ./backup"
)]
pub(super) struct LockArguments {
    /// Name of the lock. With the default prefix, NAME is the key locks/NAME/.lock in Consul.
    #[arg(value_name = "NAME", value_parser = parse_leased_name)]
    name: LockName,
    /// Most holders at once. Above 1 it is a semaphore; every holder must give the same number.
    #[arg(short = 'n', long = "limit", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Longest wait for the lock; 0s is one attempt. Default: as long as it takes, also for a registry that does not answer.
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = parse_duration)]
    wait: Option<Duration>,
    /// What happens to the command when the lock is lost: term (SIGTERM, after --grace SIGKILL), kill (SIGKILL at once) or ignore (it runs
    /// on, also when this process is killed).
    #[arg(long, value_name = "WHAT", default_value = "term")]
    on_loss: OnLoss,
    /// Time from SIGTERM to SIGKILL. Keep it below the lock-delay: then the command has ended before the lock opens again.
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, default_value = "5s", value_parser = parse_duration)]
    grace: Duration,
    /// How long the lock outlives the last news from Consul, 10s to 24h; above 1m it is 1m, which is the longest lock-delay. A shorter one of
    /// a sidecar's lease, from 1s, is kept by the sidecar.
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, default_value = "15s", value_parser = parse_duration)]
    ttl: Duration,
    /// What other clients read of this holder, at most 4096 bytes.
    #[arg(long, value_name = "TEXT", default_value = "")]
    value: String,
    /// The holder, in the name of the session in Consul. Default: the command and this host.
    #[arg(long = "name", value_name = "TEXT", conflicts_with = "api", help_heading = "Registry")]
    holder: Option<String>,
    /// What the keys of locks begin with. Default: api.locks.prefix, which is locks.
    #[arg(long, value_name = "PREFIX", conflicts_with = "api", value_parser = parse_name, help_heading = "Registry")]
    prefix: Option<LockName>,
    /// How long the lock stays closed after Consul ended its session, 1s to 1m. Default: api.locks.lock_delay, else the --ttl, at
    /// least 15s.
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, conflicts_with = "api", value_parser = parse_duration, help_heading = "Registry")]
    lock_delay: Option<Duration>,
    #[command(flatten)]
    registry: RegistryFlags,
    /// Address of the API of a sidecar that holds the lock, as localhost:7077 or unix:/run/outrigger/api.sock. Default: none, Consul
    /// is asked.
    #[arg(long, value_name = "ADDRESS", help_heading = "Sidecar")]
    api: Option<String>,
    /// File with the token of the API, which the sidecar has as api.token_file.
    #[arg(long, value_name = "PATH", requires = "api", help_heading = "Sidecar")]
    api_token_file: Option<PathBuf>,
    /// The command, and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The flag `--on-loss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnLoss {
    Term,
    Kill,
    Ignore,
}

/// The command that becomes the command under a lock.
#[derive(Debug, Args)]
#[command(hide = true, after_help = "Example: started by 'outrigger lock'")]
pub(super) struct ExecGuardedArguments {
    /// The process with which it ends.
    #[arg(value_name = "PID")]
    parent: i32,
    /// The command, and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The same names in Consul itself as by a sidecar.
fn parse_leased_name(text: &str) -> Result<LockName, String> {
    LockName::parse_leased(text).map_err(|error| error.to_string())
}

fn parse_name(text: &str) -> Result<LockName, String> {
    LockName::parse(text).map_err(|error| error.to_string())
}

/// Where the lock is held.
enum Source {
    Registry(RegistryLocks),
    Sidecar(SidecarLocks),
}

/// A lock that is held.
enum HeldLock {
    Registry(OwnHold),
    Sidecar(SidecarLease),
}

impl HeldLock {
    fn token(&self) -> u64 {
        match self {
            Self::Registry(held) => held.token(),
            Self::Sidecar(held) => held.token(),
        }
    }

    /// Resolves when it is lost, with the reason. What keeps it is done meanwhile.
    async fn lost(&self) -> String {
        match self {
            Self::Registry(held) => held.lost().await,
            Self::Sidecar(held) => held.lost().await,
        }
    }

    /// Gives it back where it is held, and ends what belongs to it.
    async fn end(self) -> Result<(), String> {
        match self {
            Self::Registry(held) => held.end().await,
            Self::Sidecar(held) => held.end().await,
        }
    }
}

pub(super) fn run(arguments: &LockArguments) -> Result<ExitCode, CommandError> {
    run_on_runtime(arguments.run())
}

/// Becomes the command. Returns only where that fails.
pub(super) fn exec_guarded(arguments: &ExecGuardedArguments) -> ExitCode {
    let (code, error) = replace_process(arguments.parent, &arguments.command);
    if let Some(error) = error {
        say(error_chain(&error));
    }
    ExitCode::from(code)
}

impl LockArguments {
    fn source(&self) -> Result<Source, CommandError> {
        match &self.api {
            Some(address) => SidecarLocks::new(address, self.api_token_file.as_deref()).map(Source::Sidecar),
            None => {
                let choice = RegistryChoice {
                    flags: &self.registry,
                    prefix: self.prefix.as_ref(),
                    lock_delay: self.lock_delay,
                    holder: self.holder.clone().unwrap_or_else(|| self.describe_holder()),
                };
                RegistryLocks::open(choice, &Environment::from_process()).map(Source::Registry)
            }
        }
    }

    /// The command and the host.
    fn describe_holder(&self) -> String {
        let program = self.command.first().map(Path::new).and_then(Path::file_name);
        let program = program.map(|name| name.to_string_lossy().into_owned());
        format!("{} on {}", program.unwrap_or_default(), host_name())
    }

    /// Ranges that depend on where the lock is held.
    fn check(&self) -> Result<(), CommandError> {
        let second = Duration::from_secs(1);
        let shortest_ttl = if self.api.is_some() { second } else { 10 * second };
        let given = self.registry.given().filter(|_| self.api.is_some());
        let wrong = if let Some(flag) = given {
            format!("{flag} beside --api: the sidecar has its own registry; remove one of them")
        } else if !(shortest_ttl..=86_400 * second).contains(&self.ttl) {
            format!("--ttl: allowed are {} to 24h", outrigger_config::format_duration(shortest_ttl))
        } else if self.lock_delay.is_some_and(|delay| !(second..=60 * second).contains(&delay)) {
            "--lock-delay: allowed are 1s to 1m; without a delay a holder that is cut off could work beside the next one".into()
        } else if self.value.len() > 4096 {
            "--value: at most 4096 bytes".into()
        } else {
            return Ok(());
        };
        Err(CommandError::Settings(format!("outrigger: {wrong}")))
    }

    async fn run(&self) -> Result<ExitCode, CommandError> {
        self.check()?;
        let source = self.source()?;
        let mut caught = CaughtSignals::catch().map_err(signal_error)?;
        let wanted = Wanted {
            name: self.name.clone(),
            limit: self.limit,
            value: self.value.clone(),
            ttl: self.ttl,
            until: self.wait.map(|wait| Instant::now() + wait),
        };
        let acquired = tokio::select! {
            acquired = source.acquire(&wanted) => acquired,
            code = caught.interrupted() => {
                say(format_args!("a signal ended the wait for the lock {}", self.name));
                source.end().await;
                return Ok(code.into());
            }
        };
        let held = match acquired {
            Ok(held) => held,
            Err(NotHeld { code, why }) => {
                say(format_args!("the lock {} is not acquired: {why}", self.name));
                source.end().await;
                return Ok(code.into());
            }
        };
        Ok(self.run_under(held, caught).await.into())
    }

    /// Runs the command, and gives the lock back.
    async fn run_under(&self, held: HeldLock, caught: CaughtSignals) -> u8 {
        let on_loss = match self.on_loss {
            OnLoss::Term => LossPolicy::Terminate,
            OnLoss::Kill => LossPolicy::Kill,
            OnLoss::Ignore => LossPolicy::Ignore,
        };
        let variables = vec![
            ("OUTRIGGER_LOCK_TOKEN", held.token().to_string()),
            ("OUTRIGGER_LOCK_NAME", self.name.to_string()),
            ("CONSUL_LOCK_HELD", "true".to_owned()),
        ];
        let command = GuardedCommand {
            command: &self.command,
            variables,
            on_loss,
            grace: self.grace,
            replacer: &[REPLACER],
        };
        let lost = async {
            let reason = held.lost().await;
            let then = match on_loss {
                LossPolicy::Terminate => "stopping the command",
                LossPolicy::Kill => "killing the command",
                LossPolicy::Ignore => "the command runs on (--on-loss ignore)",
            };
            say(format_args!("the lock {} is lost: {reason}; {then}", self.name));
        };
        let code = match command.run(caught, lost).await {
            Ok(end) if end.is_stopped_by_loss => LOST,
            Ok(end) => end.code,
            Err(error) => {
                say(error_chain(&error));
                error.exit_code()
            }
        };
        if let Err(why) = held.end().await {
            say(format_args!(
                "the lock {} is not given back, it opens when its session has expired: {why}",
                self.name
            ));
        }
        code
    }
}

impl Source {
    async fn acquire(&self, wanted: &Wanted) -> Result<HeldLock, NotHeld> {
        match self {
            Self::Registry(locks) => locks.acquire(wanted).await.map(HeldLock::Registry),
            Self::Sidecar(locks) => locks.acquire(wanted).await.map(HeldLock::Sidecar),
        }
    }

    /// Ends what a wait has left.
    async fn end(&self) {
        match self {
            Self::Registry(locks) => locks.end().await,
            Self::Sidecar(locks) => locks.end().await,
        }
    }
}
