//! What every attempt of one request shares: the head and how it is written, the settings, the deadline.

use std::sync::Arc;

use outrigger_http1::{Edits, Framing, Head, HeadLimits, Name, NameSet, writer::write_head};
use outrigger_policy::{
    Deadline, Outcome, Sent,
    retry::{self, RequestTraits},
};
use tokio::time::Instant;

use crate::{
    metrics::cells::{Block, ServiceCells},
    metrics::labels::Tolerated,
    request::{
        bounds::{AttemptResult, Bounds, Failed, Response},
        deadline::ClientDeadline,
        fields::HeadChanges,
    },
    transport::{
        channel::{Channel, give_head},
        exchange::Exchange,
        upload::Upload,
    },
    upstream::{
        cluster::{Cluster, ClusterSettings},
        endpoint::CheckoutRequest,
    },
};

/// Names that no attempt passes on.
const DROPPED: NameSet = NameSet::of([Name::OutriggerRetry, Name::Http2Settings]);

/// One request on its way through its attempts.
#[derive(Debug)]
pub(crate) struct Call<'r> {
    pub(crate) cluster: &'r Arc<Cluster>,
    pub(crate) settings: &'r Arc<ClusterSettings>,
    pub(crate) worker: usize,
    /// The app's head; empty once a response was chosen, because no other attempt needs it.
    pub(crate) head: Head,
    pub(crate) changes: &'r HeadChanges,
    pub(crate) traits: RequestTraits,
    pub(crate) client_deadline: ClientDeadline,
    pub(crate) deadline: Deadline,
    /// The request is a probe of the half-open circuit breaker.
    pub(crate) is_probe: bool,
    pub(crate) response_limits: HeadLimits,
}

impl<'r> Call<'r> {
    /// The worker's cells of the service.
    pub(crate) fn cells(&self) -> &'r Block<ServiceCells> {
        self.settings.cells(self.worker)
    }

    /// Which idle connections the request may take.
    pub(crate) fn checkout(&self, bounds: &Bounds<'_>, now: Instant) -> CheckoutRequest<'r> {
        CheckoutRequest {
            worker: self.worker,
            policy: &self.settings.policy,
            cells: self.cells(),
            is_repeatable: bounds.retry.accepts_race(),
            now,
        }
    }

    /// Begins the request on `exchange`, with the head as the instance gets it; `is_http10`: the instance speaks HTTP/1.0. Where
    /// there is a deadline, the head says what is left of it; with a body that is still being read, the end of the time-out is
    /// not known yet.
    pub(crate) fn begin(
        &self,
        exchange: &mut Exchange,
        bounds: &Bounds<'_>,
        upload: &Upload,
        is_http10: bool,
        now: Instant,
    ) {
        let mut drop = DROPPED.union(self.changes.drop);
        let asks = !self.changes.expects_continue || upload.expects_continue() && !is_http10;
        if !(self.changes.keeps_expect && asks) {
            drop = drop.with(Name::Expect);
        }
        let mut add: &[u8] = &self.changes.add;
        let mut with_deadline;
        if let Some(cap) = self.deadline.cap() {
            let ends = if upload.is_ended() { bounds.ends(upload) } else { cap.into() };
            with_deadline = self.changes.add.clone();
            self.client_deadline.write_fields(&mut with_deadline, ends, now);
            add = &with_deadline;
            drop = drop.union(self.client_deadline.replaced());
        }
        let edits = Edits {
            target: self.changes.target.as_deref(),
            host: self.changes.host.as_deref(),
            drop,
            add,
            minor: Some(1),
        };
        let framing = if is_http10 { upload.framing_with_length() } else { upload.framing() };
        exchange.begin(&self.head, &edits, framing, self.response_limits, now);
    }

    /// What the final head of an exchange means.
    pub(crate) fn judge_response(&self, framing: Framing, exchange: &Exchange) -> AttemptResult {
        let invalid = |detail: &str| {
            let sent = exchange.sent().max(Sent::Head);
            Err(Failed { sent, ..Failed::unsent(Outcome::BadResponse, detail.to_owned()) })
        };
        let Some(head) = exchange.response() else { return invalid("no head came") };
        self.count_tolerated(head);
        if framing == Framing::Tunnel && !self.changes.accepts_upgrade(&self.head, head) {
            return invalid("the instance switched to a protocol that was not asked for");
        }
        let outcome = if head.has(Name::OutriggerError) {
            Outcome::SidecarError(head.status())
        } else {
            Outcome::Status(head.status())
        };
        Ok(Response { framing, outcome })
    }

    /// Counts what was tolerated in the head of a response.
    fn count_tolerated(&self, head: &Head) {
        let cells = self.cells();
        if head.has_controls() {
            cells.record_tolerated(Tolerated::ResponseControls);
        }
        if head.has(Name::TransferEncoding) && head.has(Name::ContentLength) {
            cells.record_tolerated(Tolerated::Framing);
        }
    }

    /// Passes an interim response on, or drops it: an app of HTTP/1.0 does not know them, and of two exchanges beside each other
    /// neither may speak. A 100 reaches the app only if it asked for one, and once.
    pub(crate) fn pass_interim(
        &self,
        exchange: &mut Exchange,
        app: &mut Channel,
        upload: &mut Upload,
        passes: bool,
    ) {
        let Some(head) = exchange.take_response() else { return };
        let passes = passes && self.head.minor() == 1;
        let is_wanted = if head.status() == 100 { upload.release(passes, Instant::now()) } else { true };
        if is_wanted && passes {
            let edits = Edits { minor: Some(1), ..Edits::default() };
            app.queue(|outbox| write_head(&head, &edits, Framing::None, outbox));
        }
        give_head(head);
    }

    /// Whether the request may be sent again, by its method and its fields.
    pub(crate) fn traits_of(head: &Head, changes: &HeadChanges) -> RequestTraits {
        RequestTraits {
            idempotent: changes.has_idempotency_key || retry::is_idempotent(head.method()),
            allowed: changes.allows_retries,
        }
    }
}
