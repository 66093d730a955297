//! The result of a case, as one row of a table.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use outrigger_tests::load::RequestResults;

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every promise held.
    Kept,
    /// One did not.
    Broken,
    /// It could not be tried on this machine.
    Skipped,
}

/// A row. Without a broken promise the case is kept.
#[derive(Debug)]
pub(crate) struct CaseReport {
    requests: u64,
    failed: String,
    retried: Option<f64>,
    longest: Option<Duration>,
    broken: Vec<String>,
    skipped: Option<String>,
    notes: Vec<String>,
}

impl CaseReport {
    /// The report of a load. `retried`: retries, as the sidecar counts them.
    pub(crate) fn from_load(tally: &RequestResults, retried: f64) -> Self {
        Self {
            requests: tally.requests(),
            failed: tally.describe_failures(),
            retried: Some(retried),
            longest: Some(tally.longest()),
            ..Self::empty()
        }
    }

    /// A case that sends no requests.
    pub(crate) fn without_requests() -> Self {
        Self::empty()
    }

    /// A case that broke without results, because of `why`.
    pub(crate) fn broken(why: &str) -> Self {
        Self { broken: vec![why.to_owned()], ..Self::empty() }
    }

    /// A case that was not tried, because of `why`.
    pub(crate) fn skipped(why: &str) -> Self {
        Self { skipped: Some(why.to_owned()), ..Self::empty() }
    }

    fn empty() -> Self {
        Self {
            requests: 0,
            failed: "-".to_owned(),
            retried: None,
            longest: None,
            broken: Vec::new(),
            skipped: None,
            notes: Vec::new(),
        }
    }

    /// Checks a part of the promise; `otherwise` describes what happened if it did not hold.
    pub(crate) fn require(&mut self, held: bool, otherwise: impl FnOnce() -> String) {
        if !held {
            self.broken.push(otherwise());
        }
    }

    /// No GET failed, because a GET can always be repeated.
    pub(crate) fn require_no_failed_get(&mut self, tally: &RequestResults) {
        let failed = tally.with_method("GET").failures();
        self.require(failed.0.is_empty(), || format!("GETs failed: {}", failed.describe_failures()));
    }

    /// A POST failed only where it was sent, and the death of the instance leaves its execution unknown.
    pub(crate) fn require_only_unknown_posts(&mut self, tally: &RequestResults) {
        let others = tally.filter(|one| {
            one.method == "POST" && one.failed.is_some() && !one.failed_with("502 sent_unknown")
        });
        self.require(others.0.is_empty(), || {
            format!("POSTs failed otherwise: {}", others.describe_failures())
        });
    }

    /// Something that was measured.
    pub(crate) fn note(&mut self, what: String) {
        self.notes.push(what);
    }

    /// How it ended.
    pub(crate) fn verdict(&self) -> Verdict {
        match (&self.skipped, self.broken.is_empty()) {
            (Some(_), _) => Verdict::Skipped,
            (None, true) => Verdict::Kept,
            (None, false) => Verdict::Broken,
        }
    }

    /// Prints it.
    pub(crate) fn print(&self, case: &str) {
        print_line(&self.line(case));
    }

    fn line(&self, case: &str) -> String {
        let verdict = match (&self.skipped, self.verdict()) {
            (Some(why), _) => format!("skipped: {why}"),
            (None, Verdict::Broken) => format!("BROKEN: {}", self.broken.join("; ")),
            (None, _) => "kept".to_owned(),
        };
        let retried = self.retried.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let longest = self.longest.map_or_else(|| "-".to_owned(), format_millis);
        let mut line = format!(
            "| {case:<18} | {:>8} | {} | {retried} | {longest} | {}",
            self.requests,
            self.failed,
            table_cell(&verdict)
        );
        if !self.notes.is_empty() {
            let _ = write!(line, " ({})", table_cell(&self.notes.join(", ")));
        }
        line + " |"
    }
}

/// Prints the head of the table.
pub(crate) fn print_head() {
    print_line("| case | requests | failed | retried | longest | promise |");
    print_line("|---|--:|---|--:|--:|---|");
}

/// A failed write is ignored, because the error could not be printed either.
fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// The text in one line, without the sign that ends a cell.
fn table_cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/")
}

/// The time in whole milliseconds, as text.
pub(crate) fn format_millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_promise_breaks_the_row_and_the_others_do_not_mend_it() {
        let mut row = CaseReport::from_load(&RequestResults::default(), 3.0);
        row.require(true, || "not said".to_owned());
        assert_eq!(row.verdict(), Verdict::Kept);
        row.require(false, || "7 GETs | failed".to_owned());
        row.require(true, || "not said".to_owned());
        row.note("seen".to_owned());
        assert_eq!(row.verdict(), Verdict::Broken);
        assert_eq!(
            row.line("a"),
            "| a                  |        0 | 0 | 3 | 0 ms | BROKEN: 7 GETs / failed (seen) |"
        );
    }

    #[test]
    fn what_was_not_tried_is_not_kept() {
        let row = CaseReport::skipped("no consul");
        assert_eq!(row.verdict(), Verdict::Skipped);
        assert_eq!(row.line("a"), "| a                  |        0 | - | - | - | skipped: no consul |");
    }
}
