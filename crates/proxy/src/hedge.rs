//! A second attempt beside one that is slow: the first answer is taken, the other attempt is cancelled.
//!
//! Where `hedge` is off, too, one is made beside an attempt at an instance that answers nobody, while others
//! answer: a stopped process keeps its connections open, and nothing else would tell it from a slow one before
//! the request's time is over. The first attempt goes on, for it may be slow all the same.
//!
//! "The Tail at Scale" (J. Dean, L. A. Barroso, CACM 2013) sends it once the first has taken longer than
//! the 95th percentile, which costs a twentieth more requests and takes the slowest ones' time away. It
//! goes to another instance, is paid for from the retry budget, so that a service that is slow
//! altogether is not asked twice for everything, and is made beside a request's first attempt only.
//!
//! Hedging proper is off by default: it doubles work where it is needed least, and only the app's people know
//! whether an answer's latency is worth that.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use outrigger_policy::{Outcome, Sent, outlier_detection::FailureAttribution, retry::RetryEligibility};
use tokio::time::{Instant, timeout_at};

use crate::{
    attempt::Bounds,
    call::{Attempted, Call, Made, Try, begin},
    metrics::labels::HedgeResult,
    request::account::RequestAccount,
    upload::Upload,
    upstream::{cluster::Cluster, endpoint::Endpoint},
};

/// An instance that answered within this answers: in whole seconds, as [`Endpoint::succeeded_within`] has it.
const LATELY: Duration = Duration::from_secs(2);

impl Call<'_> {
    /// How slow the first attempt may be before a second one is made beside it.
    pub(crate) fn hedge_after(&self, cluster: &Cluster, retry: RetryEligibility<'_>) -> Option<Duration> {
        let hedge = self.terms.policy.hedge.as_ref()?;
        if !retry.allows_hedge() {
            return None;
        }
        let usual = cluster.latency.percentile(hedge.percentile, Instant::now().into_std())?;
        Some(usual.max(hedge.min_delay))
    }

    /// The first attempt, with a second one beside it when it takes longer than `after`. Says how that
    /// ended, when, and who else was tried.
    #[expect(clippy::too_many_arguments, reason = "the one caller's loop has all of this at hand")]
    pub(crate) async fn hedged(
        &self,
        cluster: &Arc<Cluster>,
        first: Try<'_>,
        upload: Option<&Upload>,
        after: Duration,
        tried: &[Arc<Endpoint>],
        blame: &mut FailureAttribution,
        exchange: &mut RequestAccount,
    ) -> Made {
        let mut raced = false;
        let bounds = first.bounds;
        let mut one = pin!(self.attempt(cluster, first.endpoint, upload, bounds, &mut raced));
        if let Ok(ended) = timeout_at(Instant::now() + after, one.as_mut()).await {
            return self.alone(cluster, first, ended, blame);
        }
        let Some(other) = self.other(cluster, first.endpoint, upload, tried) else {
            return self.alone(cluster, first, one.await, blame);
        };
        self.beside(cluster, first, one, &other, upload, tried, blame, exchange).await
    }

    /// Who answers, while `endpoint`, at which this request waits, answers nobody: `None` when there is no
    /// such endpoint, when the request may not be sent twice, or when that cannot be paid for now.
    pub(crate) fn rescue(
        &self,
        cluster: &Cluster,
        endpoint: &Arc<Endpoint>,
        retry: RetryEligibility<'_>,
        upload: Option<&Upload>,
        tried: &[Arc<Endpoint>],
    ) -> Option<Arc<Endpoint>> {
        if !endpoint.is_stalled() || !retry.allows_race_when_stalled() {
            return None;
        }
        let now = Instant::now();
        if cluster.budget.available(&self.terms.policy.retry.budget, now.into_std()) == 0 {
            return None;
        }
        let answers = |one: &Arc<Endpoint>| !one.is_stalled() && one.succeeded_within(LATELY, now);
        self.other(cluster, endpoint, upload, tried).filter(answers)
    }

    /// The first attempt, which is under way as `one`, and a second one at `other` beside it.
    #[expect(clippy::too_many_arguments, reason = "the callers have all of this at hand")]
    pub(crate) async fn beside(
        &self,
        cluster: &Arc<Cluster>,
        first: Try<'_>,
        mut one: Pin<&mut impl Future<Output = Attempted>>,
        other: &Arc<Endpoint>,
        upload: Option<&Upload>,
        tried: &[Arc<Endpoint>],
        blame: &mut FailureAttribution,
        exchange: &mut RequestAccount,
    ) -> Made {
        // Paid for last, when it will be made.
        let mark = other.stats.begin_attempt(self.terms.policy.outlier.as_ref(), true);
        let Some(mark) = mark.filter(|_| self.pays(cluster)) else {
            return self.alone(cluster, first, one.await, blame);
        };
        begin(other, exchange);
        let mut raced = false;
        let bounds = Bounds { begun: Instant::now(), ..first.bounds };
        let second = Try { endpoint: other, mark, bounds };
        let mut two = pin!(self.attempt(cluster, other, upload, bounds, &mut raced));
        let (mut ended, is_second) = tokio::select! {
            ended = one.as_mut() => (ended, false),
            ended = two.as_mut() => (ended, true),
        };
        let now = Instant::now();
        let (done, rest) = if is_second { (second, first) } else { (first, second) };
        let id = &done.endpoint.id;
        if is_answer(&ended, bounds.retry) {
            exchange.set_instance(id);
            self.terms.series.record_hedge(if is_second { HedgeResult::Won } else { HedgeResult::Lost });
            if self.terms.policy.hedge.is_some() {
                // The other took at least this long: without it, only the quick ones would be remembered.
                cluster.latency.record(now - rest.bounds.begun, now.into_std());
            }
            self.account(cluster, done, &mut ended, blame, now);
            if is_second && rest.endpoint.is_stalled() {
                self.left(cluster, rest, blame, now);
            }
            return (ended, now, Some(other.clone()));
        }
        // Not what the app is waiting for; the other one may bring it, unless it answers nobody.
        self.account(cluster, done, &mut ended, blame, now);
        if is_second && self.has_third(cluster, &rest, other, tried) {
            self.terms.series.record_hedge(HedgeResult::Failed);
            return (ended, now, Some(other.clone()));
        }
        drop(ended);
        exchange.set_instance(&rest.endpoint.id);
        let mut ended = if is_second { one.await } else { two.await };
        let now = Instant::now();
        self.terms.series.record_hedge(match (is_answer(&ended, bounds.retry), is_second) {
            (true, true) => HedgeResult::Lost,
            (true, false) => HedgeResult::Won,
            (false, _) => HedgeResult::Failed,
        });
        self.account(cluster, rest, &mut ended, blame, now);
        (ended, now, Some(other.clone()))
    }

    /// Whether the first attempt waits for one that answers nobody, and a third may be tried in its place.
    fn has_third(
        &self,
        cluster: &Cluster,
        first: &Try<'_>,
        second: &Arc<Endpoint>,
        tried: &[Arc<Endpoint>],
    ) -> bool {
        if !first.endpoint.is_stalled() || first.bounds.retry.is_last() {
            return false;
        }
        let tried = [tried, std::slice::from_ref(second)].concat();
        cluster.pick_other(&tried, first.endpoint).is_some_and(|one| !one.is_stalled())
    }

    /// It answered nobody, and another one answered its request: what an attempt says whose time is over.
    fn left(&self, cluster: &Arc<Cluster>, one: Try<'_>, blame: &mut FailureAttribution, now: Instant) {
        one.endpoint.count_failure();
        let report = one.mark.record_end(blame, Outcome::PerTryTimeout, Sent::Head, now.into_std());
        if let Some(report) = report {
            cluster.report(one.endpoint, report, now);
        }
    }

    /// Who takes the second attempt, if it can be made at all: the body is read by one attempt only, until
    /// it is there as a whole.
    fn other(
        &self,
        cluster: &Cluster,
        first: &Arc<Endpoint>,
        upload: Option<&Upload>,
        tried: &[Arc<Endpoint>],
    ) -> Option<Arc<Endpoint>> {
        let whole = upload.is_none_or(|upload| upload.ended() && upload.replayable());
        whole.then(|| cluster.pick_other(tried, first)).flatten()
    }

    fn pays(&self, cluster: &Cluster) -> bool {
        let paid = cluster.budget.withdraw(&self.terms.policy.retry.budget, Instant::now().into_std());
        if !paid {
            self.terms.series.record_hedge(HedgeResult::Budget);
        }
        paid
    }
}

/// Whether the app is to have it, and not another attempt.
fn is_answer(ended: &Attempted, retry: RetryEligibility<'_>) -> bool {
    ended.as_ref().is_ok_and(|answer| !retry.is_retried(answer.outcome))
}
