use std::{collections::BTreeMap, sync::Arc};

use outrigger_config::{Glob, SUBSET_FIELDS, SubsetFilter, Weights};
use outrigger_filter::{FieldType, FilterValue as _};

use super::*;
use crate::{CheckFacts, HealthStatus, InstanceFacts, NamedHost, NodeFacts, testing};

fn texts(pairs: &[(&str, &str)]) -> Arc<BTreeMap<String, String>> {
    Arc::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

fn instance() -> Instance {
    let check = |id: &str, status: &str, is_of_service| {
        Arc::new(CheckFacts {
            id: id.into(),
            name: format!("name of {id}").into(),
            status: status.into(),
            kind: "ttl".into(),
            is_of_service,
        })
    };
    Instance {
        tags: Arc::from(["v2".into(), "Blue".into()]),
        meta: texts(&[("version", "2.1.0"), ("empty", "")]),
        weights: Weights { passing: 3, warning: 1 },
        facts: Arc::new(InstanceFacts {
            service: "orders".into(),
            address: "10.0.0.1".into(),
            port: 8080,
            node: Arc::new(NodeFacts { address: "10.0.0.9".into(), meta: texts(&[("zone", "a")]) }),
            checks: [check("serfHealth", "passing", false), check("own", "warning", true)].into(),
        }),
        ..testing::instance("n1", "orders-1", HealthStatus::Warning)
    }
}

fn subset() -> Subset {
    Subset::of_all("v2")
}

fn filter_keeps(text: &str, instance: &Instance) -> bool {
    matches(&Subset { filter: Some(SubsetFilter::parse(text).unwrap()), ..subset() }, instance)
}

#[test]
fn tags_have_no_case_and_metadata_is_matched_by_globs() {
    let one = instance();
    let tagged = |tags: &[&str]| {
        let tags = tags.iter().map(|tag| Arc::from(*tag)).collect();
        matches(&Subset { tags, ..subset() }, &one)
    };
    assert!(tagged(&[]) && tagged(&["V2"]) && tagged(&["blue", "v2"]));
    assert!(!tagged(&["v"]) && !tagged(&["v2", "green"]));
    let with_meta = |key: &str, glob: &str| {
        matches(&Subset { meta: vec![(key.to_owned(), Glob(glob.into()))], ..subset() }, &one)
    };
    assert!(with_meta("version", "2.*") && with_meta("version", "*") && with_meta("empty", "*"));
    assert!(!with_meta("version", "2.") && !with_meta("Version", "2.*") && !with_meta("absent", "*"));
}

#[test]
fn all_parts_of_a_subset_hold() {
    let both = |tag: &str, glob: &str, filter: &str| {
        let subset = Subset {
            tags: vec![tag.into()],
            meta: vec![("version".to_owned(), Glob(glob.into()))],
            filter: Some(SubsetFilter::parse(filter).unwrap()),
            ..subset()
        };
        matches(&subset, &instance())
    };
    assert!(both("v2", "2.*", "Service.Port == 8080"));
    assert!(!both("v1", "2.*", "Service.Port == 8080"));
    assert!(!both("v2", "1.*", "Service.Port == 8080"));
    assert!(!both("v2", "2.*", "Service.Port == 8081"));
}

#[test]
fn a_filter_selects_each_field_of_the_list() {
    let one = instance();
    for (text, opposite) in [
        ("Service.ID == `orders-1`", "Service.ID == x"),
        ("Service.Service == orders", "Service.Service == Orders"),
        ("Service.Tags contains Blue", "Service.Tags contains blue"),
        ("Service.Meta.version matches `^2[.]`", "Service.Meta.version == v2"),
        ("version in Service.Meta", "x in Service.Meta"),
        ("Service.Meta.absent != x", "Service.Meta.absent == x"),
        ("Service.Address == `10.0.0.1`", "Service.Address == ``"),
        ("Service.Port == 8080", "Service.Port != 8080"),
        ("Service.Weights.Passing == 3", "Service.Weights.Passing == 1"),
        ("Service.Weights.Warning == 1", "Service.Weights.Warning == 3"),
        ("Node.Node == n1", "Node.Node == n2"),
        ("Node.Address == `10.0.0.9`", "Node.Address == `10.0.0.1`"),
        ("Node.Datacenter == dc1", "Node.Datacenter == dc2"),
        ("Node.Meta.zone == a", "Node.Meta is empty"),
        ("Checks.Node == n1", "Checks.Node == n2"),
        ("Checks.CheckID == serfHealth", "Checks.CheckID == x"),
        ("Checks.Name == `name of own`", "Checks.Name == own"),
        ("Checks.Status == warning", "Checks.Status == critical"),
        ("Checks.Type == ttl", "Checks.Type == http"),
        ("Checks.ServiceID == `orders-1`", "Checks.ServiceID == x"),
        ("Checks.ServiceID == ``", "not Checks.ServiceID == ``"),
        ("Checks.ServiceName == orders", "Checks.ServiceName == x"),
        ("Checks.ServiceTags contains v2", "Checks.ServiceTags contains x"),
        ("Checks is not empty", "Checks is empty"),
    ] {
        assert!(filter_keeps(text, &one), "{text}");
        assert!(!filter_keeps(opposite, &one), "{opposite}");
    }
}

/// The fields of `config` and the values here have the same names and types.
#[test]
fn an_instance_has_every_field_that_a_filter_may_select() {
    fn check(field: &FieldType, value: Fact<'_>, path: &str) {
        match field {
            FieldType::Text => assert!(matches!(value, Fact::Text(_)), "{path}"),
            FieldType::Integer => assert!(matches!(value, Fact::Integer(_)), "{path}"),
            FieldType::Boolean => panic!("{path}: no field is a boolean"),
            FieldType::Map(_) => assert!(matches!(value, Fact::Map(_)), "{path}"),
            FieldType::List(of) => {
                let last = (0..).map_while(|n| value.element(n)).last();
                check(of, last.expect(path), path);
            }
            FieldType::Record(fields) => {
                for (name, field) in *fields {
                    let path = format!("{path}.{name}");
                    check(field, value.entry(name).expect(&path), &path);
                }
            }
        }
    }
    check(&SUBSET_FIELDS, Fact::Instance(&instance()), "");
}

#[test]
fn an_instance_of_a_host_name_has_the_id_that_is_listed() {
    let named = NamedHost { host: "db.internal".into(), id: "db".into(), port: 1, fallback: Box::default() };
    let one =
        Instance { named: Some(Arc::new(named)), ..testing::instance("n1", "db#2", HealthStatus::Passing) };
    assert!(filter_keeps("Service.ID == db", &one));
}
