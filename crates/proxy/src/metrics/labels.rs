//! Labels of metrics that other parts of the data path choose.

/// How a second attempt beside a slow one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HedgeResult {
    /// The second attempt answered first.
    Won,
    /// The first attempt answered first.
    Lost,
    /// Neither attempt brought an answer for the app.
    Failed,
    /// The retry budget did not allow a second attempt.
    Budget,
}

impl HedgeResult {
    /// In the order of the discriminants.
    pub(crate) const LABELS: [&str; 4] = ["won", "lost", "failed", "budget"];
}

/// Why the bulkhead rejected a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// `max_pending` requests wait already.
    QueueFull,
    /// No request in flight ended in time.
    TimedOut,
}

impl Rejected {
    /// The settings that name the limits, in the order of the discriminants.
    pub(crate) const LABELS: [&str; 2] = ["max_pending", "pending_timeout"];
}

/// What was carried although the RFCs do not allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tolerated {
    /// A response with `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.3).
    Framing,
    /// A control character in a field value of a request (RFC 9110 §5.5).
    RequestControls,
    /// A control character in a field value or in the reason phrase of a response.
    ResponseControls,
}

impl Tolerated {
    /// In the order of the discriminants.
    pub(crate) const LABELS: [&str; 3] = ["framing", "request_controls", "response_controls"];
}

/// What became of a connection to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolEvent {
    /// It was made.
    Opened,
    /// It carries another request.
    Reused,
    /// It had ended while it was idle.
    Stale,
}

impl PoolEvent {
    /// In the order of the discriminants.
    pub(crate) const LABELS: [&str; 3] = ["opened", "reused", "stale"];
}
