//! What the streams of a connection to an instance share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// What the requests of a connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) active: AtomicUsize,
    pub(crate) is_closed: AtomicBool,
    pub(crate) is_http1: AtomicBool,
    pub(crate) had_stream: AtomicBool,
    pub(crate) is_tls: bool,
}

impl Shared {
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Relaxed)
    }

    pub(crate) fn close(&self) {
        self.is_closed.store(true, Relaxed);
    }

    pub(crate) fn is_http1(&self) -> bool {
        self.is_http1.load(Relaxed)
    }

    pub(crate) fn end_stream(&self) {
        self.active.fetch_sub(1, Relaxed);
    }
}
