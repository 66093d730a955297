//! The errors of a question to a registry.

use std::{io, time::Duration};

/// A failed question. `Display` prints one level; `source()` is the next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry could not be connected to.
    #[error("connect to {address}")]
    Connect {
        /// The registry's address.
        address: String,
        /// The error of the operating system or of TLS.
        #[source]
        source: io::Error,
    },
    /// The registry did not answer in time.
    #[error("no answer to {request} within {after:?}")]
    Timeout {
        /// Method and path.
        request: String,
        /// The time that was waited.
        after: Duration,
    },
    /// Every connection that the question may use was in use for the whole time.
    #[error("no free connection for {request} within {after:?}, all {limit} are in use")]
    Busy {
        /// Method and path.
        request: String,
        /// The number of connections that the question may use.
        limit: usize,
        /// The time that was waited.
        after: Duration,
    },
    /// The registry closed a new connection without an answer.
    #[error(
        "{request}: the agent closed a new connection without an answer: it stops, or it holds as many connections of this \
         address as it allows to all processes together (limits.http_max_conns_per_client, 200 by default); \
         {open} are open here{}",
        hint.map(|hint| format!("; {hint}")).unwrap_or_default()
    )]
    ConnectionLimit {
        /// Method and path.
        request: String,
        /// The connections of this process to the registry.
        open: usize,
        /// What else it may mean, and what to do then.
        hint: Option<&'static str>,
    },
    /// The connection broke, or the answer was not HTTP.
    #[error("exchange {request}")]
    Exchange {
        /// Method and path.
        request: String,
        /// The error of the connection.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer with another status than the expected one.
    #[error("{request} answered {status}: {text}{}", hint.map(|h| format!(" ({h})")).unwrap_or_default())]
    Refused {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// The text of the registry, cut at 300 characters.
        text: String,
        /// What to do about it, where that is known.
        hint: Option<&'static str>,
    },
    /// The answer's body cannot be parsed.
    #[error("{request} answered something unreadable: {reason}")]
    Malformed {
        /// Method and path.
        request: String,
        /// Line, column and problem.
        reason: String,
    },
    /// The answer's body is larger than the limit.
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
        /// The path; with line and column where a place in the file is wrong.
        path: String,
        /// What is wrong with the file.
        reason: String,
    },
}

impl Error {
    /// The metric label of the error: a closed list.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Timeout { .. } => "timeout",
            Self::Busy { .. } => "busy",
            Self::ConnectionLimit { .. } => "connection_limit",
            Self::Exchange { .. } => "exchange",
            Self::Refused { status: 403, .. } => "forbidden",
            Self::Refused { status: 429, .. } => "rate_limited",
            Self::Refused { .. } => "refused",
            Self::Malformed { .. } => "malformed",
            Self::TooLarge { .. } => "too_large",
            Self::File { .. } => "file",
        }
    }

    /// The agent does not hold the check that was reported on: the registration is lost and must be made
    /// again. Consul answers 500 (404 in newer versions), and another text with ACLs on.
    pub fn is_unknown_check(&self) -> bool {
        self.reports_missing(&["does not have associated TTL", "Unknown check"])
    }

    /// The agent does not hold the named service.
    pub fn is_unknown_service(&self) -> bool {
        self.reports_missing(&["Unknown service", "unknown service", "No service registered with ID"])
    }

    /// The token may not do this, or is unknown.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { status: 403, .. })
    }

    /// The registry does not know the token, so it refuses every question.
    pub fn is_unknown_token(&self) -> bool {
        matches!(self, Self::Refused { status: 403, text, .. } if text.contains("ACL not found"))
    }

    /// The cluster has no leader now: reads with [`crate::Consistency::Stale`] may still be answered.
    pub fn is_no_leader(&self) -> bool {
        const WORDS: [&str; 4] = [
            "No cluster leader",
            "rpc error getting client",
            "rpc error making call: EOF",
            "lead thread didn't",
        ];
        matches!(self, Self::Refused { status: 500, text, .. } if WORDS.iter().any(|words| text.contains(words)))
    }

    /// The registry could not be asked, or could not say anything now: a later question may be answered. Not a refusal.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Busy { .. }
            | Self::ConnectionLimit { .. }
            | Self::Exchange { .. } => true,
            Self::Refused { status, .. } => matches!(status, 429 | 500..=599),
            Self::Malformed { .. } | Self::TooLarge { .. } | Self::File { .. } => false,
        }
    }

    /// Whether a report was refused because the registry may no longer hold the registration: every refusal except 429
    /// and a missing leader, because agents use different texts for an unknown check.
    pub fn may_mean_forgotten(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status != 429) && !self.is_no_leader()
    }

    fn reports_missing(&self, words: &[&str]) -> bool {
        matches!(self, Self::Refused { status: 404 | 500, text, .. } if words.iter().any(|words| text.contains(words)))
    }
}
