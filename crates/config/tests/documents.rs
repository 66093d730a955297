//! What a document of the registry's KV may hold, what becomes of one that is wrong, and the section `dynamic_config`.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use outrigger_config::{
    AddressKind, AppliedDocuments, Bounds, DocumentState, DocumentVersions, DynamicConfig, Environment,
    LoadedConfig, MAX_DOCUMENT_BYTES, Overrides, SettingGroup, SettingsDocument, UnknownKeys, check_document,
    keys, load,
};

const FILE: &str = "service: {name: shop, port: 8080}\n";

fn load_file(text: &str) -> LoadedConfig {
    let env: Environment = [("HUSH", "s3cret")].into_iter().collect();
    load(Some(("o.yaml", &format!("{FILE}{text}\n"))), &env, &Overrides::default())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

fn document(name: &str, index: u64, value: impl Into<Vec<u8>>) -> SettingsDocument {
    SettingsDocument { name: name.to_owned(), index, created: index, value: value.into() }
}

fn version(current: SettingsDocument) -> DocumentVersions {
    DocumentVersions { current, last_good: None }
}

fn lines<'a>(problems: impl IntoIterator<Item = &'a outrigger_config::Problem>) -> Vec<String> {
    problems.into_iter().map(ToString::to_string).collect()
}

/// The problems that a sidecar with this section has with the document `services/orders` of index 7.
fn problems_with(dynamic_config: &str, text: &str) -> Vec<String> {
    let file = load_file(&format!("dynamic_config: {{prefix: outrigger{dynamic_config}}}"));
    let applied = file.with_documents(&[version(document("services/orders", 7, text))], "shop-1");
    let [result] = applied.documents.as_slice() else { panic!("one document") };
    assert_eq!(result.state == DocumentState::Applied, result.problems.is_empty(), "{result:?}");
    if !result.problems.is_empty() {
        assert_eq!(applied.loaded.config, file.config, "a refused document changes nothing");
    }
    lines(&result.problems)
}

#[track_caller]
fn refused(text: &str, at: &str, what: &str) {
    let expected = format!("kv:outrigger/settings/services/orders@7:{at}: {what}");
    assert_eq!(problems_with("", text), [expected.as_str()], "for:\n{text}");
    // Nor can an operator write it.
    let rules = DynamicConfig::default();
    for unknown in [UnknownKeys::Warn, UnknownKeys::Refuse] {
        let refused = check_document(&document("services/orders", 7, text), "outrigger", &rules, unknown);
        assert_eq!(lines(refused.unwrap_err().iter()), [expected.as_str()], "for:\n{text}");
    }
}

/// A test for each key that no document sets.
macro_rules! never_from_kv {
    ($($test:ident: $text:literal, $key:literal at $at:literal;)*) => {
        $(#[test]
        fn $test() {
            refused($text, concat!($at, " ", $key), "no document can set it; set it in the settings file");
        })*

        #[test]
        fn every_section_of_a_file_and_every_key_of_an_upstream_beside_its_policy_has_such_a_test() {
            let tested = [$($key),*];
            let all = keys();
            let own = all.iter().filter_map(|key| key.strip_prefix("upstreams[0]."));
            let own = own.filter(|key| !all.iter().any(|one| one.strip_prefix("defaults.") == Some(key)));
            let own = own.filter(|key| !["subsets", "split", "sticky", "routes", "mirror", "failover", "return_after", "zone"].contains(key));
            let own = own.map(|key| key.split_once('.').map_or(key, |(section, _)| section));
            let top = all.iter().map(|key| key.split(['.', '[']).next().unwrap());
            for key in top.chain(own).chain(["services"]) {
                assert!(tested.contains(&key), "{key}");
            }
        }
    };
}

never_from_kv! {
    service_is_never_from_kv: "service: {name: other}", "service" at "1:1";
    services_is_never_from_kv: "services: []", "services" at "1:1";
    listen_is_never_from_kv: "listen: 0.0.0.0:80", "listen" at "1:1";
    tls_is_never_from_kv: "timeout: 1s\ntls: {ca_file: /x}", "tls" at "2:1";
    protocol_is_never_from_kv: "protocol: http2", "protocol" at "1:1";
    tcp_is_never_from_kv: "tcp: {idle: 1s}", "tcp" at "1:1";
    hosts_is_never_from_kv: "hosts: [shop.example]", "hosts" at "1:1";
    allow_origins_is_never_from_kv: "allow_origins: ['*']", "allow_origins" at "1:1";
    tags_is_never_from_kv: "tags: [v2]", "tags" at "1:1";
    datacenter_is_never_from_kv: "datacenter: dc2", "datacenter" at "1:1";
    non_idempotent_is_never_from_kv: "retry: {non_idempotent: true}", "retry.non_idempotent" at "1:9";
    registry_is_never_from_kv: "registry: {consul: {address: 'http://10.0.0.9:8500'}}", "registry" at "1:1";
    discovery_is_never_from_kv: "discovery: {idle: 1s}", "discovery" at "1:1";
    state_dir_is_never_from_kv: "state_dir: /tmp", "state_dir" at "1:1";
    outbound_is_never_from_kv: "outbound: {allow_origins: ['*']}", "outbound" at "1:1";
    defaults_is_never_from_kv: "defaults: {timeout: 1s}", "defaults" at "1:1";
    upstreams_is_never_from_kv: "upstreams: [{service: x}]", "upstreams" at "1:1";
    dynamic_config_is_never_from_kv: "dynamic_config: {allow: [tuning]}", "dynamic_config" at "1:1";
    routing_is_never_from_kv: "routing: {consul: true}", "routing" at "1:1";
    admin_is_never_from_kv: "admin: {listen: 0.0.0.0:7079}", "admin" at "1:1";
    api_is_never_from_kv: "api: {listen: 0.0.0.0:7077}", "api" at "1:1";
    dns_is_never_from_kv: "dns: {}", "dns" at "1:1";
    drain_is_never_from_kv: "drain: 0s", "drain" at "1:1";
    app_is_never_from_kv: "app: {consul_token: pass}", "app" at "1:1";
    on_app_exit_is_never_from_kv: "on_app_exit: restart", "on_app_exit" at "1:1";
    workers_is_never_from_kv: "workers: 9", "workers" at "1:1";
    log_is_never_from_kv: "log: {access: true}", "log" at "1:1";
    a_token_file_is_never_from_kv: "token_file: /etc/shadow", "token_file" at "1:1";
    a_ca_file_is_never_from_kv: "pool: {ca_file: /x}", "pool.ca_file" at "1:8";
    a_cert_file_is_never_from_kv: "retry: {budget: {cert_file: /x}}", "retry.budget.cert_file" at "1:18";
    a_key_file_is_never_from_kv: "outlier: {key_file: /x}", "outlier.key_file" at "1:11";
    a_file_is_never_from_kv: "file: services.yaml", "file" at "1:1";
    a_folder_is_never_from_kv: "pool: {state_dir: /x}", "pool.state_dir" at "1:8";
}

#[test]
fn every_other_setting_of_the_defaults_may_be_set_and_dropped() {
    let file = load_file("dynamic_config: {prefix: outrigger}");
    let page = outrigger_config::render(&file.config, &file.origins);
    let defaults = page.split("\ndefaults:\n").nth(1).unwrap();
    let defaults: Vec<_> = defaults.lines().take_while(|line| line.starts_with("  ")).collect();
    let defaults: Vec<_> = defaults
        .iter()
        .filter(|line| !line.contains("non_idempotent: ") && !line.contains("grpc_methods: "))
        .collect();
    let text: String = defaults.iter().map(|line| format!("{}\n", &line[2..])).collect();
    assert!(defaults.len() > 40, "{text}");
    assert_eq!(problems_with(", allow: [tuning, routing]", &text), [""; 0]);
    let dropped: String = text
        .lines()
        .map(|line| match line.split_once(": ") {
            Some((key, _)) => format!("{key}: null\n"),
            None => format!("{line}\n"),
        })
        .collect();
    assert_eq!(problems_with(", allow: [tuning, routing]", &dropped), [""; 0]);
}

#[test]
fn a_problem_has_its_key_line_and_column_and_the_words_of_the_file() {
    refused(
        "timeout: 2s\npool:\n  max_idle: many\n",
        "3:13 pool.max_idle",
        "\"many\" is not a whole number; allowed: 0 to 100000",
    );
    refused("timeout: 2h", "1:10 timeout", "\"2h\" is out of range; allowed: 1ms to 1h");
    refused(
        "{\"timeout\": \"1s\",\n \"per_try_timeout\": \"2s\"}",
        "2:21 per_try_timeout",
        "2s is above timeout (1s); at most 1s, or raise timeout",
    );
    refused(
        "retry: [1]",
        "1:8 retry",
        "a list is not allowed here; write a mapping with some of: max_retries, backoff_base, backoff_max, statuses, non_idempotent, grpc_methods, max_retry_after, stalled, max_body, budget",
    );
    refused("timeout: 1s\ntimeout: 2s", "2:1 timeout", "is given twice, first on line 1; remove one of them");
    refused("timeout: {a: 1}", "1:10 timeout", "a mapping is not allowed here; write a single value");
    refused("rollout: 200%", "1:10 rollout", "\"200%\" is out of range; allowed: 0 to 100");
    refused("rollout: [1]", "1:10 rollout", "a list is not allowed here; write a percentage, as 10%");
    refused("rollout: 1\nrollout: 2", "2:1 rollout", "is given twice, first on line 1; remove one of them");
    refused("a: [1", "1:4", "unclosed bracket '['; the document is not valid YAML or JSON here");
}

#[test]
fn variables_anchors_and_large_documents_are_refused() {
    for text in ["timeout: ${HUSH}", "timeout: '$${HUSH}'", "timeout: ${NOPE:-1s}"] {
        let shown = text.trim_start_matches("timeout: ").trim_matches('\'');
        let what = format!("\"{shown}\" has a variable, and a document has none; write the value itself");
        refused(text, "1:10 timeout", &what);
    }
    refused(
        "retry: {statuses: [503, '${HUSH}']}",
        "1:25 retry.statuses[1]",
        "\"${HUSH}\" has a variable, and a document has none; write the value itself",
    );
    refused(
        "timeout: &a 1s\nbody_idle: *a",
        "1:13",
        "& begins an anchor, which a document of the registry cannot have; a text needs quotes; the document is not valid YAML or JSON here",
    );
    let large = format!("timeout: 1s # {}", "x".repeat(MAX_DOCUMENT_BYTES));
    let what = format!(
        "has {} bytes, more than 64KiB; a document has settings of services and nothing else",
        large.len()
    );
    let expected = format!("kv:outrigger/settings/services/orders@7: {what}");
    assert_eq!(problems_with("", &large), [expected]);
    let file = load_file("dynamic_config: {prefix: outrigger}");
    let applied = file.with_documents(&[version(document("defaults", 3, [0xff]))], "shop-1");
    assert_eq!(
        lines(&applied.documents[0].problems),
        ["kv:outrigger/settings/defaults@3: is not UTF-8; write YAML or JSON"]
    );
}

/// A comment that makes a document of this size.
fn padding(bytes: usize) -> String {
    format!("# {}", "x".repeat(bytes - 2))
}

#[test]
fn new_versions_have_the_bytes_that_the_documents_in_effect_leave() {
    let file = load_file("dynamic_config: {prefix: outrigger}");
    let own = |index, text: &str| document("services/orders", index, text);
    let own = |index, text: &str, last: &SettingsDocument| DocumentVersions {
        current: SettingsDocument { created: 3, ..own(index, text) },
        last_good: Some(last.clone()),
    };
    let (five, large) = (document("services/orders", 5, "timeout: 5s"), MAX_DOCUMENT_BYTES - 100);
    // What concerns other apps, what is no document, and what cannot be read leave room.
    for name in ["apps/other/services/s", "junk/s", "services/broken"] {
        let text = if name == "services/broken" { "a: [ # " } else { "# " }.to_owned() + &padding(large);
        let mut all: Vec<_> =
            (0..40).map(|n| version(document(&format!("{name}{n}"), 1, text.clone()))).collect();
        all.push(own(7, "timeout: 7s", &five));
        let applied = file.with_documents(&all, "shop-1");
        assert_eq!(result(&applied, "services/orders"), (DocumentState::Applied, Some(7)), "{name}");
    }
    let mut all: Vec<_> =
        (0..20).map(|n| version(document(&format!("services/s{n:02}"), 100 - n, padding(large)))).collect();
    // A version that is in effect stays, whatever comes beside it, also when it was written later than that.
    all.push(own(200, "timeout: 7s", &document("services/orders", 200, "timeout: 7s")));
    let applied = file.with_documents(&all, "shop-1");
    assert_eq!(result(&applied, "services/orders"), (DocumentState::Applied, Some(200)));
    // The others: those that were created first.
    let refused: Vec<_> =
        applied.documents.iter().filter(|one| one.state == DocumentState::Refused).collect();
    let names: Vec<_> = refused.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["services/s00", "services/s01", "services/s02", "services/s03"]);
    let text = refused[0].problems[0].to_string();
    assert!(
        text.starts_with("kv:outrigger/settings/services/s00@100: all documents together would have 11"),
        "{text}"
    );
    // A larger version has no room, and the one before it stays; a smaller one has.
    let good =
        |one: &DocumentVersions| DocumentVersions { last_good: Some(one.current.clone()), ..one.clone() };
    let mut all: Vec<_> = all.iter().skip(4).map(good).collect();
    let grown = format!("timeout: 8s\n{}", padding(large));
    *all.last_mut().unwrap() = own(300, &grown, &five);
    let applied = file.with_documents(&all, "shop-1");
    assert_eq!(result(&applied, "services/orders"), (DocumentState::Refused, Some(5)));
    assert!(applied.loaded.config.tuned.iter().any(|one| one.policy.timeout.as_secs() == 5));
    *all.last_mut().unwrap() = own(301, "timeout: 9s", &document("services/orders", 300, grown));
    let applied = file.with_documents(&all, "shop-1");
    assert_eq!(result(&applied, "services/orders"), (DocumentState::Applied, Some(301)));
}

#[test]
fn an_unknown_key_is_a_warning_in_a_sidecar_and_a_problem_for_its_writer() {
    let text = "timeout: 3s\ntime_out: 1s\npool: {new_key: {a: [1]}}\nmax_retries: 1\ntenants: null\n";
    let expected = [
        "kv:outrigger/settings/services/orders@7:2:1 time_out: unknown key, which is ignored; did you mean timeout?",
        "kv:outrigger/settings/services/orders@7:4:1 max_retries: unknown key, which is ignored; it belongs at retry.max_retries",
        "kv:outrigger/settings/services/orders@7:5:1 tenants: unknown key, which is ignored; valid here: subsets, split, sticky, routes, mirror, failover, return_after, zone, balance, address, timeout, per_try_timeout, deadline, connect_timeout, body_idle, max_in_flight, max_pending, pending_timeout, retry, hedge, circuit_breaker, outlier, pool",
        "kv:outrigger/settings/services/orders@7:3:8 pool.new_key: unknown key, which is ignored; valid here: idle_timeout, non_idempotent_max_idle, max_idle, max_connections, max_waiting",
    ];
    let file = load_file(
        "dynamic_config: {prefix: outrigger}\nupstreams: [{service: orders}, {service: orders, tags: [v2]}]",
    );
    let written = document("services/orders", 7, text);
    let applied = file.with_documents(&[version(written.clone())], "shop-1");
    assert_eq!(lines(&applied.documents[0].warnings), expected);
    let timeouts: Vec<_> =
        applied.loaded.config.upstreams.iter().map(|up| up.policy.timeout.as_secs()).collect();
    assert_eq!(timeouts, [3, 3], "every form of the service, and once in the warnings");
    let rules = DynamicConfig::default();
    let warned = check_document(&written, "outrigger", &rules, UnknownKeys::Warn).unwrap();
    assert_eq!(lines(&warned), expected);
    let refused = check_document(&written, "outrigger", &rules, UnknownKeys::Refuse).unwrap_err();
    assert_eq!(refused.len(), 4);
    assert!(
        refused.to_string().contains("orders@7:2:1 time_out: unknown key; did you mean timeout?"),
        "{refused}"
    );
}

#[test]
fn the_key_of_a_document_must_be_one_for_its_writer() {
    let rules = DynamicConfig::default();
    let check =
        |name: &str| check_document(&document(name, 0, "{}"), "outrigger", &rules, UnknownKeys::Refuse);
    assert_eq!(check("apps/shop/services/orders"), Ok(Vec::new()));
    let problems = check("service/orders").unwrap_err();
    assert_eq!(
        problems.to_string(),
        "kv:outrigger/settings/service/orders@0: is not the key of a document; write defaults, services/NAME, apps/APP/defaults or apps/APP/services/NAME"
    );
}

#[test]
fn a_group_that_is_not_allowed_is_refused() {
    let expected = "kv:outrigger/settings/services/orders@7:1:1 timeout: is of the group tuning, which \
                    dynamic_config.allow does not have; add the group in the settings file";
    for allow in [", allow: []", ", allow: [routing]"] {
        assert_eq!(problems_with(allow, "timeout: 1s"), [expected]);
        assert_eq!(problems_with(allow, "timeout: null").len(), 1);
        assert_eq!(problems_with(allow, "{}"), [""; 0]);
    }
    assert_eq!(problems_with(", allow: [routing, tuning]", "timeout: 1s"), [""; 0]);
}

fn result(applied: &AppliedDocuments, name: &str) -> (DocumentState, Option<u64>) {
    let result = applied.documents.iter().find(|one| one.name == name).unwrap();
    (result.state, result.in_effect)
}

#[test]
fn a_bad_document_keeps_its_last_good_version_and_the_others_apply() {
    let file = load_file("dynamic_config: {prefix: outrigger}\nupstreams: [{service: orders}]");
    let bad =
        |last_good| DocumentVersions { current: document("services/orders", 9, "timeout: soon"), last_good };
    let others = [
        version(document("defaults", 2, "max_pending: 1")),
        version(document("apps/shop/services/orders", 3, "body_idle: 3s")),
    ];
    let with = |one: DocumentVersions| file.with_documents(&[others.as_slice(), &[one]].concat(), "shop-1");
    let applied = with(bad(Some(document("services/orders", 4, "timeout: 4s"))));
    assert_eq!(result(&applied, "services/orders"), (DocumentState::Refused, Some(4)));
    assert_eq!(result(&applied, "defaults"), (DocumentState::Applied, Some(2)));
    let policy = &applied.loaded.config.upstreams[0].policy;
    assert_eq!((policy.timeout.as_secs(), policy.body_idle.as_secs(), policy.max_pending), (4, 3, 1));
    assert_eq!(
        applied.loaded.origins.get("upstreams[0].timeout").to_string(),
        "kv:outrigger/settings/services/orders@4"
    );
    // Neither version: the settings are those without the document.
    for last_good in [None, Some(document("services/orders", 4, "listen: 1"))] {
        let applied = with(bad(last_good));
        assert_eq!(result(&applied, "services/orders"), (DocumentState::Refused, None));
        assert_eq!(applied.loaded.config.upstreams[0].policy.timeout.as_secs(), 15);
    }
}

#[test]
fn the_address_of_instances_is_a_setting_of_files_and_documents() {
    let file = load_file(
        "defaults: {address: lan}\ndynamic_config: {prefix: a, allow: [routing]}\nupstreams: [{service: orders}]",
    );
    assert_eq!(file.config.upstreams[0].policy.address, AddressKind::Lan);
    let applied = file.with_documents(&[version(document("services/orders", 7, "address: wan"))], "shop-1");
    let config = &applied.loaded.config;
    assert_eq!(
        (config.defaults.address, config.upstreams[0].policy.address),
        (AddressKind::Lan, AddressKind::Wan)
    );
    let at = "kv:outrigger/settings/services/orders@7:1";
    assert_eq!(
        problems_with(", allow: [routing]", "address: nat"),
        [format!("{at}:10 address: \"nat\" is not a value of this setting; allowed: auto, lan, wan")]
    );
    // The other addresses may be in a network that others read.
    let hint = "is of the group routing, which dynamic_config.allow does not have; add the group in the settings file";
    assert_eq!(problems_with("", "address: wan"), [format!("{at}:1 address: {hint}")]);
}

#[test]
fn a_document_that_contradicts_what_is_below_it_is_refused_and_names_it() {
    let file =
        load_file("dynamic_config: {prefix: outrigger}\nupstreams: [{service: orders, per_try_timeout: 5s}]");
    let defaults = version(document("defaults", 2, "timeout: 2s"));
    let applied = file.with_documents(std::slice::from_ref(&defaults), "shop-1");
    assert_eq!(
        lines(&applied.documents[0].problems),
        [
            "kv:outrigger/settings/defaults@2: contradicts upstreams[0].per_try_timeout (o.yaml:3): 5s is above timeout (2s); at most 2s, or raise timeout"
        ]
    );
    assert_eq!(applied.loaded.config, file.config);
    // The more general document is read first: the more specific one has to fit.
    let service = version(document("services/billing", 3, "per_try_timeout: 3s"));
    let other = load_file("dynamic_config: {prefix: outrigger}");
    let applied = other.with_documents(&[service, defaults], "shop-1");
    assert_eq!(result(&applied, "defaults"), (DocumentState::Applied, Some(2)));
    assert_eq!(result(&applied, "services/billing"), (DocumentState::Refused, None));
    assert_eq!(
        lines(&applied.documents[1].problems),
        [
            "kv:outrigger/settings/services/billing@3:1:18 per_try_timeout: 3s is above timeout (2s); at most 2s, or raise timeout"
        ]
    );
}

#[test]
fn of_two_documents_about_one_service_the_one_in_effect_counts_and_then_the_older_key() {
    let file = load_file("dynamic_config: {prefix: outrigger}");
    for (first, second) in [
        ("services/orders", "services/Orders"),
        ("services/Orders", "services/orders"),
        ("apps/shop/defaults", "apps/SHOP/defaults"),
        ("apps/SHOP/services/a", "apps/shop/services/A"),
    ] {
        let at = |name: &str, index, created| {
            version(SettingsDocument { created, ..document(name, index, format!("timeout: {created}s")) })
        };
        // The older key, also where it was written later.
        let applied = file.with_documents(&[at(second, 8, 4), at(first, 9, 2)], "shop-1");
        assert_eq!(result(&applied, first), (DocumentState::Applied, Some(9)));
        assert_eq!(result(&applied, second), (DocumentState::Refused, None));
        let refused = applied.documents.iter().find(|one| one.name == second).unwrap();
        let expected = format!(
            "kv:outrigger/settings/{second}@8: names have no case, and {first} is about the same services and was \
             there before: that one counts; remove one of the two"
        );
        assert_eq!(lines(&refused.problems), [expected]);
        // The one in effect, also where its present version is wrong, and never both.
        let mut wrong = at(first, 20, 20);
        wrong.current.value = b"timeout: soon".to_vec();
        wrong.last_good = Some(at(first, 7, 7).current);
        let mut other = at(second, 8, 4);
        let applied = file.with_documents(&[other.clone(), wrong.clone()], "shop-1");
        assert_eq!(result(&applied, first), (DocumentState::Refused, Some(7)));
        assert_eq!(result(&applied, second), (DocumentState::Refused, None));
        other.last_good = Some(at(second, 3, 3).current);
        wrong.current.created = 2;
        let applied = file.with_documents(&[other, wrong], "shop-1");
        assert_eq!(result(&applied, second), (DocumentState::Refused, None));
    }
}

#[test]
fn an_instance_outside_of_a_rollout_keeps_the_version_before() {
    let file = load_file("dynamic_config: {prefix: outrigger}");
    let document = DocumentVersions {
        current: document("defaults", 9, "timeout: 9s\nrollout: 50%\n"),
        last_good: Some(document("defaults", 5, "timeout: 5s")),
    };
    let mut applied_in = BTreeMap::new();
    for n in 0..200 {
        let applied = file.with_documents(std::slice::from_ref(&document), &format!("shop-{n}"));
        let state = result(&applied, "defaults");
        let timeout = applied.loaded.config.defaults.timeout.as_secs();
        *applied_in.entry((format!("{state:?}"), timeout)).or_insert(0) += 1;
    }
    let counts: Vec<_> = applied_in.into_iter().collect();
    let [((applied, 9), selected), ((left_out, 5), _)] = counts.as_slice() else { panic!("{counts:?}") };
    assert_eq!((applied.as_str(), left_out.as_str()), ("(Applied, Some(9))", "(NotSelected, Some(5))"));
    assert!((70..130).contains(selected), "{selected} of 200");
}

fn check(text: &str, expected: &[&str]) {
    assert_eq!(common::problems(text, &[], &Overrides::default()), expected, "for:\n{text}");
}

#[test]
fn the_section_dynamic_config_says_what_is_wrong_with_it() {
    let ok = load_file(
        "dynamic_config: {prefix: team/outrigger/, allow: [tuning, routing], allow_services: [pay.v2], bounds: {timeout: 1s .. 2s}}",
    );
    let dynamic = &ok.config.dynamic_config;
    assert_eq!(dynamic.prefix.as_deref(), Some("team/outrigger"));
    assert_eq!(dynamic.allow, [SettingGroup::Tuning, SettingGroup::Routing]);
    assert_eq!(dynamic.bounds["timeout"], Bounds { low: "1s".into(), high: "2s".into() });
    assert_eq!(load_file("dynamic_config: {prefix: off}").config.dynamic_config, DynamicConfig::default());
    let hint = "write words with slashes between them, as outrigger or team/outrigger: up to 200 visible ASCII letters without ? # % \\, and no word . or ..";
    for prefix in [
        "/outrigger",
        "a//b",
        "a b",
        "",
        "/",
        "../x",
        "a/./b",
        "a/..",
        "a?b",
        "a#b",
        "a%2e",
        "a\\b",
        "é",
        "a//",
    ] {
        check(
            &format!("dynamic_config: {{prefix: '{prefix}'}}\n"),
            &[&format!("o.yaml:1:26 dynamic_config.prefix: {prefix:?} is not a prefix of keys; {hint}")],
        );
    }
    check(
        "dynamic_config: {allow: [tunning]}\n",
        &[
            "o.yaml:1:26 dynamic_config.allow: \"tunning\" is not a value of this setting; did you mean tuning? allowed: tuning, routing",
        ],
    );
    check(
        "dynamic_config: {bounds: {timeout: 1s}}\n",
        &[
            "o.yaml:1:36 dynamic_config.bounds.timeout: \"1s\" is not a range; write the lowest and the highest value, as 100ms..60s",
        ],
    );
    check(
        "dynamic_config:\n  bounds:\n    timeout: 5..2h\n    per_try_timeout: 2s..1s\n    max_pending: off..9\n",
        &[
            "o.yaml:3:14 dynamic_config.bounds.timeout: \"5\" has no unit; write 5s or 5ms",
            "o.yaml:3:14 dynamic_config.bounds.timeout: \"2h\" is out of range; allowed: 1ms to 1h",
            "o.yaml:4:22 dynamic_config.bounds.per_try_timeout: \"2s\" is above \"1s\"; write the lower value first",
            "o.yaml:5:18 dynamic_config.bounds.max_pending: \"off\" is not a whole number; allowed: 0 to 100000",
        ],
    );
    check(
        "dynamic_config:\n  bounds: {time_out: 1s..2s, retry: 1..2, balance: a..b, retry.non_idempotent: false..true, listen: 1..2}\n",
        &[
            "o.yaml:2:22 dynamic_config.bounds.time_out: \"time_out\" has no range; did you mean timeout?",
            "o.yaml:2:37 dynamic_config.bounds.retry: \"retry\" has no range; write keys of defaults that have a range, as timeout or retry.max_retries",
            "o.yaml:2:52 dynamic_config.bounds.balance: \"balance\" has no range; write keys of defaults that have a range, as timeout or retry.max_retries",
            "o.yaml:2:80 dynamic_config.bounds.retry.non_idempotent: \"retry.non_idempotent\" has no range; write keys of defaults that have a range, as timeout or retry.max_retries",
            "o.yaml:2:101 dynamic_config.bounds.listen: \"listen\" has no range; write keys of defaults that have a range, as timeout or retry.max_retries",
        ],
    );
}

#[test]
fn rules_without_a_prefix_cause_a_warning() {
    for (rules, expected) in [
        ("allow: []", Some("o.yaml:1:25 dynamic_config.allow: has no effect")),
        ("bounds: {timeout: 1s..2s}", Some("o.yaml:1:26 dynamic_config.bounds: has no effect")),
        ("prefix: off, allow: []", None),
        ("prefix: outrigger/, allow: []", None),
    ] {
        let text = format!("dynamic_config: {{{rules}}}\n");
        let file = load(Some(("o.yaml", &text)), &Environment::default(), &Overrides::default()).unwrap();
        let warnings = lines(&file.warnings);
        let is_as_expected = match expected {
            Some(expected) => warnings.len() == 1 && warnings[0].starts_with(expected),
            None => warnings.is_empty(),
        };
        assert!(is_as_expected, "{rules}: {warnings:?}");
    }
}

#[test]
fn a_prefix_without_consul_causes_a_warning() {
    let file = load(
        Some(("o.yaml", "registry: {file: s.yaml}\ndynamic_config: {prefix: outrigger}\n")),
        &Environment::default(),
        &Overrides::default(),
    );
    assert_eq!(
        lines(&file.unwrap().warnings),
        ["o.yaml:2:26 dynamic_config.prefix: is not used: the registry is a file; use registry.consul"]
    );
}
