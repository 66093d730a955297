//! The cases, by subject.

use crate::case::Case;

mod agent;
mod blocking;
mod catalog;
mod checks;
mod filters;
mod http;
mod keys;
mod refusals;
mod sessions;
mod transactions;

pub(crate) fn all() -> Vec<Case> {
    [
        agent::cases(),
        checks::cases(),
        catalog::cases(),
        filters::cases(),
        blocking::cases(),
        refusals::cases(),
        http::cases(),
        keys::cases(),
        sessions::cases(),
        transactions::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
