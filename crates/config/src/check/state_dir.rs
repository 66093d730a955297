//! Where the last good answers outlive a restart: said, or found out, or nowhere.
//!
//! There is a default because the promise it serves (a sidecar that starts while the registry is gone
//! still routes) is one that nobody thinks of asking for before it is needed.

use std::path::PathBuf;

use super::{reader::Reader, registry::resolve_path, section::Section};
use crate::{Environment, Origin, names};

const KEY: &str = "state_dir";

pub(super) fn read_state_dir(r: &mut Reader<'_>, root: &Section<'_>, out: &mut Option<PathBuf>) {
    let parse = |text: &str| match text {
        "off" => Ok(None),
        text => names::non_empty(text).map(|text| Some(PathBuf::from(text))),
    };
    match r.get(root, KEY, parse) {
        Some(said) => *out = said.and_then(|path| resolve_path(r, KEY, path)),
        None if r.origins.is_set(KEY) => {} // a value that is wrong, and was said to be
        None => {
            if let Some((variable, path)) = implied_folder(r.env) {
                r.origins.set(KEY.to_owned(), Origin::Environment(variable.into()));
                *out = Some(path);
            }
        }
    }
}

/// The folder that the environment implies, and the variable that does so. Relative ones are skipped,
/// as the base directory specification wants it.
fn implied_folder(env: &Environment) -> Option<(&'static str, PathBuf)> {
    let folder = |name: &str, below: &str| {
        // systemd lists several folders with colons between them; the first is the unit's own.
        let first = env.get(name)?.split(':').next()?;
        let path = PathBuf::from(first);
        path.is_absolute().then(|| if below.is_empty() { path } else { path.join(below) })
    };
    [("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "outrigger"), ("HOME", ".local/state/outrigger")]
        .into_iter()
        .find_map(|(name, below)| folder(name, below).map(|path| (name, path)))
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
    fn systemd_s_first_folder_is_taken_and_a_relative_one_skipped() {
        for (text, path) in [("/a:/b", Some("/a")), ("a:/b", None), ("", None)] {
            let env: Environment = [("STATE_DIRECTORY", text)].into_iter().collect();
            assert_eq!(implied_folder(&env).map(|(_, path)| path), path.map(PathBuf::from), "{text:?}");
        }
    }
}
