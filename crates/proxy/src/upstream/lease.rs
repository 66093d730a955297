//! One attempt at one endpoint, and the only place where its course is recorded.
//!
//! A lease begins with the pick. The response's head, or the attempt's end without one, is recorded once, for metrics, latency,
//! outlier detection and stall detection; then the end of the body. A lease that is dropped before was cancelled: only its pick
//! is counted.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use outrigger_config::Balance;
use outrigger_policy::{
    Outcome, Sent, Verdict,
    outlier_detection::{AttemptEpoch, AttemptGuard, FailureAttribution},
};
use tokio::time::Instant;

use crate::{
    metrics::cells::{Block, ServiceCells},
    upstream::{
        cluster::{Cluster, ClusterSettings},
        endpoint::{Endpoint, InFlight},
    },
};

/// An attempt at an endpoint.
#[derive(Debug)]
pub(crate) struct Lease {
    endpoint: Arc<Endpoint>,
    /// `None`: the head or the end is recorded.
    guard: Option<AttemptGuard<Arc<Endpoint>>>,
    /// The endpoint's permit ([`Endpoint::try_acquire`]); `None` before it was given.
    pub(crate) in_flight: Option<InFlight>,
    /// When the attempt began.
    pub(crate) begun: Instant,
    /// How the end of the body is counted; `None`: everything is counted.
    body: Option<(AttemptEpoch, FailureAttribution)>,
}

/// The head of a response, or an end without one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseEnd {
    pub(crate) outcome: Outcome,
    pub(crate) sent: Sent,
    /// When the instance was given the request; `None`: it was not.
    pub(crate) given_at: Option<Instant>,
    /// A response came, and its body follows.
    pub(crate) has_body: bool,
    /// The instance got the request late: the time that passed was not its own.
    pub(crate) is_late: bool,
}

impl Lease {
    /// Begins an attempt. `Err`: another request decides the endpoint's probation; pick another one.
    pub(crate) fn begin(
        settings: &ClusterSettings,
        endpoint: Arc<Endpoint>,
        retryable: bool,
        now: Instant,
    ) -> Result<Self, Arc<Endpoint>> {
        match AttemptGuard::begin(endpoint.clone(), settings.policy.outlier.as_ref(), retryable) {
            Some(guard) => Ok(Self { endpoint, guard: Some(guard), in_flight: None, begun: now, body: None }),
            None => Err(endpoint),
        }
    }

    /// The endpoint of the attempt.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Counts the attempt as one that was made.
    pub(crate) fn count_pick(&self) {
        self.endpoint.picks.fetch_add(1, Relaxed);
    }

    /// Records the response's head, or the end without one. A second call records nothing.
    pub(crate) fn record(
        &mut self,
        cluster: &Arc<Cluster>,
        settings: &ClusterSettings,
        cells: &Block<ServiceCells>,
        end: &LeaseEnd,
        blame: &mut FailureAttribution,
        now: Instant,
    ) {
        let Some(guard) = self.guard.take() else { return };
        let LeaseEnd { outcome, sent, .. } = *end;
        let endpoint = &self.endpoint;
        if end.is_late {
            blame.mark_delayed();
        }
        cells.record_attempt(outcome);
        endpoint.note_outcome(outcome);
        if matches!(
            outcome,
            Outcome::ConnectRefused | Outcome::ConnectFailed | Outcome::ConnectTimeout | Outcome::TlsFailed
        ) {
            cluster.note_connect_failure(endpoint);
        }
        if let Some(tls) = &endpoint.tls
            && (outcome.status().is_some() || outcome == Outcome::Connected)
        {
            tls.note_works();
        }
        // A fault of this side's settings is none of the instance.
        let outcome =
            if Self::is_own_fault(cluster, endpoint, outcome) { Outcome::Resource } else { outcome };
        if let (Some(_), Some(given_at)) = (outcome.status(), end.given_at) {
            endpoint.stall.record_response();
            cluster.peak_latency.record(now - given_at);
        }
        let is_measured = settings.policy.balance == Balance::PeakEwma;
        if let (true, Some(given_at)) = (is_measured, end.given_at) {
            Self::record_response_time(endpoint, outcome, now - given_at, now);
        }
        match outcome.verdict() {
            Verdict::Failure => endpoint.count_failure(),
            Verdict::Success => {
                endpoint.stall.record_success(now.into_std());
                if settings.policy.hedge.is_some() {
                    cluster.latency.record(now - self.begun, now.into_std());
                }
            }
            Verdict::Ignore => {}
        }
        let outlier = settings.policy.outlier.as_ref();
        let report = if end.has_body {
            let (report, epoch) = guard.record_head(outlier, blame, outcome, sent, now.into_std());
            self.body = epoch.map(|epoch| (epoch, *blame));
            report
        } else {
            guard.record_end(outlier, blame, outcome, sent, now.into_std())
        };
        if let Some(report) = report {
            cluster.report(endpoint, report, now);
        }
    }

    /// Records that the attempt was left because the endpoint answers no request and another one answered this one.
    pub(crate) fn record_left(
        &mut self,
        cluster: &Arc<Cluster>,
        settings: &ClusterSettings,
        blame: &mut FailureAttribution,
        now: Instant,
    ) {
        let Some(guard) = self.guard.take() else { return };
        self.endpoint.count_failure();
        let outlier = settings.policy.outlier.as_ref();
        let report = guard.record_end(outlier, blame, Outcome::PerTryTimeout, Sent::Head, now.into_std());
        if let Some(report) = report {
            cluster.report(&self.endpoint, report, now);
        }
    }

    /// Records that the response's body was passed on, as far as the app read it.
    pub(crate) fn record_body_end(&mut self, now: Instant) {
        if let Some((epoch, _)) = self.body.take() {
            self.endpoint.stats.record_body_end(epoch, now.into_std());
        }
    }

    /// Records that the instance cut the response's body after it had flowed for this long, and returns what that says about
    /// the service.
    ///
    /// A body that had flowed for a whole window of the breaker says nothing: since its head the service was used by others.
    pub(crate) fn record_body_cut(
        &mut self,
        cluster: &Arc<Cluster>,
        settings: &ClusterSettings,
        flowed: Duration,
        now: Instant,
    ) -> Verdict {
        self.endpoint.count_failure();
        // The instance may be gone, whatever the cut says about the others.
        cluster.request_refresh();
        if let Some((epoch, mut blame)) = self.body.take() {
            let outlier = settings.policy.outlier.as_ref();
            let stats = &self.endpoint.stats;
            let report = stats.record_body_cut(outlier, epoch, &mut blame, flowed, now.into_std());
            if let Some(report) = report {
                cluster.report(&self.endpoint, report, now);
            }
        }
        let breaker = settings.policy.circuit_breaker.as_ref();
        let is_old = breaker.is_some_and(|breaker| flowed >= breaker.window);
        if is_old || self.is_local(cluster, true, now) { Verdict::Ignore } else { Verdict::Failure }
    }

    /// Notes how long a response took, or that none came in this time.
    #[cold]
    fn record_response_time(endpoint: &Endpoint, outcome: Outcome, took: Duration, now: Instant) {
        let is_late = matches!(outcome, Outcome::PerTryTimeout | Outcome::Timeout);
        if is_late || outcome.status().is_some() {
            endpoint.response_time.record(took, now.into_std());
        }
    }

    /// Whether an attempt that ended so failed by this side's TLS settings.
    fn is_own_fault(cluster: &Cluster, endpoint: &Arc<Endpoint>, outcome: Outcome) -> bool {
        outcome == Outcome::TlsFailed && cluster.fails_tls_alike(endpoint)
    }

    /// What an attempt that ended so says about the service, after it was [recorded](Self::record).
    pub(crate) fn verdict(&self, cluster: &Cluster, outcome: Outcome, now: Instant) -> Verdict {
        if Self::is_own_fault(cluster, &self.endpoint, outcome) {
            return Verdict::Ignore;
        }
        let verdict = outcome.verdict();
        let is_loss = matches!(outcome, Outcome::Closed | Outcome::ClosedMidHead);
        let is_ignored = verdict == Verdict::Failure && self.is_local(cluster, is_loss, now);
        if is_ignored { Verdict::Ignore } else { verdict }
    }

    /// Whether a failure says nothing about the service: another endpoint is in, and this one is out, or it lost all its
    /// connections at this moment and one of them was counted.
    fn is_local(&self, cluster: &Cluster, is_loss: bool, now: Instant) -> bool {
        let endpoint = &self.endpoint;
        cluster.has_other_in(endpoint)
            && (!cluster.is_in(endpoint)
                || is_loss && endpoint.losses.record(self.begun.into_std(), now.into_std()))
    }
}
