//! A connection to an instance, counted while it is open.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use outrigger_net::Stream;

use crate::transport::channel::Channel;

/// A connection to an instance.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    /// Another request used it before.
    pub(crate) is_reused: bool,
    _open: OpenConnection,
}

impl Connection {
    pub(crate) fn new(stream: Stream, open: OpenConnection) -> Self {
        Self { channel: Channel::new(stream), is_reused: false, _open: open }
    }

    /// Whether it cannot carry another request: bytes that were not asked for have come, or it has ended. `ask_kernel`: a
    /// system call makes sure; otherwise an end of the last moment may be missed.
    pub(crate) fn is_stale(&mut self, ask_kernel: bool) -> bool {
        !self.channel.inbox.is_empty() || self.channel.is_ended || self.channel.stream.is_stale(ask_kernel)
    }
}

/// Counts as an open connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<AtomicUsize>);

impl OpenConnection {
    /// Counts one more connection; `None`: `most` are open.
    pub(crate) fn reserve(open: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let reserved = Self(open.clone());
        (open.fetch_add(1, Relaxed) < most).then_some(reserved)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
