//! What can go wrong when a registry is asked.

use std::{io, time::Duration};

/// A failed question. `Display` is one level; `source()` the next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry could not be connected to.
    #[error("connect to {address}")]
    Connect {
        /// Whom.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("no answer to {request} within {after:?}")]
    Timeout {
        /// Method and path.
        request: String,
        /// How long was waited.
        after: Duration,
    },
    /// Every connection that may be used was taken for the whole time.
    #[error("no free connection for {request} within {after:?}, all {limit} are in use")]
    Busy {
        /// Method and path.
        request: String,
        /// How many connections there are.
        limit: usize,
        /// How long was waited.
        after: Duration,
    },
    /// The connection broke, or the answer was no HTTP.
    #[error("exchange {request}")]
    Exchange {
        /// Method and path.
        request: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer with another status than expected.
    #[error("{request} answered {status}: {text}{}", hint.map(|h| format!(" ({h})")).unwrap_or_default())]
    Refused {
        /// Method and path.
        request: String,
        /// Its status.
        status: u16,
        /// The registry's own words, cut at 300 characters.
        text: String,
        /// What to do, where that is known.
        hint: Option<&'static str>,
    },
    /// The answer's body is not what it should be.
    #[error("{request} answered something unreadable: {reason}")]
    Malformed {
        /// Method and path.
        request: String,
        /// Where and what.
        reason: String,
    },
    /// The answer's body is larger than we read.
    #[error("{request} answered more than {limit} bytes")]
    TooLarge {
        /// Method and path.
        request: String,
        /// The limit, bytes.
        limit: usize,
    },
    /// A file (token, certificate, static instances) could not be used.
    #[error("use {path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// The word for metrics: a closed list.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Timeout { .. } => "timeout",
            Self::Busy { .. } => "busy",
            Self::Exchange { .. } => "exchange",
            Self::Refused { status: 403, .. } => "forbidden",
            Self::Refused { status: 429, .. } => "rate_limited",
            Self::Refused { .. } => "refused",
            Self::Malformed { .. } => "malformed",
            Self::TooLarge { .. } => "too_large",
            Self::File { .. } => "file",
        }
    }

    /// The agent does not hold the check that was reported on: the registration is gone, register
    /// again. Consul says so with 500 (404 in newer versions) and differently with ACLs on.
    pub fn is_unknown_check(&self) -> bool {
        self.reports_missing(&["does not have associated TTL", "Unknown check"])
    }

    /// The agent does not hold the service that was named.
    pub fn is_unknown_service(&self) -> bool {
        self.reports_missing(&["Unknown service", "unknown service", "No service registered with ID"])
    }

    /// No server leads the cluster now: reads with [`crate::Consistency::Stale`] may still be answered.
    pub fn is_no_leader(&self) -> bool {
        const WORDS: [&str; 4] = [
            "No cluster leader",
            "rpc error getting client",
            "rpc error making call: EOF",
            "lead thread didn't",
        ];
        matches!(self, Self::Refused { status: 500, text, .. } if WORDS.iter().any(|words| text.contains(words)))
    }

    fn reports_missing(&self, words: &[&str]) -> bool {
        matches!(self, Self::Refused { status: 404 | 500, text, .. } if words.iter().any(|words| text.contains(words)))
    }
}
