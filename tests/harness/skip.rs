//! Tests that this machine cannot run.

use std::io::Write as _;

/// Says on stderr that `test` was skipped and why, past the test runner's capture: `make test` counts
/// these lines.
pub fn report_skipped(test: &str, why: &str) {
    // A failed write is ignored, because the error could not be printed either.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}
