//! `dynamic_config.bounds`: what a document may set, and what it may not leave.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use outrigger_config::{
    Bounds, DocumentVersions, DynamicConfig, Environment, LoadedConfig, Overrides, SettingsDocument,
    UnknownKeys, check_document, load,
};

fn load_file(text: &str) -> LoadedConfig {
    let text = format!("service: {{name: shop, port: 8080}}\n{text}\n");
    load(Some(("o.yaml", &text)), &Environment::default(), &Overrides::default())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

fn document(name: &str, value: &str) -> SettingsDocument {
    SettingsDocument { name: name.to_owned(), index: 7, created: 7, value: value.into() }
}

/// The problems that a sidecar with these settings has with the document `services/orders`.
fn problems(file: &LoadedConfig, text: &str) -> Vec<String> {
    let current = document("services/orders", text);
    let applied = file.with_documents(&[DocumentVersions { current, last_good: None }], "shop-1");
    applied.documents[0].problems.iter().map(ToString::to_string).collect()
}

fn problems_with(bounds: &str, text: &str) -> Vec<String> {
    problems(&load_file(&format!("dynamic_config: {{prefix: outrigger{bounds}}}")), text)
}

#[test]
fn a_value_outside_of_the_bounds_is_refused_with_both_ends() {
    let bounds = ", bounds: {timeout: 100ms..60s, max_in_flight: 10..500, retry.max_retries: 1..3, \
                  retry.budget.ratio: 10%..0.5, retry.max_body: 0..64KiB, hedge.percentile: 90%..99%, \
                  outlier.max_ejection_percent: 10..50%}";
    let good = "timeout: 60s\nmax_in_flight: 10\nretry: {max_retries: 3, max_body: 65536, budget: {ratio: 50%}}\n\
                hedge: {percentile: 0.95}\noutlier: {max_ejection_percent: 50}\nbody_idle: 5m\n";
    assert_eq!(problems_with(bounds, good), [""; 0]);
    for (text, at, key, shown, ends) in [
        ("timeout: 99ms", "1:10", "timeout", "\"99ms\"", "100ms to 60s"),
        ("timeout: 61s", "1:10", "timeout", "\"61s\"", "100ms to 60s"),
        ("max_in_flight: off", "1:16", "max_in_flight", "\"off\"", "10 to 500"),
        ("max_in_flight: 501", "1:16", "max_in_flight", "\"501\"", "10 to 500"),
        ("retry: off", "1:8", "retry", "retry.max_retries", "1 to 3"),
        ("retry: {max_retries: 0}", "1:22", "retry.max_retries", "\"0\"", "1 to 3"),
        ("retry: {budget: {ratio: 9%}}", "1:25", "retry.budget.ratio", "\"9%\"", "10% to 0.5"),
        ("retry: {max_body: 65KiB}", "1:19", "retry.max_body", "\"65KiB\"", "0 to 64KiB"),
        ("hedge: {percentile: 0.5}", "1:21", "hedge.percentile", "\"0.5\"", "90% to 99%"),
        (
            "outlier: {max_ejection_percent: 51}",
            "1:33",
            "outlier.max_ejection_percent",
            "\"51\"",
            "10 to 50%",
        ),
    ] {
        let place = format!("kv:outrigger/settings/services/orders@7:{at}");
        let expected = format!("{place} {key}: {shown} is outside of dynamic_config.bounds; allowed: {ends}");
        assert_eq!(problems_with(bounds, text), [expected], "{text}");
    }
    // The file itself is not bounded.
    load_file("defaults: {timeout: 5m}\ndynamic_config: {prefix: a, bounds: {timeout: 1s..2s}}");
    let mut rules = DynamicConfig::default();
    rules.bounds.insert("timeout".into(), Bounds { low: "1s".into(), high: "2s".into() });
    let put = document("defaults", "timeout: 3s");
    let refused = check_document(&put, "outrigger", &rules, UnknownKeys::Refuse).unwrap_err();
    assert!(
        refused.to_string().ends_with("outside of dynamic_config.bounds; allowed: 1s to 2s"),
        "{refused}"
    );
}

#[test]
fn off_and_null_and_on_do_not_lead_out_of_the_bounds() {
    let place = "kv:outrigger/settings/services/orders@7";
    // Every key that can be off, alone or with its section.
    for (key, bounds) in [
        ("per_try_timeout", "1ms..1s"),
        ("deadline", "1s..1m"),
        ("max_in_flight", "1..1000000"),
        ("hedge.percentile", "50%..99%"),
        ("hedge.min_delay", "0s..1m"),
        ("circuit_breaker.failure_ratio", "1%..100%"),
        ("circuit_breaker.window", "1s..10m"),
        ("circuit_breaker.min_requests", "1..1000000"),
        ("circuit_breaker.consecutive_failures", "1..1000000"),
        ("circuit_breaker.open_for", "10ms..1h"),
        ("circuit_breaker.max_open_for", "10ms..1h"),
        ("circuit_breaker.probes", "1..100"),
        ("outlier.consecutive_failures", "1..1000000"),
        ("outlier.success_rate", "1%..100%"),
        ("outlier.window", "1s..10m"),
        ("outlier.min_requests", "1..1000000"),
        ("outlier.max_ejection_percent", "0..100"),
        ("outlier.base_ejection_time", "10ms..1h"),
        ("outlier.max_ejection_time", "10ms..1h"),
        ("retry.max_retries", "1..10"),
    ] {
        let rules = format!(", bounds: {{{key}: {bounds}}}");
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let whole =
            problems_with(&rules, &format!("{}: off", if section.is_empty() { name } else { section }));
        assert!(
            whole.len() == 1 && whole[0].contains("outside of dynamic_config.bounds"),
            "{key}: {whole:?}"
        );
        let of_key = match section {
            "" => format!("{name}: off"),
            section => format!("{section}: {{{name}: off}}"),
        };
        assert_eq!(problems_with(&rules, &of_key).len(), 1, "{key}: no value, or outside");
    }
    // `off` is no value of a time-out, with and without bounds.
    for text in ["timeout: off", "timeout: 0s", "body_idle: off", "connect_timeout: 0"] {
        assert_eq!(problems_with("", text).len(), 1, "{text}");
    }
    // `null`, a section that is switched, and a value that limits another one, over a file.
    let with = |bounds: &str, upstream: &str, text: &str| {
        let file = load_file(&format!(
            "dynamic_config: {{prefix: outrigger, bounds: {{{bounds}}}}}\nupstreams: [{{service: orders, {upstream}}}]"
        ));
        problems(&file, text)
    };
    let out = |at: &str, what: &str, ends: &str| {
        vec![format!("{place}{at}: {what} is outside of dynamic_config.bounds; allowed: {ends}")]
    };
    for (bounds, upstream, text, expected) in [
        (
            "max_in_flight: 1..9",
            "max_in_flight: 5",
            "max_in_flight: null",
            out(":1:16 max_in_flight", "what null leaves", "1 to 9"),
        ),
        (
            "timeout: 1s..9s",
            "timeout: 5s",
            "timeout: ~",
            out(":1:10 timeout", "what null leaves", "1s to 9s"),
        ),
        (
            "circuit_breaker.window: 1s..5s",
            "circuit_breaker: {window: 5s}",
            "timeout: 1s\ncircuit_breaker: null",
            out(":2:18 circuit_breaker", "circuit_breaker.window", "1s to 5s"),
        ),
        (
            "retry.max_retries: 0..1",
            "retry: off",
            "retry: on",
            out(":1:8 retry", "retry.max_retries", "0 to 1"),
        ),
        (
            "retry.backoff_base: 10ms..1s",
            "retry: {backoff_base: 20ms}",
            "retry: {backoff_max: 5ms}",
            out(":1:8 retry", "retry.backoff_base", "10ms to 1s"),
        ),
        // What the file says alone is not bounded, and a document that leaves it as it is does no harm.
        ("timeout: 1s..9s", "timeout: 50s", "max_pending: 5\nper_try_timeout: null", Vec::new()),
        ("max_in_flight: 1..9", "timeout: 1s", "max_in_flight: null", Vec::new()),
        ("retry.max_retries: 1..3", "retry: off", "retry: {backoff_max: 1s}", Vec::new()),
        ("retry.max_retries: 0..3", "timeout: 1s", "retry: off", Vec::new()),
    ] {
        assert_eq!(with(bounds, upstream, text), expected, "{bounds}; {upstream}; {text}");
    }
}

#[test]
fn a_route_of_a_document_keeps_to_the_bounds() {
    let bounds = ", allow: [tuning, routing], bounds: {timeout: 1s..60s, retry.max_retries: 1..3, hedge.percentile: 90%..99%}";
    let with = |route: &str| problems_with(bounds, &format!("routes: [{{{route}}}]"));
    assert_eq!(with("timeout: 2s, retry: {max_retries: 2}"), [""; 0]);
    assert_eq!(with("body_idle: 5s"), [""; 0], "what it does not set is not its own");
    let place = "kv:outrigger/settings/services/orders@7:1";
    let expected = "is outside of dynamic_config.bounds; allowed: 1 to 3";
    assert_eq!(
        with("retry: {max_retries: 5}"),
        [format!("{place}:32 routes[0].retry.max_retries: \"5\" {expected}")]
    );
    assert_eq!(with("retry: off"), [format!("{place}:11 routes[0]: retry.max_retries {expected}")]);
}
