//! Replays the committed corpus of the fuzz targets.

use std::{fs, path::Path};

use crate::checks;

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
    replay("request", |input| checks::request(input, true));
}

#[test]
fn the_corpus_of_responses_holds() {
    replay("response", |input| checks::response(input, true));
}

#[test]
fn the_corpus_of_chunked_bodies_holds() {
    replay("chunked", checks::chunked);
}
