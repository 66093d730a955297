//! Finds the local app in the registry's list of instances.

use crate::{HealthStatus, Instance, InstanceId, Registration};

/// How the list shows the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogPresence {
    /// Not listed, in this list and in all before.
    NeverListed,
    /// Listed, and callers use it.
    Serving,
    /// Listed, and callers do not use it: critical, or in maintenance.
    NotServing,
    /// Not listed, but it was before.
    Removed,
}

/// Finds one registration in successive lists.
#[derive(Debug)]
pub struct SelfLookup {
    id: String,
    port: u16,
    /// The instance that was found first.
    found: Option<InstanceId>,
}

impl SelfLookup {
    /// Looks for `us`.
    pub fn new(us: &Registration) -> Self {
        Self { id: us.id.clone(), port: us.port, found: None }
    }

    /// How this list shows the app.
    pub fn find(&mut self, instances: &[Instance]) -> CatalogPresence {
        let found = match &self.found {
            Some(ours) => instances.iter().find(|instance| instance.id == *ours),
            None => self.find_first(instances),
        };
        match found {
            Some(instance) => {
                let status = instance.status;
                self.found = Some(instance.id.clone());
                if matches!(status, HealthStatus::Critical | HealthStatus::Maintenance) {
                    CatalogPresence::NotServing
                } else {
                    CatalogPresence::Serving
                }
            }
            None if self.found.is_some() => CatalogPresence::Removed,
            None => CatalogPresence::NeverListed,
        }
    }

    /// The only instance with the id and port. `None` for several, because ids are unique on one agent only, and the
    /// wrong instance would never be removed.
    fn find_first<'a>(&self, instances: &'a [Instance]) -> Option<&'a Instance> {
        let ours = |instance: &&Instance| {
            *instance.id.id == *self.id && instance.addr.as_ref().is_ok_and(|addr| addr.port() == self.port)
        };
        let mut found = instances.iter().filter(ours);
        found.next().filter(|_| found.next().is_none())
    }
}
