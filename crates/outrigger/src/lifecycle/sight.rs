//! Which instance in the registry's list is the local app, and how it looks there.

use outrigger_registry::{HealthStatus, Instance, InstanceId, Registration};

/// How the app looks from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Not listed, and never was.
    Never,
    /// Listed, and it may be called.
    Well,
    /// Listed, and nobody calls it: critical, or in maintenance.
    Out,
    /// Listed no more.
    Gone,
}

/// Recognises one registration from list to list.
#[derive(Debug)]
pub(super) struct Sight {
    id: String,
    port: u16,
    /// Which of the instances is ours, once that is known.
    sighted: Option<InstanceId>,
}

impl Sight {
    /// Of `us`, not seen yet.
    pub(super) fn of(us: &Registration) -> Self {
        Self { id: us.id.clone(), port: us.port, sighted: None }
    }

    /// How it looks in this list.
    pub(super) fn look(&mut self, instances: &[Instance]) -> Seen {
        let found = match &self.sighted {
            Some(ours) => instances.iter().find(|instance| instance.id == *ours),
            None => self.recognise(instances),
        };
        match found {
            Some(instance) => {
                let status = instance.status;
                self.sighted = Some(instance.id.clone());
                if matches!(status, HealthStatus::Critical | HealthStatus::Maintenance) {
                    Seen::Out
                } else {
                    Seen::Well
                }
            }
            None if self.sighted.is_some() => Seen::Gone,
            None => Seen::Never,
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
