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
            Self::Exchange { .. } => "exchange",
            Self::Refused { status: 403, .. } => "forbidden",
            Self::Refused { status: 429, .. } => "rate_limited",
            Self::Refused { .. } => "refused",
            Self::Malformed { .. } => "malformed",
            Self::TooLarge { .. } => "too_large",
            Self::File { .. } => "file",
        }
    }
}
