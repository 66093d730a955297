//! One pick among endpoints.

use std::sync::Arc;

use outrigger_policy::{Cursor, LoadBalancer, outlier_detection::EjectionState};

use crate::upstream::endpoint::Endpoint;

/// A usable one of these; one that is stalled only if there is no other. `is_first`: for the first attempt of a request.
#[inline]
pub(crate) fn pick_among(
    endpoints: &[Arc<Endpoint>],
    balancer: &LoadBalancer,
    cursor: &Cursor,
    is_first: bool,
    is_usable: impl Fn(&Endpoint) -> bool,
) -> Option<Arc<Endpoint>> {
    let random = fastrand::u64(..);
    let usable = |at: usize| is_usable(&endpoints[at]);
    let responsive = |at: usize| usable(at) && !endpoints[at].is_stalled();
    let at = if is_first {
        balancer
            .pick_first(cursor, random, responsive)
            .or_else(|| balancer.pick_first(cursor, random, usable))
    } else {
        let retry = |wanted: &dyn Fn(usize) -> bool| balancer.pick_retry(cursor, random, wanted);
        retry(&responsive).or_else(|| retry(&usable))
    };
    at.and_then(|at| endpoints.get(at)).cloned()
}

/// Whether a pick may take the endpoint, and not only because panic mode lets it take any.
pub(crate) fn is_healthy(one: &Endpoint, retryable: bool) -> bool {
    one.is_usable(retryable) && one.stats.ejection_state() != EjectionState::Panic
}
