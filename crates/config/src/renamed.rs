//! Settings that have a new name. The old name works until the next minor release, with a warning.
//!
//! [`RenamedKeys::rename_in`] puts the new names into the tree of a file before `check` reads the tree: no
//! other module knows an old name. No flag and no variable sets a setting of this table.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Origin, Problem,
    error::InvalidValue,
    keys::{self, join},
    raw::{Node, NodeValue, Position},
    units::ratio_in,
};

/// Turns a value of the old setting into one of the new setting.
type Convert = fn(&str) -> Result<String, InvalidValue>;

/// One setting with a new name.
struct Rename {
    /// The section, by its present name. `*` stands for `defaults` and each of `upstreams`.
    section: &'static str,
    old: &'static str,
    new: &'static str,
    convert: Convert,
}

const fn rename(section: &'static str, old: &'static str, new: &'static str) -> Rename {
    Rename { section, old, new, convert: |text| Ok(text.to_owned()) }
}

const RENAMES: &[Rename] = &[
    rename("discovery", "guard", "mass_loss"),
    rename("discovery.mass_loss", "confirm", "confirm_for"),
    rename("discovery.mass_loss", "hold", "hold_for"),
    rename("discovery.mass_loss", "probe", "probe_timeout"),
    rename("*.circuit_breaker", "open", "open_for"),
    rename("*.circuit_breaker", "open_max", "max_open_for"),
    Rename { convert: ratio_to_percent, ..rename("*.outlier", "max_ejected", "max_ejection_percent") },
    rename("*.outlier", "base", "base_ejection_time"),
    rename("*.outlier", "max", "max_ejection_time"),
    rename("*.pool", "idle", "idle_timeout"),
    rename("*.pool", "fresh", "non_idempotent_max_idle"),
    rename("drain", "cap", "max_propagation"),
    rename("drain", "blind", "unobserved_wait"),
];

/// `0.3` and `30%` become `30%`. Rounded to a billionth, because 0.29 × 100 is 28.999999999999996.
fn ratio_to_percent(text: &str) -> Result<String, InvalidValue> {
    let ratio = ratio_in(0.0..=1.0)(text)?;
    Ok(format!("{}%", (ratio * 1e11).round() / 1e9))
}

impl Rename {
    fn is_in(&self, path: &str) -> bool {
        let is_policy = |name: &str| name == "defaults" || name.starts_with("upstreams[");
        match self.section.strip_prefix("*.") {
            Some(section) => path.split_once('.').is_some_and(|(at, rest)| is_policy(at) && rest == section),
            None => path == self.section,
        }
    }
}

/// The hint for a key that does not exist in this section (by its present path): a key with an old name that is near;
/// else where a key of exactly this old name is now.
pub(crate) fn suggest(path: &str, unknown: &str) -> Option<String> {
    let here: Vec<_> = RENAMES.iter().filter(|rename| rename.is_in(path)).collect();
    if let Some(old) = keys::nearest(unknown, here.iter().map(|rename| rename.old)) {
        let rename = here.into_iter().find(|rename| rename.old == old)?;
        return Some(format!("did you mean {}, formerly {old}?", rename.new));
    }
    // A word that is also a present key (`idle`) says nothing.
    let is_key = keys::keys().iter().any(|path| path.rsplit('.').next() == Some(unknown));
    let mut elsewhere = RENAMES.iter().filter(|rename| rename.old == unknown);
    let rename = elsewhere.next().filter(|_| !is_key && elsewhere.next().is_none())?;
    let section = rename.section.replace('*', "defaults");
    Some(format!("it belongs at {}, formerly {}", join(&section, rename.new), join(&section, rename.old)))
}

/// The settings of a file with an old name, and their problems and warnings.
#[derive(Default, Clone)]
pub(crate) struct RenamedKeys {
    /// By the new dotted key: the key as written, and its conversion.
    written: BTreeMap<String, (String, Convert)>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl RenamedKeys {
    /// Gives every setting of the tree its present name.
    pub(crate) fn rename_in(tree: &mut Node, file: &Arc<str>) -> Self {
        let mut renamed = Self::default();
        renamed.walk(tree, file, "", "");
        renamed
    }

    /// `path` has the new names, `written` those of the file.
    fn walk(&mut self, node: &mut Node, file: &Arc<str>, path: &str, written: &str) {
        match &mut node.value {
            NodeValue::Null | NodeValue::Scalar(_) => {}
            NodeValue::Seq(items) => {
                for (n, item) in items.iter_mut().enumerate() {
                    self.walk(item, file, &format!("{path}[{n}]"), &format!("{written}[{n}]"));
                }
            }
            NodeValue::Map(entries) => {
                let given: Vec<(String, Position)> =
                    entries.iter().map(|(key, _)| (key.name.clone(), key.at)).collect();
                entries.retain_mut(|(key, value)| {
                    let written = join(written, &key.name);
                    if let Some(rename) = RENAMES.iter().find(|one| one.old == key.name && one.is_in(path)) {
                        let origin =
                            Origin::File { file: Arc::clone(file), line: key.at.line, col: key.at.col };
                        let new = join(path, rename.new);
                        if let Some((_, at)) = given.iter().find(|(name, _)| name == rename.new) {
                            let place = format!("line {}, column {}", at.line, at.col);
                            let what = format!("is the old name of {new}, which is given on {place}");
                            let hint = "remove the old one".to_owned();
                            self.problems.push(Problem { origin, key: written, what, hint });
                            return false;
                        }
                        let what = format!("has a new name: {new}");
                        let hint = "the old name works until the next minor release".to_owned();
                        self.warnings.push(Problem { origin, key: written.clone(), what, hint });
                        self.written.insert(new, (written.clone(), rename.convert));
                        rename.new.clone_into(&mut key.name);
                    }
                    self.walk(value, file, &join(path, &key.name), &written);
                    true
                });
            }
        }
    }

    /// The same without the problems and warnings.
    pub(crate) fn without_problems(&self) -> Self {
        Self { written: self.written.clone(), ..Self::default() }
    }

    /// The value of this key in the form that the new name has.
    pub(crate) fn convert(&self, key: &str, text: &str) -> Result<String, InvalidValue> {
        self.written.get(key).map_or_else(|| Ok(text.to_owned()), |(_, convert)| convert(text))
    }

    /// Gives a problem of the file the key that the file has.
    pub(crate) fn restore_key(&self, problem: &mut Problem) {
        // The longest key first: a setting before its section.
        let written = self.written.iter().rev().find_map(|(new, (written, _))| {
            let rest = problem.key.strip_prefix(new)?;
            (rest.is_empty() || rest.starts_with('.')).then(|| format!("{written}{rest}"))
        });
        if let (Origin::File { .. }, Some(written)) = (&problem.origin, written) {
            problem.key = written;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{VARIABLES, keys};

    #[test]
    fn a_new_name_is_a_key_or_a_section_and_an_old_name_is_not() {
        let keys = keys();
        for rename in RENAMES {
            for prefix in ["defaults", "upstreams[0]"] {
                let section = rename.section.replace('*', prefix);
                let exists = |name| {
                    let path = join(&section, name);
                    keys.iter().any(|key| *key == path || key.starts_with(&format!("{path}.")))
                };
                assert!(exists(rename.new) && !exists(rename.old), "{section}.{}", rename.old);
            }
        }
    }

    /// A variable or flag has a name of its own, so an old name of its setting would need a second variable.
    #[test]
    fn no_variable_sets_a_renamed_setting() {
        for (variable, key) in VARIABLES {
            let is_renamed = |rename: &Rename| *key == join(rename.section, rename.new);
            assert!(!RENAMES.iter().any(is_renamed), "{variable}");
        }
    }
}
