//! What the connections of an instance share, and what an instance remembers of them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::answer::Answer;
use crate::wire::{Head, ReceivedBody, WireError};

type Script = dyn Fn(&Request) -> Answer + Send + Sync;

/// How an instance is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// As a process that ends: every connection is closed.
    Fin,
    /// As a process that crashes with unread data: every connection is reset.
    Reset,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// How many the instance had seen before it.
    pub nth: usize,
    /// Which connection it came on, from 0.
    pub connection: usize,
    /// How many had come on that connection before.
    pub nth_on_connection: usize,
    /// Its head.
    pub head: Head,
}

impl Request {
    /// Its method.
    pub fn method(&self) -> &str {
        self.head.split_start_line().0
    }

    /// Its target.
    pub fn target(&self) -> &str {
        self.head.split_start_line().1
    }
}

/// A request that was seen, and what came of its body.
#[derive(Debug, Clone)]
pub struct SeenRequest {
    /// The request.
    pub request: Request,
    pub(super) body: Arc<Mutex<ReceivedBody>>,
    pub(super) sent: Arc<AtomicU64>,
}

impl SeenRequest {
    /// Its body, as far as it was read by now.
    pub fn body(&self) -> ReceivedBody {
        self.body.lock().clone()
    }

    /// Bytes of its body read by now.
    pub fn body_len(&self) -> u64 {
        self.body.lock().len
    }

    /// Bytes of the pattern written in answer to it by now.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

pub(super) struct InstanceState {
    pub(super) name: String,
    pub(super) script: Mutex<Arc<Script>>,
    pub(super) seen: Mutex<Vec<SeenRequest>>,
    pub(super) ends: Mutex<Vec<(usize, ConnectionEnd)>>,
    pub(super) accepted: AtomicUsize,
    pub(super) in_flight: AtomicUsize,
    pub(super) kill: watch::Sender<Option<Kill>>,
}

impl InstanceState {
    pub(super) fn new(name: &str, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            name: name.to_owned(),
            script: Mutex::new(Arc::new(script)),
            seen: Mutex::default(),
            ends: Mutex::default(),
            accepted: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            kill: watch::channel(None).0,
        }
    }

    pub(super) fn record_request(
        &self,
        connection: usize,
        nth_on_connection: usize,
        head: Head,
    ) -> SeenRequest {
        let mut seen = self.seen.lock();
        let request = Request { nth: seen.len(), connection, nth_on_connection, head };
        let one = SeenRequest { request, body: Arc::default(), sent: Arc::default() };
        seen.push(one.clone());
        one
    }

    pub(super) fn answer(&self, request: &Request) -> Answer {
        // Called without the lock, so that a script may change the script.
        let script = Arc::clone(&self.script.lock());
        script(request)
    }

    pub(super) fn begin(self: &Arc<Self>) -> InFlightGuard {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        InFlightGuard(Arc::clone(self))
    }

    pub(super) fn record_end(&self, connection: usize, end: ConnectionEnd) {
        self.ends.lock().push((connection, end));
    }
}

pub(super) struct InFlightGuard(Arc<InstanceState>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The peer closed or broke it, or sent no HTTP/1.
    ByPeer(WireError),
    /// The script closed it.
    ByScript,
    /// The peer closed between two requests.
    Idle,
    /// The instance was killed.
    Killed,
}
