//! Removes what earlier runs left: registrations at the same address and port under another id. They appear where
//! the id changed (a new host name of a container, another service name) and the earlier run was killed. Until their
//! check expires, callers count this instance twice, or take it for another service.
//!
//! Only a registration with the mark [`OWNER_KEY`] in its metadata and a check of this program is removed, and only if
//! no process renews it, because another sidecar may rightly use the same address and port (an app under two names;
//! an old and a new run). The registry does not show when a check was last renewed, so it is tested: the check gets
//! the same health with another output, [`LIVENESS_CHALLENGE`], and a running sidecar overwrites the output with its
//! next renewal. This happens once, when the app is first registered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outrigger_policy::backoff::Backoff;
use outrigger_registry::{AgentService, Registrar, Registration};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{
    agent_calls::{CallError, call_agent},
    report::{LIVENESS_CHALLENGE, RENEW_INTERVAL},
    status::{RegistrationState, RegistrationStatus},
};
use crate::telemetry::VERSION;

/// The metadata key that marks a registration of this program; its value is the version.
const OWNER_KEY: &str = "outrigger";

/// How long a running sidecar may take to renew: one interval, and time for a repeated report.
const CHALLENGE_WAIT: Duration = RENEW_INTERVAL.saturating_add(Duration::from_secs(5));

/// Consul's limit of pairs in metadata.
const MAX_META_PAIRS: usize = 64;

/// Most tries, because the token may not permit the calls.
const MAX_TRIES: u32 = 3;

/// Pauses between those tries.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_secs(5), max: Duration::from_secs(30) };

/// Adds the mark, unless the settings use the key or leave no room. Without the mark, stale registrations stay until
/// their check expires.
pub(super) fn add_owner_key(meta: &mut BTreeMap<String, String>) {
    if meta.len() < MAX_META_PAIRS {
        meta.entry(OWNER_KEY.to_owned()).or_insert_with(|| VERSION.to_owned());
    }
}

/// Removes stale registrations once the app is registered.
pub(super) async fn run(
    registrar: Arc<dyn Registrar>,
    ours: watch::Receiver<Registration>,
    state: RegistrationState,
) {
    let mut status = state.subscribe();
    if status.wait_for(RegistrationStatus::is_accepted).await.is_err() {
        return;
    }
    for n in 0..MAX_TRIES {
        let ours = ours.borrow().clone();
        let Err(failure) = remove_stale(&*registrar, &ours).await else { return };
        warn!(id = ours.id, error = failure.text, "could not remove the registrations of earlier runs");
        sleep(RETRY_BACKOFF.pause(n, fastrand::u64(..))).await;
    }
}

async fn remove_stale(registrar: &dyn Registrar, ours: &Registration) -> Result<(), CallError> {
    let held = call_agent(registrar.agent_services()).await?;
    let mut challenged = Vec::new();
    for held in held.iter().filter(|held| is_candidate(held, ours)) {
        let Some(own) = call_agent(registrar.service_checks(&held.id)).await?.own else { continue };
        if own.has_our_name {
            call_agent(registrar.report(&held.id, own.health, LIVENESS_CHALLENGE)).await?;
            challenged.push(held);
        }
    }
    if challenged.is_empty() {
        return Ok(());
    }
    sleep(CHALLENGE_WAIT).await;
    for held in challenged {
        // `None`: another client has removed it.
        let own = call_agent(registrar.service_checks(&held.id)).await?.own;
        if own.is_some_and(|own| own.output == LIVENESS_CHALLENGE) {
            call_agent(registrar.deregister(&held.id)).await?;
            info!(id = held.id, service = held.name, "removed the registration of an earlier run");
        }
    }
    Ok(())
}

/// Whether `held` has the address and port of `ours`, another id, and the mark.
fn is_candidate(held: &AgentService, ours: &Registration) -> bool {
    let address = |address: &Option<String>| address.clone().unwrap_or_default();
    held.id != ours.id
        && held.port == i64::from(ours.port)
        && address(&held.address) == address(&ours.address)
        && held.meta.contains_key(OWNER_KEY)
        // Where the settings use the key, it is no mark.
        && ours.meta.get(OWNER_KEY).is_some_and(|version| version == VERSION)
}

#[cfg(test)]
mod tests;
