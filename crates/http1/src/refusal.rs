//! Why a message is refused.

use std::{error::Error, fmt};

/// The class of a [`Refusal`], from which a caller derives a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The head or its framing is invalid or ambiguous. A request: 400.
    Malformed,
    /// The head has more bytes than allowed. A request: 431.
    HeadTooLarge,
    /// The head has more fields than allowed, or `Connection` more members. A request: 431.
    TooManyFields,
    /// The target alone is longer than allowed. A request: 414.
    TargetTooLong,
    /// The version is not HTTP/1. A request: 505.
    Version,
    /// The message begins with the preface of HTTP/2.
    Http2Preface,
    /// A transfer coding that is not supported. A request: 501.
    TransferCoding,
    /// The body breaks its own framing. A request: 400.
    Body,
}

/// A message that cannot be carried, with a sentence that names the byte or the field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its class.
    pub kind: RefusalKind,
    /// What is wrong, for people; without bytes that are not printable.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// Of the kind [`RefusalKind::Malformed`].
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(RefusalKind::Malformed, detail)
    }

    /// Of the kind [`RefusalKind::Body`].
    pub(crate) fn body(detail: impl Into<String>) -> Self {
        Self::new(RefusalKind::Body, detail)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl Error for Refusal {}

/// At most 40 bytes of `bytes` with everything that is not printable ASCII escaped.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    const MAX: usize = 40;
    let (shown, rest) = bytes.split_at(bytes.len().min(MAX));
    let dots = if rest.is_empty() { "" } else { "…" };
    format!("`{}{dots}`", shown.escape_ascii())
}
