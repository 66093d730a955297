//! The cases, by subject.

use crate::case::Case;

mod agent;
mod blocking;
mod catalog;
mod checks;
mod filters;
mod http;
mod refusals;

pub(crate) fn all() -> Vec<Case> {
    [
        agent::cases(),
        checks::cases(),
        catalog::cases(),
        filters::cases(),
        blocking::cases(),
        refusals::cases(),
        http::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
