//! Several services beside one sidecar: `services`, its problems, and what flags and variables do with it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::problems;
use outrigger_config::{Environment, LoadedConfig, Overrides, Probe, Problems, load, render, summarize};

fn read(text: &str, env: &[(&str, &str)], overrides: &Overrides) -> Result<LoadedConfig, Problems> {
    load(Some(("o.yaml", text)), &env.iter().copied().collect::<Environment>(), overrides)
}

fn loaded(text: &str) -> LoadedConfig {
    read(text, &[], &Overrides::default()).unwrap()
}

fn check(text: &str, expected: &[&str]) {
    assert_eq!(problems(text, &[], &Overrides::default()), expected, "for:\n{text}");
}

const TWO: &str = "\
services:
  - {name: orders, port: 8080, tags: [v2], weights: {passing: 3}}
  - name: orders-admin
    port: 8081
    id: admin-1
    address: 10.0.0.7
    meta: {team: a}
    health: {http: /up, interval: 5s}
    deregister_after: 2m
";

#[test]
fn each_service_has_settings_of_its_own() {
    let got = loaded(TWO);
    let [orders, admin] = got.config.services.as_slice() else { panic!("{:?}", got.config.services) };
    assert_eq!((&*orders.name, orders.port, &orders.tags[..]), ("orders", 8080, &["v2".to_owned()][..]));
    assert_eq!((orders.weights.passing, &orders.id, &orders.health.probe), (3, &None, &Probe::Tcp));
    assert_eq!((&*admin.name, admin.port, admin.id.as_deref()), ("orders-admin", 8081, Some("admin-1")));
    assert_eq!((admin.address.as_deref(), &*admin.meta["team"]), (Some("10.0.0.7"), "a"));
    assert_eq!(admin.health.probe, Probe::Http("/up".into()));
    assert_eq!(
        (admin.health.interval, admin.deregister_after),
        (Duration::from_secs(5), Duration::from_secs(120))
    );
    assert_eq!(got.origins.get("services[1].port").to_string(), "o.yaml:4");
    assert_eq!(loaded("services: []").config.services, []);
    let summary = summarize(&got);
    for line in [
        "register   orders at the agent's address, port 8080; health: TCP connect every 2s",
        "           orders-admin at 10.0.0.7, port 8081; health: GET /up every 5s",
    ] {
        assert!(summary.lines().any(|l| l == line), "{line} in\n{summary}");
    }
}

#[test]
fn what_config_shows_can_be_read_again() {
    for text in [TWO, "services: [{name: orders, port: 8080}]", "service: {name: orders, port: 8080}"] {
        let got = loaded(text);
        let page = render(&got.config, &got.origins);
        let again = read(&page, &[], &Overrides::default()).unwrap_or_else(|error| panic!("{error}\n{page}"));
        assert_eq!(again.config, got.config, "{page}");
    }
}

#[test]
fn service_and_services_are_not_both_given() {
    let text = "service: {name: a, port: 1}\nservices: [{name: b, port: 2}]\n";
    let expected = "o.yaml:1:10 service: is given, and so is services (line 2); keep one of them: service for one service, services for a list";
    check(text, &[expected]);
    check(
        "service:\nservices: [{name: b, port: 2}, {name: c, port: 3}]\n",
        &[
            "o.yaml:1:8 service: is given, and so is services (line 2); keep one of them: service for one service, services for a list",
        ],
    );
}

#[test]
fn two_services_have_two_ids() {
    check(
        "services: [{name: a, port: 1, id: x}, {name: b, port: 2, id: x}]\n",
        &["o.yaml:1:62 services[1].id: x is the id of services[0] already; give each an id of its own"],
    );
    // Consul's servers list one of these two.
    check(
        "services: [{name: a, port: 1, id: x}, {name: b, port: 2, id: X}]\n",
        &["o.yaml:1:62 services[1].id: X is the id of services[0] already; give each an id of its own"],
    );
    check(
        "services: [{name: a, port: 1}, {name: A, port: 1}]\n",
        &["o.yaml:1:39 services[1].name: A is there twice, first as services[0]; give each an id of its own"],
    );
    check(
        "services: [{name: a, port: 1}, {name: a, port: 1, tags: [t]}]\n",
        &["o.yaml:1:39 services[1].name: a is there twice, first as services[0]; give each an id of its own"],
    );
    for text in [
        "services: [{name: a, port: 1}, {name: a, port: 2}]",
        "services: [{name: a, port: 1, id: x}, {name: a, port: 1, id: y}]",
    ] {
        check(text, &[]);
    }
}

#[test]
fn a_problem_names_the_service_in_the_list() {
    check(
        "services:\n  - {name: a, port: 1}\n  - {name: b, prot: 2}\n  - {name: c, port: 3, health: {timeout: 5s}}\n",
        &[
            "o.yaml:3:5 services[1].port: is missing; add it",
            "o.yaml:3:15 services[1].prot: unknown key; did you mean port?",
            "o.yaml:4:42 services[2].health.timeout: 5s is above interval (2s); at most 2s, or raise interval",
        ],
    );
    check(
        "services: [{name: a, port: 1}, {name: b, port: 7070}]\n",
        &[
            "o.yaml:1:48 services[1].port: 7070 is the port of both the app and outbound.listen; choose another port",
        ],
    );
    check(
        "services: {name: a, port: 1}\n",
        &["o.yaml:1:11 services: a mapping is not allowed here; write a list: services: [{...}]"],
    );
    check(
        "services: [{name: a}]\n",
        &[
            "o.yaml:1:12 service.port: is missing; add service.port to the file, --port PORT or OUTRIGGER_PORT",
        ],
    );
}

#[test]
fn flags_and_variables_set_the_only_service_and_no_list() {
    let flags = Overrides { port: Some("9000".into()), ..Overrides::default() };
    let env = [("OUTRIGGER_TAGS", "v3")];
    let one = read("services: [{name: a, port: 1}]", &env, &flags).unwrap();
    assert_eq!((one.config.services[0].port, &one.config.services[0].tags), (9000, &vec!["v3".to_owned()]));
    let refused = |env: &[(&str, &str)], flags: &Overrides| read(TWO, env, flags).unwrap_err().to_string();
    let expected = "sets a key of the only service, and the file has a list of services; set it in the file, for the service that is meant";
    let text = refused(&[], &flags);
    assert!(text.contains(&format!("--port: {expected}")), "{text}");
    let text = refused(&env, &Overrides::default());
    assert!(text.contains(&format!("OUTRIGGER_TAGS: {expected}")), "{text}");
}
