//! `/services`: each service, its calls, and why an instance is not used; as JSON and as text.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _, time::Duration};

use outrigger_config::{AddressKind, count, escape_control, format_coarse_duration, tag_list};
use outrigger_discovery::{Knowledge, ServiceStatus, WatchReason};
use outrigger_proxy::{
    ChainProblemStatus, ChainStatus, ChainTargetStatus, ClusterStatus, EndpointStatus, FailoverStatus,
    FailoverTargetStatus, SubsetStatus,
};
use serde::Serialize;

/// `/services`.
#[derive(Debug, Serialize)]
pub(crate) struct ServicesPage {
    services: Vec<ServiceEntry>,
}

#[derive(Debug, Serialize)]
struct ServiceEntry {
    service: String,
    datacenter: Option<String>,
    tags: Vec<String>,
    /// Present: a watch that only says which instances are in the subset with this filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    /// At which addresses its instances are called; absent: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'static str>,
    declared: bool,
    /// Absent where the service is watched and not yet called.
    #[serde(skip_serializing_if = "Option::is_none")]
    calls: Option<CallStats>,
    /// Absent where requests go nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    failover: Option<FailoverEntry>,
    /// What Consul's config entries say of its requests. Absent where Consul is not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<ChainStatus>,
    /// Absent where the service is no longer watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<WatchStatus>,
    /// Absent where the service has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subsets: Vec<SubsetEntry>,
    instances: Vec<InstanceEntry>,
}

/// A subset.
#[derive(Debug, Serialize)]
struct SubsetEntry {
    name: String,
    /// Listed instances of it.
    instances: usize,
    /// Those that may be picked now.
    usable: usize,
    /// Of the requests for it: `closed`, `half_open` or `open`.
    breaker: &'static str,
    breaker_trips: u64,
    /// Responses to the app, by class of the status.
    responses: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct FailoverEntry {
    /// Whether requests go to a target now.
    active: bool,
    /// The subsets of which the requests do.
    active_subsets: Vec<String>,
    targets: Vec<FailoverTargetEntry>,
}

#[derive(Debug, Serialize)]
struct FailoverTargetEntry {
    service: String,
    /// Instances that can take requests now.
    usable: usize,
    attempts: u64,
    /// Why it helps in no failure; absent: it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

const OWN_DATACENTER: &str = "it is the service's own datacenter: no other instances are there";

#[derive(Debug, Serialize)]
struct CallStats {
    balance: &'static str,
    breaker: &'static str,
    breaker_trips: u64,
    retry_budget: u64,
    requests: u64,
    retries: u64,
    /// Requests that were sent to a second instance too, because the first one was stalled.
    beside_stalled: u64,
    failures: u64,
    /// The version of the registry's answer that is in use.
    version: u64,
}

#[derive(Debug, Serialize)]
struct WatchStatus {
    answered: bool,
    /// `unasked`, `remembered` from before a restart, `answered`.
    knowledge: &'static str,
    version: u64,
    index: u64,
    learned_ago_ms: Option<u128>,
    heard_ago_ms: Option<u128>,
    passing: usize,
    warning: usize,
    critical: usize,
    maintenance: usize,
    /// Absent before the registry has answered.
    known_leader: Option<bool>,
    /// Queries in a row that failed.
    failed: u32,
    /// Why the last one failed.
    error: Option<String>,
    /// Why the registry may hide instances behind an empty answer.
    hint: Option<&'static str>,
    /// Instances that are kept although the registry no longer lists them or has lost their node.
    suspects: Vec<String>,
    /// Instances that were removed on the registry's answer alone within the last minutes, while they still
    /// answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    believed_gone: Option<PresumedGoneStatus>,
}

#[derive(Debug, Serialize)]
struct PresumedGoneStatus {
    instances: usize,
    ago_ms: u128,
}

#[derive(Debug, Serialize)]
struct InstanceEntry {
    /// Unique on its node.
    id: String,
    node: String,
    address: String,
    /// The id of the instance at the same address with which it is one endpoint: the counts are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    same_as: Option<String>,
    status: &'static str,
    /// Whether requests may go to it: the registry lists it as usable, and it is not ejected.
    usable: bool,
    why_not: Option<String>,
    suspect: bool,
    trust: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ejected: Option<EjectionStatus>,
    weight: u32,
    in_flight: usize,
    connections: usize,
    /// Connections without a request.
    idle: usize,
    picks: u64,
    failures: u64,
}

/// The ejection of an instance.
#[derive(Debug, Serialize)]
struct EjectionStatus {
    why: &'static str,
    ago_ms: u128,
    tried_in_ms: u128,
}

impl ServicesPage {
    /// One entry per cluster with its watch, and one per watch without a cluster; sorted by name.
    pub(crate) fn merge(clusters: Vec<ClusterStatus>, watches: Vec<ServiceStatus>) -> Self {
        let watch_of = |cluster: &ClusterStatus| {
            watches.iter().find(|watch| {
                watch.query.filter.is_none()
                    && *watch.query.service == *cluster.service
                    && watch.query.datacenter.as_deref() == cluster.datacenter.as_deref()
                    && watch.query.address == cluster.address
            })
        };
        let unused = watches.iter().filter(|watch| {
            !clusters.iter().any(|cluster| watch_of(cluster).is_some_and(|w| w.query == watch.query))
        });
        let mut services: Vec<_> = unused.map(entry_without_cluster).collect();
        services.extend(clusters.iter().map(|cluster| ServiceEntry {
            service: cluster.service.clone(),
            datacenter: cluster.datacenter.clone(),
            tags: cluster.tags.clone(),
            filter: None,
            address: named_address(cluster.address),
            declared: cluster.declared,
            calls: Some(CallStats {
                balance: cluster.balance,
                breaker: cluster.breaker,
                breaker_trips: cluster.breaker_trips,
                retry_budget: cluster.retry_budget,
                requests: cluster.requests,
                retries: cluster.retries,
                beside_stalled: cluster.beside_stalled,
                failures: cluster.failures,
                version: cluster.version,
            }),
            failover: cluster.failover.as_ref().map(failover_entry),
            chain: cluster.chain.clone(),
            registry: watch_of(cluster).map(watch_status),
            subsets: cluster.subsets.iter().map(subset_entry).collect(),
            instances: cluster.endpoints.iter().map(instance_entry).collect(),
        }));
        services.sort_by(|a, b| {
            (&a.service, &a.datacenter, &a.tags, &a.filter).cmp(&(
                &b.service,
                &b.datacenter,
                &b.tags,
                &b.filter,
            ))
        });
        Self { services }
    }

    /// As text: one block per service, one line per instance.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for service in &self.services {
            service.text(&mut text);
        }
        if text.is_empty() {
            text.push_str("no service is in use: none is declared, and none was called lately\n");
        }
        text
    }
}

// Writing to a `String` cannot fail.
fn chain_text(chain: &ChainStatus, out: &mut String) {
    let _ = writeln!(out, "  Consul's chain: {}", describe_chain(chain));
    for ChainTargetStatus { id, usable, failover_active } in &chain.targets {
        let over = if *failover_active { ", its requests go to a failover target" } else { "" };
        let _ = writeln!(out, "    target {}: {usable} usable{over}", escape_control(id));
    }
    for ChainProblemStatus { problem, .. } in &chain.problems {
        let _ = writeln!(out, "    no effect: {}", escape_control(problem));
    }
}

/// What becomes of a chain.
pub(super) fn describe_chain(chain: &ChainStatus) -> String {
    let mut out = chain.state.to_owned();
    if let Some(error) = &chain.error {
        let _ = write!(out, ", {}", escape_control(error));
    }
    if let Some(protocol) = &chain.protocol {
        let _ = write!(out, ", protocol {}", escape_control(protocol));
    }
    if chain.state == "in_effect" {
        let _ = write!(out, ", {}", count(chain.routes, "route"));
    }
    out
}

fn failover_entry(failover: &FailoverStatus) -> FailoverEntry {
    let target = |one: &FailoverTargetStatus| FailoverTargetEntry {
        service: one.service.clone(),
        usable: one.usable,
        attempts: one.attempts,
        warning: one.is_own_datacenter.then_some(OWN_DATACENTER),
    };
    FailoverEntry {
        active: failover.active,
        active_subsets: failover.active_subsets.clone(),
        targets: failover.targets.iter().map(target).collect(),
    }
}

impl FailoverEntry {
    // Writing to a `String` cannot fail.
    fn text(&self, out: &mut String) {
        let target = |one: &FailoverTargetEntry| {
            let attempts = count(one.attempts, "attempt");
            let warning = one.warning.map(|warning| format!("; {warning}")).unwrap_or_default();
            format!("{} ({} usable, {attempts}{warning})", escape_control(&one.service), one.usable)
        };
        let targets: Vec<_> = self.targets.iter().map(target).collect();
        let _ = write!(out, "  failover to {}", targets.join(", then "));
        if self.active {
            out.push_str(": requests go there now");
        } else if !self.active_subsets.is_empty() {
            let _ = write!(out, ": requests for {} go there now", self.active_subsets.join(", "));
        }
        out.push('\n');
    }
}

impl ServiceEntry {
    // Writing to a `String` cannot fail.
    fn text(&self, out: &mut String) {
        out.push_str(&self.service);
        if let Some(datacenter) = &self.datacenter {
            let _ = write!(out, " in {}", escape_control(datacenter));
        }
        let tags = tag_list(&self.tags);
        if let Some(tags) = tags.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let _ = write!(out, " with {tags}");
        }
        if let Some(filter) = &self.filter {
            let _ = write!(out, " where {}: a watch of its own, for a subset", escape_control(filter));
        }
        if let Some(address) = self.address {
            let _ = write!(out, " at its {address} addresses");
        }
        if let Some(calls) = &self.calls {
            let CallStats { balance, breaker, requests, retries, beside_stalled, failures, .. } = calls;
            let (requests, retries) = (count(*requests, "request"), count(*retries, "retry"));
            let _ = write!(out, ": {balance}, breaker {breaker}, {requests}, {retries}");
            if *beside_stalled > 0 {
                let _ = write!(out, ", {beside_stalled} sent to a second instance (first one stalled)");
            }
            let _ = write!(out, ", {}", count(*failures, "failure"));
        }
        out.push('\n');
        if let Some(watch) = &self.registry {
            watch.text(out);
        }
        for SubsetEntry { name, instances, usable, breaker, responses, .. } in &self.subsets {
            let (instances, responses) = (count(*instances, "instance"), responses.values().sum::<u64>());
            let _ = writeln!(
                out,
                "  subset {name}: {instances}, {usable} usable, breaker {breaker}, {}",
                count(responses, "response")
            );
        }
        if let Some(failover) = &self.failover {
            failover.text(out);
        }
        if let Some(chain) = &self.chain {
            chain_text(chain, out);
        }
        if self.filter.is_some() {
            return;
        }
        if self.instances.is_empty() {
            // Before an answer nothing is known of instances.
            if self.registry.as_ref().is_none_or(|watch| watch.knowledge != Knowledge::Unasked.label()) {
                out.push_str("  no instances\n");
            }
            return;
        }
        let names = name_instances(self.instances.iter().map(|one| (&*one.node, &*one.id)));
        let names: Vec<_> = names.iter().map(|name| escape_control(name)).collect();
        let widest = |texts: &mut dyn Iterator<Item = &str>| {
            texts.map(|text| text.chars().count()).max().unwrap_or_default()
        };
        let ids = widest(&mut names.iter().map(AsRef::as_ref)).max(8);
        let addresses = widest(&mut self.instances.iter().map(|one| one.address.as_str())).max(7);
        let _ = writeln!(
            out,
            "  {:ids$}  {:addresses$}  {:11}  {:>6}  {:>9}  {:>10}  {:>8}",
            "INSTANCE", "ADDRESS", "STATE", "WEIGHT", "IN-FLIGHT", "PICKS", "FAILURES"
        );
        for (id, instance) in names.iter().zip(&self.instances) {
            let InstanceEntry { address, status, weight, in_flight, picks, failures, .. } = instance;
            let _ = write!(
                out,
                "  {id:ids$}  {address:addresses$}  {status:11}  {weight:>6}  {in_flight:>9}  {picks:>10}  {failures:>8}"
            );
            if let Some(why) = &instance.why_not {
                let label = if instance.usable { "" } else { "not used: " };
                let _ = write!(out, "  {label}{}", escape_control(why));
            }
            out.push('\n');
        }
    }
}

/// What to call instances, given as node and id: by the id, and by the node too where two nodes have one of this id.
fn name_instances<'a>(instances: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Vec<String> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    instances.clone().for_each(|(_, id)| *times.entry(id).or_default() += 1);
    let name = |(node, id)| match times.get(id) {
        Some(2..) => format!("{id} on {node}"),
        _ => String::from(id),
    };
    instances.map(name).collect()
}

impl WatchStatus {
    fn text(&self, out: &mut String) {
        let age = self.heard_ago_ms.map(format_ms);
        let _ = match (self.answered, age) {
            (false, Some(ago)) => writeln!(
                out,
                "  remembered from before the restart, {ago} old; the registry has not answered for it since"
            ),
            (true, Some(ago)) => {
                let leader = if self.known_leader == Some(false) { ", and had no leader then" } else { "" };
                writeln!(out, "  registry last heard {ago} ago{leader}")
            }
            (false, None) if self.knowledge == Knowledge::Remembered.label() => writeln!(
                out,
                "  remembered from before the restart, of unknown age; the registry has not answered for it since"
            ),
            (_, None) => writeln!(out, "  the registry has not answered for it yet"),
        };
        if let Some(error) = &self.error {
            let _ = writeln!(out, "  registry: {}", escape_control(error));
        }
        if let Some(hint) = self.hint {
            let _ = writeln!(out, "  registry: {hint}");
        }
        if !self.suspects.is_empty() {
            let ids: Vec<Cow<'_, str>> = self.suspects.iter().map(|id| escape_control(id)).collect();
            let (suspects, they) =
                (count(ids.len(), "suspect"), if ids.len() == 1 { "it answers" } else { "they answer" });
            let ids = ids.join(", ");
            let _ =
                writeln!(out, "  {suspects}, which the registry no longer lists, kept while {they}: {ids}");
        }
        if let Some(PresumedGoneStatus { instances, ago_ms }) = self.believed_gone {
            let ago = format_ms(ago_ms);
            let (were, they) = if instances == 1 { ("was", "it") } else { ("were", "they") };
            let instances = count(instances, "instance");
            let _ = writeln!(out, "  {instances} {were} presumed gone {ago} ago; {they} answered until then");
        }
    }
}

fn format_ms(ms: u128) -> String {
    format_coarse_duration(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)))
}

/// The address where it is not the usual one.
fn named_address(address: AddressKind) -> Option<&'static str> {
    (address != AddressKind::Auto).then(|| address.as_str())
}

fn entry_without_cluster(status: &ServiceStatus) -> ServiceEntry {
    ServiceEntry {
        service: status.query.service.to_string(),
        datacenter: status.query.datacenter.as_ref().map(ToString::to_string),
        tags: Vec::new(),
        filter: status.query.filter.as_ref().map(ToString::to_string),
        address: named_address(status.query.address),
        declared: status.reason == WatchReason::Declared,
        calls: None,
        failover: None,
        chain: None,
        registry: Some(watch_status(status)),
        subsets: Vec::new(),
        instances: Vec::new(),
    }
}

fn watch_status(status: &ServiceStatus) -> WatchStatus {
    WatchStatus {
        answered: status.knowledge == Knowledge::Answered,
        knowledge: status.knowledge.label(),
        version: status.version,
        index: status.index,
        learned_ago_ms: status.learned_ago.map(|ago| ago.as_millis()),
        heard_ago_ms: status.confirmed_ago.map(|ago| ago.as_millis()),
        passing: status.instances.passing,
        warning: status.instances.warning,
        critical: status.instances.critical,
        maintenance: status.instances.maintenance,
        known_leader: (status.knowledge == Knowledge::Answered).then_some(status.known_leader),
        failed: status.failures,
        error: status.error.clone(),
        hint: status.empty_hint,
        suspects: name_instances(status.suspects.iter().map(|one| (&*one.node, &*one.id))),
        believed_gone: status
            .presumed_gone
            .map(|(instances, ago)| PresumedGoneStatus { instances, ago_ms: ago.as_millis() }),
    }
}

fn subset_entry(subset: &SubsetStatus) -> SubsetEntry {
    SubsetEntry {
        name: subset.name.clone(),
        instances: subset.instances,
        usable: subset.usable,
        breaker: subset.breaker,
        breaker_trips: subset.breaker_trips,
        responses: subset.responses.iter().copied().collect(),
    }
}

fn instance_entry(endpoint: &EndpointStatus) -> InstanceEntry {
    InstanceEntry {
        id: endpoint.id.clone(),
        node: endpoint.node.clone(),
        same_as: endpoint.same_as.clone(),
        address: endpoint.address.clone(),
        status: endpoint.status,
        usable: endpoint.usable,
        why_not: endpoint.why_not.clone(),
        suspect: endpoint.suspect,
        trust: endpoint.trust,
        ejected: endpoint.ejected.map(|ejected| EjectionStatus {
            why: ejected.why,
            ago_ms: ejected.ago.as_millis(),
            tried_in_ms: ejected.tried_in.as_millis(),
        }),
        weight: endpoint.weight,
        in_flight: endpoint.in_flight,
        connections: endpoint.connections,
        idle: endpoint.idle,
        picks: endpoint.picks,
        failures: endpoint.failures,
    }
}
