//! `api.config`: what is read, and what is wrong with it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use outrigger_config::{
    AppSignal, Config, ConfigFormat, Environment, KvLayout, OnChange, Overrides, PropertySource, load,
    plan_reload, render,
};

fn read(text: &str) -> Result<outrigger_config::LoadedConfig, Vec<String>> {
    load(Some(("o.yaml", text)), &Environment::default(), &Overrides::default())
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn config(text: &str) -> Config {
    read(text).unwrap_or_else(|problems| panic!("{problems:#?}")).config
}

/// The only problem with this text of `api.config`.
fn problem(text: &str) -> String {
    let text = format!(
        "dynamic_config: {{prefix: team/outrigger}}\napi:\n  listen: localhost:7077\n  config: {text}"
    );
    let problems = read(&text).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

const WHOLE: &str = "\
service: {name: orders, port: 80}
api:
  listen: localhost:7077
  config:
    allow: [config/, shared]
    cache: off
    sources:
      - {prefix: config/orders/extra/}
      - {prefix: config/orders/data, as: yaml}
      - {spring: {profiles: [eu, prod], format: files}}
      - {spring: billing}
    files:
      - {path: /run/orders/all.properties}
      - {prefix: tls/orders.pem, path: tls.pem, format: value, mode: 0640, wait: 0s, on_change: {signal: SIGUSR1}}
      - {prefix: config/orders, path: a.env, required: true, on_change: {http: 'http://[::1]:80/refresh?a=b'}}
      - {prefix: config/orders, path: b.yml, on_change: {restart: true, at_once: 2, min_interval: 1m}}
";

#[test]
fn the_settings_of_the_app_s_configuration_are_read_and_shown() {
    let loaded = read(WHOLE).unwrap();
    let settings = &loaded.config.api.config;
    assert_eq!(
        (settings.allowed(), settings.cache),
        (vec!["config/".to_owned(), "shared".to_owned()], false)
    );
    let contexts: Vec<_> = settings.contexts().into_iter().map(|one| (one.prefix, one.layout)).collect();
    assert_eq!(contexts[0], ("config/orders/extra/".to_owned(), KvLayout::Keys));
    assert_eq!(contexts[1], ("config/orders/data".to_owned(), KvLayout::Yaml));
    assert_eq!(contexts[2], ("config/orders-prod.properties".to_owned(), KvLayout::Properties));
    assert_eq!(contexts.last().unwrap(), &("config/application/".to_owned(), KvLayout::Keys));
    let PropertySource::Spring(billing) = &settings.sources[3] else { panic!("{settings:?}") };
    assert_eq!((billing.app.as_str(), billing.root.as_str()), ("billing", "config"));
    let formats: Vec<_> = settings.files.iter().map(|file| file.format).collect();
    assert_eq!(
        formats,
        [ConfigFormat::Properties, ConfigFormat::Value, ConfigFormat::Env, ConfigFormat::Yaml]
    );
    let modes: Vec<_> = settings.files.iter().map(|file| file.mode).collect();
    assert_eq!(modes, [0o600, 0o640, 0o600, 0o600]);
    assert_eq!(settings.files[1].on_change, Some(OnChange::Signal(AppSignal::Usr1)));
    let Some(OnChange::Http(url)) = &settings.files[2].on_change else { panic!("{settings:?}") };
    assert_eq!(url.to_string(), "http://[::1]:80/refresh?a=b");
    let Some(OnChange::Restart { at_once, min_interval }) = settings.files[3].on_change else { panic!() };
    assert_eq!((at_once, min_interval.as_secs()), (2, 60));
    // What is shown loads as the same.
    let shown = render(&loaded.config, &loaded.origins);
    assert_eq!(config(&shown), loaded.config, "{shown}");
}

#[test]
fn a_reload_changes_every_setting_of_the_app_s_configuration() {
    let plan = plan_reload(&read("api: {listen: localhost:7077}").unwrap(), read(WHOLE).unwrap());
    assert_eq!(plan.needs_restart, []);
    assert_eq!(plan.next.config.api.config, config(WHOLE).api.config);
    let changed: Vec<_> = plan.changed.iter().map(ToString::to_string).collect();
    assert!(
        changed.contains(&"api.config.files[3].on_change.at_once: (not set) → 2".to_owned()),
        "{changed:?}"
    );
}

#[test]
fn without_allow_the_prefixes_of_sources_and_files_are_served() {
    let text = "api: {listen: localhost:7077, config: {sources: [{spring: {app: a}}], files: [{prefix: b, path: /b.json}]}}";
    assert_eq!(config(text).api.config.allowed(), ["config/a/", "config/application/", "b"]);
    let none = "api: {listen: localhost:7077, config: {allow: [], sources: [{prefix: a/}]}}";
    assert_eq!(config(none).api.config.allowed(), [""; 0]);
}

#[test]
fn what_is_wrong_with_a_source_is_named() {
    for (text, expected) in [
        ("{sources: [{as: yaml}]}", "o.yaml:4:22 api.config.sources[0].prefix: is missing; add it"),
        (
            "{sources: [{prefix: /config}]}",
            "o.yaml:4:31 api.config.sources[0].prefix: \"/config\" is not a prefix of keys; write words with slashes between them, as config/orders/: without ? # % \\, and no word . or ..",
        ),
        (
            "{sources: [{prefix: a/../b}]}",
            "o.yaml:4:31 api.config.sources[0].prefix: \"a/../b\" is not a prefix of keys; write words with slashes between them, as config/orders/: without ? # % \\, and no word . or ..",
        ),
        (
            "{sources: [{prefix: a, as: yml}]}",
            "o.yaml:4:38 api.config.sources[0].as: \"yml\" is not a value of this setting; did you mean yaml? allowed: keys, yaml, properties, json, files",
        ),
        (
            "{sources: [{prefix: a, spring: {app: a}}]}",
            "o.yaml:4:31 api.config.sources[0].prefix: contradicts spring; remove it; spring.root and spring.format are for that",
        ),
        (
            "{sources: [{spring: {profiles: [prod]}}]}",
            "o.yaml:4:31 api.config.sources[0].spring.app: is missing; add it: the app's spring.application.name; without it, service.name is used",
        ),
        (
            "{sources: [{spring: {app: a/b}}]}",
            "o.yaml:4:37 api.config.sources[0].spring.app: \"a/b\" is not a part of a key; write one word without slashes",
        ),
    ] {
        assert_eq!(problem(text), expected, "{text}");
    }
}

#[test]
fn the_settings_of_the_sidecar_are_never_the_app_s() {
    let hint = "overlaps with dynamic_config.prefix (team/outrigger); the app does not get the settings of its sidecar: keep the two prefixes apart";
    for (text, place) in [
        ("{allow: [a, team/outrigger/]}", "o.yaml:4:19 api.config.allow: \"team/outrigger/\""),
        ("{allow: [team/]}", "o.yaml:4:19 api.config.allow: \"team/\""),
        ("{allow: [team]}", "o.yaml:4:19 api.config.allow: \"team\""),
        (
            "{allow: [team/outrigger/settings/defaults]}",
            "o.yaml:4:19 api.config.allow: \"team/outrigger/settings/defaults\"",
        ),
        (
            "{sources: [{prefix: team/outrigger/x/}]}",
            "o.yaml:4:31 api.config.sources[0].prefix: \"team/outrigger/x/\"",
        ),
        (
            "{sources: [{spring: {root: team, app: outrigger, default_context: b}}]}",
            "o.yaml:4:31 api.config.sources[0].spring: \"team/outrigger/\"",
        ),
        ("{files: [{prefix: team, path: /a.json}]}", "o.yaml:4:29 api.config.files[0].prefix: \"team\""),
    ] {
        assert_eq!(problem(text), format!("{place} {hint}"), "{text}");
    }
    for apart in ["team/outrigger-2/", "tea/", "team/a"] {
        config(&format!(
            "dynamic_config: {{prefix: team/outrigger}}\napi: {{listen: localhost:7077, config: {{allow: [{apart}]}}}}"
        ));
    }
}

#[test]
fn what_is_wrong_with_a_file_is_named() {
    for (text, expected) in [
        ("{prefix: a}", "files[0].path: is missing; add it"),
        (
            "{prefix: a, path: /a.conf}",
            "files[0].path: has no ending that says what the file is; add format: json, env, yaml, properties, or value for the bytes of one key",
        ),
        (
            "{path: /a.json}",
            "files[0].prefix: is missing: without api.config.sources there is no merged configuration to write; add prefix: config/NAME/",
        ),
        (
            "{prefix: a/, path: /a, format: value}",
            "files[0].prefix: \"a/\" is no key, whose value could be written; name one key, without the slash at its end, as a/tls.pem",
        ),
        (
            "{path: /a, format: value}",
            "files[0].prefix: format value needs the key in prefix; add prefix: KEY",
        ),
        (
            "{prefix: a, path: /a.json, mode: 0888}",
            "files[0].mode: \"0888\" is not a mode of a file; write it as chmod takes it, as 0600 or 0640",
        ),
        (
            "{prefix: a, path: /a.json, mode: 0444}",
            "files[0].mode: \"0444\" is no mode with which the sidecar can read and write the file; write it as chmod takes it, as 0600 or 0640",
        ),
        (
            "{prefix: a, path: /a.json, mode: 4755}",
            "files[0].mode: \"4755\" is no mode with which the sidecar can read and write the file; write it as chmod takes it, as 0600 or 0640",
        ),
        ("{prefix: a, path: /a.json, wait: 1h}", "files[0].wait: \"1h\" is out of range; allowed: 0s to 10m"),
        (
            "{prefix: a, path: /a.json, on_change: {}}",
            "files[0].on_change: says nothing to do; write {signal: HUP}, {http: URL} or {restart: true}",
        ),
        (
            "{prefix: a, path: /a.json, on_change: {signal: HUP, restart: true}}",
            "files[0].on_change.restart: contradicts signal; keep one of signal, http and restart",
        ),
        (
            "{prefix: a, path: /a.json, on_change: {signal: KILL}}",
            "files[0].on_change.signal: \"KILL\" is not a value of this setting; allowed: HUP, USR1, USR2, WINCH, QUIT",
        ),
        (
            "{prefix: a, path: /a.json, on_change: {signal: HUP, at_once: 2}}",
            "files[0].on_change.at_once: is for restart alone; set restart: true, or remove the key",
        ),
        (
            "{prefix: a, path: /a.json, on_change: {restart: true, at_once: 0}}",
            "files[0].on_change.at_once: \"0\" is out of range; allowed: 1 to 1000",
        ),
    ] {
        let found = problem(&format!("{{files: [{text}]}}"));
        let (_, found) = found.split_once(" api.config.").unwrap();
        assert_eq!(found, expected, "{text}");
    }
    for url in [
        "http://10.0.0.1:80/",
        "https://localhost:80/",
        "http://localhost.example:80/",
        "localhost:80",
        "http://me@localhost:80/",
        "http://localhost:0/",
        "http://localhost:80/#a",
    ] {
        let found =
            problem(&format!("{{files: [{{prefix: a, path: /a.json, on_change: {{http: '{url}'}}}}]}}"));
        assert!(found.contains("files[0].on_change.http: "), "{url}: {found}");
    }
    let twice = problem("{files: [{prefix: a, path: /a.json}, {prefix: b, path: /a.json}]}");
    assert!(twice.contains("api.config.files[1].path: /a.json is written by another item too"), "{twice}");
}

#[test]
fn the_number_of_prefixes_is_limited() {
    let many: Vec<_> = (0..33).map(|n| format!("p{n}/")).collect();
    let found = problem(&format!("{{allow: [{}]}}", many.join(", ")));
    assert!(found.contains("api.config: makes the sidecar follow 33 prefixes"), "{found}");
}

#[test]
fn a_registry_of_static_instances_has_no_keys() {
    let text = "registry: {file: s.yaml}\napi: {config: {files: [{prefix: a, path: /a.json}]}}";
    let warnings: Vec<_> = read(text).unwrap().warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings.iter().any(|one| one.contains("api.config: is not used: registry.file has no keys")),
        "{warnings:?}"
    );
    // Without it no start would end well, and each would wait for it first.
    let text =
        "registry: {file: s.yaml}\napi: {config: {files: [{prefix: a, path: /a.json, required: true}]}}";
    let problems = read(text).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with(
            "o.yaml:2:61 api.config.files[0].required: the file is never written: registry.file"
        ),
        "{problems:?}"
    );
}
