//! Which instance in the registry's list is the local app, and how it looks there.

use outrigger_registry::{HealthStatus, Instance, InstanceId, Registration};

/// How the app looks from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CatalogPresence {
    /// Not listed, and never was.
    NeverListed,
    /// Listed, and it may be called.
    Serving,
    /// Listed, and nobody calls it: critical, or in maintenance.
    NotServing,
    /// Listed no more.
    Removed,
}

/// Recognises one registration from list to list.
#[derive(Debug)]
pub(super) struct SelfLookup {
    id: String,
    port: u16,
    /// Which of the instances is ours, once that is known.
    found: Option<InstanceId>,
}

impl SelfLookup {
    /// Of `us`, not seen yet.
    pub(super) fn new(us: &Registration) -> Self {
        Self { id: us.id.clone(), port: us.port, found: None }
    }

    /// How it looks in this list.
    pub(super) fn find(&mut self, instances: &[Instance]) -> CatalogPresence {
        let found = match &self.found {
            Some(ours) => instances.iter().find(|instance| instance.id == *ours),
            None => self.recognise(instances),
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

    /// The one instance with our id and port. Several: ids are unique on one agent only, and the wrong
    /// one would never leave.
    fn recognise<'a>(&self, instances: &'a [Instance]) -> Option<&'a Instance> {
        let ours = |instance: &&Instance| {
            *instance.id.id == *self.id && instance.addr.as_ref().is_ok_and(|addr| addr.port() == self.port)
        };
        let mut found = instances.iter().filter(ours);
        found.next().filter(|_| found.next().is_none())
    }
}
