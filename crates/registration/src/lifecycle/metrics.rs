//! The lifecycle as gauges: one series per state, 1 for the current state. Those of a registration have the name of
//! the service as a label; where two services have one name, the id as well.

use outrigger_registry::ReportedHealth;
use prometheus::{
    IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{handle::LifecycleHandle, services::ServiceRegistration, state::LifecycleState};
use crate::{
    health::health_label,
    status::{RegistrationPhase, RegistrationStatus},
};

const REGISTRATION: (&str, &str) =
    ("outrigger_registration_state", "1 for the state that the registration of the service is in.");
const REGISTRATIONS: (&str, &str) =
    ("outrigger_registrations_total", "How often the registry took the registration of the service.");
const HEALTH: (&str, &str) =
    ("outrigger_app_health", "1 for the health of the service that was last reported to the registry.");
const UNPROBED: (&str, &str) = (
    "outrigger_app_unprobed",
    "1 while the health of the service is unknown, because it cannot be probed from here.",
);
const CONFLICT: (&str, &str) = (
    "outrigger_registration_conflict",
    "1 while another process registers the id of the service at the same agent.",
);
const UNREACHABLE: (&str, &str) = (
    "outrigger_app_unreachable",
    "1 while the service is healthy and its registered address accepts no connection from here.",
);
const MAINTENANCE: (&str, &str) =
    ("outrigger_maintenance", "1 while the service is in maintenance, requested here or at the registry.");

struct LifecycleMetrics {
    handle: LifecycleHandle,
    state: IntGaugeVec,
    /// Of the families per service.
    descriptions: Vec<Desc>,
}

pub(super) fn register(
    metrics: &prometheus::Registry,
    handle: LifecycleHandle,
) -> Result<(), prometheus::Error> {
    let state = Opts::new("outrigger_lifecycle_state", "1 for the state that the process is in.");
    let describe = |(name, help): (&str, &str), label: Option<&str>| {
        let labels = std::iter::once("service").chain(label).map(str::to_owned).collect();
        Desc::new(name.to_owned(), help.to_owned(), labels, Default::default())
    };
    let descriptions = [
        (REGISTRATION, Some("state")),
        (HEALTH, Some("health")),
        (UNPROBED, None),
        (UNREACHABLE, None),
        (MAINTENANCE, None),
        (CONFLICT, None),
        (REGISTRATIONS, None),
    ];
    let descriptions =
        descriptions.into_iter().map(|(family, label)| describe(family, label)).collect::<Result<_, _>>()?;
    metrics.register(Box::new(LifecycleMetrics {
        handle,
        state: IntGaugeVec::new(state, &["state"])?,
        descriptions,
    }))
}

impl Collector for LifecycleMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.state.desc().into_iter().chain(&self.descriptions).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let state = self.handle.state();
        for each in LifecycleState::ALL {
            self.state.with_label_values(&[each.label()]).set((each == state).into());
        }
        let services = label_services(self.handle.registrations());
        let states = |status: &RegistrationStatus| {
            RegistrationPhase::ALL.map(|each| (each.label(), each == status.phase))
        };
        let healths = |status: &RegistrationStatus| {
            [ReportedHealth::Passing, ReportedHealth::Warning, ReportedHealth::Critical]
                .map(|each| (health_label(each), status.reported == Some(each)))
        };
        let mut families = self.state.collect();
        families.push(one_of(REGISTRATION, "state", &services, states));
        families.push(one_of(HEALTH, "health", &services, healths));
        families.push(gauge(UNPROBED, &services, |status| status.unprobed.is_some()));
        families.push(gauge(UNREACHABLE, &services, |status| status.reach.failure().is_some()));
        families.push(gauge(MAINTENANCE, &services, |status| status.maintenance.is_some()));
        families.push(gauge(CONFLICT, &services, |status| status.rival.is_some()));
        families.push(counter(REGISTRATIONS, &services, |status| status.generation));
        families
    }
}

type LabelledStatus = (Vec<LabelPair>, RegistrationStatus);

/// Each service with its labels. Without a service: one status without labels, which is off.
fn label_services(services: Vec<ServiceRegistration>) -> Vec<LabelledStatus> {
    if services.is_empty() {
        return vec![(Vec::new(), RegistrationStatus::default())];
    }
    let names: Vec<_> = services.iter().map(|one| one.service.clone()).collect();
    let labelled = services.into_iter().map(|ServiceRegistration { service, status }| {
        let is_shared = names.iter().filter(|name| **name == service).count() > 1;
        let id = is_shared.then(|| label("id", &status.id));
        (id.into_iter().chain([label("service", &service)]).collect(), status)
    });
    labelled.collect()
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn family((name, help): (&str, &str), kind: MetricType, series: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(series);
    family
}

fn gauge_series(labels: Vec<LabelPair>, is: bool) -> Metric {
    let mut value = Gauge::default();
    value.set_value(f64::from(u8::from(is)));
    let mut series = Metric::from_label(labels);
    series.set_gauge(value);
    series
}

/// One series for each value of `name`.
fn one_of<const N: usize>(
    about: (&str, &str),
    name: &str,
    services: &[LabelledStatus],
    values: impl Fn(&RegistrationStatus) -> [(&'static str, bool); N],
) -> MetricFamily {
    let series = services.iter().flat_map(|(labels, status)| {
        values(status)
            .map(|(value, is)| gauge_series(labels.iter().cloned().chain([label(name, value)]).collect(), is))
    });
    // The labels of a series are in the order of their names, as those of the other families are.
    let series = series.map(|mut series| {
        series.mut_label().sort_by(|a, b| a.name().cmp(b.name()));
        series
    });
    family(about, MetricType::GAUGE, series.collect())
}

fn gauge(
    about: (&str, &str),
    services: &[LabelledStatus],
    is: impl Fn(&RegistrationStatus) -> bool,
) -> MetricFamily {
    let series = services.iter().map(|(labels, status)| gauge_series(labels.clone(), is(status)));
    family(about, MetricType::GAUGE, series.collect())
}

fn counter(
    about: (&str, &str),
    services: &[LabelledStatus],
    value: impl Fn(&RegistrationStatus) -> u64,
) -> MetricFamily {
    let series = services.iter().map(|(labels, status)| {
        let mut count = Counter::default();
        #[expect(clippy::cast_precision_loss, reason = "a number of registrations is far below 2^53")]
        count.set_value(value(status) as f64);
        let mut series = Metric::from_label(labels.clone());
        series.set_counter(count);
        series
    });
    family(about, MetricType::COUNTER, series.collect())
}
