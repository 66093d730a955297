//! How Consul differs from what was announced: [`Registrar::drift`](crate::Registrar::drift).
//!
//! Consul holds a registration twice, at the agent and in the catalog of the servers, so one question asks both. The
//! agent's blocking query on the content hash shows a change within milliseconds, and a restart of the agent with the
//! next question. Checks have no such query, so they are read after each query. [`super::catalog_watch`] asks the
//! servers. Besides, [`super::stale`] removes what earlier runs left, and [`super::rival`] tells other processes that
//! register the same id.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::warn;

use super::{
    agent::is_own_output,
    agent_api::{AgentApi, AgentService, OwnCheck},
    catalog_watch::CatalogWatch,
    rival::{Rivals, RunMark},
    stale::{self, StaleRemoval},
};
use crate::{Drift, Error, Registration, Seen};

/// Longest wait of one query, and so the longest time that a foreign check stays.
const MAX_QUERY_WAIT: Duration = Duration::from_secs(5);

/// What is kept between two questions.
#[derive(Default)]
struct AgentMemory {
    copy: AgentCopy,
    catalog: CatalogWatch,
    stale: StaleRemoval,
    rivals: Rivals,
}

/// What the agent holds.
#[derive(Default)]
struct AgentCopy {
    /// The content hash of a copy that matched. Absent: the next query is answered at once.
    hash: Option<String>,
    /// The check had an output of this program.
    reported: bool,
}

/// The mark of the run that `seen` belongs to, for an announcement.
pub(super) fn run_of(seen: &mut Seen) -> RunMark {
    let claim = seen.claim;
    let mark = seen.memory::<AgentMemory>().rivals.mark(&claim);
    seen.claim.since = Some(mark.since());
    mark
}

/// The registration was announced (again).
pub(super) fn begin_anew(seen: &mut Seen) {
    let memory: &mut AgentMemory = seen.memory();
    memory.copy = AgentCopy::default();
    memory.catalog.begin_anew();
    memory.rivals.begin_anew();
}

/// One question.
pub(super) async fn ask<A: AgentApi>(
    agent: Arc<A>,
    registration: &Registration,
    seen: &mut Seen,
) -> Result<Drift, Error> {
    let (known, claim) = (seen.maintenance.clone(), seen.claim);
    let announced = seen.credentials.clone().filter(|_| !std::mem::take(&mut seen.only_look));
    let Some(mut credentials) = announced else {
        return look(&*agent, registration, seen).await;
    };
    let at_once = std::mem::take(&mut seen.at_once);
    let AgentMemory { copy, catalog, stale, rivals } = seen.memory();
    if at_once {
        copy.hash = None;
    }
    let drift = if rivals.is_yielding() {
        // The registration is the other process's: nothing of it is corrected.
        copy.look_at_other(&*agent, &registration.id, rivals).await
    } else {
        let registration = &stale::with_mark(registration, &rivals.mark(&claim));
        tokio::select! {
            biased;
            () = replaced(&mut credentials) => Ok(Drift::Credentials),
            () = catalog.wait_until_unlisted(&agent, registration) => Ok(Drift::Unlisted),
            never = stale.run(&agent, registration) => match never {},
            drift = copy.compare(&*agent, registration, known, rivals) => drift,
        }
    };
    let (rival, is_contested) = (rivals.in_conflict(), rivals.is_contested(&claim));
    (seen.rival, seen.is_contested) = (rival, is_contested);
    drift
}

/// The answer that corrects nothing.
async fn look(agent: &impl AgentApi, registration: &Registration, seen: &mut Seen) -> Result<Drift, Error> {
    let (id, claim) = (&registration.id, seen.claim);
    let held = agent.agent_service(id, None, MAX_QUERY_WAIT).await?;
    let rivals = &mut seen.memory::<AgentMemory>().rivals;
    let is_others = rivals.is_of_other(held.as_ref(), &claim);
    let is_contested = rivals.is_contested(&claim);
    seen.is_elsewhere = is_others && !held.as_ref().is_some_and(|held| held.is_at(registration));
    (seen.is_others, seen.is_contested) = (is_others, is_contested);
    if held.is_none() {
        return Ok(Drift::Forgotten);
    }
    let checks = agent.service_checks(id).await?;
    // Without the own check it is no registration of this program, and neither is its maintenance.
    let differs = checks.own.is_some() && checks.maintenance != seen.maintenance;
    Ok(if differs { Drift::Maintenance(checks.maintenance) } else { Drift::None })
}

/// Resolves when the credentials are replaced.
async fn replaced(credentials: &mut watch::Receiver<u64>) {
    if credentials.changed().await.is_err() {
        std::future::pending().await
    }
}

impl AgentCopy {
    /// Compares the agent's copy with `registration`, and removes the checks that are not this program's.
    async fn compare(
        &mut self,
        agent: &impl AgentApi,
        registration: &Registration,
        known: Option<String>,
        rivals: &mut Rivals,
    ) -> Result<Drift, Error> {
        let id = &registration.id;
        let hash = self.hash.take();
        let Some(held) = agent.agent_service(id, hash.as_deref(), MAX_QUERY_WAIT).await? else {
            return Ok(Drift::Forgotten);
        };
        if rivals.yields_to(&held) {
            return Ok(Drift::Taken);
        }
        let checks = agent.service_checks(id).await?;
        let Some(own) = checks.own else { return Ok(Drift::Forgotten) };
        for check in &checks.others {
            agent.deregister_check(check).await?;
            warn!(
                service = registration.name,
                id, check, "removed a check of the app that is not the sidecar's"
            );
        }
        if !self.is_own_check(&own) {
            // Before the registration: Consul would keep a foreign HTTP check under the id of the own check.
            warn!(
                service = registration.name,
                id,
                output = own.output,
                "another client sets the app's check, replacing it"
            );
            agent.deregister_check(&own.id).await?;
            return Ok(Drift::Changed);
        }
        if !matches_registration(&held, registration) {
            return Ok(Drift::Changed);
        }
        self.hash = Some(held.content_hash).filter(|hash| !hash.is_empty());
        let differs = checks.maintenance != known;
        Ok(if differs { Drift::Maintenance(checks.maintenance) } else { Drift::None })
    }

    /// Whether the other process that registers the id still does.
    async fn look_at_other(
        &mut self,
        agent: &impl AgentApi,
        id: &str,
        rivals: &mut Rivals,
    ) -> Result<Drift, Error> {
        let hash = self.hash.take();
        let held = agent.agent_service(id, hash.as_deref(), MAX_QUERY_WAIT).await?;
        let check = agent.service_checks(id).await?.own;
        if rivals.is_held_by_other(held.as_ref(), check.as_ref()) {
            self.hash = held.map(|held| held.content_hash).filter(|hash| !hash.is_empty());
            return Ok(Drift::Taken);
        }
        Ok(if held.is_none() { Drift::Forgotten } else { Drift::Changed })
    }

    /// Whether the own check is as this program made it, with an output of this program. Before the first one every
    /// output counts, because no report has replaced the output of an earlier run yet.
    fn is_own_check(&mut self, own: &OwnCheck) -> bool {
        let is_ours = is_own_output(&own.output);
        self.reported |= is_ours;
        own.has_our_name && (!self.reported || own.ttl_expired || is_ours)
    }
}

/// Whether the agent holds `registration`. What the agent adds (its address) is no change.
fn matches_registration(held: &AgentService, registration: &Registration) -> bool {
    held.name == registration.name
        && held.is_at(registration)
        && held.tags == registration.tags
        && held.meta == registration.meta
        && held.weights == registration.weights
        && !held.enable_tag_override
}

#[cfg(test)]
mod tests;
