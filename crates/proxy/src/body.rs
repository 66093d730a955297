//! The body of an answer to the app.
//!
//! It carries what the answer still needs: the connection it comes from, the turn at the endpoint and
//! the request's account. While the app reads, the instance's codec is driven from here; when the body
//! has ended cleanly the connection goes home. hyper stops asking once `is_end_stream` is true, so a
//! clean end is judged when the body is dropped.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use outrigger_policy::Verdict;
use tokio::time::Instant;

use crate::{
    call::Rest,
    reason::Reason,
    request::account::RequestAccount,
    timer::LazyTimer,
    upload::{Broken, Upload},
    upstream::{cluster::Cluster, endpoint::InFlight, pool::Conn},
};

/// Why an answer's body ended before its end. hyper then closes the app's connection, which is how
/// the app learns of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    /// The instance's connection broke.
    #[error("the instance's answer broke off")]
    Upstream(#[source] hyper::Error),
    /// The instance fell silent.
    #[error("the instance sent nothing for {0:?}")]
    Silent(Duration),
    /// The deadline passed.
    #[error("the deadline passed within the answer")]
    Late,
}

/// An answer's body, as it is given to hyper.
pub(crate) struct ResponseBody(Kind);

enum Kind {
    /// Made here.
    Made { data: Option<Bytes>, _exchange: Option<RequestAccount> },
    /// An instance's.
    Carried(Box<Carried>),
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Made { .. } => "ResponseBody(made)",
            Kind::Carried(_) => "ResponseBody(carried)",
        })
    }
}

/// Who drives the instance's codec.
pub(crate) enum Driver {
    /// This body, while it is read.
    Here(Box<Conn>),
    /// A task of its own, while the app's upload still goes on beside the answer.
    Task(tokio::task::JoinHandle<()>),
    /// Nobody: the connection is over.
    Gone,
}

/// An instance's body, with what hangs on it.
pub(crate) struct Carried {
    pub(crate) incoming: Incoming,
    pub(crate) driver: Driver,
    pub(crate) ticket: InFlight,
    pub(crate) cluster: Arc<Cluster>,
    /// How its end is counted for the instance.
    pub(crate) rest: Option<Rest>,
    pub(crate) exchange: RequestAccount,
    /// Longest silence.
    pub(crate) idle: Duration,
    pub(crate) max_idle: usize,
    pub(crate) silence: Option<(LazyTimer, Instant)>,
    /// The deadline: an answer is of no use to the app after that.
    pub(crate) ends: Option<Instant>,
    pub(crate) late: bool,
    /// Some of it came.
    pub(crate) moved: bool,
    pub(crate) ended: bool,
    pub(crate) failed: bool,
    /// The app reads HTTP/1.0, and only the close will show it the end.
    pub(crate) close_is_end: bool,
}

impl ResponseBody {
    pub(crate) fn made(data: Bytes, exchange: RequestAccount) -> Self {
        Self(Kind::Made { data: (!data.is_empty()).then_some(data), _exchange: Some(exchange) })
    }

    /// None: the exchange goes on elsewhere.
    pub(crate) fn empty() -> Self {
        Self(Kind::Made { data: None, _exchange: None })
    }

    pub(crate) fn carried(carried: Carried) -> Self {
        Self(Kind::Carried(Box::new(carried)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut self.0 {
            Kind::Made { data, .. } => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Kind::Carried(carried) => carried.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Made { data, .. } => data.is_none(),
            Kind::Carried(carried) => carried.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Made { data, .. } => SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Carried(carried) => carried.incoming.size_hint(),
        }
    }
}

impl Carried {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let mut polled = self.poll_incoming(cx);
        if polled.is_pending()
            && let Driver::Here(conn) = &mut self.driver
        {
            // How it ended is told by the body itself.
            let _ = conn.drive(cx);
            polled = self.poll_incoming(cx);
        }
        match polled {
            Poll::Pending => self.poll_silence(cx),
            Poll::Ready(Some(Ok(_))) if self.ends.is_some_and(|ends| ends <= Instant::now()) => {
                self.too_late()
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.moved = true;
                if let Some((_, since)) = &mut self.silence {
                    *since = Instant::now();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.fail();
                Poll::Ready(Some(Err(Cut::Upstream(error))))
            }
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(None)
            }
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.driver {
            // Only our own turn of the codec can bring a frame, and it is asked again after that turn:
            // a wake-up would find nothing.
            Driver::Here(_) => {
                Pin::new(&mut self.incoming).poll_frame(&mut Context::from_waker(Waker::noop()))
            }
            Driver::Task(_) | Driver::Gone => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let idle = self.idle;
        let (timer, since) = self.silence.get_or_insert_with(|| (LazyTimer::new(), Instant::now()));
        loop {
            // An instance that is still being told something may well be silent.
            let told = self.exchange.upload.as_ref().map(|upload| upload.progress().0);
            let due = told.map_or(*since, |told| told.max(*since)) + idle;
            let ends = self.ends.filter(|ends| *ends < due);
            std::task::ready!(timer.poll_until(ends.unwrap_or(due), cx));
            if ends.is_some() {
                return self.too_late();
            }
            if self.exchange.upload.as_ref().is_none_or(|upload| upload.progress().0 + idle <= due) {
                break;
            }
        }
        self.fail();
        Poll::Ready(Some(Err(Cut::Silent(idle))))
    }

    fn too_late(&mut self) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.late = true;
        self.fail();
        Poll::Ready(Some(Err(Cut::Late)))
    }

    fn fail(&mut self) {
        self.failed = true;
        if self.close_is_end {
            self.exchange.session().reset.store(true, Relaxed);
        }
    }
}

impl Carried {
    /// The instance cut its answer.
    fn blame(&mut self, now: Instant) {
        let endpoint = &self.ticket.endpoint;
        endpoint.count_failure();
        let Some(Rest { began, mut blame }) = self.rest else { return };
        let settings = self.cluster.view.load().settings.clone();
        let outlier = settings.policy.outlier.as_ref();
        if let Some(report) = endpoint.stats.record_body_cut(outlier, began, &mut blame, now.into_std()) {
            self.cluster.report(endpoint, report, now);
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let clean = !self.failed && (self.ended || self.incoming.is_end_stream());
        let now = Instant::now();
        self.exchange.ended_at = Some(now);
        if self.ends.is_some() {
            self.exchange.session().set_ends(None);
        }
        // An app that leaves in the middle says nothing against it: what came was well.
        let well = clean || (self.moved && !self.failed && !self.late);
        if let (true, Some(rest)) = (well, self.rest) {
            self.ticket.endpoint.stats.record_body_end(rest.began, now.into_std());
        }
        match std::mem::replace(&mut self.driver, Driver::Gone) {
            Driver::Here(conn) if clean => {
                let worker = self.exchange.session().worker;
                self.ticket.endpoint.pool.check_in(worker, conn, self.max_idle, now);
            }
            // A dropped connection is a closed one, and that is the instance's sign to stop.
            Driver::Here(_) | Driver::Gone => {}
            Driver::Task(task) => task.abort(),
        }
        let broken = self.exchange.upload.as_ref().and_then(Upload::broken);
        self.exchange.reason = match (self.failed, broken) {
            // The codec ends when the app's body does; that is not the instance's fault.
            (true, Some(Broken::BadFraming)) => Some(Reason::BadBody),
            (true, Some(Broken::Gone)) => Some(Reason::ClientGone),
            // Nor is it the instance's that the app had no more time.
            (true, None) if self.late => Some(Reason::DeadlineExceeded),
            (true, None) => {
                self.blame(now);
                // The head was a success, unless it was counted as none; what the app sees is a failure.
                let counted = self.exchange.status.is_some_and(|status| matches!(status.as_u16(), 502..=504));
                let settings = self.cluster.view.load().settings.clone();
                let breaker = settings.policy.circuit_breaker.as_ref();
                if !counted && let Ok(permit) = self.cluster.breaker.admit(breaker, now.into_std()) {
                    permit.record(now.into_std(), Verdict::Failure);
                }
                Some(Reason::UpstreamClosed)
            }
            (false, _) if clean => None,
            // The app has not read it in time; that it is then gone as well is only what we did.
            (false, _) if self.ends.is_some_and(|ends| ends <= now) => Some(Reason::DeadlineExceeded),
            (false, _) => Some(Reason::ClientGone),
        };
    }
}
