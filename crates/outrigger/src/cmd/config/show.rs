//! `outrigger config get` and `diff`: the reads.

use std::{io::Write as _, path::PathBuf, time::Duration};

use clap::Args;
use outrigger_config::{Environment, count, format_coarse_duration};
use outrigger_discovery::unix_time;

use super::{
    super::report::{CommandError, print_line},
    change::difference,
    document::{SourceText, parse_key, path_value},
    place::PlaceFlags,
};

/// Print a document, one of its earlier versions, or a list of them
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  outrigger config get services/payments\n  \
                        outrigger config get services/payments --history\n  \
                        outrigger config get services/payments --index 813")]
pub(super) struct GetArguments {
    /// defaults, services/NAME, apps/APP/defaults or apps/APP/services/NAME.
    key: String,
    /// The version with this index. Default: the present one.
    #[arg(long, value_name = "INDEX")]
    index: Option<u64>,
    /// List the versions: index, size, and since when each is replaced.
    #[arg(long, conflicts_with = "index")]
    history: bool,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) async fn get(arguments: &GetArguments) -> Result<(), CommandError> {
    let place = arguments.place.open(&Environment::from_process())?;
    let name = parse_key(&arguments.key, &place.prefix)?;
    let key = place.store.key_of(&name);
    let current = place.store.document(&name).await.map_err(|error| place.failure(&error))?;
    let present = current.as_ref().filter(|current| arguments.index.is_none_or(|at| at == current.index));
    if let Some(present) = present.filter(|_| !arguments.history) {
        print_value(&present.value);
        return Ok(());
    }
    if arguments.index.is_none() && !arguments.history {
        return Err(CommandError::running(format!("there is no document {key}")));
    }
    let earlier = place.store.earlier_versions(&name).await.map_err(|error| place.failure(&error))?;
    if let Some(index) = arguments.index {
        let Some(version) = earlier.iter().find(|version| version.index == index) else {
            return Err(CommandError::running(format!("there is no version {index} of {key}")));
        };
        print_value(&version.value);
        return Ok(());
    }
    if current.is_none() && earlier.is_empty() {
        return Err(CommandError::running(format!("there is no document {key}")));
    }
    let line = |index: u64, value: &[u8], when: &str| {
        print_line(format!("{index:>10}  {:>12}  {when}", count(value.len(), "byte")));
    };
    if let Some(current) = &current {
        line(current.index, &current.value, "in place");
    }
    let now = unix_time().as_secs();
    for version in &earlier {
        let age = Duration::from_secs(now.saturating_sub(version.replaced_at));
        line(version.index, &version.value, &format!("replaced {} ago", format_coarse_duration(age)));
    }
    Ok(())
}

/// The text as it is: it may be written to a file.
fn print_value(value: &[u8]) {
    let mut out = std::io::stdout().lock();
    // A closed stdout (`| head`) is no failure.
    let _ = out.write_all(value).and_then(|()| out.flush());
}

/// Show in which lines a file differs from a document
#[derive(Debug, Args)]
#[command(
    long_about = "Show in which lines a file differs from a document: what outrigger config put would change. The exit code is 1 \
                  where they differ, and also where the document cannot be read. Nothing is checked and nothing is written.",
    after_help = "Example:\n  outrigger config diff services/payments payments.yaml"
)]
pub(super) struct DiffArguments {
    /// defaults, services/NAME, apps/APP/defaults or apps/APP/services/NAME.
    key: String,
    /// The file. - is stdin.
    #[arg(value_parser = path_value)]
    file: PathBuf,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) async fn diff(arguments: &DiffArguments) -> Result<(), CommandError> {
    let place = arguments.place.open(&Environment::from_process())?;
    let name = parse_key(&arguments.key, &place.prefix)?;
    let text = SourceText::read(&arguments.file)?;
    let current = place.store.document(&name).await.map_err(|error| place.failure(&error))?;
    if current.as_ref().is_some_and(|current| current.value == text.value) {
        return Ok(());
    }
    let key = place.store.key_of(&name);
    print_line(difference(&key, current.as_ref(), Some(&text)).trim_end());
    Err(CommandError::running(match current {
        Some(_) => format!("{key} is another text"),
        None => format!("there is no document {key}"),
    }))
}
