//! Asks the registry while no service is watched.
//!
//! A sidecar that declares no service asks for none before its first request. Without a query of its own it could say neither at
//! its start nor later that the registry refuses connections or the token.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_config::{error_chain, format_coarse_duration};
use outrigger_policy::Backoff;
use outrigger_registry::{Consistency, Cursor, Error, Query, WatchAnswer};
use tokio::time::sleep;
use tracing::{debug, info};

use super::context::WatchContext;
use crate::clock::now;

/// The service that is asked for. Consul lists its servers under this name, in each datacenter and with any token that may read
/// them; any other answer to the query is a sign of life, too.
const SERVICE: &str = "consul";
/// How often it is checked whether services are watched.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Least time between two queries that succeed.
const MIN_QUERY_INTERVAL: Duration = Duration::from_secs(5);
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(10) };

/// Asks the registry while no service is watched. Never returns: the caller drops it.
pub(crate) async fn check_contact_forever(context: Arc<WatchContext>) {
    let query = Query::new(SERVICE, None);
    let (mut cursor, mut failures) = (Cursor::START, 0_u32);
    loop {
        while context.services.is_any_watched() {
            (cursor, failures) = (Cursor::START, 0);
            sleep(POLL_INTERVAL).await;
        }
        let asked_at = now();
        let wait = context.registry.longest_wait();
        match context.registry.watch(&query, cursor, Consistency::Default, wait).await {
            Ok(answer) => {
                (cursor, failures) = (record_answer(&context, &answer, asked_at), 0);
                sleep(MIN_QUERY_INTERVAL.saturating_sub(now().saturating_duration_since(asked_at))).await;
            }
            Err(error) => {
                record_error(&context, &error);
                cursor = Cursor::START;
                sleep(BACKOFF.pause(failures, fastrand::u64(..))).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

/// Returns the cursor of the next query.
fn record_answer(context: &WatchContext, answer: &WatchAnswer, asked_at: Instant) -> Cursor {
    if let Some(gone_for) = context.outage.record_answer(asked_at, now()) {
        let gone_for = format_coarse_duration(gone_for);
        info!(gone_for, "the registry answers again");
    }
    if answer.index_went_back { Cursor::START } else { answer.cursor }
}

fn record_error(context: &WatchContext, error: &Error) {
    context.metrics.count_error(error);
    if !context.outage.warn_of_failure(error, None) {
        debug!(error = error_chain(error), "the registry was asked and gave no usable answer");
    }
}
