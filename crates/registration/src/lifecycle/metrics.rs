//! The lifecycle as gauges: one series per state, 1 for the current state.

use outrigger_registry::ReportedHealth;
use parking_lot::Mutex;
use prometheus::{
    IntCounter, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{handle::LifecycleHandle, state::LifecycleState};
use crate::{health::health_label, status::RegistrationPhase};

struct LifecycleMetrics {
    handle: LifecycleHandle,
    state: IntGaugeVec,
    registration: IntGaugeVec,
    /// Raised to the current generation at each scrape.
    registrations: Mutex<IntCounter>,
    health: IntGaugeVec,
    unprobed: IntGauge,
    maintenance: IntGauge,
}

pub(super) fn register(
    metrics: &prometheus::Registry,
    handle: LifecycleHandle,
) -> Result<(), prometheus::Error> {
    let gauges = |name, help, label| IntGaugeVec::new(Opts::new(name, help), &[label]);
    metrics.register(Box::new(LifecycleMetrics {
        handle,
        state: gauges("outrigger_lifecycle_state", "1 for the state that the process is in.", "state")?,
        registration: gauges(
            "outrigger_registration_state",
            "1 for the state that the registration of the local app is in.",
            "state",
        )?,
        registrations: Mutex::new(IntCounter::new(
            "outrigger_registrations_total",
            "How often the registry took the registration of the local app.",
        )?),
        maintenance: IntGauge::new(
            "outrigger_maintenance",
            "1 while the local app is in maintenance, requested here or at the registry.",
        )?,
        health: gauges(
            "outrigger_app_health",
            "1 for the health of the local app that was last reported to the registry.",
            "health",
        )?,
        unprobed: IntGauge::new(
            "outrigger_app_unprobed",
            "1 while the health of the local app is unknown, because it cannot be probed from here.",
        )?,
    }))
}

impl Collector for LifecycleMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [&self.state, &self.registration, &self.health].into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (state, status) = (self.handle.state(), self.handle.registration_status());
        for each in LifecycleState::ALL {
            self.state.with_label_values(&[each.label()]).set((each == state).into());
        }
        for each in RegistrationPhase::ALL {
            self.registration.with_label_values(&[each.label()]).set((each == status.phase).into());
        }
        for each in [ReportedHealth::Passing, ReportedHealth::Warning, ReportedHealth::Critical] {
            let is = status.reported == Some(each);
            self.health.with_label_values(&[health_label(each)]).set(is.into());
        }
        self.unprobed.set(status.unprobed.is_some().into());
        self.maintenance.set(status.maintenance.is_some().into());
        let registrations = self.registrations.lock();
        registrations.inc_by(status.generation.saturating_sub(registrations.get()));
        [
            self.state.collect(),
            self.registration.collect(),
            self.health.collect(),
            self.unprobed.collect(),
            self.maintenance.collect(),
            registrations.collect(),
        ]
        .concat()
    }
}
