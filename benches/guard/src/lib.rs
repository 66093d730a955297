//! Holds what a request costs to a committed figure: instructions by callgrind, and allocated bytes.
//!
//! The data path runs on streams in memory, in one thread, with a clock that stands still between steps. The same binary takes
//! the same steps in each run, whatever else the machine does, so a change of one percent is a change of the code.
//!
//! | module | what it does |
//! |---|---|
//! | [`path`] | carries requests between an app and four endpoints in memory |
//! | [`callgrind`] | counts the instructions of a request |
//! | [`baseline`] | the committed figures, and what they were counted with |
//!
//! `make guard` runs the program; [benches/README.md](../README.md) explains it.

pub mod baseline;
pub mod callgrind;
// The benches' error: that package would bring all of its dependencies along.
#[path = "../../src/error.rs"]
mod error;
pub mod path;

pub use error::Error;
