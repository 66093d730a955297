//! Replays the committed corpus of the fuzz targets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod checks;

use std::{fs, path::Path};

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        check(&fs::read(&path).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
}

#[test]
fn the_corpus_of_requests_holds() {
    replay("request", checks::request);
}

#[test]
fn the_corpus_of_responses_holds() {
    replay("response", checks::response);
}

#[test]
fn the_corpus_of_chunked_bodies_holds() {
    replay("chunked", checks::chunked);
}
