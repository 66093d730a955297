//! The entry points: a file's text, the environment and flags → settings, or all problems.

use std::{io, path::Path, sync::Arc};

use crate::{
    Config, Environment, Origin, Origins, Overrides, Problem, Problems, SmallFile,
    check::{CheckOutcome, check},
    layers::Overlay,
    policy_source::PolicySource,
    raw,
    renamed::RenamedKeys,
};

/// Largest settings file that is read.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// Valid settings, and where each of them comes from.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The settings.
    pub config: Config,
    /// Where each value comes from.
    pub origins: Origins,
    /// What is suspicious but not wrong. The caller logs each once.
    pub warnings: Vec<Problem>,
    /// What the file and flags say of services, for [`LoadedConfig::with_documents`].
    pub(crate) source: PolicySource,
}

impl LoadedConfig {
    /// Settings that come from no file. [`LoadedConfig::with_documents`] takes the whole policy of an upstream for the upstream's own.
    pub fn without_file(config: Config, origins: Origins) -> Self {
        Self { config, origins, warnings: Vec::new(), source: PolicySource::default() }
    }
}

impl From<Config> for LoadedConfig {
    /// Settings that a program made.
    fn from(config: Config) -> Self {
        Self::without_file(config, Origins::default())
    }
}

impl PartialEq for LoadedConfig {
    /// Equal settings of equal origins are equal, however the file writes them.
    fn eq(&self, other: &Self) -> bool {
        (&self.config, &self.origins, &self.warnings) == (&other.config, &other.origins, &other.warnings)
    }
}

/// Turns the file (its name and text; it is optional), the environment and the flags into settings. Pure: it
/// reads nothing.
///
/// Problems show the name; paths in the file are relative to its folder.
///
/// # Errors
///
/// All problems, not only the first. When the text is not YAML, that is the only problem.
pub fn load(
    source: Option<(&str, &str)>,
    env: &Environment,
    overrides: &Overrides,
) -> Result<LoadedConfig, Problems> {
    let (name, text) = source.unwrap_or(("", ""));
    let file: Arc<str> = name.into();
    if text.len() > MAX_FILE_BYTES {
        return Err(too_large(&file));
    }
    let mut tree = raw::parse(text).map_err(|error| {
        let origin = Origin::File { file: Arc::clone(&file), line: error.at.line, col: error.at.col };
        single_problem(origin, error.message, "the file is not valid YAML here")
    })?;
    let renamed = RenamedKeys::rename_in(&mut tree, &file);
    let policies = PolicySource::new(&file, &tree, &renamed, env, overrides);
    let CheckOutcome { config, origins, problems, warnings } =
        check(&file, source.map(|_| &tree), renamed, env, Overlay::new(env, overrides));
    if problems.is_empty() {
        Ok(LoadedConfig { config, origins, warnings, source: policies })
    } else {
        Err(Problems::new(problems, warnings))
    }
}

/// [`load`] with the text of this file.
///
/// # Errors
///
/// As [`load`]; also when the file cannot be read, is no regular file, is larger than [`MAX_FILE_BYTES`], or is not UTF-8.
pub fn load_path(path: &Path, env: &Environment, overrides: &Overrides) -> Result<LoadedConfig, Problems> {
    let name = path.to_string_lossy();
    let file: Arc<str> = (&*name).into();
    let bytes = match SmallFile::read(path, MAX_FILE_BYTES) {
        Ok(read) => read.bytes,
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(too_large(&file)),
        Err(error) => return Err(file_problem(&file, format!("cannot be read: {error}"), "")),
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + good.iter().filter(|b| **b == b'\n').count();
        let start = good.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        let col = 1 + String::from_utf8_lossy(&good[start..]).chars().count();
        let fit = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let origin = Origin::File { file: Arc::clone(&file), line: fit(line), col: fit(col) };
        single_problem(origin, "is not UTF-8", "save the file as UTF-8")
    })?;
    load(Some((&name, &text)), env, overrides)
}

fn too_large(file: &Arc<str>) -> Problems {
    file_problem(file, "is larger than 1MiB", "is it a settings file?")
}

fn file_problem(file: &Arc<str>, what: impl Into<String>, hint: &str) -> Problems {
    single_problem(Origin::File { file: Arc::clone(file), line: 0, col: 0 }, what, hint)
}

fn single_problem(origin: Origin, what: impl Into<String>, hint: &str) -> Problems {
    let problem = Problem { origin, key: String::new(), what: what.into(), hint: hint.to_owned() };
    Problems::new(vec![problem], Vec::new())
}
