//! The cases, by subject.

use crate::case::Case;

mod agent;
mod blocking;
mod catalog;
mod checks;
mod coordinates;
mod events;
mod filters;
mod http;
mod keys;
mod refusals;
mod sessions;
mod transactions;

/// Cases that share a registry, and run one after the other. The groups need nothing of each other.
pub(crate) fn groups() -> [Vec<Case>; 3] {
    let services = [
        agent::cases(),
        checks::cases(),
        catalog::cases(),
        blocking::cases(),
        refusals::cases(),
        http::cases(),
    ];
    [
        services.into_iter().flatten().collect(),
        [keys::cases(), filters::cases(), events::cases()].into_iter().flatten().collect(),
        [sessions::cases(), transactions::cases(), coordinates::cases()].into_iter().flatten().collect(),
    ]
}
