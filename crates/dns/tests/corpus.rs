//! Replays the committed corpus of the fuzz target.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

#[test]
fn no_input_of_the_corpus_panics() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/dns");
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        outrigger_dns::decoders::read_input(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 9, "{inputs} inputs");
}
