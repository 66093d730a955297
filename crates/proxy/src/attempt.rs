//! One attempt: a request written to one connection, and how that ended.
//!
//! The instance's codec is driven here, in the request's own task. Whether anything was sent and
//! whether anything came back is read off the connection's counters.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response, Version};
use hyper::body::Incoming;
use outrigger_policy::{Deadline, Outcome, Sent, deadline::TimeoutCause, retry::RetryEligibility};
use tokio::{task::coop::unconstrained, time::Instant};

use crate::{
    headers,
    io::Line,
    timer::LazyTimer,
    upload::{AttemptBody, Broken, Upload},
    upstream::pool::Conn,
};

/// What bounds an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds<'a> {
    /// The request's time.
    pub(crate) deadline: Deadline,
    /// When this attempt began.
    pub(crate) begun: Instant,
    /// This attempt's time, counted as the service's time-out is.
    pub(crate) per_try: Option<Duration>,
    /// What may follow this attempt.
    pub(crate) retry: RetryEligibility<'a>,
    /// Longest silence in the request's body.
    pub(crate) body_idle: Duration,
}

/// What ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// The service's time-out.
    Whole,
    /// The deadline, the app's own or a set one.
    Deadline,
    /// The attempt's.
    Try,
    /// The patience with a body of which nothing more comes.
    Body,
}

impl Bounds<'_> {
    /// What runs out next, and when.
    pub(crate) fn next(&self, upload: Option<&Upload>) -> (Instant, Due) {
        let progress = upload.map(Upload::progress);
        if let Some((last, false)) = progress {
            let idle = last + self.body_idle;
            return match self.deadline.cap().map(Instant::from_std) {
                Some(cap) if cap < idle => (cap, Due::Deadline),
                _ => (idle, Due::Body),
            };
        }
        let last = progress.map(|(last, _)| last);
        let from = last.map_or(self.begun, |last| last.max(self.begun));
        self.sooner(self.whole(last), from)
    }

    /// Until when a turn and a connection may be waited for.
    pub(crate) fn turn(&self, upload: Option<&Upload>) -> (Instant, Due) {
        self.sooner(self.whole(upload.map(|upload| upload.progress().0)), self.begun)
    }

    /// The end of the request's time, as far as that is known now.
    pub(crate) fn ends(&self, upload: Option<&Upload>) -> Instant {
        self.whole(upload.map(|upload| upload.progress().0)).0
    }

    fn whole(&self, last_byte: Option<Instant>) -> (Instant, Due) {
        let (at, by) = self.deadline.expires_at(last_byte.map(Instant::into_std));
        let due = match by {
            TimeoutCause::Timeout => Due::Whole,
            TimeoutCause::Deadline => Due::Deadline,
        };
        (at.into(), due)
    }

    /// The attempt's end, when its own time is over before `whole`.
    fn sooner(&self, whole: (Instant, Due), from: Instant) -> (Instant, Due) {
        match self.per_try.map(|limit| from + limit) {
            Some(one) if one < whole.0 => (one, Due::Try),
            _ => whole,
        }
    }
}

/// An attempt that brought no usable answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) outcome: Outcome,
    pub(crate) sent: Sent,
    pub(crate) detail: String,
    /// The app, not the instance, fell silent.
    pub(crate) body_timeout: bool,
    /// A reused connection closed before any byte of an answer.
    pub(crate) raced: bool,
    /// The instance got the request late: the time that passed was not its own.
    pub(crate) late: bool,
}

impl Failed {
    /// Nothing of the request was sent.
    pub(crate) fn unsent(outcome: Outcome, detail: String) -> Self {
        Self { outcome, sent: Sent::Nothing, detail, body_timeout: false, raced: false, late: false }
    }
}

/// How long an answer may be waited for without a doubt whether anybody is there, and how often the doubt is
/// looked at from then on.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(250);

/// Writes `request` and waits for the answer's head. The connection comes back with the answer;
/// otherwise it is closed. `got` is when the connection was had; `doubt` is asked when nothing has come for
/// a while: true, and nobody is there.
pub(crate) async fn run(
    mut conn: Box<Conn>,
    request: Request<AttemptBody>,
    upload: Option<&Upload>,
    bounds: Bounds<'_>,
    timer: &mut LazyTimer,
    got: Instant,
    doubt: impl Fn(Instant) -> bool,
) -> Result<(Response<Incoming>, Box<Conn>, Sent), Failed> {
    let line = conn.line().clone();
    let mark = Mark { read: line.read(), written: line.written(), line, reused: conn.reused() };
    // Without a budget: an answer that lies there and is not given for want of one would be lost, for
    // nobody is woken for it.
    let mut answer = pin!(unconstrained(conn.send(request)));
    let mut doubt_at = got + PATIENCE;
    let ended = poll_fn(|cx| {
        let turn = conn.drive(cx);
        // Only that turn can have brought an answer, so nobody has to be woken for it.
        if let Poll::Ready(answer) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Poll::Ready(match answer {
                Ok(response) => Ok(response),
                Err(failed) => Err(End::Error(failed.into_error())),
            });
        }
        if turn.is_ready() {
            return Poll::Ready(Err(End::Closed));
        }
        loop {
            let (at, due) = bounds.next(upload);
            std::task::ready!(timer.poll_until(at.min(doubt_at), cx));
            let now = Instant::now();
            // The body may have moved the end meanwhile.
            if bounds.next(upload).0 <= now {
                return Poll::Ready(Err(End::Due(due)));
            }
            if doubt_at <= now {
                if due == Due::Body {
                    // While the app still sends, it is not the instance's turn to speak.
                    doubt_at = now + PATIENCE;
                    continue;
                }
                if doubt(now) {
                    return Poll::Ready(Err(End::Lost));
                }
                doubt_at = now + LOOK;
            }
        }
    })
    .await;
    match ended {
        Ok(response) if headers::ambiguous_response(response.headers()) => Err(mark.failed(
            Outcome::BadResponse,
            upload,
            "the answer's Transfer-Encoding can be read in two ways".to_owned(),
        )),
        Ok(response) => {
            if response.version() != Version::HTTP_11 {
                conn.retire();
            }
            Ok((response, conn, mark.sent(upload)))
        }
        Err(end) => Err(mark.judge(end, upload)),
    }
}

/// How it ended without an answer.
enum End {
    Error(hyper::Error),
    Closed,
    Due(Due),
    /// Nobody is there any more.
    Lost,
}

/// The connection's counters when the attempt began.
struct Mark {
    line: Arc<Line>,
    read: u64,
    written: u64,
    reused: bool,
}

impl Mark {
    fn sent(&self, upload: Option<&Upload>) -> Sent {
        if self.line.written() == self.written {
            Sent::Nothing
        } else if upload.is_some_and(Upload::started) {
            Sent::Body
        } else {
            Sent::Head
        }
    }

    fn answered(&self) -> bool {
        self.line.read() > self.read
    }

    fn failed(&self, outcome: Outcome, upload: Option<&Upload>, detail: String) -> Failed {
        let raced = self.reused && outcome == Outcome::Closed;
        Failed { outcome, sent: self.sent(upload), detail, body_timeout: false, raced, late: false }
    }

    fn judge(&self, end: End, upload: Option<&Upload>) -> Failed {
        match (upload.and_then(Upload::broken), end) {
            (Some(Broken::BadFraming), _) => {
                self.failed(Outcome::BadRequest, upload, "the request body's framing is broken".to_owned())
            }
            (Some(Broken::Gone), _) => {
                self.failed(Outcome::ClientGone, upload, "the app went away within its body".to_owned())
            }
            (None, End::Due(Due::Whole)) => {
                self.failed(Outcome::Timeout, upload, "no answer in time".to_owned())
            }
            (None, End::Due(Due::Deadline)) => {
                self.failed(Outcome::Deadline, upload, "no answer before the deadline".to_owned())
            }
            (None, End::Due(Due::Try)) => {
                self.failed(Outcome::PerTryTimeout, upload, "no answer within per_try_timeout".to_owned())
            }
            // Full buffers towards the instance: it is the one that does not read.
            (None, End::Due(Due::Body)) if self.line.write_blocked() => {
                self.failed(Outcome::Timeout, upload, "the instance stopped reading the body".to_owned())
            }
            (None, End::Due(Due::Body)) => Failed {
                body_timeout: true,
                ..self.failed(Outcome::ClientGone, upload, "the request body stopped arriving".to_owned())
            },
            (None, End::Lost) => {
                let detail = "no answer, and the instance accepts no connections any more";
                // No race with a close: a new connection to it would not be made.
                Failed { raced: false, ..self.failed(self.closed(), upload, detail.to_owned()) }
            }
            (None, End::Closed) => self.failed(self.closed(), upload, "the connection ended".to_owned()),
            (None, End::Error(error)) => {
                let outcome = if error.is_parse() { Outcome::BadResponse } else { self.closed() };
                self.failed(outcome, upload, describe(&error))
            }
        }
    }

    fn closed(&self) -> Outcome {
        if self.answered() { Outcome::ClosedMidHead } else { Outcome::Closed }
    }
}

/// An error with its causes, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(one) = source {
        text.push_str(": ");
        text.push_str(&one.to_string());
        source = one.source();
    }
    text
}
