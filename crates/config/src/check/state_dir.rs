//! The state folder: as set, or implied by the environment, or none.
//!
//! It has a default so that a sidecar that starts without the registry still routes, also where no folder was
//! set.

use std::path::PathBuf;

use super::{reader::Reader, registry::resolve_path, section::Section};
use crate::{Environment, Origin, names};

const KEY: &str = "state_dir";

/// The variables that imply a folder, in the order in which they count, and the folder below theirs.
const IMPLYING: [(&str, &str); 3] =
    [("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "outrigger"), ("HOME", ".local/state/outrigger")];

pub(super) fn read_state_dir(r: &mut Reader<'_>, root: &Section<'_>, out: &mut Option<PathBuf>) {
    let parse = |text: &str| match text {
        "off" => Ok(None),
        text => names::non_empty(text).map(|text| Some(PathBuf::from(text))),
    };
    match r.get(root, KEY, parse) {
        Some(set) => *out = set.and_then(|path| resolve_path(r, KEY, path)),
        None if r.origins.is_set(KEY) => {} // a wrong value, which was reported
        None => {
            for name in IMPLYING.map(|(name, _)| name).into_iter().filter(|name| r.env.is_not_utf8(name)) {
                let hint = "name the folder for the state: state_dir";
                r.warn(Origin::Environment(name.into()), KEY, "is not UTF-8, and not used", hint);
            }
            if let Some((variable, path)) = implied_folder(r.env) {
                r.origins.set(KEY.to_owned(), Origin::Environment(variable.into()));
                *out = Some(path);
            }
        }
    }
}

/// The folder that the environment implies, and its variable. Relative folders are skipped, as the base
/// directory specification says.
fn implied_folder(env: &Environment) -> Option<(&'static str, PathBuf)> {
    let folder = |name: &str, below: &str| {
        // systemd separates several folders with colons; the first is the unit's own.
        let first = env.get(name)?.split(':').next()?;
        let path = PathBuf::from(first);
        path.is_absolute().then(|| if below.is_empty() { path } else { path.join(below) })
    };
    IMPLYING.into_iter().find_map(|(name, below)| folder(name, below).map(|path| (name, path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_implies_a_folder_in_this_order() {
        let all = [("STATE_DIRECTORY", "/s"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        for (from, variable, path) in [
            (0, "STATE_DIRECTORY", "/s"),
            (1, "XDG_STATE_HOME", "/x/outrigger"),
            (2, "HOME", "/h/.local/state/outrigger"),
        ] {
            let env: Environment = all[from..].iter().copied().collect();
            assert_eq!(implied_folder(&env), Some((variable, PathBuf::from(path))));
        }
    }

    #[test]
    fn the_first_folder_of_systemd_is_used_and_a_relative_one_is_skipped() {
        for (text, path) in [("/a:/b", Some("/a")), ("a:/b", None), ("", None)] {
            let env: Environment = [("STATE_DIRECTORY", text)].into_iter().collect();
            assert_eq!(implied_folder(&env).map(|(_, path)| path), path.map(PathBuf::from), "{text:?}");
        }
    }
}
