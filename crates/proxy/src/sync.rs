//! The atomics and the lock that shared state is built of.
//!
//! `tests/models` compiles the files that use them with those of the model checker in their place.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

pub(crate) use parking_lot::Mutex;
