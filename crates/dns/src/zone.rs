//! What a name of the domain stands for → records. Pure.
//!
//! A service exists while the registry lists an instance of it, with the tag where the name has one. With `instances` it exists while an
//! instance is usable, as in Consul. A record type that a name lacks is an empty answer and not an unknown name, because
//! a resolver that asks for A and AAAA would take the second one for both.

use std::net::IpAddr;

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, HINFO, SRV},
    },
};
use outrigger_config::DnsAnswer;
use outrigger_discovery::Snapshot;
use outrigger_registry::{
    Instance,
    name::{ServiceName, address_name},
};

use crate::{
    question::Question,
    reply::{Reply, soa},
    settings::{DnsSettings, OutboundPlace},
};

/// Seconds for which a client may keep the address of the outbound listener: a reload may move it.
const LOOPBACK_TTL: u32 = 5;
/// An instance may be gone at any time.
const INSTANCES_TTL: u32 = 0;
/// Most instances in one answer, so that it is no longer than a message may be.
const MAX_INSTANCES: usize = 500;

/// The answer about the domain itself.
pub(crate) fn apex_reply(settings: &DnsSettings, question: &Question) -> Reply {
    match question.query.query_type {
        RecordType::SOA => Reply::records(vec![soa(&settings.zone)]),
        RecordType::ANY => minimal_any(question, LOOPBACK_TTL),
        _ => no_data(settings),
    }
}

/// The answer about a name that exists and has no record of that type.
pub(crate) fn no_data(settings: &DnsSettings) -> Reply {
    Reply::negative(ResponseCode::NoError, &settings.zone)
}

/// The answer about a name that does not exist.
pub(crate) fn no_name(settings: &DnsSettings) -> Reply {
    Reply::negative(ResponseCode::NXDomain, &settings.zone)
}

/// The answer about the name of an address.
pub(crate) fn address_reply(settings: &DnsSettings, question: &Question, ip: IpAddr) -> Reply {
    let owner = &question.query.name;
    match question.query.query_type {
        RecordType::ANY => minimal_any(question, LOOPBACK_TTL),
        wanted => {
            let records = addresses(owner, [ip], wanted, LOOPBACK_TTL);
            if records.is_empty() { no_data(settings) } else { Reply::records(records) }
        }
    }
}

/// The answer about a service of which the registry lists `snapshot`. `is_srv`: the name has the form of RFC 2782.
pub(crate) fn service_reply(
    settings: &DnsSettings,
    question: &Question,
    name: &ServiceName<'_>,
    is_srv: bool,
    snapshot: &Snapshot,
) -> Reply {
    let tags: Vec<_> = name.tag.iter().collect();
    let listed: Vec<_> = snapshot.instances.iter().filter(|one| one.has_tags(&tags)).collect();
    let reply = match settings.answer {
        DnsAnswer::Loopback if listed.is_empty() => None,
        DnsAnswer::Loopback => Some(loopback_reply(settings, question, name, is_srv)),
        DnsAnswer::Instances => match usable(listed) {
            usable if usable.is_empty() => None,
            usable => Some(instances_reply(settings, question, &usable)),
        },
    };
    match reply {
        Some(reply) if reply.answers.is_empty() => no_data(settings),
        Some(reply) => reply,
        // `_tcp.service` is on the way to `_orders._tcp.service`, which a resolver may ask for label by label (RFC 9156).
        None if name.service.starts_with('_') && name.tag.is_none() => no_data(settings),
        None => no_name(settings),
    }
}

fn loopback_reply(
    settings: &DnsSettings,
    question: &Question,
    name: &ServiceName<'_>,
    is_srv: bool,
) -> Reply {
    let (owner, OutboundPlace { ips, port }) = (&question.query.name, &settings.outbound);
    let found = |owner, wanted| addresses(owner, ips.iter().copied(), wanted, LOOPBACK_TTL);
    match question.query.query_type {
        RecordType::ANY => minimal_any(question, LOOPBACK_TTL),
        RecordType::SRV => {
            let target = if is_srv { plain_name(settings, name) } else { owner.clone() };
            let additionals = [RecordType::A, RecordType::AAAA].map(|wanted| found(&target, wanted)).concat();
            let srv = RData::SRV(SRV::new(1, 1, *port, target));
            let answers = vec![Record::from_rdata(owner.clone(), LOOPBACK_TTL, srv)];
            Reply { additionals, ..Reply::records(answers) }
        }
        wanted => Reply::records(found(owner, wanted)),
    }
}

fn instances_reply(settings: &DnsSettings, question: &Question, usable: &[Usable<'_>]) -> Reply {
    let owner = &question.query.name;
    match question.query.query_type {
        RecordType::ANY => minimal_any(question, INSTANCES_TTL),
        RecordType::SRV => {
            let (mut reply, mut ips) = (Reply::records(Vec::new()), Vec::new());
            for Usable { instance, ip, port, weight } in usable.iter().take(MAX_INSTANCES) {
                let target = name_of(&address_name(*ip, &instance.id.datacenter, &settings.domain));
                let srv = RData::SRV(SRV::new(1, *weight, *port, target.clone()));
                reply.answers.push(Record::from_rdata(owner.clone(), INSTANCES_TTL, srv));
                if !ips.contains(ip) {
                    ips.push(*ip);
                    reply.additionals.push(address(&target, *ip, INSTANCES_TTL));
                }
            }
            reply
        }
        wanted => {
            // Several instances may be on one host.
            let mut ips: Vec<_> = Vec::new();
            for Usable { ip, .. } in usable {
                if !ips.contains(ip) && is_of_type(*ip, wanted) && ips.len() < MAX_INSTANCES {
                    ips.push(*ip);
                }
            }
            Reply::records(addresses(owner, ips, wanted, INSTANCES_TTL))
        }
    }
}

/// An instance that can be called.
struct Usable<'a> {
    instance: &'a Instance,
    ip: IpAddr,
    port: u16,
    weight: u16,
}

/// Those that can be called, in a random order; where none has a share of traffic, those that may be used as the last resort.
fn usable(listed: Vec<&Instance>) -> Vec<Usable<'_>> {
    let with = |share: &dyn Fn(&Instance) -> u32| -> Vec<Usable<'_>> {
        let all = listed.iter().filter_map(|instance| {
            let (addr, weight) = (instance.addr.as_ref().ok()?, share(instance));
            let weight = u16::try_from(weight).unwrap_or(u16::MAX);
            (weight > 0).then(|| Usable { instance, ip: addr.ip(), port: addr.port(), weight })
        });
        all.collect()
    };
    let mut found = with(&Instance::weight);
    if found.is_empty() {
        let kinds = listed.iter().filter_map(|one| one.last_resort());
        if let Some(first) = kinds.map(|(kind, _)| kind).min() {
            found = with(&|one| match one.last_resort() {
                Some((kind, share)) if kind == first => share,
                _ => 0,
            });
        }
    }
    fastrand::shuffle(&mut found);
    found
}

/// One record in place of all of them (RFC 8482 §4.2).
fn minimal_any(question: &Question, ttl: u32) -> Reply {
    let hinfo = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
    Reply::records(vec![Record::from_rdata(question.query.name.clone(), ttl, hinfo)])
}

fn is_of_type(ip: IpAddr, wanted: RecordType) -> bool {
    matches!((ip, wanted), (IpAddr::V4(_), RecordType::A) | (IpAddr::V6(_), RecordType::AAAA))
}

fn address(owner: &Name, ip: IpAddr, ttl: u32) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(owner.clone(), ttl, data)
}

fn addresses(
    owner: &Name,
    ips: impl IntoIterator<Item = IpAddr>,
    wanted: RecordType,
    ttl: u32,
) -> Vec<Record> {
    ips.into_iter().filter(|ip| is_of_type(*ip, wanted)).map(|ip| address(owner, ip, ttl)).collect()
}

/// The long form of a service's name.
fn plain_name(settings: &DnsSettings, name: &ServiceName<'_>) -> Name {
    let ServiceName { service, tag, datacenter } = name;
    let tag = tag.as_ref().map(|tag| format!("{tag}.")).unwrap_or_default();
    let datacenter = datacenter.as_ref().map(|name| format!(".{name}")).unwrap_or_default();
    name_of(&format!("{tag}{service}.service{datacenter}.{}", settings.domain))
}

/// The name of these labels; the root where one of them does not fit.
fn name_of(text: &str) -> Name {
    Name::from_labels(text.split('.').map(str::as_bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
