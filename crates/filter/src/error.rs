//! Why an expression cannot be used, and where.

use std::{error::Error, fmt};

/// Why an expression cannot be used. Displays in the words of Consul.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// What Consul says, with Consul's place where it has one.
    message: String,
    reason: String,
    offset: usize,
    column: usize,
}

impl FilterError {
    /// An error at this byte of the text.
    pub(crate) fn at(text: &str, offset: usize, reason: String) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let column = 1 + before.chars().count();
        Self { message: reason.clone(), reason, offset: before.len(), column }
    }

    /// The same, of which Consul tells the place first.
    pub(crate) fn with_place(self, place: &str) -> Self {
        Self { message: format!("{place}: {}", self.reason), ..self }
    }

    /// All of them as one, a line each, with the place of the first. None are an error without a text.
    pub(crate) fn join(errors: Vec<Self>) -> Self {
        let message = errors.iter().map(Self::to_string).collect::<Vec<_>>().join("\n");
        let first = errors.into_iter().next();
        let first =
            first.unwrap_or(Self { message: String::new(), reason: String::new(), offset: 0, column: 1 });
        Self { message, ..first }
    }

    /// The first error, without its place.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Where the first error is: bytes of the expression before it.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Where the first error is: characters of the expression before it, and 1. A line end counts as a character.
    pub fn column(&self) -> usize {
        self.column
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for FilterError {}
