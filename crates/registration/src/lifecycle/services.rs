//! The services beside one sidecar, each with its own registration. A reload adds, removes and changes single ones; the
//! state of the others stays.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use outrigger_registry::Registration;

use crate::{
    maintenance::{Maintenance, MaintenanceFile},
    plan::RegistrationPlan,
    status::{RegistrationPhase, RegistrationState, RegistrationStatus},
};

/// What the process was last told to do.
#[derive(Debug, Clone)]
pub(crate) struct LifecycleSettings {
    /// The services beside this sidecar.
    pub(crate) services: Vec<LocalService>,
    pub(crate) drain: outrigger_config::Drain,
}

/// One service of the settings.
#[derive(Debug, Clone)]
pub(crate) struct LocalService {
    /// The same for as long as the service is in the settings, also under another name.
    pub(crate) number: u64,
    pub(crate) plan: RegistrationPlan,
    /// False: a reload took out the last service. State and file stay for the next one.
    pub(crate) is_configured: bool,
    pub(crate) state: RegistrationState,
    pub(crate) maintenance_file: MaintenanceFile,
}

/// One service beside the sidecar, for pages and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRegistration {
    /// The name of the service.
    pub service: String,
    /// Its registration.
    pub status: RegistrationStatus,
}

impl LocalService {
    fn new(plan: RegistrationPlan) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Pages show the id from now on.
        let state = RegistrationState::new(RegistrationPhase::AwaitingApp, &plan.registration.id);
        Self {
            number: NEXT.fetch_add(1, Relaxed),
            plan,
            is_configured: true,
            state,
            maintenance_file: MaintenanceFile::default(),
        }
    }

    /// A reload changes registrar and registration: state and file are those of the service.
    pub(crate) fn maintenance(&self) -> Maintenance {
        Maintenance {
            registrar: self.plan.registrar.clone(),
            registration: self.plan.registration.clone(),
            state: self.state.clone(),
            file: self.maintenance_file.clone(),
            events: self.plan.events.clone(),
        }
    }

    /// Whether `text` is the name of the service, or its id.
    pub(crate) fn is_called(&self, text: &str) -> bool {
        let registration = &self.plan.registration;
        registration.name.eq_ignore_ascii_case(text) || registration.id == text
    }

    pub(crate) fn view(&self) -> ServiceRegistration {
        ServiceRegistration { service: self.plan.registration.name.clone(), status: self.state.current() }
    }
}

/// The services of the new settings. One that was there before keeps its state: it has the same id, else the same name, else the
/// same port, or it is the only one before and after. Maintenance so stays with a service that a reload renames.
pub(super) fn assign(before: &[LocalService], plans: Vec<RegistrationPlan>) -> Vec<LocalService> {
    if plans.is_empty() {
        let vacant = |service: &LocalService| LocalService { is_configured: false, ..service.clone() };
        return before.iter().map(vacant).collect();
    }
    let rules: [fn(&Registration, &Registration) -> bool; 3] =
        [|a, b| a.id == b.id, |a, b| a.name.eq_ignore_ascii_case(&b.name), |a, b| a.port == b.port];
    let is_alone = before.len() == 1 && plans.len() == 1;
    let mut free: Vec<&LocalService> = before.iter().collect();
    let mut kept: Vec<Option<&LocalService>> = vec![None; plans.len()];
    for rule in rules {
        for (plan, kept) in plans.iter().zip(&mut kept).filter(|(_, kept)| kept.is_none()) {
            let found = free.iter().position(|one| rule(&one.plan.registration, &plan.registration));
            *kept = found.map(|found| free.remove(found));
        }
    }
    if is_alone {
        kept[0] = before.first();
    }
    let now = plans.into_iter().zip(kept).map(|(plan, kept)| match kept {
        Some(kept) => LocalService { plan, is_configured: true, ..kept.clone() },
        None => LocalService::new(plan),
    });
    now.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_registry::Registration;

    use super::*;
    use crate::testing::{FakeAgent, test_registration};

    /// `id name port`.
    fn plan(text: &str) -> RegistrationPlan {
        let [id, name, port] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
        RegistrationPlan {
            app_started: Default::default(),
            registrar: Arc::new(FakeAgent::default()),
            registration: Registration {
                id: id.into(),
                name: name.into(),
                port: port.parse().unwrap(),
                ..test_registration()
            },
            probe: Default::default(),
            maintenance_file: None,
            claim: None,
            events: Default::default(),
        }
    }

    fn assigned(before: &[LocalService], plans: &[&str]) -> Vec<LocalService> {
        assign(before, plans.iter().map(|text| plan(text)).collect())
    }

    /// The services before and after a reload, and at which place each of the latter was.
    type Case = (&'static [&'static str], &'static [&'static str], &'static [Option<usize>]);

    #[test]
    fn a_service_keeps_its_state_by_id_name_or_port() {
        let cases: [Case; 8] = [
            (&["a a 1", "b b 2"], &["b b 2", "a a 1"], &[Some(1), Some(0)]),
            (&["a a 1", "b b 2"], &["b b 2"], &[Some(1)]),
            (&["a a 1"], &["b b 2", "a a 1"], &[None, Some(0)]),
            // An id wins over a name, and a name over a port.
            (&["x a 1", "y a 2"], &["y a 1", "x a 2"], &[Some(1), Some(0)]),
            (&["x a 1", "y b 2"], &["z b 1", "w a 2"], &[Some(1), Some(0)]),
            (&["x a 1", "y b 2"], &["x a 1", "z c 2"], &[Some(0), Some(1)]),
            // Another name and another port: another service, unless it is the only one.
            (&["x a 1", "y b 2"], &["x a 1", "z c 3"], &[Some(0), None]),
            (&["x a 1"], &["z c 3"], &[Some(0)]),
        ];
        for (before, after, expected) in cases {
            let before = assigned(&[], before);
            let after = assigned(&before, after);
            let kept: Vec<_> = after
                .iter()
                .map(|one| before.iter().position(|before| before.number == one.number))
                .collect();
            assert_eq!(kept, expected, "{after:?}");
        }
    }

    #[test]
    fn the_state_of_the_last_services_outlives_them() {
        let before = assigned(&[], &["a a 1", "b b 2"]);
        let none = assigned(&before, &[]);
        assert!(none.iter().all(|one| !one.is_configured));
        let again = assigned(&none, &["b b 2"]);
        assert_eq!((again.len(), again[0].number, again[0].is_configured), (1, before[1].number, true));
    }
}
