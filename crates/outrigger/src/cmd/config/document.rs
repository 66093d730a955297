//! KEY and FILE of the command line, and the check of a document before it is written.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use outrigger_config::{
    DocumentResult, DocumentVersions, Environment, LoadedConfig, MAX_DOCUMENT_BYTES, Origin, Overrides,
    Problem, SettingsDocument, UnknownKeys, check_document, document_app, is_document, load, settings_prefix,
};

use super::{super::report::CommandError, place::DocumentPlace};

/// The name of a document, from KEY: with or without `settings/` or the whole prefix before it.
pub(super) fn parse_key(text: &str, prefix: &str) -> Result<String, CommandError> {
    let whole = settings_prefix(prefix);
    let name = text.trim_start_matches('/');
    let name = name.strip_prefix(&whole).or_else(|| name.strip_prefix("settings/")).unwrap_or(name);
    if is_document(name) {
        return Ok(name.to_owned());
    }
    let hint = "write defaults, services/NAME, apps/APP/defaults or apps/APP/services/NAME";
    Err(CommandError::Settings(format!("outrigger: {text:?} is not the key of a document; {hint}")))
}

/// A text that is to be written, and where it comes from.
#[derive(Debug)]
pub(super) struct SourceText {
    pub(super) source: TextSource,
    pub(super) value: Vec<u8>,
}

/// Where a text comes from, for its problems and the heads of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TextSource {
    /// A file, by its name.
    File(Arc<str>),
    /// An earlier version of the document: its index, and the flags that its key had.
    Version { index: u64, flags: u64 },
}

impl SourceText {
    /// Reads FILE; `-` is stdin.
    pub(super) fn read(path: &Path) -> Result<Self, CommandError> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin { "stdin".to_owned() } else { path.display().to_string() };
        // One byte more tells that it is too large.
        let limit = MAX_DOCUMENT_BYTES as u64 + 1;
        let mut value = Vec::new();
        let read = if is_stdin {
            io::stdin().lock().take(limit).read_to_end(&mut value)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut value))
        };
        match read {
            Ok(_) => Ok(Self { source: TextSource::File(name.into()), value }),
            Err(error) => Err(CommandError::Settings(format!("outrigger: {name}: {error}"))),
        }
    }
}

/// Checks a text as the document `name`: on its own, and over the documents `others`, as a sidecar without other settings would.
/// Returns what is suspicious.
pub(super) fn check(
    place: &DocumentPlace,
    name: &str,
    text: &SourceText,
    others: &[SettingsDocument],
) -> Result<Vec<String>, CommandError> {
    let index = match text.source {
        TextSource::File(_) => 0,
        TextSource::Version { index, .. } => index,
    };
    // A new key is the last one.
    let created = others.iter().find(|other| other.name == name).map_or(u64::MAX, |other| other.created);
    let document = SettingsDocument { name: name.to_owned(), index, created, value: text.value.clone() };
    let is_twin = |other: &&SettingsDocument| other.name != name && other.name.eq_ignore_ascii_case(name);
    if let Some(twin) = others.iter().find(is_twin) {
        let twin = place.store.key_of(&twin.name);
        return Err(CommandError::Settings(format!(
            "outrigger: names have no case, and {twin} is there: write that document, or delete it first"
        )));
    }
    let shown = |problem: &Problem| shown_problem(problem, &text.source);
    let checked = check_document(&document, &place.prefix, &place.rules, UnknownKeys::Refuse);
    let mut warnings = match checked {
        Ok(warnings) => warnings.iter().map(shown).collect::<Vec<_>>(),
        Err(problems) => return Err(refusal(problems.iter().map(shown))),
    };
    let Some(base) = base_settings(place, name) else { return Ok(warnings) };
    let before = results_over(&base, others, None);
    let after = results_over(&base, others, Some(&document));
    if let Some(own) = after.iter().find(|result| result.name == name && !result.problems.is_empty()) {
        return Err(refusal(own.problems.iter().map(shown)));
    }
    let was_refused = |result: &DocumentResult| {
        before.iter().any(|before| before.name == result.name && !before.problems.is_empty())
    };
    for result in after.iter().filter(|result| !was_refused(result)) {
        warnings.extend(result.problems.iter().map(|problem| format!("with this document, {problem}")));
    }
    Ok(warnings)
}

fn refusal(problems: impl Iterator<Item = String>) -> CommandError {
    CommandError::Settings(problems.collect::<Vec<_>>().join("\n"))
}

/// The problem at its place in the text, where it is about it.
fn shown_problem(problem: &Problem, source: &TextSource) -> String {
    match (&problem.origin, source) {
        (Origin::Kv { index: 0, line, col, .. }, TextSource::File(file)) => {
            let origin = Origin::File { file: file.clone(), line: *line, col: *col };
            Problem { origin, ..problem.clone() }.to_string()
        }
        _ => problem.to_string(),
    }
}

/// The settings of a sidecar that the document concerns. `None`: the settings file is of another app.
fn base_settings(place: &DocumentPlace, name: &str) -> Option<LoadedConfig> {
    let app = document_app(name);
    let mut base = match &place.file {
        Some(file) => {
            let own = file.config.services.first().map(|service| service.name.as_str());
            let is_of_app = app.is_none_or(|app| own.is_some_and(|own| own.eq_ignore_ascii_case(app)));
            is_of_app.then(|| file.clone())?
        }
        None => {
            // Any port makes a service of the name.
            let (service, port) = (app.map(str::to_owned), app.map(|_| "1".to_owned()));
            let overrides = Overrides { service, port, ..Overrides::default() };
            load(None, &Environment::default(), &overrides).ok()?
        }
    };
    base.config.dynamic_config = place.rules.clone();
    Some(base)
}

/// What a sidecar that has the documents `known` would say with `next` in the place of its earlier version. Where a `rollout` leaves
/// it out, nothing.
fn results_over(
    base: &LoadedConfig,
    known: &[SettingsDocument],
    next: Option<&SettingsDocument>,
) -> Vec<DocumentResult> {
    let is_next = |known: &SettingsDocument| next.is_some_and(|next| next.name == known.name);
    let kept = known.iter().filter(|one| !is_next(one));
    let kept = kept.map(|one| DocumentVersions { current: one.clone(), last_good: Some(one.clone()) });
    let next = next.map(|next| DocumentVersions {
        current: next.clone(),
        last_good: known.iter().find(|one| is_next(one)).cloned(),
    });
    base.with_documents(&kept.chain(next).collect::<Vec<_>>(), "").documents
}

/// A path of the command line, as it is written.
pub(super) fn path_value(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(PathBuf::from(text))
}
