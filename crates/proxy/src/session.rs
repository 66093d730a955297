//! What one app connection and its requests share.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    context::ProxyContext, io::Line, listener::kind::ListenerState, timer::LazyTimer, tunnel::Tunnel,
};

/// One app connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) shared: Arc<ProxyContext>,
    pub(crate) listener: Arc<ListenerState>,
    pub(crate) worker: usize,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) line: Arc<Line>,
    /// Requests whose answer is not complete yet: 0 or 1 in HTTP/1.
    busy: AtomicUsize,
    served: AtomicU64,
    /// A request body was left unread: the connection ends, lingering.
    pub(crate) unread_body: AtomicBool,
    /// An answer was cut whose end only the close would show.
    pub(crate) reset: AtomicBool,
    /// The deadline of the answer that the app reads now, if it has one.
    ends: Mutex<Option<Instant>>,
    tunnel: Mutex<Option<Tunnel>>,
    timer: Mutex<Option<LazyTimer>>,
}

impl Session {
    pub(crate) fn new(
        shared: Arc<ProxyContext>,
        listener: Arc<ListenerState>,
        worker: usize,
        peer: SocketAddr,
        local: SocketAddr,
        line: Arc<Line>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            listener,
            worker,
            peer,
            local,
            line,
            busy: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            unread_body: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            ends: Mutex::new(None),
            tunnel: Mutex::new(None),
            timer: Mutex::new(None),
        })
    }

    /// A request begins.
    pub(crate) fn begin(&self) {
        // hyper has read this head, so it has got rid of the body before.
        self.unread_body.store(false, Relaxed);
        self.busy.fetch_add(1, Relaxed);
        self.served.fetch_add(1, Relaxed);
        self.shared.in_flight.fetch_add(1, Relaxed);
    }

    /// A request's answer is over, one way or another.
    pub(crate) fn end(&self) {
        self.busy.fetch_sub(1, Relaxed);
        self.shared.in_flight.fetch_sub(1, Relaxed);
    }

    /// Whether a request is under way.
    pub(crate) fn busy(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }

    /// Requests begun so far.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }

    /// When the answer that the app reads from now on has to have ended.
    pub(crate) fn set_ends(&self, ends: Option<Instant>) {
        *self.ends.lock() = ends;
    }

    /// Whether it should have.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.ends.lock().is_some_and(|ends| ends <= now)
    }

    /// The connection becomes this tunnel once its codec is done.
    pub(crate) fn set_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel.lock() = Some(tunnel);
    }

    /// Whether it becomes a tunnel.
    pub(crate) fn has_tunnel(&self) -> bool {
        self.tunnel.lock().is_some()
    }

    /// The tunnel that it becomes, if any.
    pub(crate) fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.lock().take()
    }

    /// The connection's one timer, on loan to a request.
    pub(crate) fn borrow_timer(&self) -> TimerLoan<'_> {
        let timer = self.timer.lock().take();
        TimerLoan { session: self, timer: Some(timer.unwrap_or_else(LazyTimer::new)) }
    }
}

/// Gives the timer back.
#[derive(Debug)]
pub(crate) struct TimerLoan<'a> {
    session: &'a Session,
    timer: Option<LazyTimer>,
}

impl TimerLoan<'_> {
    pub(crate) fn get(&mut self) -> &mut LazyTimer {
        self.timer.get_or_insert_with(LazyTimer::new)
    }
}

impl Drop for TimerLoan<'_> {
    fn drop(&mut self) {
        *self.session.timer.lock() = self.timer.take();
    }
}
