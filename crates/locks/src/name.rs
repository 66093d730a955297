//! Which names a lock may have: a path of plain segments, so that the key stays below the prefix of all locks.

use std::fmt;

/// Longest name, bytes. Consul takes longer keys; a log line does not read well with them.
const MAX_LENGTH: usize = 256;
/// Digits of the id of a lease.
const LEASE_LENGTH: usize = 32;

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
    /// Its last segment is that of a request.
    #[error("the last segment of a name must not be `hold` or `renew`")]
    Request,
    /// Its last segment is the id of a lease.
    #[error(
        "the last segment of the name of a lock must not be 32 hexadecimal digits: that is the id of a lease"
    )]
    LeaseId,
}

/// Whether a text has the form of the id of a lease.
pub fn is_lease_id(text: &str) -> bool {
    text.len() == LEASE_LENGTH && text.bytes().all(|c| c.is_ascii_hexdigit())
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

    /// Checks a name for a request, of which the path must not mean another one.
    ///
    /// # Errors
    /// Says the first rule that it breaks.
    pub fn parse_requested(text: &str) -> Result<Self, NameError> {
        let name = Self::parse(text)?;
        match text.rsplit('/').next() {
            Some("hold" | "renew") => Err(NameError::Request),
            _ => Ok(name),
        }
    }

    /// Checks a name for the request for a lease.
    ///
    /// # Errors
    /// Says the first rule that it breaks.
    pub fn parse_leased(text: &str) -> Result<Self, NameError> {
        match text.rsplit_once('/') {
            Some((_, last)) if is_lease_id(last) => Err(NameError::LeaseId),
            _ => Self::parse_requested(text),
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
    #[test]
    fn the_name_of_a_lease_does_not_end_as_another_request() {
        let id = "0123456789abcdefABCDEF0123456789";
        for (text, requested, leased) in [
            ("a/hold", Some(NameError::Request), Some(NameError::Request)),
            ("renew", Some(NameError::Request), Some(NameError::Request)),
            (&*format!("x/{id}"), None, Some(NameError::LeaseId)),
            (id, None, None),
            ("hold/a", None, None),
            ("a b", Some(NameError::Character(' ')), Some(NameError::Character(' '))),
        ] {
            assert_eq!(LockName::parse_requested(text).err(), requested, "{text}");
            assert_eq!(LockName::parse_leased(text).err(), leased, "{text}");
        }
    }
}
