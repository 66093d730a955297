//! Turns a file, the environment and flags into a [`Config`] that cannot be wrong.

mod model;

pub use model::*;
