//! Bodies that a real Consul 1.8.7 sent, and their meaning.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{CheckFacts, HealthStatus, Instance, LastResort, Unusable};

const THREE: &str = include_str!("../testdata/three_instances.json");
const THREE_PRETTY: &str = include_str!("../testdata/three_instances_pretty.json");
const SERVICE_MAINTENANCE: &str = include_str!("../testdata/service_maintenance.json");
const NODE_MAINTENANCE: &str = include_str!("../testdata/node_maintenance.json");
const ESCAPES: &str = include_str!("../testdata/escapes.json");
const EXTERNAL_NODE: &str = include_str!("../testdata/external_node.json");
const ALL_FIELDS: &str = include_str!("../testdata/all_fields.json");

async fn parse_instances(body: &str) -> Vec<Instance> {
    instances_at(body, false).await
}

async fn instances_at(body: &str, wan: bool) -> Vec<Instance> {
    let listed = wire::parse_health_service(body.as_bytes()).unwrap();
    Resolver::new().resolve(listed.into_iter().map(|one| one.at(wan)).collect()).await
}

async fn parse_instance(body: &str) -> Instance {
    let mut all = parse_instances(body).await;
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// An entry with these fields of the service and these checks, as `id=status`.
async fn instance_with(service: &str, checks: &[(&str, &str)]) -> Instance {
    let checks: Vec<_> =
        checks.iter().map(|(id, status)| format!(r#"{{"CheckID":"{id}","Status":"{status}"}}"#)).collect();
    let node = r#"{"Node":"n","Address":"10.0.0.1","Datacenter":"dc1"}"#;
    parse_instance(&format!(
        r#"[{{"Node":{node},"Service":{{"ID":"a"{service}}},"Checks":[{}]}}]"#,
        checks.join(",")
    ))
    .await
}

#[tokio::test]
async fn an_instance_drains_when_each_of_its_critical_checks_says_so() {
    let own = "outrigger: draining";
    for (checks, draining) in [
        (vec![("a", "critical", own)], true),
        (vec![("a", "critical", "draining")], true),
        (
            vec![("a", "critical", "HTTP GET http://x/health: 503 Output: {\\\"state\\\":\\\"draining\\\"}")],
            true,
        ),
        (vec![("a", "critical", own), ("b", "warning", ""), ("c", "passing", "")], true),
        (vec![("a", "critical", own), ("b", "critical", "disk full")], false),
        (vec![("a", "critical", own), ("serfHealth", "critical", "Agent not live or unreachable")], false),
        (vec![("a", "critical", own), ("_service_maintenance:a", "critical", own)], false),
        (
            vec![("a", "critical", "TTL expired (last output before timeout follows): outrigger: draining")],
            false,
        ),
        // The reason of a sidecar holds words of others.
        (vec![("a", "critical", "outrigger: reported by the sidecar: GET /draining answered 503")], false),
        (vec![("a", "critical", "undraining")], false),
        (vec![("a", "critical", "not-draining")], false),
        (vec![("a", "critical", "")], false),
        (vec![("a", "warning", own)], false),
        (vec![("a", "passing", own)], false),
        (vec![], false),
    ] {
        let body: Vec<_> = checks
            .iter()
            .map(|(id, status, output)| {
                format!(r#"{{"CheckID":"{id}","Status":"{status}","Output":"{output}"}}"#)
            })
            .collect();
        let node = r#"{"Node":"n","Address":"10.0.0.1","Datacenter":"dc1"}"#;
        let body =
            format!(r#"[{{"Node":{node},"Service":{{"ID":"a","Port":80}},"Checks":[{}]}}]"#, body.join(","));
        let instance = parse_instance(&body).await;
        assert_eq!(instance.draining, draining, "{checks:?}");
        assert_eq!(instance.last_resort(), draining.then_some((LastResort::Draining, 1)), "{checks:?}");
        assert!(!draining || instance.weight() == 0, "{checks:?}");
    }
}

#[tokio::test]
async fn three_instances_are_read_with_address_status_and_incarnation() {
    let three = parse_instances(THREE).await;
    let seen: Vec<_> = three
        .iter()
        .map(|i| (i.id.to_string(), i.addr.as_ref().unwrap().to_string(), i.status, i.create_index))
        .collect();
    let expected = [
        ("dc1/prod1/api-1", "127.0.0.2:1", HealthStatus::Passing, 175),
        ("dc1/prod1/api-2", "127.0.0.1:2", HealthStatus::Critical, 176),
        ("dc1/prod1/api-3", "127.0.0.1:3", HealthStatus::Warning, 177),
    ]
    .map(|(id, addr, status, life)| (id.to_owned(), addr.to_owned(), status, life));
    assert_eq!(seen, expected);
    assert!(three[0].has_tags(&["V1", "eu"]));
    assert_eq!(three[0].meta["ver"], "1");
    assert!(three[2].tags.is_empty() && three[2].meta.is_empty());
}

#[tokio::test]
async fn what_filters_select_is_read() {
    let facts = parse_instance(ALL_FIELDS).await.facts;
    assert_eq!((&*facts.service, &*facts.address, facts.port), ("full", "127.0.0.9", 8000));
    assert_eq!(&*facts.node.address, "127.0.0.1");
    assert_eq!(facts.node.meta["consul-network-segment"], "");
    let check = |id: &str, name: &str, kind: &str, is_of_service| CheckFacts {
        id: id.into(),
        name: name.into(),
        status: "passing".into(),
        kind: kind.into(),
        is_of_service,
    };
    let checks: Vec<_> = facts.checks.iter().map(|check| (**check).clone()).collect();
    let expected = [
        check("serfHealth", "Serf Health Status", "", false),
        check("service:full-1", "Service 'full' check", "ttl", true),
    ];
    assert_eq!(checks, expected);
}

/// As `CheckServiceNode.BestAddress` of Consul, by which its own proxies choose.
#[tokio::test]
async fn the_address_for_other_networks_is_that_of_the_service_or_of_its_node() {
    for (node, service, lan, wan) in [
        ("", "", "10.0.0.1:80", "10.0.0.1:80"),
        (r#""wan":"1.0.0.1""#, "", "10.0.0.1:80", "1.0.0.1:80"),
        (r#""wan":"1.0.0.1""#, r#""Address":"10.0.0.2""#, "10.0.0.2:80", "10.0.0.2:80"),
        (
            r#""wan":"1.0.0.1""#,
            r#""Address":"10.0.0.2","TaggedAddresses":{"lan":{"Address":"10.0.0.3","Port":81},"wan":{"Address":"1.0.0.2","Port":8080}}"#,
            "10.0.0.2:80",
            "1.0.0.2:8080",
        ),
        ("", r#""TaggedAddresses":{"wan":{"Address":"1.0.0.2","Port":0}}"#, "10.0.0.1:80", "1.0.0.2:80"),
        ("", r#""TaggedAddresses":{"wan":{"Address":"1.0.0.2"}}"#, "10.0.0.1:80", "1.0.0.2:80"),
        (
            r#""wan":"1.0.0.1""#,
            r#""TaggedAddresses":{"wan":{"Address":"","Port":8080}}"#,
            "10.0.0.1:80",
            "1.0.0.1:8080",
        ),
        (r#""wan":null,"lan":null"#, r#""TaggedAddresses":null"#, "10.0.0.1:80", "10.0.0.1:80"),
    ] {
        let comma = if service.is_empty() { "" } else { "," };
        let body = format!(
            r#"[{{"Node":{{"Node":"n","Address":"10.0.0.1","Datacenter":"dc1","TaggedAddresses":{{{node}}}}},
                "Service":{{"ID":"a","Port":80{comma}{service}}},"Checks":[]}}]"#
        );
        for (is_wan, expected) in [(false, lan), (true, wan)] {
            let listed = instances_at(&body, is_wan).await;
            assert_eq!(listed[0].addr.as_ref().unwrap().to_string(), expected, "{is_wan}: {body}");
        }
        let has_two = wire::parse_health_service(body.as_bytes()).unwrap()[0].wan.is_some();
        assert_eq!(has_two, lan != wan, "{body}");
    }
    let [lan, wan] = [instances_at(ALL_FIELDS, false).await, instances_at(ALL_FIELDS, true).await];
    let text = |listed: &[Instance]| listed[0].addr.as_ref().unwrap().to_string();
    assert_eq!((text(&lan), text(&wan)), ("127.0.0.9:8000".to_owned(), "127.0.0.11:2000".to_owned()));
    assert_eq!(lan[0].facts, wan[0].facts, "filters select by what is listed");
}

#[tokio::test]
async fn instances_of_one_answer_share_what_is_equal() {
    let three = parse_instances(THREE).await;
    let [first, second, third] = three.as_slice() else { panic!("three") };
    assert!(Arc::ptr_eq(&first.facts.node, &second.facts.node));
    assert!(Arc::ptr_eq(&first.facts.service, &third.facts.service));
    assert!(Arc::ptr_eq(&first.facts.checks[0], &third.facts.checks[0]), "serfHealth");
}

#[tokio::test]
async fn the_output_of_a_check_is_no_part_of_an_instance() {
    let another = ALL_FIELDS.replace("Agent alive and reachable", "another");
    assert_ne!(another, ALL_FIELDS);
    assert_eq!(parse_instances(&another).await, parse_instances(ALL_FIELDS).await);
    let warning = ALL_FIELDS.replacen("\"passing\"", "\"warning\"", 1);
    assert_ne!(parse_instances(&warning).await, parse_instances(ALL_FIELDS).await);
}

#[tokio::test]
async fn a_pretty_printed_body_reads_the_same() {
    let named =
        |all: Vec<Instance>| -> Vec<_> { all.into_iter().map(|i| (i.id.id, i.addr, i.status)).collect() };
    assert_eq!(named(parse_instances(THREE_PRETTY).await), named(parse_instances(THREE).await));
}

#[tokio::test]
async fn maintenance_of_a_service_or_its_node_shows() {
    assert_eq!(parse_instance(SERVICE_MAINTENANCE).await.status, HealthStatus::Maintenance);
    assert_eq!(parse_instance(NODE_MAINTENANCE).await.status, HealthStatus::Maintenance);
}

#[tokio::test]
async fn weights_and_metadata_are_read() {
    let instance = parse_instance(ALL_FIELDS).await;
    assert_eq!(instance.weights, config::Weights { passing: 10, warning: 1 });
    assert_eq!(instance.addr, Ok("127.0.0.9:8000".parse().unwrap()), "not a tagged address");
    assert_eq!(instance.meta["empty"], "");
}

#[tokio::test]
async fn escapes_and_unicode_are_decoded() {
    let instance = parse_instance(ESCAPES).await;
    let tags: Vec<&str> = instance.tags.iter().map(AsRef::as_ref).collect();
    assert_eq!(tags, ["z", "a", "<b>&'\"\\/"]);
    assert_eq!(instance.meta["a"], "ü\u{2028}\u{2029}\u{1}\t\n\u{7f}");
    assert_eq!(instance.addr, Err(Unusable::Port(0)));
}

#[tokio::test]
async fn a_node_without_an_agent_is_read() {
    let instance = parse_instance(EXTERNAL_NODE).await;
    assert_eq!((instance.id.to_string().as_str(), instance.status), ("dc1/ext1/es-1", HealthStatus::Passing));
    assert_eq!(instance.addr, Ok("127.0.0.50:77".parse().unwrap()));
}

#[tokio::test]
async fn the_worst_check_counts_the_node_s_too() {
    for (checks, status) in [
        (&[][..], HealthStatus::Passing),
        (&[("serfHealth", "passing"), ("service:a", "passing")], HealthStatus::Passing),
        (&[("serfHealth", "critical"), ("service:a", "passing")], HealthStatus::Critical),
        (&[("serfHealth", "passing"), ("service:a", "warning"), ("b", "passing")], HealthStatus::Warning),
        (&[("service:a", "warning"), ("b", "critical")], HealthStatus::Critical),
        (&[("service:a", "something new")], HealthStatus::Critical),
        (&[("service:a", "")], HealthStatus::Critical),
        (&[("_node_maintenance", "critical"), ("b", "critical")], HealthStatus::Maintenance),
        (&[("_service_maintenance:a", "critical")], HealthStatus::Maintenance),
    ] {
        assert_eq!(instance_with("", checks).await.status, status, "{checks:?}");
    }
}

#[tokio::test]
async fn a_lost_node_differs_from_an_unhealthy_service() {
    for (checks, lost) in [
        (&[][..], false),
        (&[("serfHealth", "passing"), ("service:a", "critical")], false),
        (&[("serfHealth", "critical"), ("service:a", "passing")], true),
        (&[("serfHealth", "critical"), ("service:a", "warning")], true),
        (&[("serfHealth", "critical")], true),
        (&[("serfHealth", "critical"), ("service:a", "critical")], false),
        (&[("serfHealth", "critical"), ("_service_maintenance:a", "critical")], false),
        (&[("serfHealth", "critical"), ("_node_maintenance", "critical")], false),
        // An operator's check of the node.
        (&[("serfHealth", "critical"), ("disk", "critical")], false),
        (&[("serfHealth", "critical"), ("disk", "warning"), ("service:a", "passing")], true),
        (&[("disk", "critical"), ("service:a", "passing")], false),
    ] {
        let instance = instance_with(r#","Port":80"#, checks).await;
        assert_eq!(instance.node_lost, lost, "{checks:?}");
        assert_eq!(instance.last_resort(), lost.then_some((LastResort::NodeLost, 1)), "{checks:?}");
        assert!(!lost || instance.weight() == 0, "{checks:?}");
        assert_eq!(instance_with("", checks).await.last_resort(), None, "no address: {checks:?}");
        let weights = r#","Port":80,"Weights":{"Passing":7,"Warning":0}"#;
        let is_warning = checks.iter().any(|(_, status)| *status == "warning");
        let expected = (lost && !is_warning).then_some((LastResort::NodeLost, 7));
        assert_eq!(
            instance_with(weights, checks).await.last_resort(),
            expected,
            "no traffic while warning: {checks:?}"
        );
    }
}

#[tokio::test]
async fn instances_with_impossible_ports_or_addresses_are_listed_and_unusable() {
    for (service, addr) in [
        (r#","Port":70000"#, Err(Unusable::Port(70_000))),
        (r#","Port":-1"#, Err(Unusable::Port(-1))),
        (r#","Port":0"#, Err(Unusable::Port(0))),
        ("", Err(Unusable::Port(0))),
        (r#","Port":65535"#, Ok("10.0.0.1:65535".parse().unwrap())),
        (r#","Port":1,"Address":null"#, Ok("10.0.0.1:1".parse().unwrap())),
        (r#","Port":1,"Address":"fd00::1""#, Ok("[fd00::1]:1".parse().unwrap())),
        (r#","Port":1,"Address":"[fd00::1]""#, Ok("[fd00::1]:1".parse().unwrap())),
        (r#","Port":1,"Address":"::ffff:127.0.0.1""#, Ok("127.0.0.1:1".parse().unwrap())),
        (r#","Port":1,"Address":"[::ffff:127.0.0.1]""#, Ok("127.0.0.1:1".parse().unwrap())),
        (r#","Port":1,"Address":"fe80::1%lo""#, Ok("[fe80::1%1]:1".parse().unwrap())),
        (r#","Port":1,"Address":"::ffff:0.0.0.0""#, Err(Unusable::NoAddress)),
        (r#","Port":1,"Address":"[::]""#, Err(Unusable::NoAddress)),
        (r#","Port":1,"Address":"0.0.0.0""#, Err(Unusable::NoAddress)),
        (r#","Port":1,"Address":"::""#, Err(Unusable::NoAddress)),
    ] {
        let instance = instance_with(service, &[]).await;
        assert_eq!(instance.addr, addr, "{service}");
        assert_eq!(instance.weight() > 0, addr.is_ok());
    }
    let body = r#"[{"Node":{"Node":"n","Address":""},"Service":{"ID":"a","Port":1}}]"#;
    assert_eq!(parse_instance(body).await.addr, Err(Unusable::NoAddress));
}

#[tokio::test]
async fn a_link_local_address_without_a_zone_of_this_machine_is_unusable_with_a_reason() {
    for (address, words) in [
        ("fe80::1", "needs a zone"),
        ("[fe80::1]", "needs a zone"),
        ("fe80::1%nosuch0", "no network interface \"nosuch0\""),
    ] {
        let instance = instance_with(&format!(r#","Port":80,"Address":"{address}""#), &[]).await;
        let reason = instance.addr.unwrap_err().to_string();
        assert!(reason.contains(address) && reason.contains(words), "{reason}");
    }
}

#[tokio::test]
async fn a_host_name_is_resolved_to_ipv4_first() {
    let instance = instance_with(r#","Port":80,"Address":"localhost""#, &[]).await;
    assert_eq!(instance.addr, Ok("127.0.0.1:80".parse().unwrap()));
}

#[tokio::test]
async fn a_host_name_that_does_not_resolve_is_unusable_with_a_reason() {
    // Every resolver refuses a label of 64 characters without a query.
    let host = "x".repeat(64);
    let instance = instance_with(&format!(r#","Port":80,"Address":"{host}""#), &[]).await;
    let Err(Unusable::Unresolved { host: named, reason }) = instance.addr else { panic!("{instance:?}") };
    assert_eq!(named, Arc::from(host));
    assert!(!reason.is_empty());
}

#[tokio::test]
async fn null_and_absent_fields_are_empty_ones() {
    let nulls =
        r#","Tags":null,"Meta":null,"Weights":null,"Port":null,"CreateIndex":null,"TaggedAddresses":null"#;
    assert_eq!(instance_with(nulls, &[]).await, instance_with("", &[]).await);
    assert_eq!(instance_with("", &[]).await.weights, config::Weights { passing: 1, warning: 1 });
    let without_checks = r#"[{"Node":{"Node":"n"},"Service":{"ID":"a"},"Checks":null}]"#;
    assert_eq!(parse_instance(without_checks).await.status, HealthStatus::Passing);
}

#[tokio::test]
async fn only_an_empty_list_means_no_instances() {
    assert_eq!(parse_instances("[]").await, []);
    for body in ["null", "{}", "", "\"\"", "0", "false", "[null]", "[{}]"] {
        assert!(wire::parse_health_service(body.as_bytes()).is_err(), "{body}");
    }
}

#[tokio::test]
async fn weights_out_of_range_are_clamped() {
    for (weights, passing, warning) in [
        (r#"{"Passing":5}"#, 5, 1),
        (r#"{"Passing":0,"Warning":0}"#, 1, 0),
        (r#"{"Passing":99999,"Warning":-3}"#, 65535, 0),
    ] {
        let instance = instance_with(&format!(r#","Weights":{weights}"#), &[]).await;
        assert_eq!(instance.weights, config::Weights { passing, warning }, "{weights}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(body: Vec<u8>) {
        let _ = wire::parse_health_service(&body);
        let _ = wire::parse_agent_service(&body);
        let _ = wire::parse_agent_services(&body);
    }

    #[test]
    fn no_damage_to_a_good_body_panics(at in 0..THREE.len(), with: u8, cut in 0..THREE.len()) {
        let mut body = THREE.as_bytes().to_vec();
        body[at] = with;
        let _ = wire::parse_health_service(&body);
        body.truncate(cut);
        prop_assert!(wire::parse_health_service(&body).is_err(), "a cut list is no list");
    }

    #[test]
    fn any_port_is_an_address_or_a_reason(port: i64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let instance = runtime.block_on(instance_with(&format!(r#","Port":{port}"#), &[]));
        match u16::try_from(port) {
            Ok(1..) => prop_assert_eq!(instance.addr.unwrap().port(), u16::try_from(port).unwrap()),
            _ => prop_assert_eq!(instance.addr, Err(Unusable::Port(port))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_client_ends_on_any_bytes_of_an_agent(bytes: Vec<u8>, head: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut sent = if head { b"HTTP/1.1 200 OK\r\n\r\n".to_vec() } else { Vec::new() };
            sent.extend(bytes);
            let agent = ScriptedAgent::start(move |_, _| scripted_agent::AgentAction::SendAndClose(sent.clone())).await;
            let consul = client(&agent);
            let ended = tokio::time::timeout(LONG, watch(&consul, 0)).await;
            assert!(ended.is_ok(), "hangs");
        });
    }
}
