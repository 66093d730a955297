//! The cases: a file per promise.

use std::{pin::Pin, time::Duration};

use crate::{case_report::CaseReport, load::RequestResults};

mod agent;
mod cut;
mod deploy;
mod down;
mod faults;
mod keepalive;
mod kill;
mod pause;
mod servers;
mod slow;
mod unhealthy;

/// A promise, and how it is put to the test.
#[derive(Debug)]
pub(crate) struct Case {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What is promised.
    pub(crate) promise: &'static str,
    /// What it cannot be tried without.
    pub(crate) needs: &'static [Requirement],
    /// The longest it may take: in full, and in its short form.
    pub(crate) limit: [Duration; 2],
    /// Tries it. What it starts ends when it is dropped.
    pub(crate) run: fn(RunLength) -> CaseRun,
}

/// A case under way. It stays on one thread, which the load does not use.
pub(crate) type CaseRun = Pin<Box<dyn Future<Output = Result<CaseReport, SetupError>>>>;

/// Why a case could not be tried, although everything that it needs is there.
pub(crate) type SetupError = Box<dyn std::error::Error>;

/// What a case cannot be tried without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requirement {
    /// A Consul binary.
    Consul,
    /// An nginx.
    Nginx,
}

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunLength {
    /// All.
    Full,
    /// Fewer requests and less time.
    Short,
}

impl RunLength {
    /// The one for this form: in full, and in short.
    pub(crate) fn pick<T>(self, [full, short]: [T; 2]) -> T {
        match self {
            Self::Full => full,
            Self::Short => short,
        }
    }
}

/// All of them, in the order in which they run.
pub(crate) const ALL: &[&Case] = &[
    &kill::ONE,
    &kill::TWO,
    &kill::MOST,
    &pause::TRIES,
    &pause::DEFAULT,
    &keepalive::NGINX,
    &keepalive::UNANNOUNCED,
    &unhealthy::BUSY,
    &unhealthy::BROKEN,
    &unhealthy::SLOW,
    &down::KILLED,
    &down::REPLACED,
    &deploy::ROLLING,
    &deploy::ONE,
    &servers::LEADER,
    &servers::ALL,
    &servers::REAPED,
    &agent::EMPTIED,
    &faults::ALL,
    &slow::SLOW,
    &cut::CUT,
];

/// No GET failed: it can always be repeated.
pub(crate) fn require_no_failed_get(tally: &RequestResults, row: &mut CaseReport) {
    let failed = tally.with_method("GET").failures();
    row.require(failed.0.is_empty(), || format!("GETs failed: {}", failed.describe_failures()));
}

/// A POST failed only where it was sent, and the instance's death left open what came of it.
pub(crate) fn require_only_unknown_posts(tally: &RequestResults, row: &mut CaseReport) {
    let others = tally
        .filter(|one| one.method == "POST" && one.failed.is_some() && !one.failed_with("502 sent_unknown"));
    row.require(others.0.is_empty(), || format!("POSTs failed otherwise: {}", others.describe_failures()));
}
