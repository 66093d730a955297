//! The section `dns`.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::problems;
use outrigger_config::{DnsAnswer, DnsBrowsers, Environment, LoadedConfig, Overrides, load, plan_reload};

fn check(text: &str, expected: &[&str]) {
    assert_eq!(problems(text, &[], &Overrides::default()), expected, "for:\n{text}");
}

fn loaded(text: &str) -> LoadedConfig {
    load(Some(("o.yaml", text)), &Environment::default(), &Overrides::default()).unwrap()
}

#[test]
fn the_listener_and_its_peers_are_read() {
    let text = "dns: {listen: 'localhost:8653', answer: instances, browsers: allow, consul: 127.0.0.1,\n\
                \x20 forward: [10.0.0.2, '10.0.0.3:5353', '2001:db8::1', '[2001:db8::2]', '[2001:db8::3]:54']}";
    let read = loaded(text);
    assert_eq!(read.warnings, []);
    let dns = &read.config.dns;
    assert_eq!(dns.listen.as_ref().unwrap().to_string(), "localhost:8653");
    assert_eq!((dns.answer, dns.browsers), (DnsAnswer::Instances, DnsBrowsers::Allow));
    let forward: Vec<_> = dns.forward.iter().map(ToString::to_string).collect();
    assert_eq!(
        forward,
        ["10.0.0.2:53", "10.0.0.3:5353", "[2001:db8::1]:53", "[2001:db8::2]:53", "[2001:db8::3]:54"]
    );
    assert_eq!(dns.consul.unwrap().to_string(), "127.0.0.1:8600");
    let shown = outrigger_config::render(&read.config, &read.origins);
    assert_eq!(loaded(&shown).config, read.config, "{shown}");
    let changed: Vec<_> = plan_reload(&loaded("{}"), read).changed.iter().map(ToString::to_string).collect();
    assert!(changed.contains(&"dns.answer: loopback → instances".to_owned()), "{changed:?}");
}

#[test]
fn it_is_off_by_default_and_guards_browsers_where_names_are_this_machine() {
    assert_eq!(loaded("{}").config.dns.listen, None);
    for (text, guards) in [
        ("{}", false),
        ("dns: {listen: '127.0.0.1:8653'}", true),
        ("dns: {listen: '127.0.0.1:8653', browsers: allow}", false),
        ("dns: {listen: '127.0.0.1:8653', answer: instances}", false),
    ] {
        assert_eq!(loaded(text).config.dns.guards_browsers(), guards, "{text}");
    }
}

#[test]
fn each_problem_has_its_place_and_what_to_do() {
    check(
        "dns:\n  listen: 0.0.0.0:53\n  answer: both\n  forward: [dns.example, 0.0.0.0]\n  consul: 'localhost:8600'\n  browsers: no",
        &[
            "o.yaml:2:11 dns.listen: \"0.0.0.0:53\" is not a loopback address; only this machine is answered: write 127.0.0.1:8653, [::1]:8653 or localhost:8653",
            "o.yaml:3:11 dns.answer: \"both\" is not a value of this setting; allowed: loopback, instances",
            "o.yaml:4:13 dns.forward: \"dns.example\" is no address of a DNS server; write 127.0.0.53 or 10.0.0.2:53",
            "o.yaml:4:26 dns.forward: \"0.0.0.0\" is no address of a DNS server; write 127.0.0.53 or 10.0.0.2:53",
            "o.yaml:5:11 dns.consul: \"localhost:8600\" is no address of a DNS server; write 127.0.0.1:8600",
            "o.yaml:6:13 dns.browsers: \"no\" is not a value of this setting; allowed: refuse, allow",
        ],
    );
}

#[test]
fn no_question_is_sent_to_the_listener_itself() {
    for (listen, key, own) in [
        ("localhost:53", "forward: ['127.0.0.1']", "dns.forward"),
        ("localhost:53", "forward: ['10.0.0.2', '::1']", "dns.forward"),
        ("127.0.0.1:8653", "consul: '127.0.0.1:8653'", "dns.consul"),
    ] {
        let found = problems(&format!("dns: {{listen: '{listen}', {key}}}"), &[], &Overrides::default());
        let [problem] = found.as_slice() else { panic!("{found:?}") };
        assert!(problem.contains(own) && problem.contains("is dns.listen itself"), "{problem}");
    }
    check("dns: {listen: '127.0.0.1:53', forward: [127.0.0.53, '127.0.0.1:5353']}", &[]);
    check(
        "dns: {listen: '127.0.0.1:7070'}",
        &[
            "o.yaml:1:15 dns.listen: 127.0.0.1:7070 overlaps with outbound.listen (localhost:7070); choose another port",
        ],
    );
}

#[test]
fn what_has_no_effect_is_a_warning() {
    for text in ["dns: {answer: loopback}", "dns: {forward: [10.0.0.2]}", "dns: {browsers: allow}"] {
        let warnings = loaded(text).warnings;
        assert!(warnings.len() == 1 && warnings[0].to_string().contains("dns.listen"), "{warnings:?}");
    }
    let text = "registry: {file: /x}\ndns: {listen: 'localhost:8653', consul: '127.0.0.1:8600'}";
    let warnings = loaded(text).warnings;
    assert!(warnings.iter().any(|one| one.to_string().contains("dns.consul")), "{warnings:?}");
}

#[test]
fn a_flag_and_a_variable_set_the_address() {
    let env: Environment = [("OUTRIGGER_DNS_LISTEN", "127.0.0.1:8654")].into_iter().collect();
    let by_variable = load(None, &env, &Overrides::default()).unwrap();
    assert_eq!(by_variable.config.dns.listen.unwrap().to_string(), "127.0.0.1:8654");
    let flags = Overrides { dns_listen: Some("[::1]:8655".to_owned()), ..Overrides::default() };
    assert_eq!(load(None, &env, &flags).unwrap().config.dns.listen.unwrap().to_string(), "[::1]:8655");
}

#[test]
fn no_document_of_the_kv_opens_the_listener() {
    let file = loaded("dynamic_config: {prefix: a}");
    let document = outrigger_config::DocumentVersions {
        current: outrigger_config::SettingsDocument {
            name: "defaults".into(),
            index: 1,
            created: 1,
            value: "timeout: 3s\ndns: {listen: '127.0.0.1:8653'}".into(),
        },
        last_good: None,
    };
    let over = file.with_documents(&[document], "shop-1").loaded;
    assert_eq!(over.config.dns, file.config.dns);
}
