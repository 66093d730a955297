//! TLS to the instances of an upstream.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::problems;
use outrigger_config::{Environment, LoadedConfig, Overrides, Tls, TlsVerify, load, render};

fn check(text: &str, expected: &[&str]) {
    assert_eq!(problems(text, &[], &Overrides::default()), expected, "for:\n{text}");
}

fn loaded(text: &str) -> LoadedConfig {
    load(Some(("/etc/o/o.yaml", text)), &Environment::default(), &Overrides::default()).unwrap()
}

fn tls_of(text: &str) -> Option<Tls> {
    loaded(&format!("upstreams: [{{service: Orders, {text}}}]\n")).config.upstreams[0].tls.clone()
}

#[test]
fn without_keys_the_name_is_that_of_the_service_in_the_dns_of_the_registry() {
    let default = Some(Tls { server_name: Some("orders.service.consul".into()), ..Tls::default() });
    for text in ["tls: on", "tls: {}", "tls: {verify: ca}"] {
        assert_eq!(tls_of(text), default, "{text}");
    }
    for text in ["", "tls: off"] {
        assert_eq!(tls_of(text), None, "{text}");
    }
    let other = loaded("registry: {consul: {domain: corp}}\nupstreams: [{service: orders, tls: on}]\n");
    let tls = other.config.upstreams[0].tls.clone().unwrap();
    assert_eq!(tls.server_name.as_deref(), Some("orders.service.corp"));
}

#[test]
fn names_are_those_of_the_service_and_files_are_beside_the_settings_file() {
    let tls = tls_of(
        "tls: {ca_file: ca.pem, cert_file: /x/c.pem, key_file: k.pem, server_name: \"{service}.example\", \
         sans: [\"spiffe://Example/svc/{service}\", A.example, \"FD00:0::7\", \"*.b.example\"]}",
    );
    let sans = ["spiffe://Example/svc/orders", "a.example", "fd00::7", "*.b.example"];
    let expected = Tls {
        ca_file: Some("/etc/o/ca.pem".into()),
        cert_file: Some("/x/c.pem".into()),
        key_file: Some("/etc/o/k.pem".into()),
        server_name: Some("orders.example".into()),
        sans: sans.map(Into::into).into(),
        verify: TlsVerify::Ca,
    };
    assert_eq!(tls, Some(expected));
}

#[test]
fn what_cannot_be_is_told() {
    let at = "o.yaml:1:34 upstreams[0].tls";
    let hint = "write orders.example, 10.0.0.7 or spiffe://example.org/svc/orders";
    for (tls, expected) in [
        (
            "{cert_file: c}",
            format!("{at}.cert_file: needs key_file too; a certificate and its key go together"),
        ),
        (
            "{server_name: a b}",
            format!(
                "{at}.server_name: \"a b\" is neither a host name nor an IP address; write 10.0.0.5 or app.example"
            ),
        ),
        ("{sans: [a b]}", format!("{at}.sans: \"a b\" is no name of a certificate; {hint}")),
        (
            "{verify: some}",
            format!("{at}.verify: \"some\" is not a value of this setting; allowed: ca, none"),
        ),
        ("{ca: c}", format!("{at}.ca: unknown key; ")),
    ] {
        let found = problems(&format!("upstreams: [{{service: o, tls: {tls}}}]"), &[], &Overrides::default());
        let [problem] = &found[..] else { panic!("{found:?}") };
        let bare = |text: &str| text.split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap();
        assert!(bare(problem).starts_with(&bare(&expected)), "{problem}\n{expected}");
    }
    check(
        "upstreams: [{service: o, tls: {verify: none, ca_file: c}}]\n",
        &["o.yaml:1:55 upstreams[0].tls.ca_file: is not used with verify: none; remove one of them"],
    );
}

#[test]
fn unchecked_certificates_are_a_warning() {
    let loaded = loaded("upstreams: [{service: o, tls: {verify: none}}]\n");
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.contains("upstreams[0].tls.verify: none: the certificates"), "{warning}");
}

#[test]
fn the_settings_are_shown_as_they_are_read() {
    let before = loaded(
        "upstreams: [{service: o, tls: {ca_file: /x/ca, server_name: a.example, sans: [b.example], verify: ca}}]\n",
    );
    let page = render(&before.config, &before.origins);
    let after = loaded(&page);
    assert_eq!(after.config.upstreams[0].tls, before.config.upstreams[0].tls, "{page}");
}
