//! Which layer a value comes from.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{prelude::*, sample::select};

use super::*;
use crate::{
    Environment, Overrides, documents::parsed::is_selected, load, render, settings::list_every_setting,
};

const FILE: &str = "service: {name: Shop, port: 8080}\ndynamic_config: {prefix: outrigger}\n";

fn load_file(text: &str) -> LoadedConfig {
    load(Some(("o.yaml", text)), &Environment::default(), &Overrides::default())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

fn version(name: &str, index: u64, text: &str) -> DocumentVersions {
    let current =
        SettingsDocument { name: name.to_owned(), index, created: index, value: text.as_bytes().to_vec() };
    DocumentVersions { current, last_good: None }
}

/// The settings of this file and these documents, each with its place in the list as its index, from 1.
fn apply(file: &LoadedConfig, documents: &[(&str, &str)]) -> AppliedDocuments {
    let documents: Vec<_> =
        documents.iter().zip(1..).map(|((name, text), index)| version(name, index, text)).collect();
    file.with_documents(&documents, "shop-1")
}

fn values(loaded: &LoadedConfig) -> BTreeMap<String, String> {
    let all = list_every_setting(&loaded.config);
    all.into_iter().map(|setting| (setting.key, setting.value.to_string())).collect()
}

/// The problems of all documents.
fn problems(applied: &AppliedDocuments) -> Vec<String> {
    applied.documents.iter().flat_map(|one| &one.problems).map(ToString::to_string).collect()
}

#[test]
fn a_result_has_the_service_that_its_document_is_about() {
    let file = load_file("service: {name: all-services, port: 8080}\ndynamic_config: {prefix: outrigger}\n");
    let documents =
        ["apps/all-services/defaults", "apps/all-services/services/orders", "defaults", "services/orders"];
    let applied = apply(&file, &documents.map(|name| (name, "timeout: 2s")));
    let services: Vec<_> = applied.documents.iter().map(DocumentResult::service).collect();
    assert_eq!(services, [None, Some("orders"), None, Some("orders")]);
}

/// What the file says of services, the documents, and a key with its value and its layers.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str, &'a str);

const ORDERS: &str = "upstreams: [{service: orders, timeout: 4s}]";
const KV_DEFAULTS: (&str, &str) = ("defaults", "timeout: 2s");
const APP_DEFAULTS: (&str, &str) = ("apps/shop/defaults", "timeout: 3s");
const SERVICE: (&str, &str) = ("services/orders", "timeout: 5s");
const APP_SERVICE: (&str, &str) = ("apps/shop/services/orders", "timeout: 6s");

#[test]
fn the_most_specific_layer_wins_and_then_the_kv() {
    let of_upstream = "upstreams[0].timeout";
    let cases: [Case<'_>; 24] = [
        // Of nothing, the file and the two kinds of defaults.
        ("", &[], "defaults.timeout", "15s", "default"),
        ("defaults: {timeout: 1s}", &[], "defaults.timeout", "1s", "o.yaml:3"),
        ("", &[KV_DEFAULTS], "defaults.timeout", "2s", "kv:outrigger/settings/defaults@1"),
        (
            "defaults: {timeout: 1s}",
            &[KV_DEFAULTS],
            "defaults.timeout",
            "2s",
            "kv:outrigger/settings/defaults@1, over o.yaml:3 (\"1s\")",
        ),
        (
            "defaults: {timeout: 1s}",
            &[KV_DEFAULTS, APP_DEFAULTS],
            "defaults.timeout",
            "3s",
            "kv:outrigger/settings/apps/shop/defaults@2, over kv:outrigger/settings/defaults@1 (\"2s\"), o.yaml:3 (\"1s\")",
        ),
        // The upstream of the file wins over every defaults, and every document about the service over it.
        (
            ORDERS,
            &[KV_DEFAULTS, APP_DEFAULTS],
            of_upstream,
            "4s",
            "o.yaml:3, over kv:outrigger/settings/apps/shop/defaults@2 (\"3s\"), kv:outrigger/settings/defaults@1 (\"2s\")",
        ),
        (
            ORDERS,
            &[SERVICE],
            of_upstream,
            "5s",
            "kv:outrigger/settings/services/orders@1, over o.yaml:3 (\"4s\")",
        ),
        (
            ORDERS,
            &[SERVICE, APP_SERVICE, KV_DEFAULTS],
            of_upstream,
            "6s",
            "kv:outrigger/settings/apps/shop/services/orders@2, over kv:outrigger/settings/services/orders@1 (\"5s\"), o.yaml:3 (\"4s\"), kv:outrigger/settings/defaults@3 (\"2s\")",
        ),
        ("upstreams: [{service: orders}]", &[KV_DEFAULTS], of_upstream, "2s", "default"),
        // The case of a name does not matter, and another app's documents are not ours.
        (
            "upstreams: [{service: Orders}]",
            &[("services/oRDERS", "timeout: 5s")],
            of_upstream,
            "5s",
            "kv:outrigger/settings/services/oRDERS@1",
        ),
        (ORDERS, &[("apps/other/services/orders", "timeout: 9s")], of_upstream, "4s", "o.yaml:3"),
        ("", &[("apps/other/defaults", "timeout: 9s")], "defaults.timeout", "15s", "default"),
        ("", &[("nonsense", "timeout: 9s"), (".outrigger", "")], "defaults.timeout", "15s", "default"),
        // A service that the file does not declare.
        ("", &[SERVICE], "x-services[0].timeout", "5s", "kv:outrigger/settings/services/orders@1"),
        (
            "",
            &[SERVICE, APP_SERVICE],
            "x-services[0].timeout",
            "6s",
            "kv:outrigger/settings/apps/shop/services/orders@2, over kv:outrigger/settings/services/orders@1 (\"5s\")",
        ),
        ("", &[("services/orders", "max_pending: 1"), KV_DEFAULTS], "x-services[0].timeout", "2s", "default"),
        // Mappings are merged per key, lists are replaced, `null` drops.
        (
            "upstreams: [{service: orders, retry: {max_retries: 1, max_body: 1KiB}}]",
            &[("services/orders", "retry: {max_retries: 3}")],
            "upstreams[0].retry.max_body",
            "1KiB",
            "o.yaml:3",
        ),
        (
            "upstreams: [{service: orders, retry: {statuses: [500, 501]}}]",
            &[("services/orders", "retry: {statuses: [503]}")],
            "upstreams[0].retry.statuses",
            "[503]",
            "kv:outrigger/settings/services/orders@1, over o.yaml:3",
        ),
        (
            &format!("defaults: {{timeout: 1s}}\n{ORDERS}"),
            &[SERVICE, ("apps/shop/services/orders", "timeout: null")],
            of_upstream,
            "1s",
            "default",
        ),
        (
            "defaults: {timeout: 1s}",
            &[KV_DEFAULTS, ("apps/shop/defaults", "{\"timeout\": null}")],
            "defaults.timeout",
            "15s",
            "default",
        ),
        (
            "defaults: {retry: {max_retries: 7}}\nupstreams: [{service: orders, retry: {max_retries: 1}}]",
            &[("services/orders", "retry: null")],
            "upstreams[0].retry.max_retries",
            "7",
            "default",
        ),
        (
            "upstreams: [{service: orders, retry: {max_retries: 1}}]",
            &[("services/orders", "retry: off")],
            "upstreams[0].retry.max_retries",
            "0",
            "kv:outrigger/settings/services/orders@1, over o.yaml:3 (\"1\")",
        ),
        (
            "upstreams: [{service: orders, circuit_breaker: {window: 20s}}]",
            &[("services/orders", "circuit_breaker: off")],
            "upstreams[0].circuit_breaker",
            "off",
            "kv:outrigger/settings/services/orders@1, over o.yaml:3",
        ),
        (
            "defaults: {circuit_breaker: {window: 20s}}",
            &[("defaults", "circuit_breaker: {min_requests: 9}")],
            "defaults.circuit_breaker.window",
            "20s",
            "o.yaml:3",
        ),
    ];
    for (n, (file, documents, key, value, layers)) in cases.into_iter().enumerate() {
        let file = load_file(&format!("{FILE}{file}\n"));
        let applied = apply(&file, documents);
        assert_eq!(problems(&applied), [""; 0], "case {n}");
        let got = values(&applied.loaded);
        let page = render(&applied.loaded.config, &applied.loaded.origins);
        assert_eq!(got.get(key).map(String::as_str), Some(value), "case {n}:\n{page}");
        let name = key.rsplit('.').next().unwrap();
        if layers != "default" {
            let line = format!("{name}: {value}  # {layers}\n");
            assert!(page.contains(&line), "case {n}: no {line} in:\n{page}");
        } else {
            assert_eq!(*applied.loaded.origins.get(key), Origin::Default, "case {n}:\n{page}");
        }
    }
}

/// No flag and no variable sets a policy yet. One that will does so through the overlay.
#[test]
fn a_flag_and_a_variable_win_over_every_document() {
    for origin in [Origin::Flag("--timeout"), Origin::Environment("OUTRIGGER_TIMEOUT".into())] {
        let mut file = load_file(&format!("{FILE}{ORDERS}\n"));
        let policies = file.source.0.take().unwrap();
        let mut policies = Arc::into_inner(policies).unwrap();
        policies.overlay.add("upstreams[0].timeout", origin.clone(), "9s".to_owned());
        policies.overlay.add("defaults.timeout", origin.clone(), "8s".to_owned());
        file.source.0 = Some(Arc::new(policies));
        let applied = apply(&file, &[SERVICE, APP_SERVICE, KV_DEFAULTS, APP_DEFAULTS]);
        assert_eq!(problems(&applied), [""; 0]);
        let got = values(&applied.loaded);
        assert_eq!((&*got["upstreams[0].timeout"], &*got["defaults.timeout"]), ("9s", "8s"));
        assert_eq!(*applied.loaded.origins.get("upstreams[0].timeout"), origin);
    }
}

#[test]
fn every_set_of_layers_gives_the_value_of_the_most_specific_one() {
    // From general to specific.
    let names =
        ["defaults", "apps/shop/defaults", "upstream", "services/orders", "apps/shop/services/orders"];
    for set in 0..(1 << names.len()) {
        let is_in = |n: &usize| set & (1 << n) != 0;
        let upstream = if is_in(&2) { ", timeout: 102s" } else { "" };
        let file = load_file(&format!("{FILE}upstreams: [{{service: orders{upstream}}}]\n"));
        let texts: Vec<_> = (0..names.len()).map(|n| format!("timeout: 10{n}s")).collect();
        let documents = (0..names.len()).filter(is_in).filter(|n| *n != 2);
        let documents: Vec<_> = documents.map(|n| (names[n], texts[n].as_str())).collect();
        let expected = (0..names.len()).rfind(is_in).map_or(15, |n| 100 + u64::try_from(n).unwrap());
        let applied = apply(&file, &documents);
        assert_eq!(applied.loaded.config.upstreams[0].policy.timeout.as_secs(), expected, "{documents:?}");
    }
}

#[test]
fn without_documents_the_settings_are_those_of_the_file() {
    let full = include_str!("../../../../../configs/full.yaml");
    let full = load_file(&full.replace("listen: 0.0.0.0:7078", "listen: 127.0.0.1:7078"));
    assert_eq!(apply(&full, &[]).loaded, full);
    let empty = [("services/payments", ""), ("defaults", "# nothing\n"), ("services/x", "{}")];
    let applied = apply(&full, &empty);
    assert_eq!(problems(&applied), [""; 0]);
    assert_eq!(applied.loaded.config.upstreams, full.config.upstreams);
    let page = render(&applied.loaded.config, &applied.loaded.origins);
    assert!(page.contains("  - service: x  # kv:outrigger/settings/services/x@3\n"), "{page}");
    let mut shown = full.config.upstreams.clone();
    let routes = shown.iter_mut().flat_map(|upstream| &mut upstream.traffic.routes);
    for (_, value) in routes.flat_map(|route| route.headers.set.iter_mut().chain(&mut route.headers.add)) {
        *value = crate::Secret::new("(hidden)");
    }
    assert_eq!(load_file(&page).config.upstreams, shown, "a page with x-services can be read");
    assert!(apply(&full, &empty[..2]).loaded == full);
}

#[test]
fn without_a_prefix_no_document_applies() {
    let file = load_file("service: {name: shop, port: 8080}\n");
    let applied = apply(&file, &[KV_DEFAULTS]);
    assert_eq!((applied.documents.len(), applied.loaded), (0, file));
}

#[test]
fn settings_without_a_file_are_overridden_too() {
    let file = load_file(&format!("{FILE}defaults: {{timeout: 1s}}\n{ORDERS}\n"));
    let file = LoadedConfig::without_file(file.config, file.origins);
    let applied =
        apply(&file, &[KV_DEFAULTS, ("services/orders", "max_pending: 7"), ("services/b", "max_pending: 1")]);
    let got = values(&applied.loaded);
    for (key, value) in [
        ("defaults.timeout", "2s"),
        ("upstreams[0].timeout", "4s"),
        ("upstreams[0].max_pending", "7"),
        ("x-services[0].timeout", "2s"),
        ("x-services[0].max_pending", "1"),
    ] {
        assert_eq!(got[key], value, "{key}");
    }
}

#[test]
fn a_rollout_has_its_share_of_the_instances_and_the_same_ones_with_every_version() {
    let ids: Vec<_> = (0..10_000).map(|n| format!("orders-10.0.{}.{}-8080", n / 250, n % 250)).collect();
    let selected = |percent: f64| ids.iter().filter(|id| is_selected(id, percent)).collect::<Vec<_>>();
    let ten = selected(10.0);
    assert!((900..1_100).contains(&ten.len()), "{}", ten.len());
    let thirty = selected(30.0);
    assert!(ten.iter().all(|id| thirty.contains(id)), "who has it keeps it");
    assert_eq!((selected(0.0).len(), selected(100.0).len()), (0, ids.len()));
    let known: Vec<_> = (0..20).filter(|n| is_selected(&format!("orders-{n}"), 25.0)).collect();
    assert_eq!(known, KNOWN_QUARTER);
}

/// The numbers of the ids `orders-0` to `orders-19` in a rollout of 25 %.
const KNOWN_QUARTER: [usize; 5] = [3, 4, 5, 6, 18];

/// Keys that no other key limits, with values.
const FREE: [(&str, [&str; 3]); 7] = [
    ("timeout", ["1s", "2s", "3s"]),
    ("max_pending", ["1", "2", "3"]),
    ("balance", ["random", "weighted", "round_robin"]),
    ("retry.max_retries", ["1", "2", "3"]),
    ("retry.statuses", ["[500]", "[501, 502]", "[]"]),
    ("outlier.window", ["11s", "12s", "13s"]),
    ("pool.max_waiting", ["1", "2", "3"]),
];

/// What one layer says of the free keys. `Some(None)`: `null`.
type LayerKeys = Vec<Option<Option<&'static str>>>;

fn layer(with_null: bool) -> impl Strategy<Value = LayerKeys> {
    let of_key = move |values: [&'static str; 3]| {
        let null = if with_null { 1 } else { 0 };
        prop_oneof![
            3 => Just(None),
            null => Just(Some(None)),
            3 => select(values.to_vec()).prop_map(|value| Some(Some(value))),
        ]
    };
    FREE.map(|(_, values)| of_key(values).boxed()).to_vec()
}

/// The layer as YAML in one line.
fn text(layer: &LayerKeys) -> String {
    let mut sections: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((key, _), value) in FREE.iter().zip(layer) {
        let Some(value) = value else { continue };
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        sections.entry(section).or_default().push(format!("{name}: {}", value.unwrap_or("null")));
    }
    let sections = sections.iter().map(|(section, keys)| match *section {
        "" => keys.join(", "),
        section => format!("{section}: {{{}}}", keys.join(", ")),
    });
    sections.collect::<Vec<_>>().join(", ")
}

/// The value of the `n`th key by the rule: the first layer that has the key. `null` ends the layers of a service, and then those of
/// the defaults.
fn expected(n: usize, groups: [&[&LayerKeys]; 2], built_in: &str) -> String {
    for group in groups {
        if let Some(Some(value)) = group.iter().find_map(|layer| layer[n]) {
            return value.to_owned();
        }
    }
    built_in.to_owned()
}

proptest! {
    #[test]
    fn the_merge_follows_the_rule_in_every_order_and_a_removed_document_leaves_nothing(
        file_defaults in layer(false),
        kv_defaults in layer(true),
        app_defaults in layer(true),
        upstream in layer(false),
        service in layer(true),
        app_service in layer(true),
        removed in 0usize..4,
    ) {
        let upstream_text = text(&upstream);
        let comma = if upstream_text.is_empty() { "" } else { ", " };
        let file = load_file(&format!(
            "{FILE}defaults: {{{}}}\nupstreams: [{{service: orders{comma}{upstream_text}}}]\n",
            text(&file_defaults)
        ));
        let documents = [
            ("defaults", &kv_defaults),
            ("apps/shop/defaults", &app_defaults),
            ("services/orders", &service),
            ("apps/shop/services/orders", &app_service),
        ];
        let versions = |skip: Option<usize>| -> Vec<_> {
            let kept = documents.iter().enumerate().filter(|(n, _)| Some(*n) != skip);
            kept.map(|(n, (name, layer))| version(name, n as u64 + 1, &format!("{{{}}}", text(layer)))).collect()
        };
        let all = versions(None);
        let applied = file.with_documents(&all, "shop-1");
        prop_assert_eq!(problems(&applied), [""; 0]);
        let got = values(&applied.loaded);
        let built_in = values(&load_file(FILE));
        for (n, (key, _)) in FREE.iter().enumerate() {
            let built_in = &built_in[&format!("defaults.{key}")];
            let service_layers = [&app_service, &service, &upstream];
            let default_layers = [&app_defaults, &kv_defaults, &file_defaults];
            let of_defaults = expected(n, [&[], &default_layers], built_in);
            prop_assert_eq!(&got[&format!("defaults.{key}")], &of_defaults, "defaults.{}", key);
            let of_service = expected(n, [&service_layers, &default_layers], built_in);
            prop_assert_eq!(&got[&format!("upstreams[0].{key}")], &of_service, "upstreams[0].{}", key);
        }
        // The order in which documents come does not matter.
        let mut reversed = all.clone();
        reversed.reverse();
        prop_assert_eq!(&file.with_documents(&reversed, "shop-1").loaded, &applied.loaded);
        // A document that is gone is as one that never was; so is an empty one.
        let without = file.with_documents(&versions(Some(removed)), "shop-1").loaded;
        let mut emptied = all;
        emptied[removed] = version(documents[removed].0, 9, "{}");
        prop_assert_eq!(file.with_documents(&emptied, "shop-1").loaded, without);
        prop_assert_eq!(file.with_documents(&[], "shop-1").loaded, file);
    }

    #[test]
    fn no_document_makes_the_reader_panic(text in ".{0,200}", name in "(defaults|services/orders|apps/shop/defaults)") {
        let file = load_file(FILE);
        let _ = file.with_documents(&[version(&name, 1, &text)], "shop-1");
    }
}
