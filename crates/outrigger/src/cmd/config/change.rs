//! `outrigger config init`, `put`, `revert` and `delete`: the writes.

use std::path::PathBuf;

use clap::Args;
use outrigger_config::{Environment, SettingsDocument, count};
use outrigger_discovery::unix_time;
use outrigger_dynamic_config::{EarlierVersion, MARK, NextVersion, Replaced};

use super::{
    super::report::{CommandError, print_line, print_to_stderr},
    document::{SourceText, TextSource, check, parse_key, path_value},
    line_diff::line_diff,
    place::{DocumentPlace, PlaceFlags},
};

/// Write PREFIX/settings/.outrigger, so that sidecars wait for the first document
#[derive(Debug, Args)]
#[command(
    long_about = "Write PREFIX/settings/.outrigger, unless it is there. While a prefix has no key at all, Consul answers a question \
                  about it at every write of any key, so that sidecars ask every 30 s instead of waiting: the first document would \
                  be late.",
    after_help = "Example:\n  outrigger config init --prefix outrigger"
)]
pub(super) struct InitArguments {
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) async fn init(arguments: &InitArguments) -> Result<(), CommandError> {
    let place = arguments.place.open(&Environment::from_process())?;
    let is_new = place.store.init().await.map_err(|error| place.failure(&error))?;
    let key = place.store.key_of(MARK);
    print_line(if is_new { format!("written: {key}") } else { format!("unchanged: {key} is there") });
    Ok(())
}

/// Check a document, show what it changes, and write it
#[derive(Debug, Args)]
#[command(
    long_about = "Check a document, show what it changes, and write it. A document with a problem or a key that this version does \
                  not know is not written (exit code 2; each problem has the line and the column). Where another program has \
                  written the document meanwhile, nothing is written (exit code 1). The version before it is kept for \
                  outrigger config revert, as the last of ten versions.",
    after_help = "Example:\n  outrigger config put services/payments payments.yaml --dry-run\n  \
                  echo 'timeout: 2s' | outrigger config put defaults -"
)]
pub(super) struct PutArguments {
    /// defaults, services/NAME, apps/APP/defaults or apps/APP/services/NAME.
    key: String,
    /// YAML or JSON. - is stdin.
    #[arg(value_parser = path_value)]
    file: PathBuf,
    /// Write it only where the index of the present version is INDEX; 0: where there is none.
    #[arg(long, value_name = "INDEX")]
    at: Option<u64>,
    /// Check and show, and write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) async fn put(arguments: &PutArguments) -> Result<(), CommandError> {
    let place = arguments.place.open(&Environment::from_process())?;
    let name = parse_key(&arguments.key, &place.prefix)?;
    let text = SourceText::read(&arguments.file)?;
    let documents = place.store.documents().await.map_err(|error| place.failure(&error))?;
    write_checked(&place, &name, &documents, &text, arguments.at, arguments.dry_run).await
}

/// Write an earlier version of a document again
#[derive(Debug, Args)]
#[command(
    long_about = "Write an earlier version of a document again: the one before the present version, or that with an index. It is \
                  checked as outrigger config put does, and the present version is kept. A document that was deleted by \
                  outrigger config is there again. outrigger config get KEY --history lists the versions.",
    after_help = "Example:\n  outrigger config revert services/payments\n  outrigger config revert services/payments --to 813"
)]
pub(super) struct RevertArguments {
    /// defaults, services/NAME, apps/APP/defaults or apps/APP/services/NAME.
    key: String,
    /// The index of the version. Default: the newest earlier one.
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// Check and show, and write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) async fn revert(arguments: &RevertArguments) -> Result<(), CommandError> {
    let place = arguments.place.open(&Environment::from_process())?;
    let name = parse_key(&arguments.key, &place.prefix)?;
    let documents = place.store.documents().await.map_err(|error| place.failure(&error))?;
    let earlier = place.store.earlier_versions(&name).await.map_err(|error| place.failure(&error))?;
    let present = documents.iter().find(|document| document.name == name);
    let found = match arguments.to {
        Some(index) => earlier.iter().find(|version| version.index == index),
        None => earlier.first(),
    };
    if let Some(present) = present {
        let key = place.store.key_of(&name);
        if arguments.to == Some(present.index) {
            print_line(format!("unchanged: {key}@{} is the present version", present.index));
            return Ok(());
        }
        if let Some(found) = found.filter(|found| found.value == present.value) {
            print_line(format!(
                "unchanged: {key}@{} has the text of version {}; --to INDEX writes another one: {}",
                present.index,
                found.index,
                kept_versions(&earlier)
            ));
            return Ok(());
        }
    }
    let Some(EarlierVersion { index, value, flags, .. }) = found else {
        return Err(CommandError::running(missing_version(&place, &name, (arguments.to, present), &earlier)));
    };
    let source = TextSource::Version { index: *index, flags: *flags };
    let text = SourceText { source, value: value.clone() };
    write_checked(&place, &name, &documents, &text, None, arguments.dry_run).await
}

fn kept_versions(earlier: &[EarlierVersion]) -> String {
    let kept: Vec<_> = earlier.iter().map(|version| version.index.to_string()).collect();
    format!("{} (the newest first)", kept.join(", "))
}

/// Why there is no version to go back to, what there is, and what to do.
fn missing_version(
    place: &DocumentPlace,
    name: &str,
    (to, present): (Option<u64>, Option<&SettingsDocument>),
    earlier: &[EarlierVersion],
) -> String {
    let key = place.store.key_of(name);
    let is_there = match present {
        Some(present) => format!("{key} is at index {}", present.index),
        None => format!("there is no document {key}"),
    };
    match to {
        _ if earlier.is_empty() => {
            let or_delete = match present {
                Some(_) => ", or remove it by `outrigger config delete`",
                None => "",
            };
            format!(
                "{is_there}, and no earlier version of it is kept, because only versions that outrigger config replaced are; write \
                 the text that is to be there by `outrigger config put {name} FILE`{or_delete}"
            )
        }
        Some(to) => format!(
            "{is_there}, and no version {to} of it is kept; --to takes one of {}, and without --to the newest is written",
            kept_versions(earlier)
        ),
        // The newest one is written.
        None => is_there,
    }
}

/// Remove a document, and keep it for outrigger config revert
#[derive(Debug, Args)]
#[command(
    long_about = "Remove a document, and keep its version for outrigger config revert. The sidecars go back to what the other \
                  documents and their files say, after a second.",
    after_help = "Example:\n  outrigger config delete services/payments"
)]
pub(super) struct DeleteArguments {
    /// defaults, services/NAME, apps/APP/defaults or apps/APP/services/NAME.
    key: String,
    /// Show what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) async fn delete(arguments: &DeleteArguments) -> Result<(), CommandError> {
    let place = arguments.place.open(&Environment::from_process())?;
    let name = parse_key(&arguments.key, &place.prefix)?;
    let current = place.store.document(&name).await.map_err(|error| place.failure(&error))?;
    let Some(current) = current else {
        let key = place.store.key_of(&name);
        return Err(CommandError::running(format!("there is no document {key}")));
    };
    write(&place, &name, Some(&current), None, arguments.dry_run).await
}

/// Checks, shows and writes a document.
async fn write_checked(
    place: &DocumentPlace,
    name: &str,
    documents: &[SettingsDocument],
    text: &SourceText,
    at: Option<u64>,
    is_dry_run: bool,
) -> Result<(), CommandError> {
    for warning in check(place, name, text, documents)? {
        print_to_stderr(format_args!("warning: {warning}"));
    }
    let current = documents.iter().find(|document| document.name == name);
    let index = current.map_or(0, |current| current.index);
    let key = place.store.key_of(name);
    if let Some(at) = at.filter(|at| *at != index) {
        let what = format!("{key} is at index {index}, not {at}: nothing is written");
        return Err(CommandError::running(what));
    }
    if !documents.iter().any(|document| document.name == MARK) {
        place.print_missing_mark();
    }
    if let Some(current) = current.filter(|current| current.value == text.value) {
        print_line(format!("unchanged: {key}@{}", current.index));
        return Ok(());
    }
    write(place, name, current, Some(text), is_dry_run).await
}

/// Shows and makes a change. `next: None` removes the document.
async fn write(
    place: &DocumentPlace,
    name: &str,
    current: Option<&SettingsDocument>,
    next: Option<&SourceText>,
    is_dry_run: bool,
) -> Result<(), CommandError> {
    let key = place.store.key_of(name);
    print_line(difference(&key, current, next).trim_end());
    if is_dry_run {
        print_line("dry run: nothing is written");
        return Ok(());
    }
    let next_version = next.map(|next| NextVersion {
        value: &next.value,
        flags: match next.source {
            TextSource::File(_) => None,
            TextSource::Version { flags, .. } => Some(flags),
        },
    });
    let now = unix_time().as_secs();
    let replaced = place.store.replace(name, current, next_version, now).await;
    match replaced.map_err(|error| place.failure(&error))? {
        Replaced::Written { index, keeps_earlier } => {
            print_line(match next {
                Some(_) => format!("written: {key}@{index}"),
                None => format!("deleted: {key}"),
            });
            if let Some(current) = current.filter(|_| !keeps_earlier) {
                let size = count(current.value.len(), "byte");
                print_to_stderr(format_args!(
                    "the earlier version is not kept: it has {size}, more than a document may have"
                ));
            }
            Ok(())
        }
        Replaced::Conflict => {
            let index = current.map_or(0, |current| current.index);
            Err(CommandError::running(format!(
                "another program has written {key} since it was read at index {index}: nothing is changed; look at it and try again"
            )))
        }
    }
}

/// The difference between a document and what is to be in its place, with two lines that name them. A document that is
/// absent is empty.
pub(super) fn difference(key: &str, current: Option<&SettingsDocument>, next: Option<&SourceText>) -> String {
    let of = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let before = current.map(|current| of(&current.value)).unwrap_or_default();
    let after = next.map(|next| of(&next.value)).unwrap_or_default();
    let old = current.map_or("(no document)".to_owned(), |current| format!("{key}@{}", current.index));
    let new = match next.map(|next| &next.source) {
        Some(TextSource::File(file)) => file.to_string(),
        Some(TextSource::Version { index, .. }) => format!("{key}@{index}"),
        None => "(no document)".to_owned(),
    };
    format!("--- {old}\n+++ {new}\n{}", line_diff(&before, &after))
}
