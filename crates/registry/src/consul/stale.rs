//! Removes what earlier runs left: registrations at the same address and port under another id. They appear where
//! the id changed (a new host name of a container, another service name) and the earlier run was killed. Until their
//! check expires, callers count this instance twice, or take it for another service.
//!
//! Only a registration with the mark [`OWNER_KEY`] in its metadata and a check of this program is removed, and only if
//! no process renews it, because another sidecar may rightly use the same address and port (an app under two names;
//! an old and a new run). The agent does not show when a check was last renewed, so it is tested: the check gets
//! the same health with another output, [`LIVENESS_CHALLENGE`], and a running sidecar overwrites the output with its
//! next renewal. This happens once, after the first announcement.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, time::Duration};

use outrigger_config::error_chain;
use outrigger_policy::backoff::Backoff;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    agent::LIVENESS_CHALLENGE,
    agent_api::{AgentApi, AgentService},
    rival::{RUN_KEY, RunMark},
};
use crate::{Error, Registration};

/// The metadata key that marks a registration of this program; its value is the version.
const OWNER_KEY: &str = "outrigger";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A running sidecar renews three times within the TTL, and may have to repeat a report.
const REPEATED_REPORT: Duration = Duration::from_secs(5);

/// Consul's limit of pairs in metadata.
const MAX_META_PAIRS: usize = 64;

/// Most tries, because the token may not permit the calls.
const MAX_TRIES: u32 = 3;

/// Pauses between those tries.
const RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_secs(5), max: Duration::from_secs(30) };

/// `registration` with the mark of this program and that of this run, unless the settings use the keys or leave no room.
/// Without the first one, stale registrations stay until their check expires; without the second one, another process
/// that registers the id is not told from a person that changes the registration.
pub(super) fn with_mark(registration: &Registration, run: &RunMark) -> Registration {
    let mut marked = registration.clone();
    for (key, value) in [(OWNER_KEY, VERSION.to_owned()), (RUN_KEY, run.to_string())] {
        if marked.meta.len() < MAX_META_PAIRS {
            marked.meta.entry(key.to_owned()).or_insert(value);
        }
    }
    marked
}

/// The removal, which takes longer than one question.
#[derive(Default)]
pub(super) enum StaleRemoval {
    #[default]
    Due,
    Running(Pin<Box<dyn Future<Output = ()> + Send>>),
    Done,
}

impl StaleRemoval {
    /// Goes on with the removal. `ours` has the mark. Never returns; dropping the future loses nothing.
    pub(super) async fn run<A: AgentApi>(&mut self, agent: &Arc<A>, ours: &Registration) -> Infallible {
        if matches!(self, Self::Due) {
            *self = Self::Running(Box::pin(remove_with_retries(agent.clone(), ours.clone())));
        }
        if let Self::Running(removal) = self {
            removal.await;
            *self = Self::Done;
        }
        std::future::pending().await
    }
}

async fn remove_with_retries<A: AgentApi>(agent: Arc<A>, ours: Registration) {
    for n in 0..MAX_TRIES {
        let Err(error) = remove_stale(&*agent, &ours).await else { return };
        warn!(
            service = ours.name,
            id = ours.id,
            error = error_chain(&error),
            "could not remove the registrations of earlier runs"
        );
        sleep(RETRY_BACKOFF.pause(n, fastrand::u64(..))).await;
    }
}

async fn remove_stale(agent: &impl AgentApi, ours: &Registration) -> Result<(), Error> {
    let held = agent.agent_services().await?;
    let mut challenged = Vec::new();
    for held in held.iter().filter(|held| is_candidate(held, ours)) {
        let Some(own) = agent.service_checks(&held.id).await?.own else { continue };
        if own.has_our_name {
            agent.update_check(&held.id, own.health, LIVENESS_CHALLENGE).await?;
            challenged.push(held);
        }
    }
    if challenged.is_empty() {
        return Ok(());
    }
    sleep(ours.ttl / 3 + REPEATED_REPORT).await;
    for held in challenged {
        // `None`: another client has removed it.
        let own = agent.service_checks(&held.id).await?.own;
        if own.is_some_and(|own| own.output == LIVENESS_CHALLENGE) {
            agent.deregister(&held.id).await?;
            info!(id = held.id, service = held.name, "removed the registration of an earlier run");
        }
    }
    Ok(())
}

/// Whether `held` has the address and port of `ours`, another id, and the mark.
fn is_candidate(held: &AgentService, ours: &Registration) -> bool {
    held.id != ours.id
        && held.is_at(ours)
        && held.meta.contains_key(OWNER_KEY)
        // Where the settings use the key, it is no mark.
        && ours.meta.get(OWNER_KEY).is_some_and(|version| version == VERSION)
}

#[cfg(test)]
mod tests;
