//! Looks host names up again beside the watch, which may wait for a change at the registry for a long time.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::debug;

use super::{context::WatchContext, publish::publish};
use crate::{Knowledge, clock::now, service::Service};

/// Least time between two rounds of look-ups of a service.
const MIN_LOOKUP_INTERVAL: Duration = Duration::from_secs(1);

/// Publishes the instances with other addresses when a look-up that a follower requests finds some. Runs in the task of the
/// watcher, which is the one writer of the service.
pub(super) async fn look_up_on_request(context: &WatchContext, service: &Arc<Service>) -> Infallible {
    loop {
        service.lookup_requested.notified().await;
        let before = service.snapshot();
        if before.knowledge == Knowledge::Answered
            && let Some(instances) = context.registry.look_up_again(&before.instances).await
        {
            // The watch may have got an answer meanwhile, which was looked up as well.
            if service.snapshot().version == before.version {
                debug!(service = %service.query, "host names have other addresses");
                publish(context, service, instances.into(), now());
            }
        }
        sleep(MIN_LOOKUP_INTERVAL).await;
    }
}
