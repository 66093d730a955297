//! What lets a request wait or refuses it before its attempts: the bulkhead, and the circuit breaker.

use std::time::Duration;

use outrigger_config as config;
use outrigger_policy::Deadline;
use tokio::time::Instant;

use crate::{
    metrics::labels::Rejected,
    reason::{Reason, Refusal},
    request::{app::Downstream, explain::describe_open},
    upstream::{
        bulkhead::{Bulkhead, Slot},
        cluster::Cluster,
        subset::Subset,
    },
};

impl Downstream<'_> {
    /// A place in the service's bulkhead. `None`: the app is gone.
    pub(crate) async fn find_slot(
        &mut self,
        bulkhead: &Bulkhead,
        cluster: &Cluster,
        deadline: Deadline,
    ) -> Result<Option<Slot>, Refusal> {
        if let Some(slot) = bulkhead.try_acquire() {
            return Ok(Some(slot));
        }
        let (ends, _) = deadline.expires_at(None);
        let acquired = Box::pin(self.unless_gone(bulkhead.acquire(ends.into()))).await.transpose();
        acquired.map_err(|rejected| {
            let is_late = deadline.cap().is_some_and(|cap| Instant::now() >= cap.into());
            if rejected == Rejected::TimedOut && is_late {
                let detail = format!(
                    "{}: the deadline passed while the request waited for others to end; {}",
                    cluster.label,
                    bulkhead.limit(&cluster.label)
                );
                return Refusal::new(Reason::DeadlineExceeded, detail);
            }
            cluster.view.load().settings.cells(self.info.worker.index).record_rejection(rejected);
            let detail = format!("{}: {}", cluster.label, bulkhead.explain(&cluster.label, rejected));
            let retry_after = Some(Duration::from_secs(1));
            Refusal { retry_after, ..Refusal::new(Reason::BulkheadFull, detail) }
        })
    }
}

/// The refusal of a request that the circuit breaker does not admit.
pub(crate) fn refuse_open(
    cluster: &Cluster,
    subset: Option<&Subset>,
    policy: &config::Policy,
    retry_after: Duration,
) -> Refusal {
    cluster.request_refresh();
    describe_open(&cluster.label, subset.map(|subset| &**subset.name()), policy, retry_after)
}
