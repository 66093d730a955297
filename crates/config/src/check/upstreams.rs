//! The declared services.

use super::{
    policy::read_policy,
    protocol,
    reader::Reader,
    section::Section,
    service::read_required,
    tls::read_tls,
    traffic::{ServiceLinks, ServicePolicies, TrafficReading},
};
use crate::{
    Config, Policy, Protocol, TcpSettings, TrafficRules, Upstream, address, error::InvalidValue, names,
    units::one_of,
};

/// Reads `upstreams`, with the `defaults` of `config`.
pub(super) fn read_upstreams(r: &mut Reader<'_>, root: &Section<'_>, config: &mut Config) {
    let sections = r.sections(root, "upstreams");
    let mut out: Vec<Upstream> = Vec::with_capacity(sections.len());
    let mut readings = Vec::with_capacity(sections.len());
    for s in &sections {
        let problems = r.problems.len();
        let upstream = read_upstream(r, s, &config.defaults, config.registry.domain());
        let mut reading = TrafficReading::default();
        reading.read(r, s, &upstream.service, &[]);
        readings.push(reading);
        protocol::check(r, s, &upstream);
        // All upstreams with an invalid name would look the same.
        let read = r.problems.len() == problems;
        if read && let Some(first) = out.iter().position(|known| is_same(known, &upstream)) {
            let key = s.key("service");
            let what = format!("{} is declared twice, first as upstreams[{first}]", upstream.service);
            let hint = "merge the two, or tell them apart by tags or datacenter";
            r.report_set(&key, what, hint);
        }
        out.push(upstream);
    }
    config.upstreams = out;
    check_cycles(r, &sections, &config.upstreams, &readings);
    let policies = ServicePolicies::new(config);
    for ((s, upstream), reading) in sections.iter().zip(&mut config.upstreams).zip(readings) {
        upstream.traffic = reading.finish(r, &s.path, &upstream.policy, &policies);
    }
}

/// Requests that splits send around go nowhere, and a failover that leads back helps none.
fn check_cycles(
    r: &mut Reader<'_>,
    sections: &[Section<'_>],
    upstreams: &[Upstream],
    readings: &[TrafficReading],
) {
    let whole = || upstreams.iter().enumerate().filter(|(_, upstream)| upstream.is_whole_service());
    let mut links = ServiceLinks::default();
    for (n, upstream) in whole() {
        let services = readings.get(n).map(TrafficReading::named_services).unwrap_or_default();
        links.insert(upstream.service.to_ascii_lowercase(), services);
    }
    for (n, upstream) in whole() {
        let service = upstream.service.to_ascii_lowercase();
        for cycle in links.find_cycles(&service) {
            // The first one in the order of names stands for all.
            if cycle.way.iter().min() == Some(&service)
                && let Some(s) = sections.get(n)
            {
                let (what, hint) = cycle.describe();
                r.report_set(&s.key(cycle.key), what, hint);
            }
        }
    }
}

fn read_upstream(r: &mut Reader<'_>, s: &Section<'_>, defaults: &Policy, domain: &str) -> Upstream {
    let mut out = Upstream {
        service: read_required(r, s, "service", names::service).unwrap_or_default(),
        listen: None,
        protocol: Protocol::default(),
        tls: None,
        tcp: TcpSettings::default(),
        hosts: Vec::new(),
        tags: Vec::new(),
        datacenter: None,
        policy: defaults.clone(),
        traffic: TrafficRules::default(),
    };
    out.listen = r.get(s, "listen", address::listen_address);
    r.set(s, "protocol", &mut out.protocol, one_of(&Protocol::ALL, Protocol::as_str));
    out.tls = read_tls(r, s, &out.service, domain);
    protocol::read_tcp(r, s, &mut out.tcp);
    r.set_list(s, "hosts", &mut out.hosts, names::public_host);
    if out.listen.is_none() && !out.hosts.is_empty() {
        let at = r.origins.get(&s.key("hosts")).clone();
        r.warn(at, &s.key("hosts"), "is not used: the upstream has no listener of its own", "set listen too");
    }
    r.set_list(s, "tags", &mut out.tags, names::tag);
    out.datacenter = r.get(s, "datacenter", names::datacenter);
    out.policy = read_policy(r, s, defaults);
    out.policy.protocol = out.protocol;
    out
}

/// Consul ignores the case of names and tags, and the order of tags does not matter.
fn is_same(a: &Upstream, b: &Upstream) -> bool {
    let tags = |upstream: &Upstream| {
        let mut tags: Vec<_> = upstream.tags.iter().map(|tag| tag.to_lowercase()).collect();
        tags.sort();
        tags.dedup();
        tags
    };
    a.service.eq_ignore_ascii_case(&b.service) && a.datacenter == b.datacenter && tags(a) == tags(b)
}

/// A declared service is named by its Host, so its name means neither the sidecar itself nor, in full, another service.
pub(super) fn check_names(r: &mut Reader<'_>, config: &Config) {
    let own = config.services.iter().enumerate();
    let own = own.map(|(n, service)| (format!("{}.name", config.service_key(n)), &service.name));
    let declared = config.upstreams.iter().enumerate();
    let declared = declared.map(|(n, upstream)| (format!("upstreams[{n}].service"), &upstream.service));
    let domain = format!(".{}", config.registry.domain());
    for (key, name) in own.chain(declared) {
        let lower = name.to_ascii_lowercase();
        let labels: Vec<_> = lower.strip_suffix(&domain).unwrap_or_default().split('.').collect();
        let service = labels.windows(2).rev().find(|two| two[1] == "service").map(|two| two[0]);
        if let Some(service) = service {
            let what = format!("{name:?} is the name of a service in full, as in a Host");
            r.report_set(&key, what, format!("write {service}; tags and datacenter are keys of their own"));
        } else if key.starts_with("upstreams[") && config.outbound.names.contains(&lower) {
            let what = format!("{name:?} is in outbound.names, as a name of this sidecar");
            r.report_set(&key, what, "remove one of them");
        }
    }
}

/// Declared services are always watched, so `max_services` must not be below their number.
pub(super) fn check_count(r: &mut Reader<'_>, root: &Section<'_>, config: &Config) {
    let (declared, most) = (config.upstreams.len(), config.discovery.max_services);
    if declared > most
        && let Some(node) = root.node("upstreams")
    {
        let wrong = InvalidValue::new(
            format!("{declared} services are declared, above discovery.max_services ({most})"),
            "raise discovery.max_services",
        );
        r.report(&r.origin_at(node.at), "upstreams", wrong);
    }
}
