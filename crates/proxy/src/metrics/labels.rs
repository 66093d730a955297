//! Labels of metrics that other parts of the data path choose, and the label that the registry's text becomes.

use std::borrow::Cow;

use outrigger_config::{breaks_line, escape_control};

use crate::transport::tunnel::TunnelEnd;

/// The id or the node of an instance as a label. The text format of Prometheus escapes a line feed and no other control character, and
/// readers of lines end one at others too. No two ids share a label, because backslashes are doubled.
pub(crate) fn instance_label(id: &str) -> Cow<'_, str> {
    if !id.contains(|one: char| one == '\\' || breaks_line(one)) {
        return Cow::Borrowed(id);
    }
    Cow::Owned(escape_control(&id.replace('\\', "\\\\")).into_owned())
}

/// Why a second attempt is made beside the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecondAttempt {
    /// `hedge` is on, and the first one takes longer than usual.
    Hedge,
    /// The first one waits at a stalled instance.
    Stalled,
}

/// How a second attempt beside the first one ended.
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

/// How a connection of a TCP listener ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TcpResult {
    /// Both sides have ended it.
    Closed,
    /// A side broke it.
    Broken,
    /// It was silent for `tcp.idle`.
    Idle,
    /// Its instance had left for longer than `tcp.grace`.
    Grace,
    /// The stop of the sidecar ended it.
    Drained,
    /// There was no connection to an instance.
    Refused,
}

impl TcpResult {
    /// In the order of the discriminants.
    pub(crate) const LABELS: [&str; 6] = ["closed", "broken", "idle", "grace", "drained", "refused"];

    pub(crate) fn label(self) -> &'static str {
        Self::LABELS[self as usize]
    }
}

impl From<TunnelEnd> for TcpResult {
    fn from(end: TunnelEnd) -> Self {
        match end {
            TunnelEnd::Closed => Self::Closed,
            TunnelEnd::Broken => Self::Broken,
            TunnelEnd::Idle => Self::Idle,
            TunnelEnd::InstanceGone => Self::Grace,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_line_and_no_two_ids_share_a_label() {
        let ids = ["orders-1", "a\nb", "a\\nb", "a\\\nb", "a\rb", "a\u{85}b", "a\u{2028}b", "a b", "a\"} 1"];
        let labels: std::collections::BTreeSet<_> = ids.iter().map(|id| instance_label(id)).collect();
        assert_eq!(labels.len(), ids.len(), "{labels:?}");
        assert!(labels.iter().all(|label| !label.contains(breaks_line)), "{labels:?}");
        assert!(labels.contains("orders-1"));
    }
}
