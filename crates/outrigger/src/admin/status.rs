//! What the pages show: plain shapes filled from what the parts say of themselves, as JSON and, for
//! `/services`, as text. No page computes anything that a part does not know.

use std::{fmt::Write as _, time::Duration};

use outrigger_discovery::{Kind, Knowledge, ServiceStatus};
use outrigger_proxy::{ClusterStatus, EndpointStatus};
use outrigger_registry::ReportedHealth;
use serde::Serialize;

use crate::lifecycle::{Order, RegistrationPhase, Standing, State, Vitals, health_label};

/// `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    ready: bool,
    state: &'static str,
    /// Sentences: what is not there yet.
    missing: Vec<String>,
    registration: Registration,
}

#[derive(Debug, Serialize)]
struct Registration {
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    /// What the last probe of the app found.
    #[serde(skip_serializing_if = "String::is_empty")]
    app: String,
    /// What the registry was last told about the app.
    told: Option<&'static str>,
    error: Option<String>,
    /// Why the app is in maintenance, whoever ordered it; absent where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    maintenance: Option<String>,
}

impl Readiness {
    pub(crate) fn of(vitals: &Vitals) -> Self {
        let (state, standing) = (vitals.state(), vitals.standing());
        let missing = missing(state, &standing);
        let registration = Registration {
            state: standing.phase.label(),
            id: standing.id,
            app: standing.app,
            told: standing.told.map(health_label),
            error: standing.error,
            maintenance: standing.maintenance,
        };
        Self {
            ready: state.is_ready(),
            state: state.label(),
            missing: missing.into_iter().collect(),
            registration,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }
}

fn missing(state: State, standing: &Standing) -> Option<String> {
    let because = |what: &str| match &standing.error {
        Some(error) => format!("{what}: {error}"),
        None => what.to_owned(),
    };
    match state {
        State::Ready => None,
        State::Starting => Some("the listeners are not bound yet".into()),
        State::Learning => Some("the registry has not answered for every declared service yet".into()),
        State::Waiting if standing.phase == RegistrationPhase::AwaitingApp => {
            let why = if standing.app.is_empty() { "it is being asked" } else { &standing.app };
            Some(format!("the local app is not healthy yet: {why}"))
        }
        State::Waiting => Some(because("the registry has not taken the registration yet")),
        // An earlier run had registered it.
        State::Registered if standing.told == Some(ReportedHealth::Critical) => {
            Some(format!("the local app is not healthy yet: {}", standing.app))
        }
        State::Registered => Some(because("the registry has not been told yet that the app is well")),
        State::Draining => Some("it is draining".into()),
        State::Gone => Some("it has stopped".into()),
    }
}

/// `GET /maintenance`, and the answer to `POST /maintenance`.
#[derive(Debug, Serialize)]
pub(crate) struct MaintenanceStatus {
    /// Whether the registry holds the app in maintenance, whoever ordered it.
    enabled: bool,
    reason: Option<String>,
    /// What was ordered here and the registry has not taken yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    ordered: Option<Ordered>,
    registration: &'static str,
    /// Why an order was not carried out, or the registry could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Ordered {
    enable: bool,
    reason: Option<String>,
}

impl MaintenanceStatus {
    pub(crate) fn of(vitals: &Vitals, error: Option<String>) -> Self {
        let standing = vitals.standing();
        Self {
            enabled: standing.maintenance.is_some(),
            reason: standing.maintenance,
            ordered: standing.order.map(|order| match order {
                Order::On(reason) => Ordered { enable: true, reason: Some(reason) },
                Order::Off => Ordered { enable: false, reason: None },
            }),
            registration: standing.phase.label(),
            error,
        }
    }
}

/// `GET /drain`, and the answer to `POST /drain`.
#[derive(Debug, Serialize)]
pub(crate) struct DrainStatus {
    phase: &'static str,
    /// The app may be stopped: the registry no longer lists it, and its callers have had time to hear.
    safe_to_stop: bool,
    /// Requests of the app's own that are on their way through the sidecar.
    in_flight: usize,
    registration: &'static str,
}

impl DrainStatus {
    pub(crate) fn of(vitals: &Vitals, in_flight: usize) -> Self {
        let phase = vitals.drain_phase();
        Self {
            phase: phase.label(),
            safe_to_stop: phase.is_safe_to_stop(),
            in_flight,
            registration: vitals.standing().phase.label(),
        }
    }
}

/// `/services`.
#[derive(Debug, Serialize)]
pub(crate) struct Services {
    services: Vec<Service>,
}

#[derive(Debug, Serialize)]
struct Service {
    service: String,
    datacenter: Option<String>,
    tags: Vec<String>,
    declared: bool,
    /// How it is called; absent where it is watched and not yet called.
    #[serde(skip_serializing_if = "Option::is_none")]
    calls: Option<Calls>,
    /// What the registry says; absent where it is no longer watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<Watch>,
    instances: Vec<Instance>,
}

#[derive(Debug, Serialize)]
struct Calls {
    balance: &'static str,
    breaker: &'static str,
    breaker_trips: u64,
    retry_budget: u64,
    requests: u64,
    retries: u64,
    failures: u64,
    /// The version of the registry's answer that is in use.
    version: u64,
}

#[derive(Debug, Serialize)]
struct Watch {
    answered: bool,
    version: u64,
    index: u64,
    learned_ago_ms: Option<u128>,
    heard_ago_ms: Option<u128>,
    passing: usize,
    warning: usize,
    critical: usize,
    maintenance: usize,
    known_leader: bool,
    /// Questions in a row that failed, and why the last one did.
    failed: u32,
    error: Option<String>,
    /// Why an empty answer may be less than the truth.
    hint: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Instance {
    id: String,
    address: String,
    status: &'static str,
    usable: bool,
    why_not: Option<String>,
    weight: u32,
    in_flight: usize,
    connections: usize,
    /// Of those, the ones that wait for a request.
    idle: usize,
    picks: u64,
    failures: u64,
}

impl Services {
    /// Each cluster with the watch it hangs on, then the watches that no cluster uses; by name.
    pub(crate) fn merge(clusters: Vec<ClusterStatus>, watches: Vec<ServiceStatus>) -> Self {
        let watch_of = |cluster: &ClusterStatus| {
            watches.iter().find(|watch| {
                *watch.query.service == *cluster.service
                    && watch.query.datacenter.as_deref() == cluster.datacenter.as_deref()
            })
        };
        let unused = watches.iter().filter(|watch| {
            !clusters.iter().any(|cluster| watch_of(cluster).is_some_and(|w| w.query == watch.query))
        });
        let mut services: Vec<_> = unused.map(watched_only).collect();
        services.extend(clusters.iter().map(|cluster| Service {
            service: cluster.service.clone(),
            datacenter: cluster.datacenter.clone(),
            tags: cluster.tags.clone(),
            declared: cluster.declared,
            calls: Some(Calls {
                balance: cluster.balance,
                breaker: cluster.breaker,
                breaker_trips: cluster.breaker_trips,
                retry_budget: cluster.retry_budget,
                requests: cluster.requests,
                retries: cluster.retries,
                failures: cluster.failures,
                version: cluster.version,
            }),
            registry: watch_of(cluster).map(watch),
            instances: cluster.endpoints.iter().map(instance).collect(),
        }));
        services
            .sort_by(|a, b| (&a.service, &a.datacenter, &a.tags).cmp(&(&b.service, &b.datacenter, &b.tags)));
        Self { services }
    }

    /// For people: one block per service, one line per instance.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for service in &self.services {
            service.text(&mut text);
        }
        if text.is_empty() {
            text.push_str("no service has been called or declared yet\n");
        }
        text
    }
}

impl Service {
    // Writing to a `String` cannot fail.
    fn text(&self, out: &mut String) {
        out.push_str(&self.service);
        if let Some(datacenter) = &self.datacenter {
            let _ = write!(out, " in {datacenter}");
        }
        if !self.tags.is_empty() {
            let _ = write!(out, " with {}", self.tags.join(", "));
        }
        if let Some(calls) = &self.calls {
            let Calls { balance, breaker, requests, retries, failures, .. } = calls;
            let _ = write!(
                out,
                ": {balance}, breaker {breaker}, {requests} requests, {retries} retries, {failures} failures"
            );
        }
        out.push('\n');
        match &self.registry {
            Some(watch) if !watch.answered => out.push_str("  the registry has not answered yet\n"),
            Some(Watch { heard_ago_ms: Some(ago), known_leader, .. }) => {
                let ago = Duration::from_millis(u64::try_from(*ago).unwrap_or(u64::MAX));
                let leader = if *known_leader { "" } else { ", and had no leader then" };
                let _ = writeln!(out, "  registry last heard {:.1} s ago{leader}", ago.as_secs_f64());
            }
            Some(_) | None => {}
        }
        if let Some(error) = self.registry.as_ref().and_then(|watch| watch.error.as_ref()) {
            let _ = writeln!(out, "  registry: {error}");
        }
        if let Some(hint) = self.registry.as_ref().and_then(|watch| watch.hint) {
            let _ = writeln!(out, "  registry: {hint}");
        }
        if self.instances.is_empty() {
            out.push_str("  no instances\n");
            return;
        }
        let widest =
            |of: fn(&Instance) -> &str| self.instances.iter().map(|i| of(i).len()).max().unwrap_or(0);
        let (ids, addresses) = (widest(|i| &i.id).max(8), widest(|i| &i.address).max(7));
        let _ = writeln!(
            out,
            "  {:ids$}  {:addresses$}  {:11}  {:>6}  {:>9}  {:>10}  {:>8}",
            "INSTANCE", "ADDRESS", "STATE", "WEIGHT", "IN-FLIGHT", "PICKS", "FAILURES"
        );
        for instance in &self.instances {
            let Instance { id, address, status, weight, in_flight, picks, failures, .. } = instance;
            let _ = write!(
                out,
                "  {id:ids$}  {address:addresses$}  {status:11}  {weight:>6}  {in_flight:>9}  {picks:>10}  {failures:>8}"
            );
            if let Some(why) = &instance.why_not {
                let _ = write!(out, "  not used: {why}");
            }
            out.push('\n');
        }
    }
}

fn watched_only(status: &ServiceStatus) -> Service {
    Service {
        service: status.query.service.to_string(),
        datacenter: status.query.datacenter.as_ref().map(ToString::to_string),
        tags: Vec::new(),
        declared: status.kind == Kind::Declared,
        calls: None,
        registry: Some(watch(status)),
        instances: Vec::new(),
    }
}

fn watch(status: &ServiceStatus) -> Watch {
    Watch {
        answered: status.knowledge == Knowledge::Answered,
        version: status.version,
        index: status.index,
        learned_ago_ms: status.learned_ago.map(|ago| ago.as_millis()),
        heard_ago_ms: status.heard_ago.map(|ago| ago.as_millis()),
        passing: status.instances.passing,
        warning: status.instances.warning,
        critical: status.instances.critical,
        maintenance: status.instances.maintenance,
        known_leader: status.known_leader,
        failed: status.failures,
        error: status.error.clone(),
        hint: status.empty_hint,
    }
}

fn instance(endpoint: &EndpointStatus) -> Instance {
    Instance {
        id: endpoint.id.clone(),
        address: endpoint.address.clone(),
        status: endpoint.status,
        usable: endpoint.usable,
        why_not: endpoint.why_not.clone(),
        weight: endpoint.weight,
        in_flight: endpoint.in_flight,
        connections: endpoint.connections,
        idle: endpoint.idle,
        picks: endpoint.picks,
        failures: endpoint.failures,
    }
}
