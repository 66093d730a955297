//! Traffic rules from documents of the registry's KV.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use outrigger_config::{
    AppliedDocuments, DocumentState, DocumentVersions, DynamicConfig, Environment, LoadedConfig, Overrides,
    RouteTarget, SettingGroup, SettingsDocument, SplitTarget, Sticky, TrafficRules, UnknownKeys,
    check_document, load, render,
};

const ORDERS: &str = "services/orders";

fn load_file(upstreams: &str) -> LoadedConfig {
    let text = format!(
        "service: {{name: shop, port: 8080}}\ndynamic_config: {{prefix: o, allow: [tuning, routing], allow_services: [Archive, reports]}}\nupstreams: {upstreams}\n"
    );
    load(Some(("o.yaml", &text)), &Environment::default(), &Overrides::default())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

fn document(name: &str, index: u64, text: &str) -> SettingsDocument {
    SettingsDocument { name: name.to_owned(), index, created: index, value: text.into() }
}

fn apply(file: &LoadedConfig, documents: &[(&str, &str)]) -> AppliedDocuments {
    let versions = |(n, (name, text)): (usize, &(&str, &str))| DocumentVersions {
        current: document(name, n as u64 + 1, text),
        last_good: None,
    };
    file.with_documents(&documents.iter().enumerate().map(versions).collect::<Vec<_>>(), "shop-1")
}

/// The problems of all documents, a line each.
fn problems(applied: &AppliedDocuments) -> Vec<String> {
    applied.documents.iter().flat_map(|one| &one.problems).map(ToString::to_string).collect()
}

/// The rules of the first upstream with these documents, none of which is refused.
fn rules(upstreams: &str, documents: &[(&str, &str)]) -> TrafficRules {
    let applied = apply(&load_file(upstreams), documents);
    assert_eq!(problems(&applied), [""; 0]);
    applied.loaded.config.upstreams.into_iter().next().unwrap().traffic
}

fn subset_names(rules: &TrafficRules) -> Vec<&str> {
    rules.subsets.iter().map(|subset| &*subset.name).collect()
}

/// That the document about orders is refused, and changes nothing.
#[track_caller]
fn refused(upstreams: &str, text: &str, expected: &str) {
    let file = load_file(upstreams);
    let applied = apply(&file, &[(ORDERS, text)]);
    assert_eq!(problems(&applied), [format!("kv:o/settings/services/orders@1:{expected}")], "for: {text}");
    assert_eq!(applied.documents[0].state, DocumentState::Refused);
    assert_eq!(applied.loaded.config, file.config);
}

const FILE: &str = "[{service: orders, subsets: {v1: {tags: [v1]}, v2: {tags: [v2]}}, split: [{subset: v1, weight: 1}], \
                    routes: [{match: {methods: [GET]}, to: {subset: v2}}], mirror: {to: {subset: v2}, share: 1%}}]";

#[test]
fn without_the_group_routing_no_document_has_rules() {
    let file = load(
        Some(("o.yaml", "service: {name: shop, port: 1}\ndynamic_config: {prefix: o}\n")),
        &Environment::default(),
        &Overrides::default(),
    );
    let file = file.unwrap();
    for (key, value) in [
        ("subsets", "{v1: {tags: [v1]}}"),
        ("split", "[{service: archive, weight: 1}]"),
        ("sticky", "{header: a}"),
        ("routes", "[]"),
        ("mirror", "{share: 1%}"),
        ("failover", "[{datacenter: dc2}]"),
        ("return_after", "1s"),
        ("zone", "{own: a}"),
    ] {
        let expected = format!(
            "kv:o/settings/services/orders@1:1:1 {key}: is of the group routing, which dynamic_config.allow does not have; add the group in the settings file"
        );
        assert_eq!(problems(&apply(&file, &[(ORDERS, &format!("{key}: {value}"))])), [expected]);
    }
}

#[test]
fn documents_of_defaults_have_no_rules() {
    for name in ["defaults", "apps/shop/defaults"] {
        for key in ["subsets", "split", "sticky", "routes", "mirror", "failover", "return_after", "zone"] {
            let expected = format!(
                "kv:o/settings/{name}@1:1:1 {key}: only a document about one service can have traffic rules; put it into services/NAME or apps/APP/services/NAME"
            );
            assert_eq!(problems(&apply(&load_file("[]"), &[(name, &format!("{key}: {{}}"))])), [expected]);
        }
    }
}

#[test]
fn another_service_is_a_target_only_where_the_file_allows_it() {
    let what = "\"billing\" is another service, which dynamic_config.allow_services does not have; add the service in the settings file";
    let cases = [
        ("split: [{service: billing, weight: 1}]", "1:19 split[0].service"),
        ("routes: [{to: {service: billing}}]", "1:25 routes[0].to.service"),
        ("routes: [{to: {split: [{service: billing, weight: 1}]}}]", "1:34 routes[0].to.split[0].service"),
        ("mirror: {to: {service: billing}}", "1:24 mirror.to.service"),
        ("failover: [{service: billing}]", "1:22 failover[0].service"),
    ];
    for (text, at) in cases {
        refused(FILE, text, &format!("{at}: {what}"));
        let allowed = apply(&load_file(FILE), &[(ORDERS, &text.replace("billing", "ARCHIVE"))]);
        assert_eq!(problems(&allowed), [""; 0], "for: {text}");
    }
}

#[test]
fn no_route_of_a_document_repeats_what_may_not_be_repeated() {
    refused(
        FILE,
        "routes: [{retry: {non_idempotent: true}}]",
        "1:19 routes[].retry.non_idempotent: no document can set it; set it in the settings file",
    );
}

#[test]
fn a_bad_rule_refuses_the_document() {
    refused(
        FILE,
        "timeout: 1s\nsubsets: {v3: {filter: 'Service.Port == x'}}",
        "2:24 subsets.v3.filter: \"Service.Port == x\" is no filter, at column 17: Failed to coerce value \"x\" for selector \"Service.Port\": strconv.ParseInt: parsing \"x\": invalid syntax; write it as Consul does: Service.Meta.version == \"2\" and \"v2\" in Service.Tags",
    );
    refused(
        FILE,
        "routes: [{match: {path: {regex: '('}}}]",
        "1:33 routes[0].match.path.regex: \"(\" is no regular expression, at column 1: unclosed group; the value is matched as a whole; \\ takes a special character as it is",
    );
    refused(
        FILE,
        "routes: [{timeout: 2s, per_try_timeout: 3s}]",
        "1:41 routes[0].per_try_timeout: 3s is above timeout (2s); at most 2s, or raise timeout",
    );
    refused(
        FILE,
        "subsets: {v1: {tags: ['${HOME}']}}",
        "1:23 subsets.v1.tags[0]: \"${HOME}\" has a variable, and a document has none; write the value itself",
    );
}

/// A route that ignores a part of its match takes other requests than it is for.
#[test]
fn a_key_that_is_not_known_refuses_the_document() {
    refused(
        FILE,
        "routes: [{match: {zone: a}}]",
        "1:19 routes[0].match.zone: unknown key; valid here: path, headers, query, methods",
    );
    refused(
        FILE,
        "subsets: {v1: {zone: a}}",
        "1:16 subsets.v1.zone: unknown key; valid here: tags, meta, filter",
    );
}

#[test]
fn bounds_hold_for_the_settings_of_routes() {
    let text = "service: {name: shop, port: 8080}\ndynamic_config: {prefix: o, allow: [routing], bounds: {timeout: 1s..5s}}\n";
    let file = load(Some(("o.yaml", text)), &Environment::default(), &Overrides::default()).unwrap();
    let applied = apply(&file, &[(ORDERS, "routes: [{timeout: 6s}]")]);
    assert_eq!(
        problems(&applied),
        [
            "kv:o/settings/services/orders@1:1:20 routes[0].timeout: \"6s\" is outside of dynamic_config.bounds; allowed: 1s to 5s"
        ]
    );
}

#[test]
fn a_subset_is_put_over_the_one_of_its_name_and_lists_are_replaced() {
    let text = "subsets: {v1: {meta: {a: b}}, v3: {tags: [v3]}}\nsplit: [{subset: v3, weight: 2}]\nroutes: []\nmirror: {share: 2%}";
    let rules = rules(FILE, &[(ORDERS, text)]);
    assert_eq!(subset_names(&rules), ["v1", "v2", "v3"]);
    assert_eq!((rules.subsets[0].tags.len(), rules.subsets[0].meta.len()), (1, 1));
    let split = rules.split.unwrap();
    assert_eq!(split.entries.len(), 1);
    assert_eq!((&split.entries[0].to, split.entries[0].weight), (&SplitTarget::Subset("v3".into()), 200));
    assert_eq!(rules.routes, []);
    let mirror = rules.mirror.unwrap();
    assert_eq!((mirror.to, mirror.share), (SplitTarget::Subset("v2".into()), 0.02));
}

#[test]
fn null_drops_what_the_layers_below_set() {
    let all = rules(FILE, &[(ORDERS, "subsets: null\nsplit: null\nroutes: null\nmirror: null")]);
    assert_eq!(all, TrafficRules::default());
    let one = rules(
        "[{service: orders, subsets: {v1: {tags: [v1]}, v2: {tags: [v2]}}}]",
        &[(ORDERS, "subsets: {v1: null}")],
    );
    assert_eq!(subset_names(&one), ["v2"]);
    let applied = apply(&load_file(FILE), &[(ORDERS, "subsets: {v1: null}")]);
    assert_eq!(
        problems(&applied),
        [
            "kv:o/settings/services/orders@1: contradicts upstreams[0].split[0].subset (o.yaml:3): \"v1\" is no subset of this service; did you mean v2?"
        ]
    );
}

#[test]
fn the_more_specific_document_wins_and_may_use_the_subsets_of_the_other() {
    let documents = [
        (ORDERS, "subsets: {v9: {tags: [v9]}}\nsticky: {header: x-a}"),
        ("apps/shop/services/orders", "split: [{subset: v9, weight: 1}]\nsticky: {cookie: b}"),
    ];
    let rules = rules(FILE, &documents);
    let split = rules.split.unwrap();
    assert_eq!(split.entries[0].to, SplitTarget::Subset("v9".into()));
    assert_eq!(split.sticky, Some(outrigger_config::Sticky::Cookie("b".into())));
}

#[test]
fn rules_apply_to_a_service_that_the_file_does_not_declare() {
    let text = "subsets: {v1: {tags: [v1]}}\nsplit: [{subset: v1, weight: 1}]\nroutes: [{to: {service: reports}, timeout: 9s}]\ntimeout: 2s";
    let applied = apply(&load_file("[{service: reports, connect_timeout: 300ms}]"), &[(ORDERS, text)]);
    assert_eq!(problems(&applied), [""; 0]);
    let [tuned] = applied.loaded.config.tuned.as_slice() else { panic!("one service") };
    assert_eq!((tuned.service.as_str(), tuned.policy.timeout), ("orders", Duration::from_secs(2)));
    assert_eq!(subset_names(&tuned.traffic), ["v1"]);
    assert_eq!(tuned.traffic.routes[0].to, RouteTarget::Service("reports".into()));
    let policy = tuned.traffic.routes[0].policy.as_ref().unwrap();
    assert_eq!(
        (policy.timeout, policy.connect_timeout),
        (Duration::from_secs(9), Duration::from_millis(300))
    );
    let page = render(&applied.loaded.config, &applied.loaded.origins);
    assert!(page.contains("    subsets: {v1: {tags: [v1]}}  # kv:o/settings/services/orders@1"), "{page}");
}

#[test]
fn the_settings_of_a_route_are_over_those_that_its_target_has_with_its_documents() {
    let documents =
        [(ORDERS, "routes: [{to: {service: reports}, body_idle: 9s}]"), ("services/reports", "timeout: 4s")];
    let rules = rules("[{service: orders, timeout: 2s}]", &documents);
    let policy = rules.routes[0].policy.as_ref().unwrap();
    assert_eq!((policy.timeout, policy.body_idle), (Duration::from_secs(4), Duration::from_secs(9)));
}

#[test]
fn a_document_that_sends_requests_around_is_refused() {
    let what = "split: requests would go around: orders → reports → orders; leave one of these services out of the other's split";
    refused(
        "[{service: orders}, {service: reports, split: [{service: orders, weight: 1}]}]",
        "split: [{service: reports, weight: 1}]",
        &format!("1:8 {what}"),
    );
    // The second one, in the order of names, comes too late.
    let documents = [
        (ORDERS, "split: [{service: archive, weight: 1}]"),
        ("services/archive", "split: [{service: reports, weight: 1}]"),
        ("services/reports", "split: [{service: archive, weight: 1}]"),
    ];
    let applied = apply(&load_file("[]"), &documents);
    assert_eq!(
        problems(&applied),
        [
            "kv:o/settings/services/reports@3:1:8 split: requests would go around: reports → archive → reports; leave one of these services out of the other's split"
        ]
    );
    assert_eq!(applied.loaded.config.tuned.len(), 2);
}

#[test]
fn the_last_good_rules_stay() {
    let versions = DocumentVersions {
        current: document(ORDERS, 9, "subsets: {v1: {}}"),
        last_good: Some(document(ORDERS, 8, "subsets: {v8: {tags: [v8]}}")),
    };
    let applied = load_file("[{service: orders}]").with_documents(&[versions], "shop-1");
    assert_eq!(
        (applied.documents[0].state, applied.documents[0].in_effect),
        (DocumentState::Refused, Some(8))
    );
    assert_eq!(subset_names(&applied.loaded.config.upstreams[0].traffic), ["v8"]);
}

#[test]
fn a_document_alone_may_use_subsets_of_the_file() {
    let rules = DynamicConfig { allow: vec![SettingGroup::Routing], ..DynamicConfig::default() };
    let check = |text: &str| check_document(&document(ORDERS, 1, text), "o", &rules, UnknownKeys::Refuse);
    assert_eq!(check("split: [{subset: v1, weight: 1}]").unwrap(), []);
    let problems = check("split: [{subset: V1, weight: 1}, {service: orders, weight: 1}]").unwrap_err();
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "kv:o/settings/services/orders@1:1:18 split[0].subset: \"V1\" cannot be the name of a subset; write small letters, digits, - and _, at most 63",
            "kv:o/settings/services/orders@1:1:44 split[1].service: \"orders\" is the upstream itself; leave the target out, or name a subset"
        ]
    );
}

#[test]
fn a_document_replaces_the_failover_and_keeps_what_it_does_not_name() {
    let file = "[{service: orders, failover: [{datacenter: dc2}], return_after: 30s}]";
    let rules_with = |text: &str| rules(file, &[(ORDERS, text)]).failover;
    let failover = rules_with("failover: [{service: archive}]").unwrap();
    assert_eq!(failover.targets.len(), 1);
    assert_eq!(failover.targets[0].service.as_deref(), Some("archive"));
    assert_eq!(failover.return_after, Duration::from_secs(30));
    assert_eq!(rules_with("return_after: 1s").unwrap().return_after, Duration::from_secs(1));
    assert_eq!(rules_with("failover: null"), None);
    assert_eq!(rules_with("failover: []"), None);
}

#[test]
fn a_failover_of_documents_that_leads_back_is_refused() {
    let file = load_file("[{service: orders}, {service: archive, failover: [{service: orders}]}]");
    let applied = apply(&file, &[(ORDERS, "failover: [{service: archive}]")]);
    let problems = problems(&applied);
    assert!(
        problems.len() == 1
            && problems[0].contains("failover: requests would go around: orders → archive → orders"),
        "{problems:?}"
    );
}

#[test]
fn null_and_what_takes_its_place_may_be_in_one_document() {
    let file = "[{service: orders, subsets: {v1: {tags: [v1]}, v2: {tags: [v2]}}, \
                split: [{subset: v1, weight: 1}, {subset: v2, weight: 1}], sticky: {header: x-a}, \
                routes: [{match: {methods: [PUT]}, to: {subset: v2}}], mirror: {to: {subset: v2}}}]";
    let changed = rules(file, &[(ORDERS, "subsets: {v2: {tags: null, meta: {a: \"1\"}}}")]);
    let v2 = changed.subsets.iter().find(|subset| &*subset.name == "v2").unwrap();
    assert_eq!((v2.tags.len(), v2.meta.len()), (0, 1));
    let changed = rules(file, &[(ORDERS, "sticky: {header: null, cookie: sid}")]);
    assert_eq!(changed.split.unwrap().sticky, Some(Sticky::Cookie("sid".into())));
    let text = "{subsets: {v2: null}, split: [{subset: v1, weight: 1}], routes: [], mirror: null}";
    let changed = rules(file, &[(ORDERS, text)]);
    assert_eq!(subset_names(&changed), ["v1"]);
    assert!(changed.split.is_some_and(|split| split.entries.len() == 1) && changed.mirror.is_none());
    // Without what takes their place, they are missed.
    let applied = apply(&load_file(file), &[(ORDERS, "subsets: {v2: null}")]);
    assert!(
        problems(&applied).iter().any(|one| one.contains("contradicts upstreams[0].split")),
        "{applied:?}"
    );
}
