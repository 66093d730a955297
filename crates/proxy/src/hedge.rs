//! A second attempt beside one that is slow: the first answer is taken, the other attempt is cancelled.
//!
//! "The Tail at Scale" (J. Dean, L. A. Barroso, CACM 2013) sends it once the first has taken longer than
//! the 95th percentile, which costs a twentieth more requests and takes the slowest ones' time away. It
//! goes to another instance, is paid for from the retry budget, so that a service that is slow
//! altogether is not asked twice for everything, and is made beside a request's first attempt only.
//!
//! Off by default: it doubles work where it is needed least, and only the app's people know whether an
//! answer's latency is worth that.

use std::{pin::pin, sync::Arc, time::Duration};

use outrigger_policy::outlier::Blame;
use tokio::time::{Instant, timeout_at};

use crate::{
    attempt::Bounds,
    call::{Attempted, Call, Try, begin},
    exchange::Exchange,
    upload::Upload,
    upstream::{cluster::Cluster, endpoint::Endpoint},
};

/// What came of a second attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hedged {
    /// It answered first.
    Won,
    /// The first attempt did.
    Lost,
    /// Neither brought an answer for the app.
    Failed,
    /// The budget did not allow it.
    Budget,
}

impl Call<'_> {
    /// How slow the first attempt may be before a second one is made beside it.
    pub(crate) fn hedge_after(&self, cluster: &Cluster, retries: u32) -> Option<Duration> {
        let hedge = self.terms.policy.hedge.as_ref()?;
        if retries > 0 || !self.repeatable() {
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
        blame: &mut Blame,
        exchange: &mut Exchange,
    ) -> (Attempted, Instant, Option<Arc<Endpoint>>) {
        let mut raced = (false, false);
        let bounds = first.bounds;
        let mut one = pin!(self.attempt(cluster, first.endpoint, upload, bounds, &mut raced.0));
        if let Ok(mut ended) = timeout_at(Instant::now() + after, one.as_mut()).await {
            let now = Instant::now();
            self.account(cluster, first, &mut ended, blame, now);
            return (ended, now, None);
        }
        let other = self.other(cluster, first.endpoint, upload, tried);
        let mark = other.as_ref().and_then(|one| Some((one, one.record.begin(true)?)));
        // Paid for last, when it will be made.
        let Some((other, mark)) = mark.filter(|_| self.pays(cluster)) else {
            let mut ended = one.await;
            let now = Instant::now();
            self.account(cluster, first, &mut ended, blame, now);
            return (ended, now, None);
        };
        begin(other, exchange);
        let bounds = Bounds { begun: Instant::now(), ..bounds };
        let second = Try { endpoint: other, mark, bounds };
        let mut two = pin!(self.attempt(cluster, other, upload, bounds, &mut raced.1));
        let (mut ended, is_second) = tokio::select! {
            ended = one.as_mut() => (ended, false),
            ended = two.as_mut() => (ended, true),
        };
        let now = Instant::now();
        let (done, rest) = if is_second { (second, first) } else { (first, second) };
        let id = &done.endpoint.id;
        if self.is_answer(&ended) {
            exchange.tries(id);
            self.terms.series.hedged(if is_second { Hedged::Won } else { Hedged::Lost });
            // The other took at least this long: without it, only the quick ones would be remembered.
            cluster.latency.record(now - rest.bounds.begun, now.into_std());
            self.account(cluster, done, &mut ended, blame, now);
            return (ended, now, Some(other.clone()));
        }
        // Not what the app is waiting for; the other one may bring it.
        self.account(cluster, done, &mut ended, blame, now);
        drop(ended);
        exchange.tries(&rest.endpoint.id);
        let mut ended = if is_second { one.await } else { two.await };
        let now = Instant::now();
        self.terms.series.hedged(match (self.is_answer(&ended), is_second) {
            (true, true) => Hedged::Lost,
            (true, false) => Hedged::Won,
            (false, _) => Hedged::Failed,
        });
        self.account(cluster, rest, &mut ended, blame, now);
        (ended, now, Some(other.clone()))
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
        let paid = cluster.budget.withdraw(Instant::now().into_std());
        if !paid {
            self.terms.series.hedged(Hedged::Budget);
        }
        paid
    }

    /// Whether the app is to have it, and not another attempt.
    fn is_answer(&self, ended: &Attempted) -> bool {
        ended.as_ref().is_ok_and(|answer| !self.is_retried(answer.outcome))
    }
}
