//! The attempts of one connection: pick, permit, connect, perhaps at another instance.
//!
//! Nothing of the app was read, so that an attempt that fails can always be followed by another one. Attempts at instances that were not
//! tried cost no retry; the time for all of them is `timeout`, and `connect_timeout` for each. The circuit breaker and the outlier
//! detection judge connects alone: what a connection carries says nothing that the sidecar understands.

use std::sync::Arc;

use outrigger_config::format_duration;
use outrigger_net::Stream;
use outrigger_policy::{
    Outcome, Sent, Verdict,
    outlier_detection::FailureAttribution,
    retry::{self, GiveUp, LastAttempt, RequestTraits, RetryDecision, RetryEligibility},
};
use tokio::time::{Instant, timeout_at};

use super::route::TcpRoute;
use crate::{
    context::ConnectionInfo,
    limit::service_limit,
    reason::{Reason, Refusal},
    request::{admission::refuse_open, attempt::refused_within, attempts::MAX_PASSED, call::Failed},
    transport::pool::{CheckoutError, OpenConnection},
    upstream::{
        endpoint::{Endpoint, InFlight},
        lease::{Lease, LeaseEnd},
    },
};

/// Nothing was sent, so that an attempt may always be repeated.
const REPEATABLE: RequestTraits = RequestTraits { idempotent: true, safe: true, allowed: true };

/// A connection to an instance.
#[derive(Debug)]
pub(crate) struct Connected {
    // Dropped before the lease, which holds the endpoint's permit.
    pub(crate) stream: Stream,
    pub(crate) open: OpenConnection,
    pub(crate) lease: Lease,
}

/// Connects to an instance, within the service's `timeout` from `started` on. `note_attempt` is told of each attempt.
///
/// # Errors
/// When none could be connected to.
pub(crate) async fn connect(
    route: &TcpRoute,
    info: &ConnectionInfo,
    started: Instant,
    note_attempt: impl FnMut(&Endpoint),
) -> Result<Connected, Refusal> {
    let TcpRoute { cluster, settings, .. } = route;
    let admitted = cluster.admit(route.subset(), settings.policy.circuit_breaker.as_ref(), Instant::now());
    let permit =
        admitted.map_err(|open| refuse_open(cluster, route.subset(), &settings.policy, open.retry_after))?;
    let mut attempts = TcpAttempts {
        route,
        info,
        ends: started + settings.policy.timeout,
        tried: Vec::new(),
        blame: FailureAttribution::default(),
        retries: 0,
    };
    let (made, verdict) = attempts.make(note_attempt).await;
    cluster.record_verdict(|| route.subset(), permit, verdict, Instant::now());
    made
}

/// The attempts so far.
struct TcpAttempts<'r> {
    route: &'r TcpRoute,
    info: &'r ConnectionInfo,
    /// The end of the time for all of them.
    ends: Instant,
    tried: Vec<Arc<Endpoint>>,
    blame: FailureAttribution,
    /// Retries that count.
    retries: u32,
}

impl TcpAttempts<'_> {
    async fn make(
        &mut self,
        mut note_attempt: impl FnMut(&Endpoint),
    ) -> (Result<Connected, Refusal>, Verdict) {
        let (route, worker) = (self.route, self.info.worker.index);
        let policy = &route.settings.policy;
        let cells = route.settings.cells(worker);
        let mut failed: Option<Refusal> = None;
        loop {
            let retry = RetryEligibility::new(&policy.retry, REPEATABLE, self.retries, true);
            let retryable = retry.allows_retry();
            let Some(mut lease) = self.pick(retryable) else {
                let first_answer = self.info.clusters().first_answer();
                let refused = || route.cluster.refuse_pick(route.subset(), first_answer);
                return (Err(failed.unwrap_or_else(refused)), Verdict::Ignore);
            };
            if failed.is_some() {
                cells.inc(&cells.retried);
            }
            note_attempt(lease.endpoint());
            lease.count_pick();
            if let Some((target, _)) = route.target_of(lease.endpoint()) {
                target.count_attempt();
            }
            let opened = self.open(lease.endpoint(), retry.is_last()).await;
            let now = Instant::now();
            let outcome = match &opened {
                Ok(_) => Outcome::Connected,
                Err(error) => error.outcome,
            };
            let end =
                LeaseEnd { outcome, sent: Sent::Nothing, given_at: None, has_body: false, is_late: false };
            let endpoint = lease.endpoint().clone();
            let verdict = route.with_owner(&endpoint, |owner, settings| {
                lease.record(owner, settings, cells, &end, &mut self.blame, now);
                lease.verdict(owner, outcome, now)
            });
            let error = match opened {
                Ok((permit, stream, open)) => {
                    lease.in_flight = Some(permit);
                    return (Ok(Connected { stream, open, lease }), verdict);
                }
                Err(error) => error,
            };
            let has_other = route.has_other(&self.tried, &endpoint, retryable, now);
            let is_own_fault = outcome == Outcome::TlsFailed
                && route.with_owner(&endpoint, |owner, _| owner.fails_tls_alike(&endpoint));
            let last = LastAttempt {
                sent: Sent::Nothing,
                // With a fault of this side's settings a connection is not tried at every instance.
                outcome: if is_own_fault { Outcome::Resource } else { outcome },
                replayable: true,
                pushback: None,
                has_other_instance: has_other,
                earlier_pushback: false,
                attempts: 0,
            };
            let budget = &route.cluster.budget;
            let (at, ends) = (now.into_std(), self.ends.into_std());
            let decision = retry::decide_retry(&retry, budget, &last, at, ends, fastrand::u64(..));
            let gave_up = match decision {
                RetryDecision::GiveUp(why) => Some(why),
                RetryDecision::Done | RetryDecision::Retry { .. } => None,
            };
            let refusal = refuse(route, error, gave_up);
            let RetryDecision::Retry { uncounted, .. } = decision else {
                if let Some(why) = gave_up {
                    cells.record_give_up(why);
                }
                return (Err(refusal), verdict);
            };
            failed = Some(refusal);
            self.retries += u32::from(!uncounted);
            self.tried.push(endpoint);
        }
    }

    /// An attempt at an endpoint. Endpoints on probation that others decide are passed over.
    fn pick(&self, retryable: bool) -> Option<Lease> {
        let now = Instant::now();
        let mut passed = Vec::new();
        while passed.len() <= MAX_PASSED {
            let endpoint = self.route.pick(&self.tried, &passed, retryable, now)?;
            match self.route.lease(endpoint, retryable, now) {
                Ok(lease) => return Some(lease),
                Err(endpoint) => passed.push(endpoint),
            }
        }
        None
    }

    /// A permit and a connection. `is_last`: no other attempt that counts can follow.
    async fn open(
        &self,
        endpoint: &Arc<Endpoint>,
        is_last: bool,
    ) -> Result<(InFlight, Stream, OpenConnection), CheckoutError> {
        let route = self.route;
        let policy = &route.settings.policy;
        let within = self.ends.saturating_duration_since(Instant::now());
        let most = policy.connect_timeout;
        // Where another attempt can follow, it is left as much time.
        let connect_within = if is_last { most } else { most.min(within / 2) };
        let opened = async {
            let permit = match endpoint.try_acquire() {
                Some(permit) => permit,
                None => endpoint.acquire(policy).await?,
            };
            let cells = route.settings.cells(self.info.worker.index);
            let serves = || route.with_owner(endpoint, |owner, _| owner.serves_besides(endpoint));
            let (stream, open) = endpoint.connect_stream(cells, connect_within, None, serves).await?;
            Ok::<_, CheckoutError>((permit, stream, open))
        };
        match timeout_at(self.ends, opened).await {
            Ok(Err(error)) if error.outcome == Outcome::ConnectTimeout => {
                Err(CheckoutError { outcome: refused_within(connect_within, policy), ..error })
            }
            Ok(opened) => opened,
            Err(_) => Err(CheckoutError {
                outcome: Outcome::Timeout,
                detail: format!("no connection to {} in time", endpoint.addr),
            }),
        }
    }
}

/// Why there is no connection, with the limit that counts.
fn refuse(route: &TcpRoute, error: CheckoutError, gave_up: Option<GiveUp>) -> Refusal {
    let (label, policy) = (&route.cluster.label, &route.settings.policy);
    let limit = |key, value: String| format!("; {}", service_limit(label, key, value));
    let more = match error.outcome {
        Outcome::ConnectTimeout | Outcome::PerTryTimeout => {
            limit("connect_timeout", format_duration(policy.connect_timeout))
        }
        Outcome::Timeout => limit("timeout", format_duration(policy.timeout)),
        Outcome::Overloaded => limit("pool.max_connections", policy.pool.max_connections.to_string()),
        _ => String::new(),
    };
    let detail = format!("{label}: {}{more}", error.detail);
    let reason = match error.outcome {
        Outcome::Timeout | Outcome::PerTryTimeout => Reason::ConnectTimeout,
        outcome => Failed::unsent(outcome, String::new()).reason_for_app(gave_up),
    };
    Refusal::new(reason, detail)
}
