use std::{collections::BTreeSet, sync::Arc};

use outrigger_config::{Config, DnsAnswer};
use outrigger_registry::{HealthStatus, testing::instance};

use super::*;
use crate::question::tests::asked;

fn settings(answer: DnsAnswer) -> DnsSettings {
    let mut config = Config::default();
    config.dns.answer = answer;
    DnsSettings::new(&config, &["127.0.0.1:7070".parse().unwrap(), "[::1]:7070".parse().unwrap()])
}

fn question(name: &str, record_type: RecordType) -> Question {
    Question::read(&asked(name, record_type)).unwrap()
}

fn listed(id: &str, addr: &str, status: HealthStatus, tags: &[&str]) -> Instance {
    Instance {
        addr: Ok(addr.parse().unwrap()),
        tags: tags.iter().map(|tag| Arc::from(*tag)).collect(),
        ..instance("n", id, status)
    }
}

fn snapshot(instances: Vec<Instance>) -> Snapshot {
    Snapshot { instances: instances.into(), ..Snapshot::default() }
}

/// The service that a name of a question means, with its answer.
fn reply(settings: &DnsSettings, name: &str, record_type: RecordType, snapshot: &Snapshot) -> Reply {
    use outrigger_registry::name::{DnsForm, parse_dns_name};
    let question = question(name, record_type);
    let host = question.host.clone().unwrap();
    let inner = settings.below_domain(&host).unwrap();
    let DnsForm::Service { name, is_srv } = parse_dns_name(inner, |_| false) else { panic!("{name}") };
    service_reply(settings, &question, &name, is_srv, snapshot)
}

fn shown(records: &[Record]) -> BTreeSet<String> {
    records.iter().map(|one| format!("{} {} {}", one.name, one.ttl, one.data)).collect()
}

fn set<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.map(str::to_owned).into()
}

#[test]
fn loopback_is_where_the_outbound_listener_is() {
    let settings = settings(DnsAnswer::Loopback);
    let table = snapshot(vec![listed("a", "10.0.0.1:80", HealthStatus::Critical, &["v2"])]);
    let name = "Orders.service.consul.";
    for (record_type, expected) in [
        (RecordType::A, "Orders.service.consul. 5 127.0.0.1"),
        (RecordType::AAAA, "Orders.service.consul. 5 ::1"),
        (RecordType::SRV, "Orders.service.consul. 5 1 1 7070 Orders.service.consul."),
    ] {
        let reply = reply(&settings, name, record_type, &table);
        assert_eq!(shown(&reply.answers), set([expected]));
        assert!(reply.is_own && reply.code == ResponseCode::NoError);
    }
    let srv = reply(&settings, "_orders._v2.service.dc1.consul.", RecordType::SRV, &table);
    let target = "v2.orders.service.dc1.consul.";
    assert_eq!(shown(&srv.answers), set([&format!("_orders._v2.service.dc1.consul. 5 1 1 7070 {target}")]));
    assert_eq!(shown(&srv.additionals), set([&format!("{target} 5 127.0.0.1"), &format!("{target} 5 ::1")]));
}

#[test]
fn instances_are_the_usable_ones_of_the_tag() {
    let settings = settings(DnsAnswer::Instances);
    let mut unusable = listed("e", "10.0.0.5:80", HealthStatus::Passing, &["v2"]);
    unusable.addr = Err(outrigger_registry::Unusable::NoAddress);
    let table = snapshot(vec![
        listed("a", "10.0.0.1:80", HealthStatus::Passing, &["v2"]),
        listed("b", "10.0.0.1:81", HealthStatus::Warning, &["V2"]),
        listed("c", "10.0.0.3:80", HealthStatus::Critical, &["v2"]),
        listed("d", "10.0.0.4:80", HealthStatus::Passing, &[]),
        unusable,
        listed("f", "[2001:db8::1]:80", HealthStatus::Passing, &["v2"]),
    ]);
    let v2 = "v2.orders.service.consul.";
    let found = |record_type| reply(&settings, v2, record_type, &table);
    assert_eq!(shown(&found(RecordType::A).answers), set(["v2.orders.service.consul. 0 10.0.0.1"]));
    assert_eq!(shown(&found(RecordType::AAAA).answers), set(["v2.orders.service.consul. 0 2001:db8::1"]));
    let srv = found(RecordType::SRV);
    let long = "20010db8000000000000000000000001.addr.dc1.consul.";
    assert_eq!(
        shown(&srv.answers),
        set([
            "v2.orders.service.consul. 0 1 1 80 0a000001.addr.dc1.consul.",
            "v2.orders.service.consul. 0 1 1 81 0a000001.addr.dc1.consul.",
            &format!("v2.orders.service.consul. 0 1 1 80 {long}"),
        ])
    );
    assert_eq!(
        shown(&srv.additionals),
        set(["0a000001.addr.dc1.consul. 0 10.0.0.1", &format!("{long} 0 2001:db8::1")])
    );
}

#[test]
fn without_a_usable_instance_the_last_resort_is_answered() {
    let settings = settings(DnsAnswer::Instances);
    let mut draining = listed("a", "10.0.0.1:80", HealthStatus::Critical, &[]);
    draining.draining = true;
    let mut lost = listed("b", "10.0.0.2:80", HealthStatus::Critical, &[]);
    lost.node_lost = true;
    let ill = listed("c", "10.0.0.3:80", HealthStatus::Critical, &[]);
    let answers = |instances: Vec<Instance>| {
        let reply = reply(&settings, "orders.service.consul.", RecordType::A, &snapshot(instances));
        (reply.code, reply.answers.iter().map(|one| one.data.to_string()).collect::<Vec<_>>())
    };
    let no_error = |ip: &str| (ResponseCode::NoError, vec![ip.to_owned()]);
    assert_eq!(answers(vec![ill.clone(), lost.clone(), draining]), no_error("10.0.0.1"));
    assert_eq!(answers(vec![ill.clone(), lost]), no_error("10.0.0.2"));
    assert_eq!(answers(vec![ill]), (ResponseCode::NXDomain, vec![]));
}

#[test]
fn an_absent_name_and_an_absent_type_are_told_apart() {
    let table = snapshot(vec![listed("a", "10.0.0.1:80", HealthStatus::Passing, &["v2"])]);
    for answer in [DnsAnswer::Loopback, DnsAnswer::Instances] {
        let settings = settings(answer);
        for (name, record_type, table, code) in [
            ("orders.service.consul.", RecordType::MX, &table, ResponseCode::NoError),
            ("orders.service.consul.", RecordType::SOA, &table, ResponseCode::NoError),
            ("v3.orders.service.consul.", RecordType::A, &table, ResponseCode::NXDomain),
            ("_orders._udp.service.consul.", RecordType::SRV, &table, ResponseCode::NXDomain),
            ("orders.service.consul.", RecordType::A, &Snapshot::default(), ResponseCode::NXDomain),
            // On the way to `_orders._tcp.service.consul.`
            ("_tcp.service.consul.", RecordType::A, &Snapshot::default(), ResponseCode::NoError),
        ] {
            let reply = reply(&settings, name, record_type, table);
            assert_eq!(reply.code, code, "{name} {record_type}");
            assert!(reply.answers.is_empty() && reply.is_own);
            assert_eq!(shown(&reply.authorities).len(), 1, "{name} {record_type}");
        }
    }
    let reply = reply(&settings(DnsAnswer::Instances), "orders.service.consul.", RecordType::AAAA, &table);
    assert_eq!((reply.code, reply.authorities.len()), (ResponseCode::NoError, 1));
}

#[test]
fn any_is_answered_with_one_record() {
    let settings = settings(DnsAnswer::Loopback);
    let table = snapshot(vec![listed("a", "10.0.0.1:80", HealthStatus::Passing, &[])]);
    let found = reply(&settings, "orders.service.consul.", RecordType::ANY, &table);
    assert_eq!(found.answers.len(), 1);
    assert_eq!(found.answers[0].record_type(), RecordType::HINFO);
    let apex = apex_reply(&settings, &question("consul.", RecordType::ANY));
    assert_eq!(apex.answers[0].record_type(), RecordType::HINFO);
    let apex = apex_reply(&settings, &question("consul.", RecordType::SOA));
    assert_eq!(apex.answers[0].record_type(), RecordType::SOA);
}

#[test]
fn the_name_of_an_address_is_that_address() {
    let settings = settings(DnsAnswer::Instances);
    for (ip, record_type, answers) in [
        ("10.0.0.1", RecordType::A, 1),
        ("10.0.0.1", RecordType::AAAA, 0),
        ("2001:db8::1", RecordType::AAAA, 1),
        ("2001:db8::1", RecordType::SRV, 0),
    ] {
        let reply = address_reply(&settings, &question("x.consul.", record_type), ip.parse().unwrap());
        assert_eq!((reply.code, reply.answers.len()), (ResponseCode::NoError, answers), "{ip} {record_type}");
    }
}
