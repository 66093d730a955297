//! The codec against tables, models and another parser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod body;
mod buffers;
mod framing;
mod head;
mod properties;
mod support;
mod writer;
