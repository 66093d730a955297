//! Which names a lock may have: a path of plain segments, so that the key stays below the prefix of all locks.

use std::fmt;

/// Longest name, bytes. Consul takes longer keys; a log line does not read well with them.
const MAX_LENGTH: usize = 256;

/// The name of a lock, as `jobs` or `reports/nightly`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockName(String);

/// Why a text is no name of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no characters.
    #[error("the name of a lock is empty")]
    Empty,
    /// It is too long.
    #[error("the name of a lock has at most {MAX_LENGTH} bytes")]
    TooLong,
    /// It has an empty segment, `.`, `..` or `.lock`.
    #[error("a segment of the name of a lock must not be empty, `.`, `..` or `.lock`")]
    Segment,
    /// It has another character.
    #[error("the name of a lock consists of letters, digits, `-`, `_`, `.`, `:` and `/`, not {0:?}")]
    Character(char),
}

impl LockName {
    /// Checks a name.
    ///
    /// # Errors
    /// Says the first rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
        if text.is_empty() {
            Err(NameError::Empty)
        } else if text.len() > MAX_LENGTH {
            Err(NameError::TooLong)
        } else if let Some(other) = text.chars().find(|c| !is_allowed(*c)) {
            Err(NameError::Character(other))
        } else if text.split('/').any(|segment| matches!(segment, "" | "." | ".." | ".lock")) {
            Err(NameError::Segment)
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_path_of_plain_segments() {
        for good in ["jobs", "reports/nightly", "a.b_c-d:1", "x", "..a", "lock"] {
            assert_eq!(LockName::parse(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(MAX_LENGTH + 1);
        for (bad, expected) in [
            ("", NameError::Empty),
            (&*long, NameError::TooLong),
            ("/jobs", NameError::Segment),
            ("jobs/", NameError::Segment),
            ("a//b", NameError::Segment),
            ("../config", NameError::Segment),
            ("a/./b", NameError::Segment),
            ("jobs/.lock", NameError::Segment),
            ("a b", NameError::Character(' ')),
            ("a%2fb", NameError::Character('%')),
            ("a?b", NameError::Character('?')),
            ("é", NameError::Character('é')),
            ("a\nb", NameError::Character('\n')),
        ] {
            assert_eq!(LockName::parse(bad), Err(expected), "{bad:?}");
        }
    }
}
