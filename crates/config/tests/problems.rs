//! Invalid files, variables and flags, and the exact text of each problem.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::problems;
use outrigger_config::{Environment, Overrides, load, load_path};

fn check(text: &str, expected: &[&str]) {
    let env = [("TEXT", "abc"), ("HUSH", "s3cret"), ("EMPTY", "")];
    assert_eq!(problems(text, &env, &Overrides::default()), expected, "for:\n{text}");
}

#[test]
fn the_hint_for_an_unknown_key_is_a_known_key() {
    check("outbond: {}\n", &["o.yaml:1:1 outbond: unknown key; did you mean outbound?"]);
    check("defaults:\n  timeOut: 2s\n", &["o.yaml:2:3 defaults.timeOut: unknown key; did you mean timeout?"]);
    check(
        "timeout: 2s\n",
        &[
            "o.yaml:1:1 timeout: unknown key; it belongs at defaults.timeout or upstreams[0].timeout or drain.timeout",
        ],
    );
    check(
        "drain: {pause: 1s}\n",
        &[
            "o.yaml:1:9 drain.pause: unknown key; valid here: timeout, propagation, margin, max_propagation, unobserved_wait, await_app, linger",
        ],
    );
    check(
        "upstreams:\n  - service: a\n  - service: b\n    retry: {budget: {rat: 1}}\n",
        &["o.yaml:4:22 upstreams[1].retry.budget.rat: unknown key; did you mean ratio?"],
    );
}

#[test]
fn the_problem_of_a_repeated_key_has_the_first_line() {
    check(
        "workers: 1\nworkers: 2\n",
        &["o.yaml:2:1 workers: is given twice, first on line 1; remove one of them"],
    );
    check(
        "service: {name: a, port: 1, meta: {k: a, k: b}}\n",
        &["o.yaml:1:42 service.meta.k: is given twice; remove one of them"],
    );
}

#[test]
fn all_problems_are_listed_in_the_order_of_the_file() {
    check(
        "service:\n  port: 70000\n  weights: {passing: 0}\noutbound: {listen: 7070}\nworkers: many\nnope: 1\n",
        &[
            "o.yaml:2:3 service.name: is missing; add service.name to the file, --service NAME or OUTRIGGER_SERVICE",
            "o.yaml:2:9 service.port: \"70000\" is out of range; allowed: 1 to 65535",
            "o.yaml:3:22 service.weights.passing: \"0\" is out of range; allowed: 1 to 65535",
            "o.yaml:4:20 outbound.listen: \"7070\" is not an address with a port; write localhost:7070, 127.0.0.1:7070 or [::1]:7070",
            "o.yaml:5:10 workers: \"many\" is not a whole number; allowed: auto, or 1 to 256",
            "o.yaml:6:1 nope: unknown key; valid here: service, services, registry, discovery, state_dir, outbound, defaults, upstreams, dynamic_config, routing, admin, api, dns, drain, app, on_app_exit, workers, log",
        ],
    );
}

#[test]
fn the_hint_for_a_wrong_kind_of_value_has_the_right_kind() {
    check(
        "- a\n",
        &[
            "o.yaml:1:1: a list is not allowed here; write a mapping with some of: service, services, registry, discovery, state_dir, outbound, defaults, upstreams, dynamic_config, routing, admin, api, dns, drain, app, on_app_exit, workers, log",
        ],
    );
    check(
        "admin: x\n",
        &[
            "o.yaml:1:8 admin: a single value is not allowed here; write a mapping with some of: listen, metrics_listen",
        ],
    );
    check("workers: [1]\n", &["o.yaml:1:10 workers: a list is not allowed here; write a single value"]);
    check("workers:\n", &["o.yaml:1:8 workers: has no value; give one, or remove the key"]);
    check(
        "upstreams: {service: a}\n",
        &["o.yaml:1:12 upstreams: a mapping is not allowed here; write a list: upstreams: [{...}]"],
    );
    check(
        "service: {name: a, port: 1, tags: v2}\n",
        &["o.yaml:1:35 service.tags: a single value is not allowed here; write a list: tags: [...]"],
    );
    check(
        "service: {name: a, port: 1, meta: [v2]}\n",
        &["o.yaml:1:35 service.meta: a list is not allowed here; write a mapping"],
    );
    check(
        "defaults: {retry: maybe}\n",
        &[
            "o.yaml:1:19 defaults.retry: \"maybe\" is not allowed here; write off, or a mapping of its settings",
        ],
    );
}

#[test]
fn the_hint_for_a_value_that_cannot_be_parsed_has_an_example_or_the_range() {
    check("defaults: {timeout: 5}\n", &["o.yaml:1:21 defaults.timeout: \"5\" has no unit; write 5s or 5ms"]);
    check(
        "defaults: {timeout: 2h}\n",
        &["o.yaml:1:21 defaults.timeout: \"2h\" is out of range; allowed: 1ms to 1h"],
    );
    check(
        "defaults: {balance: roundrobin}\n",
        &[
            "o.yaml:1:21 defaults.balance: \"roundrobin\" is not a value of this setting; did you mean round_robin? allowed: round_robin, random, weighted, least_request, peak_ewma",
        ],
    );
    check(
        "defaults: {retry: {max_body: 64KB}}\n",
        &[
            "o.yaml:1:30 defaults.retry.max_body: \"64KB\" is not a size; write bytes, or a whole number with KiB, MiB or GiB, as 64KiB",
        ],
    );
    check(
        "defaults: {retry: {budget: {ratio: 20}}}\n",
        &["o.yaml:1:36 defaults.retry.budget.ratio: \"20\" is out of range; allowed: 0 to 1"],
    );
    check(
        "defaults: {retry: {statuses: [503, 99]}}\n",
        &["o.yaml:1:36 defaults.retry.statuses: \"99\" is out of range; allowed: 400 to 599"],
    );
    check(
        "outbound: {via: maybe}\n",
        &["o.yaml:1:17 outbound.via: \"maybe\" is neither true nor false; write true or false"],
    );
    check(
        "defaults: {retry: {max_retry_after: 2h}}\n",
        &["o.yaml:1:37 defaults.retry.max_retry_after: \"2h\" is out of range; allowed: 0s to 1h"],
    );
    check(
        "defaults: {retry: {stalled: maybe}}\n",
        &["o.yaml:1:29 defaults.retry.stalled: \"maybe\" is neither on nor off; write on or off"],
    );
    check(
        "outbound: {loop_guard: maybe}\n",
        &["o.yaml:1:24 outbound.loop_guard: \"maybe\" is neither on nor off; write on or off"],
    );
    check(
        "outbound: {allow_origins: ['app.example']}\n",
        &[
            "o.yaml:1:28 outbound.allow_origins: \"app.example\" is not an origin; write https://app.example, http://localhost:3000, https://*.example, \"*\" (in quotes) or null",
        ],
    );
    check("outbound: {allow_origins: ['*', null, 'null', 'https://*.example']}\n", &[]);
    check(
        "outbound: {allow_origins: [~]}\n",
        &["o.yaml:1:28 outbound.allow_origins[0]: has no value; give one, or remove the key"],
    );
    check(
        "upstreams: [{service: a, listen: 'localhost:1', hosts: ['app.example:80', localhost]}]\n",
        &[
            "o.yaml:1:57 upstreams[0].hosts: \"app.example:80\" is not a host; write a name or an address without a port, as app.example",
            "o.yaml:1:75 upstreams[0].hosts: \"localhost\" is this machine; pages of any site can send requests to it; name the pages in outbound.allow_origins",
        ],
    );
    check(
        "log: {format: jason}\n",
        &[
            "o.yaml:1:15 log.format: \"jason\" is not a value of this setting; did you mean json? allowed: auto, text, json",
        ],
    );
    check(
        "log: {level: inof}\n",
        &[
            "o.yaml:1:14 log.level: \"inof\" is not a log filter; write off, error, warn, info, debug or trace, or several as warn,outrigger_proxy=debug",
        ],
    );
}

#[test]
fn a_problem_shows_a_value_cut_and_without_control_characters() {
    let long = "x".repeat(100);
    check(
        &format!("workers: {long}\n"),
        &[&format!(
            "o.yaml:1:10 workers: \"{}…\" is not a whole number; allowed: auto, or 1 to 256",
            &long[..60]
        )],
    );
    check(
        "workers: \"\\e[31m\"\n",
        &["o.yaml:1:10 workers: \"\u{fffd}[31m\" is not a whole number; allowed: auto, or 1 to 256"],
    );
}

#[test]
fn a_smaller_limit_that_is_not_set_follows_the_larger_one() {
    let text = "defaults: {pool: {idle_timeout: 500ms, max_connections: 2}, retry: {backoff_max: 1ms}}\n";
    let environment = Environment::default();
    let loaded = load(Some(("o.yaml", text)), &environment, &Overrides::default()).unwrap();
    let policy = loaded.config.defaults;
    assert_eq!((policy.pool.non_idempotent_max_idle, policy.pool.max_idle), (Duration::from_millis(500), 2));
    assert_eq!(policy.retry.backoff_base, Duration::from_millis(1));
}

#[test]
fn the_hint_for_two_values_that_contradict_each_other_has_the_bound() {
    check(
        "defaults: {timeout: 1s, per_try_timeout: 2s}\n",
        &["o.yaml:1:42 defaults.per_try_timeout: 2s is above timeout (1s); at most 1s, or raise timeout"],
    );
    check(
        "defaults: {pool: {idle_timeout: 500ms, non_idempotent_max_idle: 1s}}\n",
        &[
            "o.yaml:1:65 defaults.pool.non_idempotent_max_idle: 1s is above idle_timeout (500ms); at most 500ms, or raise idle_timeout",
        ],
    );
    check(
        "defaults: {per_try_timeout: 5s}\nupstreams: [{service: a, timeout: 2s}]\n",
        &[
            "o.yaml:2:35 upstreams[0].timeout: 2s is below per_try_timeout (5s); at least 5s, or set per_try_timeout too",
        ],
    );
    check(
        "defaults: {pool: {max_idle: 128, max_connections: 100}}\n",
        &[
            "o.yaml:1:29 defaults.pool.max_idle: max_idle 128 is above max_connections 100; an idle connection is one of the connections; lower max_idle",
        ],
    );
    check(
        "defaults: {outlier: {base_ejection_time: 2m}}\n",
        &[
            "o.yaml:1:42 defaults.outlier.base_ejection_time: 2m is above max_ejection_time (1m); at most 1m, or raise max_ejection_time",
        ],
    );
    check(
        "defaults: {circuit_breaker: {open_for: 1m}}\n",
        &[
            "o.yaml:1:40 defaults.circuit_breaker.open_for: 1m is above max_open_for (30s); at most 30s, or raise max_open_for",
        ],
    );
    check(
        "defaults: {retry: {backoff_base: 25ms, backoff_max: 1ms}}\n",
        &[
            "o.yaml:1:34 defaults.retry.backoff_base: 25ms is above backoff_max (1ms); at most 1ms, or raise backoff_max",
        ],
    );
    check(
        "service: {name: a, port: 1, health: {interval: 500ms}}\n",
        &[
            "o.yaml:1:48 service.health.interval: 500ms is below timeout (1s); at least 1s, or set timeout too",
        ],
    );
    check(
        "service: {name: a, port: 1, health: {http: /x, tcp: true}}\n",
        &["o.yaml:1:53 service.health.tcp: contradicts http; keep one of them"],
    );
    check(
        "service: {name: a, port: 1, health: {tcp: false}}\n",
        &["o.yaml:1:43 service.health.tcp: leaves nothing to probe; set http: /path, or remove the key"],
    );
    for (tcp, at) in [("", 38), ("tcp: true, ", 49)] {
        for (key, value) in
            [("method", "HEAD"), ("host", "a.example"), ("headers", "{x-a: b}"), ("status", "204")]
        {
            check(
                &format!("service: {{name: a, port: 1, health: {{{tcp}{key}: {value}}}}}\n"),
                &[&format!(
                    "o.yaml:1:{} service.health.{key}: is for a probe by HTTP alone; set http: /path in place of tcp, or remove the key",
                    at + key.len() + 2,
                )],
            );
        }
    }
    check(
        "service: {name: a, port: 1, health: {http: /x, headers: {x-a: b, X-A: c}}}\n",
        &[
            "o.yaml:1:57 service.health.headers: has the field x-a twice; the case of letters says nothing; remove one of them",
        ],
    );
    check(
        "service: {name: a, port: 1, health: {http: /x, headers: {x-key: \"hush\\n\", Host: a, \"x y\": b}, status: 99}}\n",
        &[
            "o.yaml:1:65 service.health.headers.x-key: the value cannot be sent in a header field; at most 4096 characters of printable ASCII, without a space at the begin or the end",
            "o.yaml:1:75 service.health.headers: \"Host\" is not set here; write health.host",
            "o.yaml:1:84 service.health.headers: \"x y\" cannot be the name of a header field; write letters, digits and -",
            "o.yaml:1:103 service.health.status: \"99\" is no list of statuses; write 204, 200-399 or 200-299,401; from 200 to 599",
        ],
    );
    check(
        "service: {name: a, port: 1, health: {reach: require}}\n",
        &[
            "o.yaml:1:45 service.health.reach: require has no address to test; set service.address too; without it the agent's own is registered, which the sidecar does not know",
        ],
    );
    check("service: {name: a, port: 1, address: 10.0.0.5, health: {reach: require}}\n", &[]);
    check(
        "services: [{name: a, port: 1, address: 10.0.0.5, health: {reach: require}}, {name: b, port: 2, health: {reach: require}}]\n",
        &[
            "o.yaml:1:112 services[1].health.reach: require has no address to test; set services[1].address too; without it the agent's own is registered, which the sidecar does not know",
        ],
    );
    check(
        "service: {name: a, port: 1, health: {reach: must}}\n",
        &[
            "o.yaml:1:45 service.health.reach: \"must\" is not a value of this setting; allowed: warn, require, off",
        ],
    );
    check(
        "registry: {file: a.yaml, consul: {wait: 1m}}\n",
        &[
            "o.yaml:1:18 registry.file: contradicts registry.consul; instances come from one place; keep one of them",
        ],
    );
    check(
        "registry: {consul: {tls: {cert_file: c.pem}}}\n",
        &[
            "o.yaml:1:38 registry.consul.tls.cert_file: needs key_file too; a certificate and its key go together",
        ],
    );
    check(
        "registry: {consul: {tls: {key_file: k.pem}}}\n",
        &[
            "o.yaml:1:37 registry.consul.tls.key_file: needs cert_file too; a certificate and its key go together",
        ],
    );
}

#[test]
fn an_error_of_the_defaults_is_reported_once_and_not_for_each_upstream() {
    check(
        "defaults: {timeout: 1s, per_try_timeout: 2s}\nupstreams: [{service: a}, {service: b, body_idle: 1s}]\n",
        &["o.yaml:1:42 defaults.per_try_timeout: 2s is above timeout (1s); at most 1s, or raise timeout"],
    );
}

#[test]
fn listeners_do_not_share_an_address() {
    check(
        "admin: {listen: '127.0.0.1:7070'}\n",
        &[
            "o.yaml:1:17 admin.listen: 127.0.0.1:7070 overlaps with outbound.listen (localhost:7070); choose another port",
        ],
    );
    check(
        "outbound: {listen: '0.0.0.0:7079'}\n",
        &[
            "o.yaml:1:20 outbound.listen: 0.0.0.0:7079 overlaps with admin.listen (localhost:7079); choose another port",
        ],
    );
    check(
        "upstreams:\n- {service: a, listen: '127.0.0.1:9000'}\n- {service: b, listen: '127.0.0.1:9000'}\n",
        &[
            "o.yaml:3:24 upstreams[1].listen: 127.0.0.1:9000 overlaps with upstreams[0].listen (127.0.0.1:9000); choose another port",
        ],
    );
    check(
        "service: {name: a, port: 7070}\n",
        &[
            "o.yaml:1:26 service.port: 7070 is the port of both the app and outbound.listen; choose another port",
        ],
    );
    check("service: {name: a, port: 80}\nupstreams: [{service: b, listen: '10.0.0.1:80'}]\n", &[]);
}

#[test]
fn an_upstream_is_declared_once() {
    check(
        "upstreams: [{service: a}, {service: b}, {service: A}]\n",
        &[
            "o.yaml:1:51 upstreams[2].service: A is declared twice, first as upstreams[0]; merge the two, or tell them apart by tags or datacenter",
        ],
    );
    check(
        "upstreams: [{service: a, tags: [x, y]}, {service: a, tags: [y, X]}]\n",
        &[
            "o.yaml:1:51 upstreams[1].service: a is declared twice, first as upstreams[0]; merge the two, or tell them apart by tags or datacenter",
        ],
    );
    check("upstreams: [{service: a}, {service: a, tags: [x]}, {service: a, datacenter: dc2}]\n", &[]);
    check(
        "upstreams: [{timeout: 1s}, {}]\n",
        &[
            "o.yaml:1:13 upstreams[0].service: is missing; add it",
            "o.yaml:1:28 upstreams[1].service: is missing; add it",
        ],
    );
}

#[test]
fn metadata_has_the_limits_of_consul() {
    let pairs: Vec<_> = (0..65).map(|n| format!("k{n}: v")).collect();
    let text = format!("service: {{name: a, port: 1, meta: {{{}}}}}\n", pairs.join(", "));
    check(&text, &["o.yaml:1:35 service.meta: has 65 pairs; Consul allows at most 64"]);
    check(
        "service: {name: a, port: 1, meta: {consul-x: v}}\n",
        &[
            "o.yaml:1:36 service.meta: \"consul-x\" starts with \"consul-\"; Consul reserves that prefix; choose another key",
        ],
    );
    let text = format!("service: {{name: a, port: 1, meta: {{k: {}}}}}\n", "v".repeat(513));
    let shown = "v".repeat(60);
    check(
        &text,
        &[&format!(
            "o.yaml:1:39 service.meta.k: \"{shown}…\" is 513 bytes long; Consul allows at most 512 bytes"
        )],
    );
    check(
        "service: {name: a, port: 1, deregister_after: 30s}\n",
        &["o.yaml:1:47 service.deregister_after: \"30s\" is out of range; allowed: 1m to 720h"],
    );
}

#[test]
fn the_problem_of_a_missing_variable_has_its_name_and_place() {
    check(
        "workers: ${NOPE}\n",
        &[
            "o.yaml:1:10 workers: environment variable NOPE is not set; set it, or give a default: ${NOPE:-value}",
        ],
    );
    check(
        "workers: ${TEXT\n",
        &["o.yaml:1:10 workers: \"${\" has no closing \"}\"; write ${NAME}, or $${ for a plain \"${\""],
    );
    check(
        "service: {name: '${A}${B}', port: 1}\n",
        &[
            "o.yaml:1:17 service.name: environment variable A is not set; set it, or give a default: ${A:-value}",
            "o.yaml:1:17 service.name: environment variable B is not set; set it, or give a default: ${B:-value}",
        ],
    );
}

#[test]
fn the_content_of_a_variable_is_not_shown() {
    check(
        "workers: ${TEXT}\n",
        &["o.yaml:1:10 workers: \"${TEXT}\" is not a whole number; allowed: auto, or 1 to 256"],
    );
    check(
        "defaults: {timeout: '${HUSH}'}\n",
        &[
            "o.yaml:1:21 defaults.timeout: \"${HUSH}\" is not a duration; write a whole number and a unit (ms, s, m, h), as 250ms, 5s, 1m30s",
        ],
    );
}

#[test]
fn a_file_cannot_hold_a_token() {
    let hint =
        "a secret does not belong in this file; use token_file, CONSUL_HTTP_TOKEN, or a whole ${VARIABLE}";
    for token in ["s3cret", "\"${HUSH:-s3cret}\"", "x${HUSH}", "[a]"] {
        check(
            &format!("registry:\n  consul:\n    token: {token}\n"),
            &[&format!("o.yaml:3:12 registry.consul.token: {hint}")],
        );
    }
    check(
        "registry: {consul: {token: '${NOPE}'}}\n",
        &[
            "o.yaml:1:28 registry.consul.token: environment variable NOPE is not set; set it, or remove the key to send no token",
        ],
    );
    check(
        "registry: {consul: {token: '${HUSH}', token_file: t}}\n",
        &["o.yaml:1:28 registry.consul.token: contradicts token_file; keep one of them"],
    );
    check("registry: {consul: {token: '${HUSH}'}}\n", &[]);
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let flags = Overrides::default();
    assert_eq!(
        problems(
            "",
            &[("CONSUL_HTTP_ADDR", "http://me:s3cret@host:8500"), ("CONSUL_HTTP_TOKEN", "s3cret\n")],
            &flags
        ),
        [
            "CONSUL_HTTP_ADDR: \"http://(hidden)@host:8500\" holds a user name; put the ACL token in token_file or CONSUL_HTTP_TOKEN",
            "CONSUL_HTTP_TOKEN: the token cannot be sent; a token is visible ASCII without spaces; was a line end copied with it?",
        ]
    );
}

#[test]
fn max_services_is_not_below_the_number_of_declared_services() {
    check(
        "discovery: {max_services: 1}\nupstreams: [{service: a}, {service: b}]\n",
        &[
            "o.yaml:2:12 upstreams: 2 services are declared, above discovery.max_services (1); raise discovery.max_services",
        ],
    );
}

#[test]
fn the_problem_of_a_text_that_is_not_yaml_has_a_place() {
    check(
        "a: [1, 2\nb: 3\n",
        &["o.yaml:2:2: illegal placement of ':' indicator; the file is not valid YAML here"],
    );
    check(
        "workers: 1\n---\nworkers: 2\n",
        &[
            "o.yaml:3:1: a second document starts, but settings are one document; the file is not valid YAML here",
        ],
    );
}

#[test]
fn a_problem_of_a_flag_or_variable_has_its_name_instead_of_a_place() {
    let flags = Overrides { port: Some("x".into()), listen: Some("y".into()), ..Overrides::default() };
    let env = [
        ("OUTRIGGER_WORKERS", "0"),
        ("CONSUL_HTTP_ADDR", "unix:///run/consul.sock"),
        ("CONSUL_HTTP_SSL", "si"),
    ];
    assert_eq!(
        problems("", &env, &flags),
        [
            "--listen: \"y\" is not an address with a port; write localhost:7070, 127.0.0.1:7070 or [::1]:7070",
            "--port: service.name is missing; add service.name to the file, --service NAME or OUTRIGGER_SERVICE",
            "--port: \"x\" is not a whole number; allowed: 1 to 65535",
            "CONSUL_HTTP_ADDR: \"unix:///run/consul.sock\" is a unix socket, which is not supported; write http://127.0.0.1:8500 or https://consul.example:8501",
            "CONSUL_HTTP_SSL: is neither true nor false; write true or false",
            "OUTRIGGER_WORKERS: \"0\" is out of range; allowed: auto, or 1 to 256",
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let problem = |name: &str, bytes: Option<&[u8]>| {
        let path = folder.path().join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).unwrap();
        }
        let problems = load_path(&path, &Environment::default(), &Overrides::default()).unwrap_err();
        problems.to_string().replace(path.to_str().unwrap(), "FILE")
    };
    assert_eq!(problem("none", None), "FILE: cannot be read: No such file or directory (os error 2)");
    assert_eq!(problem(".", None), "FILE: cannot be read: it is a folder, not a regular file");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(problem("pipe", None), "FILE: cannot be read: it is a pipe, not a regular file");
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("zero")).unwrap();
    assert_eq!(problem("zero", None), "FILE: cannot be read: it is a device, not a regular file");
    assert_eq!(
        problem("latin1", Some(b"workers: 1\nlog: {level: \xe9}\n")),
        "FILE:2:14: is not UTF-8; save the file as UTF-8"
    );
    assert_eq!(
        problem("huge", Some(&vec![b'#'; 1024 * 1024 + 1])),
        "FILE: is larger than 1MiB; is it a settings file?"
    );
}

#[test]
fn the_api_names_what_is_wrong_with_it() {
    check(
        "api:\n  listen: 7077\n  locks: {prefix: a//b, lock_delay: 0s, max_held: 0}",
        &[
            r#"o.yaml:2:11 api.listen: "7077" is not an address with a port; write localhost:7070, 127.0.0.1:7070 or [::1]:7070"#,
            "o.yaml:3:19 api.locks.prefix: \"a//b\" is no prefix of keys; write one as locks or team/locks: letters, digits, `-`, `_`, `.`, `:` and `/`",
            r#"o.yaml:3:37 api.locks.lock_delay: "0s" is out of range; allowed: 1s to 1m"#,
            r#"o.yaml:3:51 api.locks.max_held: "0" is out of range; allowed: 1 to 10000"#,
        ],
    );
}

#[test]
fn a_unix_socket_of_the_api_has_an_absolute_path_a_mode_and_an_owner() {
    check(
        "api:\n  listen: unix:api.sock\n  mode: 999\n  owner: a b",
        &[
            "o.yaml:2:11 api.listen: \"unix:api.sock\" is no path of a Unix socket; write unix: and an absolute path of at most 90 bytes, as unix:/run/outrigger/api.sock",
            "o.yaml:3:9 api.mode: \"999\" is not a mode of a file; write it as chmod takes it, as 0600 or 0660",
            "o.yaml:4:10 api.owner: \"a b\" is no owner of a file; write it as chown takes it, as app:app, app or :app",
        ],
    );
    let text = "api: {listen: 'unix:///run/api.sock', mode: 660, owner: ':app'}";
    let loaded = load(Some(("o.yaml", text)), &Environment::default(), &Overrides::default()).unwrap();
    assert_eq!(loaded.warnings, []);
    let api = &loaded.config.api;
    assert_eq!(api.listen.as_ref().unwrap().to_string(), "unix:/run/api.sock");
    assert_eq!((api.socket.mode, api.socket.owner.as_ref().unwrap().to_string().as_str()), (0o660, ":app"));
    let shown = outrigger_config::render(&loaded.config, &loaded.origins);
    let again = load(Some(("o.yaml", &shown)), &Environment::default(), &Overrides::default()).unwrap();
    assert_eq!(again.config, loaded.config, "{shown}");
    let text = "api: {listen: localhost:7077, mode: 660}";
    let loaded = load(Some(("o.yaml", text)), &Environment::default(), &Overrides::default()).unwrap();
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
}
