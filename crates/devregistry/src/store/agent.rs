//! The agent's own node: what clients register on it, and the checks that it keeps.
//!
//! The agent writes to the catalog at once, with one exception: a change of a check's output alone is written late, so
//! that frequent outputs wake no watcher.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{
    agent_state::{AgentCheckState, StatusSource},
    model::{Check, CheckKind, NewCheck, NewService, Probe, Row, Service, Status},
    state::Store,
};

/// Longest output of a check that a client reports, bytes.
const OUTPUT_MAX: usize = 4096;
/// The id of the check that stands for node maintenance.
pub(crate) const NODE_MAINTENANCE: &str = "_node_maintenance";
/// The prefix of the id of the check that stands for service maintenance.
pub(crate) const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

impl Store {
    /// The services that clients registered on the agent, by id.
    pub(crate) fn agent_services(&self) -> impl Iterator<Item = &Service> {
        self.agent.services.iter().filter_map(|id| self.agent_service(id))
    }

    /// One of them.
    pub(crate) fn agent_service(&self, id: &str) -> Option<&Service> {
        let row = self.nodes.get(&self.own_node)?.services.get(id)?;
        self.agent.services.contains(id).then_some(&row.value)
    }

    /// The agent's checks, by id, with their newest output.
    pub(crate) fn agent_checks(&self) -> impl Iterator<Item = Check> {
        self.agent.checks.iter().filter_map(|(id, held)| {
            let listed = self.listed_check(id)?;
            Some(Check { output: held.output.clone(), service_tags: held.tags.clone(), ..listed.clone() })
        })
    }

    /// Registers a service, or replaces the one with the same id. Its checks that are not among the new ones stay,
    /// unless `replace`: then they are removed, and maintenance with them.
    pub(crate) fn register(&mut self, new: NewService, replace: bool, now: Instant) {
        let at = self.next_index();
        let NewService { service, checks } = new;
        self.agent.services.insert(service.id.clone());
        self.put_service(&self.own_node.clone(), service.clone(), at);

        let several = checks.len() > 1;
        // By id: of two checks with the same id, the last one counts.
        let mut wanted = BTreeMap::new();
        for (index, mut check) in checks.into_iter().enumerate() {
            let default_id = || match several {
                true => format!("service:{}:{}", service.id, index + 1),
                false => format!("service:{}", service.id),
            };
            let id = check.id.take().unwrap_or_else(default_id);
            if check.name.is_empty() {
                check.name = format!("Service '{}' check", service.name);
            }
            wanted.insert(id, check);
        }
        let kept: BTreeSet<String> = wanted.keys().cloned().collect();
        for (id, check) in wanted {
            self.put_agent_check(id, check, Some(&service), at, now);
        }
        if replace {
            self.remove_other_checks(&service.id, &kept, now);
        }
    }

    fn remove_other_checks(&mut self, service: &str, kept: &BTreeSet<String>, now: Instant) {
        let others: Vec<String> = self
            .agent_checks()
            .filter(|check| check.service_id == service && !kept.contains(&check.id))
            .map(|check| check.id)
            .collect();
        others.iter().for_each(|id| self.deregister_check(id, now));
    }

    /// Starts a check. An earlier check with the same id, of any service, passes on its status and output.
    fn put_agent_check(
        &mut self,
        id: String,
        new: NewCheck,
        service: Option<&Service>,
        at: u64,
        now: Instant,
    ) {
        let listed = self.listed_check(&id).cloned();
        let held_output = self.agent.checks.get(&id).map(|held| held.output.clone());
        let check = Check {
            name: new.name,
            status: listed.as_ref().map_or(new.status.unwrap_or(Status::Critical), |old| old.status),
            notes: new.notes,
            output: listed.map(|old| old.output).unwrap_or_default(),
            kind: new.kind.label(),
            ..Check::of(service, id.clone())
        };
        let source = match new.kind {
            CheckKind::Ttl(ttl) => StatusSource::Ttl { ttl, expires: now.checked_add(ttl) },
            CheckKind::Probe(probe) => {
                self.agent.generation += 1;
                StatusSource::Probe {
                    generation: self.agent.generation,
                    probe,
                    successes: new.successes,
                    failures: new.failures,
                    succeeded: 0,
                    failed: 0,
                    awaits_first_result: true,
                }
            }
        };
        let mut held = AgentCheckState::new(&check, source);
        held.output = held_output.unwrap_or_default();
        held.deregister_after = new.deregister_after;
        self.agent.checks.insert(id, held);
        self.put_check(&self.own_node.clone(), check, at, now);
    }

    /// Removes a service and its checks. An unknown id is no error.
    pub(crate) fn deregister(&mut self, id: &str, now: Instant) {
        if !self.agent.services.remove(id) {
            return;
        }
        let own = self.own_node.clone();
        let at = self.next_index();
        self.remove_service(&own, id, at);
        let with_checks = self.agent_checks().any(|check| check.service_id == id);
        if with_checks {
            let at = self.next_index();
            for check in self.remove_checks_of(&own, id, at, now) {
                self.agent.checks.remove(&check);
            }
        }
    }

    /// Starts a check of a service, or without a service a check of the node. `None`: no such service.
    pub(crate) fn register_check(
        &mut self,
        new: NewCheck,
        service: Option<&str>,
        now: Instant,
    ) -> Option<()> {
        let service = match service {
            Some(id) => Some(self.agent_service(id).cloned()?),
            None => None,
        };
        let id = new.id.clone().unwrap_or_else(|| new.name.clone());
        let at = self.next_index();
        self.put_agent_check(id, new, service.as_ref(), at, now);
        Some(())
    }

    /// Stops a check. An unknown id is no error.
    pub(crate) fn deregister_check(&mut self, id: &str, now: Instant) {
        if self.agent.checks.remove(id).is_some() {
            let at = self.next_index();
            self.remove_check(&self.own_node.clone(), id, at, now);
        }
    }

    /// A client reports the status of a TTL check, which also renews it. `None`: no such check.
    pub(crate) fn report(&mut self, id: &str, status: Status, output: &str, now: Instant) -> Option<()> {
        let Some(AgentCheckState { source: StatusSource::Ttl { ttl, expires }, .. }) =
            self.agent.checks.get_mut(id)
        else {
            return None;
        };
        *expires = now.checked_add(*ttl);
        self.update_status(id, status, truncate_output(output), now);
        Some(())
    }

    /// A probe of the agent ended. A probe of an older registration is ignored.
    pub(crate) fn record_probe(&mut self, id: &str, of: u64, status: Status, output: String, now: Instant) {
        let Some(held) = self.agent.checks.get_mut(id) else { return };
        let StatusSource::Probe {
            generation,
            successes,
            failures,
            succeeded,
            failed,
            awaits_first_result: fresh,
            ..
        } = &mut held.source
        else {
            return;
        };
        if *generation != of {
            return;
        }
        let counts = if status == Status::Critical {
            (*succeeded, *failed) = (0, failed.saturating_add(1));
            *failed >= *failures
        } else {
            (*succeeded, *failed) = (succeeded.saturating_add(1), 0);
            *fresh || *succeeded >= *successes
        };
        if counts {
            *fresh = false;
            self.update_status(id, status, output, now);
        }
    }

    /// Updates a check: the catalog gets a new status at once, with the output, and a new output alone later.
    pub(super) fn update_status(&mut self, id: &str, status: Status, output: String, now: Instant) {
        let Some(mut listed) = self.listed_check(id).cloned() else { return };
        let sync = self.update_interval;
        let Some(held) = self.agent.checks.get_mut(id) else { return };
        held.critical_since = match status {
            Status::Critical => held.critical_since.or(Some(now)),
            Status::Passing | Status::Warning => None,
        };
        held.output.clone_from(&output);
        if listed.status != status {
            held.output_sync_due = None;
            (listed.status, listed.output) = (status, output);
            let at = self.next_index();
            self.put_check(&self.own_node.clone(), listed, at, now);
        } else if listed.output == output {
            held.output_sync_due = None;
        } else {
            held.output_sync_due = held.output_sync_due.or(now.checked_add(sync));
        }
    }

    /// Writes the newest output of a check to the catalog.
    pub(super) fn sync_output(&mut self, id: &str, now: Instant) {
        let Some(held) = self.agent.checks.get_mut(id) else { return };
        held.output_sync_due = None;
        let output = held.output.clone();
        let Some(listed) = self.listed_check(id).cloned() else { return };
        let at = self.next_index();
        self.put_check(&self.own_node.clone(), Check { output, ..listed }, at, now);
    }

    /// Begins maintenance of a service with a reason, or ends it without one. `None`: no such service.
    pub(crate) fn set_service_maintenance(
        &mut self,
        id: &str,
        reason: Option<&str>,
        now: Instant,
    ) -> Option<()> {
        let service = self.agent_service(id).cloned()?;
        let check = format!("{SERVICE_MAINTENANCE}{id}");
        self.set_maintenance(check, "service", Some(&service), reason, now);
        Some(())
    }

    /// Begins maintenance of the node with a reason, or ends it with `None`.
    pub(crate) fn set_node_maintenance(&mut self, reason: Option<&str>, now: Instant) {
        self.set_maintenance(NODE_MAINTENANCE.to_owned(), "node", None, reason, now);
    }

    fn set_maintenance(
        &mut self,
        id: String,
        what: &str,
        service: Option<&Service>,
        reason: Option<&str>,
        now: Instant,
    ) {
        let Some(reason) = reason else { return self.deregister_check(&id, now) };
        // The first reason stays.
        if self.agent.checks.contains_key(&id) {
            return;
        }
        let default = format!(
            "Maintenance mode is enabled for this {what}, but no reason was provided. This is a default message."
        );
        let notes = if reason.is_empty() { default } else { reason.to_owned() };
        let title = if service.is_some() { "Service Maintenance Mode" } else { "Node Maintenance Mode" };
        let check = Check {
            name: title.to_owned(),
            status: Status::Critical,
            notes,
            kind: "maintenance",
            ..Check::of(service, id.clone())
        };
        self.agent.checks.insert(id, AgentCheckState::new(&check, StatusSource::Maintenance));
        let at = self.next_index();
        self.put_check(&self.own_node.clone(), check, at, now);
    }

    /// The probes that should run: check id, generation, probe.
    pub(crate) fn probes(&self) -> impl Iterator<Item = (&str, u64, &Probe)> {
        self.agent.checks.iter().filter_map(|(id, held)| match &held.source {
            StatusSource::Probe { generation, probe, .. } => Some((id.as_str(), *generation, probe)),
            StatusSource::Ttl { .. } | StatusSource::Maintenance => None,
        })
    }

    pub(super) fn listed_check(&self, id: &str) -> Option<&Check> {
        let row: &Row<Check> = self.nodes.get(&self.own_node)?.checks.get(id)?;
        Some(&row.value)
    }
}

/// A reported output, cut as Consul cuts it.
fn truncate_output(output: &str) -> String {
    if output.len() <= OUTPUT_MAX {
        return output.to_owned();
    }
    let end = (0..=OUTPUT_MAX).rev().find(|at| output.is_char_boundary(*at)).unwrap_or(0);
    format!("{} ... (captured {OUTPUT_MAX} of {} bytes)", &output[..end], output.len())
}
