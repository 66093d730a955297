//! Checks the structure of the source: `make lint` runs it.
//!
//! Five rules: no two types of one crate share a name, no file has more than 600 lines, no two files import
//! each other, directly or through others, no comment and no page uses a pronoun of persons
//! (words.rs lists them), and no task ends without notice when it panics (tasks.rs). `exceptions.txt` lists the violations that are allowed; an exception that is not needed any
//! more is an error, so that the list only shrinks.
//!
//! A crate here is what the compiler calls one: a library, a binary, an integration test.

mod crates;
mod imports;
mod paths;
mod report;
mod tasks;
mod words;

use std::{path::Path, process::ExitCode};

/// The violations that are allowed for now, one a line, as the report prints them.
const EXCEPTIONS: &str = include_str!("exceptions.txt");

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match report::violations(&root).and_then(|found| report::compare(&found, EXCEPTIONS)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            eprintln!("{problems}");
            ExitCode::FAILURE
        }
    }
}
