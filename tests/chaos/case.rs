//! What a case is.

use std::{future::Future, pin::Pin, time::Duration};

use crate::case_report::CaseReport;

/// A promise, and the function that tries it.
pub(crate) struct Case {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What is promised.
    pub(crate) promise: &'static str,
    /// What it cannot be tried without.
    pub(crate) needs: &'static [Requirement],
    /// The longest that it may take: in full, and in its short form.
    pub(crate) limit: [Duration; 2],
    /// It mostly waits, and promises nothing within milliseconds: in its short form it runs beside another one of these.
    pub(crate) runs_beside: bool,
    /// Tries it. What it starts ends when it is dropped.
    pub(crate) run: Box<dyn Fn(RunLength) -> CaseRun>,
}

/// A case that runs. It stays on one thread, which the load does not use.
pub(crate) type CaseRun = Pin<Box<dyn Future<Output = CaseResult>>>;

/// What a case returns.
pub(crate) type CaseResult = Result<CaseReport, SetupError>;

/// Why a case could not be tried, although everything that it needs is there.
pub(crate) type SetupError = Box<dyn std::error::Error>;

impl Case {
    /// `limit` is in seconds.
    pub(crate) fn new<R: Future<Output = CaseResult> + 'static>(
        name: &'static str,
        needs: &'static [Requirement],
        limit: [u64; 2],
        run: impl Fn(RunLength) -> R + 'static,
        promise: &'static str,
    ) -> Self {
        let run = Box::new(move |form| Box::pin(run(form)) as CaseRun);
        Self { name, promise, needs, limit: limit.map(Duration::from_secs), runs_beside: false, run }
    }

    /// The same, for a case that mostly waits.
    pub(crate) fn beside(self) -> Self {
        Self { runs_beside: true, ..self }
    }
}

/// What a case cannot be tried without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requirement {
    /// A Consul binary.
    Consul,
    /// An nginx.
    Nginx,
}

/// How much of a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunLength {
    /// All.
    Full,
    /// Fewer requests and less time.
    Short,
    /// All, and the soak for so many minutes.
    Minutes(u64),
}

impl RunLength {
    /// The value for this length: in full, and in short.
    pub(crate) fn pick<T>(self, [full, short]: [T; 2]) -> T {
        match self {
            Self::Full | Self::Minutes(_) => full,
            Self::Short => short,
        }
    }

    /// The minutes that were asked for, if any, in seconds.
    pub(crate) fn asked_seconds(self) -> Option<u64> {
        match self {
            Self::Minutes(minutes) => Some(minutes * 60),
            Self::Full | Self::Short => None,
        }
    }
}
