//! The cases: a file per promise.

use std::{pin::Pin, time::Duration};

use crate::{client::Tally, row::Row};

mod agent;
mod cut;
mod deploy;
mod down;
mod faults;
mod ill;
mod keepalive;
mod kill;
mod pause;
mod servers;
mod slow;

/// A promise, and how it is put to the test.
#[derive(Debug)]
pub(crate) struct Case {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What is promised.
    pub(crate) promise: &'static str,
    /// What it cannot be tried without.
    pub(crate) needs: &'static [Need],
    /// The longest it may take: in full, and in its short form.
    pub(crate) limit: [Duration; 2],
    /// Tries it. What it starts ends when it is dropped.
    pub(crate) run: fn(Form) -> Trial,
}

/// A case under way. It stays on one thread, which the load does not use.
pub(crate) type Trial = Pin<Box<dyn Future<Output = Result<Row, Trouble>>>>;

/// Why a case could not be tried, although everything that it needs is there.
pub(crate) type Trouble = Box<dyn std::error::Error>;

/// What a case cannot be tried without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// A Consul binary.
    Consul,
    /// An nginx.
    Nginx,
}

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// All.
    Full,
    /// Fewer requests and less time.
    Short,
}

impl Form {
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
    &ill::BUSY,
    &ill::BROKEN,
    &ill::SLOW,
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
pub(crate) fn no_get_failed(tally: &Tally, row: &mut Row) {
    let failed = tally.method("GET").failed();
    row.promise(failed.0.is_empty(), || format!("GETs failed: {}", failed.failed_by_class()));
}

/// A POST failed only where it was sent, and the instance's death left open what came of it.
pub(crate) fn posts_only_unknown(tally: &Tally, row: &mut Row) {
    let others =
        tally.only(|one| one.method == "POST" && one.failed.is_some() && !one.is("502 sent_unknown"));
    row.promise(others.0.is_empty(), || format!("POSTs failed otherwise: {}", others.failed_by_class()));
}
