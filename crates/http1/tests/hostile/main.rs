//! Inputs that were made to be read in two ways, and what fuzzing found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod checks;
mod corpus;
mod smuggling;
