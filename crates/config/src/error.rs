//! Problems: what is wrong, where, and what to do.

use std::{error::Error, fmt};

use crate::Origin;

/// An error and all its causes in one line, for logs and pages.
pub fn error_chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        // Some errors print their source themselves.
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line
}

/// One problem, or one warning.
///
/// Displays as `FILE:LINE:COL key: what is wrong; hint`, for a document of the registry as `kv:KEY@INDEX:LINE:COL key: …`; for
/// a value from a flag or the environment as `--port: what is wrong; hint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where the wrong value was given.
    pub origin: Origin,
    /// The setting, dotted (`upstreams[0].timeout`), as written in the file; empty for the whole file.
    pub key: String,
    /// What is wrong. Never holds a secret or the content of an environment variable.
    pub what: String,
    /// What to do: the nearest valid key, the allowed range, an example. May be empty.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File { file, line: 0, .. } => write!(f, "{file}")?,
            Origin::File { file, line, col } => write!(f, "{file}:{line}:{col}")?,
            Origin::Kv { line: 0, .. } => write!(f, "{}", self.origin)?,
            Origin::Kv { line, col, .. } => write!(f, "{}:{line}:{col}", self.origin)?,
            Origin::Flag(name) => f.write_str(name)?,
            Origin::Environment(name) => f.write_str(name)?,
            Origin::Default => f.write_str("default")?,
        }
        match &self.origin {
            Origin::File { .. } | Origin::Kv { .. } | Origin::Default if !self.key.is_empty() => {
                write!(f, " {}: ", self.key)?
            }
            _ => f.write_str(": ")?,
        }
        f.write_str(&self.what)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

/// All problems: flags and environment first, then in the order of the file. Never empty. Displays as the
/// problems alone, one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Problems {
    pub(crate) fn new(mut problems: Vec<Problem>, warnings: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| (&a.origin, &a.key).cmp(&(&b.origin, &b.key)));
        Self { problems, warnings }
    }

    /// The problems, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.problems.iter()
    }

    /// What is suspicious beside the problems. May be empty.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Their number.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.problems.len()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Why one value is invalid, before its place is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InvalidValue {
    /// Continues a sentence that starts with the quoted value: `is not a duration`.
    pub(crate) what: String,
    pub(crate) hint: String,
}

impl InvalidValue {
    pub(crate) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_all_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("start")]
        struct TestError(#[source] std::io::Error);
        assert_eq!(error_chain(&TestError(std::io::Error::other("disk is full"))), "start: disk is full");
    }
}
