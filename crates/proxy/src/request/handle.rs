//! A request's walk: read, route, admit, attempt, respond.
//!
//! One function read downward. The attempts are made by [`attempts`](super::attempts); a response is passed on by
//! [`respond`](super::respond); a refusal becomes a response in [`reject`](super::reject).

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use outrigger_http1::{Framing, Head};
use outrigger_policy::{Deadline, deadline::add_saturating};
use tokio::time::{Instant, timeout_at};

use crate::{
    context::{ConnectionInfo, DownstreamSettings},
    metrics::labels::{Rejected, Tolerated},
    reason::{Reason, Refusal},
    request::{
        app::{AfterRequest, Downstream, RequestAccount},
        attempts::{AttemptsEnd, make_attempts},
        call::Call,
        deadline::ClientDeadline,
        fields::{RequestFacts, read_request},
        respond::respond,
        route,
    },
    transport::{
        channel::{Channel, give_head},
        timer::LazyTimer,
        upload::Upload,
    },
    upstream::{
        bulkhead::{Bulkhead, Slot},
        cluster::Cluster,
    },
};

/// Carries one request.
#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
pub(crate) fn handle(
    info: &ConnectionInfo,
    settings: &DownstreamSettings,
    channel: &mut Channel,
    timer: &mut LazyTimer,
    mut head: Head,
) -> impl Future<Output = AfterRequest> + Send {
    async move {
        let accepted = Instant::now();
        let mut account = RequestAccount::new(info.worker.cells(), settings.access_log, accepted, &head);
        let mut facts = read_request(&mut head);
        let (framing, expects) = match &facts {
            Ok(facts) => (facts.framing, facts.changes.expects_continue),
            // Where the body ends is not known: nothing behind the head is read, and the connection ends.
            Err(_) => (Framing::None, false),
        };
        let upload = Upload::new(&head, framing, expects, accepted);
        let mut app = Downstream::new(info, settings, channel, timer, &head, upload);
        let after = match &mut facts {
            Err(refusal) => app.refuse(refusal, &mut account).await,
            Ok(facts) if facts.ends_here => app.end_forwarding(&mut account).await,
            Ok(facts) => app.carry(&mut head, facts, account).await,
        };
        give_head(head);
        after
    }
}

impl Downstream<'_> {
    /// Routes and admits the request, makes its attempts, and answers.
    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    fn carry(
        &mut self,
        head: &mut Head,
        facts: &mut RequestFacts,
        account: RequestAccount<'_>,
    ) -> impl Future<Output = AfterRequest> + Send {
        async move {
            let accepted = account.started;
            let client_deadline = facts.deadline;
            let cap = client_ends(client_deadline, accepted);
            let cluster = match self.find_cluster(head, facts, cap).await {
                Some(Ok(cluster)) => cluster,
                Some(Err(refusal)) => return self.refuse(&refusal, &mut { account }).await,
                None => return AfterRequest::Close,
            };
            cluster.mark_used(accepted);
            let settings = cluster.view.load().settings.clone();
            // Moved into a local that is dropped before `settings`, because the account counts in the cells of `settings`.
            let mut account = account;
            account.set_service(settings.cells(self.info.worker.index), &cluster.label);
            if head.has_controls() {
                settings.cells(self.info.worker.index).record_tolerated(Tolerated::RequestControls);
            }
            let policy = &settings.policy;
            let permit = match cluster.breaker.admit(policy.circuit_breaker.as_ref(), accepted.into_std()) {
                Ok(permit) => permit,
                Err(open) => {
                    cluster.request_refresh();
                    let detail = format!("{}: the circuit breaker is open", cluster.label);
                    let retry_after = Some(open.retry_after);
                    let refusal = Refusal { retry_after, ..Refusal::new(Reason::CircuitOpen, detail) };
                    return self.refuse(&refusal, &mut account).await;
                }
            };
            let limit = policy.deadline.map(|limit| add_saturating(accepted.into_std(), limit));
            let deadline = Deadline::new(accepted.into_std(), policy.timeout).capped(cap).capped(limit);
            if let Some(bulkhead) = &settings.bulkhead {
                match self.find_slot(bulkhead, &cluster, deadline).await {
                    Some(Ok(slot)) => account.slot = Some(slot),
                    Some(Err(refusal)) => return self.refuse(&refusal, &mut account).await,
                    None => return AfterRequest::Close,
                }
            }
            cluster.budget.deposit(&policy.retry.budget, accepted.into_std());
            self.upload.keep_up_to(policy.retry.max_body);
            let outbound = &self.settings.outbound;
            if outbound.x_forwarded {
                facts.changes.add_forwarded(head, self.info.peer.ip());
            }
            if outbound.via {
                facts.changes.add_via(head);
            }
            let mut call = Call {
                cluster: &cluster,
                settings: &settings,
                worker: self.info.worker.index,
                traits: Call::traits_of(head, &facts.changes),
                head: std::mem::take(head),
                changes: &facts.changes,
                client_deadline,
                deadline,
                is_probe: permit.is_probe(),
                response_limits: self.settings.response_heads,
            };
            let after = match make_attempts(&call, self, &mut account).await {
                AttemptsEnd::Answered(attempt, response) => {
                    return respond(&mut call, self, attempt, response, permit, &mut account).await;
                }
                AttemptsEnd::Gone { verdict } => {
                    permit.record(Instant::now().into_std(), verdict);
                    AfterRequest::Close
                }
                AttemptsEnd::Refused { refusal, verdict } => {
                    let now = *account.answered_at.get_or_insert_with(Instant::now);
                    cluster.record_verdict(permit, verdict, now);
                    self.refuse(&refusal, &mut account).await
                }
            };
            give_head(call.head);
            after
        }
    }

    /// The service, within the app's own deadline. `None`: the app is gone.
    async fn find_cluster(
        &mut self,
        head: &Head,
        facts: &mut RequestFacts,
        cap: Option<std::time::Instant>,
    ) -> Option<Result<Arc<Cluster>, Refusal>> {
        let mut found = pin!(route::find(self.info, self.settings, head, facts));
        // The usual service is known, and nothing is waited for.
        let first = poll_fn(|cx| Poll::Ready(found.as_mut().poll(cx))).await;
        match (first, cap) {
            (Poll::Ready(found), _) => Some(found),
            (Poll::Pending, None) => self.unless_gone(found).await,
            (Poll::Pending, Some(cap)) => {
                let found = self.unless_gone(timeout_at(cap.into(), found)).await?;
                Some(found.unwrap_or_else(|_| {
                    let detail = "the app's own deadline passed before the registry answered for the service";
                    Err(Refusal::new(Reason::DeadlineExceeded, detail))
                }))
            }
        }
    }

    /// A place in the service's bulkhead. `None`: the app is gone.
    async fn find_slot(
        &mut self,
        bulkhead: &Bulkhead,
        cluster: &Cluster,
        deadline: Deadline,
    ) -> Option<Result<Slot, Refusal>> {
        if let Some(slot) = bulkhead.try_acquire() {
            return Some(Ok(slot));
        }
        let (ends, _) = deadline.expires_at(None);
        let acquired = self.unless_gone(bulkhead.acquire(ends.into())).await?;
        Some(acquired.map_err(|rejected| {
            let is_late = deadline.cap().is_some_and(|cap| Instant::now() >= cap.into());
            if rejected == Rejected::TimedOut && is_late {
                let detail = format!("{}: no place in max_in_flight before the deadline", cluster.label);
                return Refusal::new(Reason::DeadlineExceeded, detail);
            }
            cluster.view.load().settings.cells(self.info.worker.index).record_rejection(rejected);
            let detail = format!("{}: {}", cluster.label, bulkhead.explain(rejected));
            let retry_after = Some(Duration::from_secs(1));
            Refusal { retry_after, ..Refusal::new(Reason::BulkheadFull, detail) }
        }))
    }
}

/// When the app's own deadline passes.
fn client_ends(deadline: ClientDeadline, accepted: Instant) -> Option<std::time::Instant> {
    deadline.timeout.map(|timeout| add_saturating(accepted.into_std(), timeout))
}
