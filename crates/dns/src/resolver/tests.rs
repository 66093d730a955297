use std::{net::SocketAddr, time::Duration};

use hickory_proto::{
    op::{Edns, Message, OpCode},
    rr::{DNSClass, RData},
};
use outrigger_config::{Config, DnsAnswer};
use outrigger_registry::{
    HealthStatus,
    testing::{Listed, ScriptedRegistry, instance},
};
use tokio::{runtime::Handle, time::Instant};

use super::*;
use crate::question::tests::asked;

/// A resolver on a registry that lists the same instances for each service, and is silent before the first.
pub(crate) fn resolver(config: &Config) -> (Arc<Resolver>, Listed) {
    let (registry, listed) = ScriptedRegistry::listing();
    let metrics = prometheus::Registry::new();
    let discovery = Discovery::new(registry, config.discovery, Handle::current(), &metrics).unwrap();
    let outbound: Vec<SocketAddr> = vec!["127.0.0.1:7070".parse().unwrap()];
    let settings = DnsSettings::new(config, &outbound);
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    (Arc::new(Resolver::new(settings, discovery, metrics)), listed)
}

async fn answer_to(resolver: &Resolver, bytes: &[u8]) -> Option<Message> {
    let bytes = match resolver.step(bytes, Transport::Udp) {
        Step::Nothing => return None,
        Step::Send(bytes) => bytes,
        Step::Later(pending) => resolver.finish(*pending).await,
    };
    Some(Message::from_vec(&bytes).unwrap())
}

async fn code(resolver: &Resolver, name: &str, record_type: RecordType) -> ResponseCode {
    let message = answer_to(resolver, &asked(name, record_type)).await.unwrap();
    assert_eq!(message.metadata.id, 7);
    message.metadata.response_code
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_name_has_its_code() {
    let (resolver, listed) = resolver(&Config::default());
    listed.set([instance("n", "a", HealthStatus::Passing)]);
    for (name, record_type, expected) in [
        ("orders.service.consul.", RecordType::A, ResponseCode::NoError),
        ("ORDERS.service.CONSUL.", RecordType::A, ResponseCode::NoError),
        ("v2.orders.service.consul.", RecordType::A, ResponseCode::NXDomain),
        ("orders.service.dc2.consul.", RecordType::A, ResponseCode::NoError),
        ("consul.", RecordType::SOA, ResponseCode::NoError),
        ("service.consul.", RecordType::A, ResponseCode::NoError),
        ("orders.consul.", RecordType::A, ResponseCode::NXDomain),
        ("0a000001.addr.dc1.consul.", RecordType::A, ResponseCode::NoError),
        // In forms that Consul answers, and of other domains.
        ("n.node.consul.", RecordType::A, ResponseCode::Refused),
        ("near.query.consul.", RecordType::A, ResponseCode::Refused),
        ("orders.connect.consul.", RecordType::A, ResponseCode::Refused),
        ("example.com.", RecordType::A, ResponseCode::Refused),
        ("orders.", RecordType::A, ResponseCode::Refused),
        (".", RecordType::NS, ResponseCode::Refused),
        ("orders.service.consul.", RecordType::AXFR, ResponseCode::Refused),
    ] {
        assert_eq!(code(&resolver, name, record_type).await, expected, "{name} {record_type}");
    }
}

#[test]
fn a_name_is_asked_for_as_requests_to_the_service_are() {
    let text = "defaults: {address: lan}\n\
                upstreams: [{service: Orders, address: wan}, {service: orders, datacenter: dc2, address: auto}, {service: stock}]";
    let none = (outrigger_config::Environment::default(), outrigger_config::Overrides::default());
    let config = outrigger_config::load(Some(("o.yaml", text)), &none.0, &none.1).unwrap().config;
    let settings = DnsSettings::new(&config, &[]);
    for (name, expected) in [
        ("orders.service", "orders (wan)"),
        ("v2.orders.service", "orders (wan)"),
        ("orders.service.dc2", "orders@dc2"),
        ("orders.service.dc3", "orders@dc3 (wan)"),
        ("stock.service", "stock (lan)"),
        ("other.service", "other (lan)"),
    ] {
        let DnsForm::Service { name: asked, .. } = parse_dns_name(name, |_| false) else { panic!("{name}") };
        assert_eq!(settings.query_of(&asked).to_string(), expected, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_the_case_of_its_question() {
    let (resolver, listed) = resolver(&Config::default());
    listed.set([instance("n", "a", HealthStatus::Passing)]);
    let name = "oRdErS.SeRvIcE.cOnSuL.";
    let message = answer_to(&resolver, &asked(name, RecordType::A)).await.unwrap();
    assert_eq!(message.queries[0].name.to_ascii(), name);
    assert_eq!(message.answers[0].name.to_ascii(), name);
    let RData::A(a) = &message.answers[0].data else { panic!("{message:?}") };
    assert_eq!(a.0.to_string(), "127.0.0.1");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_not_known_while_the_registry_is_silent_fails_within_a_second() {
    let (resolver, listed) = resolver(&Config::default());
    let began = Instant::now();
    assert_eq!(code(&resolver, "orders.service.consul.", RecordType::A).await, ResponseCode::ServFail);
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    listed.set([]);
    assert_eq!(code(&resolver, "orders.service.consul.", RecordType::A).await, ResponseCode::NXDomain);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_version_or_class_is_not_answered_as_a_question() {
    let (resolver, listed) = resolver(&Config::default());
    listed.set([instance("n", "a", HealthStatus::Passing)]);
    let mut message = Message::from_vec(&asked("orders.service.consul.", RecordType::A)).unwrap();
    message.queries[0].query_class = DNSClass::CH;
    let answer = answer_to(&resolver, &message.to_vec().unwrap()).await.unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    message.queries[0].query_class = DNSClass::IN;
    let mut edns = Edns::new();
    edns.set_version(1);
    message.set_edns(edns);
    let answer = answer_to(&resolver, &message.to_vec().unwrap()).await.unwrap();
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    assert_eq!(answer.edns.unwrap().version(), 0);
    message.metadata.op_code = OpCode::Notify;
    let Step::Send(bytes) = resolver.step(&message.to_vec().unwrap(), Transport::Tcp) else { panic!() };
    assert_eq!(bytes[3] & 0xf, 4, "NOTIMP");
    assert!(answer_to(&resolver, b"short").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn many_instances_are_cut_by_udp_and_whole_by_tcp() {
    let mut config = Config::default();
    config.dns.answer = DnsAnswer::Instances;
    let (resolver, listed) = resolver(&config);
    let many: Vec<_> = (0..100_u8)
        .map(|n| {
            let mut one = instance("n", &n.to_string(), HealthStatus::Passing);
            one.addr = Ok(([10, 0, 0, n], 80).into());
            one
        })
        .collect();
    listed.set(many);
    let question = asked("orders.service.consul.", RecordType::A);
    let cut = answer_to(&resolver, &question).await.unwrap();
    assert!(cut.metadata.truncation && cut.answers.len() < 30);
    let Step::Send(whole) = resolver.step(&question, Transport::Tcp) else { panic!() };
    let whole = Message::from_vec(&whole).unwrap();
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 100);
    let srv = asked("orders.service.consul.", RecordType::SRV);
    let Step::Send(srv) = resolver.step(&srv, Transport::Tcp) else { panic!() };
    let srv = Message::from_vec(&srv).unwrap();
    assert_eq!((srv.answers.len(), srv.additionals.len()), (100, 100));
}
