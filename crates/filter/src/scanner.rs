//! Reads a text as a parsing expression grammar does, and keeps what it says about a text that does not fit: what was
//! expected at the farthest place that was reached. The texts are those of pigeon, the parser generator of Consul's
//! filters.

use std::collections::BTreeSet;

use crate::{error::FilterError, golang::quote};

/// The mark of the end of the text among what was expected.
const END: &str = "!.";

/// A place in a text.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    /// Bytes read.
    pub(crate) at: usize,
    /// Within a predicate that must not match: there a match is what is not expected.
    inverted: bool,
    farthest: usize,
    expected: BTreeSet<String>,
    errors: Vec<FilterError>,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, inverted: false, farthest: 0, expected: BTreeSet::new(), errors: Vec::new() }
    }

    /// The text from `start` to here.
    pub(crate) fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    /// Reads `literal`.
    pub(crate) fn literal(&mut self, literal: &str) -> bool {
        let start = self.at;
        let fits = self.text[start..].starts_with(literal);
        if fits {
            self.at += literal.len();
        }
        self.note(fits, start, || quote(literal));
        fits
    }

    /// Reads one character of a class with this name.
    pub(crate) fn class(&mut self, name: &str, has: impl Fn(char) -> bool) -> bool {
        let start = self.at;
        let found = self.text[start..].chars().next().filter(|char| has(*char));
        self.at += found.map_or(0, char::len_utf8);
        self.note(found.is_some(), start, || name.to_owned());
        found.is_some()
    }

    /// Reads any character.
    pub(crate) fn any(&mut self) -> bool {
        self.class(".", |_| true)
    }

    /// Whether the text ends here.
    pub(crate) fn end(&mut self) -> bool {
        self.not(|scanner| scanner.any().then_some(()))
    }

    /// Reads what `read` reads, or nothing.
    pub(crate) fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let start = self.at;
        let result = read(self);
        if result.is_none() {
            self.at = start;
        }
        result
    }

    /// Whether `read` reads nothing here. Reads nothing itself.
    pub(crate) fn not<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> bool {
        let start = self.at;
        self.inverted = !self.inverted;
        let result = read(self);
        self.inverted = !self.inverted;
        self.at = start;
        result.is_none()
    }

    /// Whether `read` reads something here. Reads nothing itself.
    pub(crate) fn ahead<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> bool {
        let start = self.at;
        let result = read(self);
        self.at = start;
        result.is_some()
    }

    /// Adds an error at `at`, found by a rule. An equal error counts once.
    pub(crate) fn fail(&mut self, at: usize, rule: &str, why: &str) {
        let why = format!("rule {}: {why}", quote(rule));
        let error = FilterError::at(self.text, at, why).with_place(&self.place(at));
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    /// The result of the whole text.
    ///
    /// # Errors
    /// Every error that was found, a line each; without one, what was expected at the farthest place.
    pub(crate) fn finish<T>(mut self, result: Option<T>) -> Result<T, FilterError> {
        match result {
            Some(value) if self.errors.is_empty() => return Ok(value),
            None if self.errors.is_empty() => {}
            _ => return Err(FilterError::join(self.errors)),
        }
        let end = self.expected.remove(END);
        let mut expected: Vec<&str> = self.expected.iter().map(String::as_str).collect();
        if end {
            expected.push("EOF");
        }
        let list = match expected.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        };
        let why = format!("no match found, expected: {list}");
        Err(FilterError::at(self.text, self.farthest, why).with_place(&self.place(self.farthest)))
    }

    /// Keeps what was expected at the farthest place.
    fn note(&mut self, fits: bool, at: usize, what: impl FnOnce() -> String) {
        if fits != self.inverted || at < self.farthest {
            return;
        }
        if at > self.farthest {
            self.farthest = at;
            self.expected.clear();
        }
        let not = if self.inverted { "!" } else { "" };
        self.expected.insert(format!("{not}{}", what()));
    }

    /// Line, column and offset. A line end counts as column 0 of the line that it begins.
    fn place(&self, at: usize) -> String {
        let next = self.text[at..].chars().next();
        let read = &self.text[..at + next.map_or(0, char::len_utf8)];
        let line = 1 + read.matches('\n').count();
        let last = read.rsplit('\n').next().unwrap_or_default();
        let column = last.chars().count() + usize::from(next.is_none());
        format!("{line}:{column} ({at})")
    }
}
