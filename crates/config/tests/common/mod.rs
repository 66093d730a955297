//! What several of these tests read.

use outrigger_config::{Environment, Overrides, load};

/// The problems of the file `o.yaml` with this text, a line each.
pub(crate) fn problems(text: &str, env: &[(&str, &str)], overrides: &Overrides) -> Vec<String> {
    let env: Environment = env.iter().copied().collect();
    match load(Some(("o.yaml", text)), &env, overrides) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}
