//! A property of the merged configuration, where it is from, and what is wrong with a key.

use std::sync::Arc;

use super::value::PropertyValue;

/// A property of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedProperty {
    /// As its source writes it.
    pub name: String,
    /// Its value.
    pub value: PropertyValue,
    /// The key that gave it.
    pub origin: Arc<PropertyOrigin>,
    /// The number of its layer; 0 is the most specific one.
    pub(super) rank: usize,
}

/// The version of a key that gave a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropertyOrigin {
    /// The whole key of the KV.
    pub key: String,
    /// The index of the registry at which it was written.
    pub index: u64,
}

/// Something in the KV that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewProblem {
    /// The whole key of the KV.
    pub key: String,
    /// The index at which it was written.
    pub index: u64,
    /// What kind of problem.
    pub reason: ProblemReason,
    /// A sentence for the author of the key.
    pub detail: String,
    /// The index of the version that is used instead. `None`: the key gives nothing.
    pub in_effect: Option<u64>,
}

/// Why a key does not give what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemReason {
    /// A document that cannot be read: its last good version stays.
    WrongDocument,
    /// A value that is not UTF-8.
    NotText,
    /// The name of the property would be too long.
    NameTooLong,
    /// A file with an ending that says nothing.
    UnknownEnding,
    /// An index of a list is missing: the items after it move up.
    ListGap,
    /// Another property has the same name in this format.
    NameTaken,
    /// The format cannot have this name or value.
    NotInFormat,
}

impl ProblemReason {
    /// Those that do not depend on a format.
    pub(crate) const OF_KEYS: [Self; 5] =
        [Self::WrongDocument, Self::NotText, Self::NameTooLong, Self::UnknownEnding, Self::ListGap];

    /// Whether a key does not give what it has: the others are about names and formats.
    pub const fn is_refusal(self) -> bool {
        match self {
            Self::WrongDocument | Self::NotText | Self::NameTooLong => true,
            Self::UnknownEnding | Self::ListGap | Self::NameTaken | Self::NotInFormat => false,
        }
    }

    /// Its name in pages, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WrongDocument => "wrong_document",
            Self::NotText => "not_text",
            Self::NameTooLong => "name_too_long",
            Self::UnknownEnding => "unknown_ending",
            Self::ListGap => "list_gap",
            Self::NameTaken => "name_taken",
            Self::NotInFormat => "not_in_format",
        }
    }
}
