//! The harness.

pub mod consul;
