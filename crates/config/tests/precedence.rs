//! Precedence, warnings and the summary.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use outrigger_config::{
    Config, ConsulSettings, Environment, LoadedConfig, Origin, OutlierDetection, Overrides, Probe,
    Propagation, Registry, Token, load, render, summarize,
};

fn loaded(text: &str, env: &[(&str, &str)], overrides: &Overrides) -> LoadedConfig {
    let env: Environment = env.iter().copied().collect();
    load(Some(("conf/o.yaml", text)), &env, overrides).unwrap_or_else(|problems| panic!("{problems}"))
}

fn in_env(env: &[(&str, &str)]) -> LoadedConfig {
    loaded("", env, &Overrides::default())
}

fn consul(loaded: &LoadedConfig) -> &ConsulSettings {
    match &loaded.config.registry {
        Registry::Consul(consul) => consul,
        Registry::File(path) => panic!("a file: {path:?}"),
    }
}

fn warnings(loaded: &LoadedConfig) -> Vec<String> {
    loaded.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = "service: {name: file, port: 1}\nworkers: 3\n";
    let env = [("OUTRIGGER_SERVICE", "env"), ("OUTRIGGER_PORT", "2")];
    let flags = Overrides { service: Some("flag".into()), ..Overrides::default() };
    let got = loaded(file, &env, &flags);
    let service = got.config.services.first().unwrap();
    assert_eq!((service.name.as_str(), service.port), ("flag", 2));
    assert_eq!(got.config.workers.to_string(), "3");
    let origins =
        ["service.name", "service.port", "workers", "log.level"].map(|key| got.origins.get(key).to_string());
    assert_eq!(origins, ["flag --service", "environment OUTRIGGER_PORT", "conf/o.yaml:2", "default"]);
}

#[test]
fn every_place_that_sets_a_key_is_shown_with_its_value() {
    let file = "service: {name: file, port: 1, tags: [a]}\ndefaults: {timeout: 9s}\nupstreams: [{service: orders, timeout: 8s}]\n";
    let env = [("OUTRIGGER_SERVICE", "env"), ("OUTRIGGER_TAGS", "b")];
    let flags =
        Overrides { service: Some("flag".into()), tags: vec!["c".to_owned()], ..Overrides::default() };
    let running = loaded(file, &env, &flags);
    let lines = [
        "name: flag  # flag --service, over environment OUTRIGGER_SERVICE (\"env\"), conf/o.yaml:1 (\"file\")\n",
        "tags: [c]  # flag --tag, over environment OUTRIGGER_TAGS, conf/o.yaml:1\n",
        "timeout: 8s  # conf/o.yaml:3, over conf/o.yaml:2 (\"9s\")\n",
    ];
    let page = |loaded: &LoadedConfig| render(&loaded.config, &loaded.origins);
    for line in lines {
        assert!(page(&running).contains(line), "no {line} in:\n{}", page(&running));
    }
    // As well after a reload that keeps a setting until the restart.
    let next = loaded(&format!("{file}workers: 3\n"), &env, &flags);
    let reloaded = outrigger_config::plan_reload(&running, next).next;
    for line in lines {
        assert!(page(&reloaded).contains(line), "no {line} in:\n{}", page(&reloaded));
    }
}

#[test]
fn no_file_is_needed_to_register_an_app() {
    let flags =
        Overrides { service: Some("orders".into()), port: Some("8080".into()), ..Overrides::default() };
    let got = load(None, &Environment::default(), &flags).unwrap();
    let service = &got.config.services[0];
    assert_eq!((service.name.as_str(), service.port, &service.health.probe), ("orders", 8080, &Probe::Tcp));
}

#[test]
fn a_probe_from_a_flag_wins_over_the_probe_of_the_file() {
    let flags = Overrides { health_http: Some("/up".into()), ..Overrides::default() };
    let got = loaded("service: {name: a, port: 1, health: {tcp: true}}\n", &[], &flags);
    assert_eq!(got.config.services[0].health.probe, Probe::Http("/up".into()));
    // The keys of the probe by HTTP need a path, wherever it comes from.
    let got = loaded("service: {name: a, port: 1, health: {method: HEAD}}\n", &[], &flags);
    assert_eq!(got.config.services[0].health.method, "HEAD");
}

#[test]
fn a_missing_variable_is_no_problem_where_a_flag_wins() {
    let flags = Overrides { port: Some("2".into()), ..Overrides::default() };
    let got = loaded("service: {name: a, port: '${PORT}'}\n", &[], &flags);
    assert_eq!(got.config.services[0].port, 2);
}

#[test]
fn tags_of_flags_and_variables_are_a_list() {
    let env = [("OUTRIGGER_TAGS", "v1, v2,")];
    let got = loaded("service: {name: a, port: 1, tags: [file]}\n", &env, &Overrides::default());
    assert_eq!(got.config.services[0].tags, ["v1", "v2"]);
    let flags = Overrides { tags: vec!["x".into(), "y".into()], ..Overrides::default() };
    let got = loaded("service: {name: a, port: 1}\n", &env, &flags);
    assert_eq!(got.config.services[0].tags, ["x", "y"]);
}

#[test]
fn a_tag_of_a_flag_or_variable_may_hold_commas() {
    let tags = |env: &str, flags: &[&str]| {
        let flags =
            Overrides { tags: flags.iter().map(ToString::to_string).collect(), ..Overrides::default() };
        let got = loaded("service: {name: a, port: 1}\n", &[("OUTRIGGER_TAGS", env)], &flags);
        got.config.services[0].tags.clone()
    };
    assert_eq!(tags("", &["a,b", "c"]), ["a,b", "c"]);
    assert_eq!(tags("", &[r"a\", r"b\,c"]), [r"a\", r"b\,c"]);
    assert_eq!(tags(r"a\,b, c", &[]), ["a,b", "c"]);
    assert_eq!(tags(r"a\\,b\c", &[]), [r"a\", r"b\c"]);
}

/// Variables with their values.
type Vars<'a> = &'a [(&'a str, &'a str)];

#[test]
fn the_address_of_consul_follows_its_own_tools() {
    let cases: [(Vars<'_>, &str); 7] = [
        (&[], "http://127.0.0.1:8500"),
        (&[("CONSUL_HTTP_ADDR", "10.0.0.1:8500")], "http://10.0.0.1:8500"),
        (&[("CONSUL_HTTP_ADDR", "10.0.0.1:8500"), ("CONSUL_HTTP_SSL", "true")], "https://10.0.0.1:8500"),
        (&[("CONSUL_HTTP_ADDR", "http://10.0.0.1:8500"), ("CONSUL_HTTP_SSL", "1")], "https://10.0.0.1:8500"),
        (
            &[("CONSUL_HTTP_ADDR", "https://10.0.0.1:8501"), ("CONSUL_HTTP_SSL", "false")],
            "https://10.0.0.1:8501",
        ),
        (&[("CONSUL_HTTP_SSL", "true")], "https://127.0.0.1:8500"),
        (&[("CONSUL_HTTP_ADDR", "")], "http://127.0.0.1:8500"),
    ];
    for (env, expected) in cases {
        assert_eq!(consul(&in_env(env)).address.to_string(), expected, "for {env:?}");
    }
    let flags = Overrides { consul: Some("http://10.0.0.2:8500".into()), ..Overrides::default() };
    let got = loaded("", &[("CONSUL_HTTP_SSL", "true")], &flags);
    assert_eq!(consul(&got).address.to_string(), "http://10.0.0.2:8500");
}

#[test]
fn the_token_comes_from_the_environment_first_and_from_a_file_before_a_value() {
    let secret = |got: &LoadedConfig| match &consul(got).token {
        Some(Token::Value(secret)) => secret.reveal().to_owned(),
        Some(Token::File(path)) => path.display().to_string(),
        None => "none".to_owned(),
    };
    let in_file = "registry: {consul: {token_file: t}}\n";
    let variable = "registry: {consul: {token: '${MINE}'}}\n";
    let cases: [(&str, Vars<'_>, &str); 7] = [
        ("", &[], "none"),
        (in_file, &[], "conf/t"),
        (in_file, &[("CONSUL_HTTP_TOKEN", "v")], "v"),
        (in_file, &[("CONSUL_HTTP_TOKEN_FILE", "f")], "f"),
        (in_file, &[("CONSUL_HTTP_TOKEN_FILE", "f"), ("CONSUL_HTTP_TOKEN", "v")], "f"),
        (variable, &[("MINE", "m")], "m"),
        (variable, &[("CONSUL_HTTP_TOKEN", "v")], "v"),
    ];
    for (text, env, expected) in cases {
        assert_eq!(secret(&loaded(text, env, &Overrides::default())), expected, "for {text} {env:?}");
    }
}

#[test]
fn paths_of_the_file_are_relative_to_it_and_others_are_not() {
    let file = |got: &LoadedConfig| match &got.config.registry {
        Registry::File(path) => path.clone(),
        Registry::Consul(_) => panic!("Consul"),
    };
    let text = "registry: {file: services.yaml}\n";
    assert_eq!(file(&loaded(text, &[], &Overrides::default())), Path::new("conf/services.yaml"));
    assert_eq!(file(&in_env(&[("OUTRIGGER_REGISTRY_FILE", "s.yaml")])), Path::new("s.yaml"));
    let absolute = "registry: {file: /etc/services.yaml}\n";
    assert_eq!(file(&loaded(absolute, &[], &Overrides::default())), Path::new("/etc/services.yaml"));
}

#[test]
fn a_flag_for_consul_wins_over_a_registry_file() {
    let flags = Overrides { consul: Some("http://10.0.0.2:8500".into()), ..Overrides::default() };
    let got = loaded("registry: {file: services.yaml}\n", &[], &flags);
    assert_eq!(consul(&got).address.host, "10.0.0.2");
}

#[test]
fn the_settings_of_an_upstream_override_the_defaults() {
    let text = "defaults: {timeout: 3s, retry: {max_retries: 1}, circuit_breaker: off}\n\
                upstreams:\n- {service: a, retry: {max_body: 0}}\n- {service: b, retry: off, circuit_breaker: {window: 20s}}\n\
                - {service: c, circuit_breaker: on, per_try_timeout: 1s, outlier: off}\n";
    let config = loaded(text, &[], &Overrides::default()).config;
    let [a, b, c] = config.upstreams.as_slice() else { panic!("three upstreams") };
    assert_eq!((a.policy.timeout.as_secs(), a.policy.retry.max_retries, a.policy.retry.max_body), (3, 1, 0));
    assert!(a.policy.circuit_breaker.is_none());
    assert_eq!(b.policy.retry.max_retries, 0);
    assert_eq!((b.policy.outlier, c.policy.outlier), (Some(OutlierDetection::default()), None));
    assert_eq!(b.policy.circuit_breaker.unwrap().window.as_secs(), 20);
    assert!(c.policy.circuit_breaker.is_some() && c.policy.per_try_timeout.is_some());
}

#[test]
fn a_drain_may_be_its_time_out_alone() {
    for text in ["drain: 5s\n", "drain: {timeout: 5s}\n"] {
        let drain = loaded(text, &[], &Overrides::default()).config.drain;
        assert_eq!((drain.timeout.as_secs(), drain.propagation), (5, Propagation::Measured));
    }
    let got = loaded("drain: 5s\n", &[("OUTRIGGER_DRAIN", "7s")], &Overrides::default());
    assert_eq!(got.config.drain.timeout.as_secs(), 7);
}

#[test]
fn variables_without_effect_cause_a_warning() {
    let got = loaded(
        "workers: ${OUTRIGGER_MINE:-1}\n",
        &[
            ("OUTRIGGER_PROT", "1"),
            ("OUTRIGGER_WHATEVER", "1"),
            ("OUTRIGGER_MINE", "2"),
            ("OUTRIGGER_CONFIG", "x"),
            ("OUTRIGGER_SERVICE_HOST", "10.0.0.1"),
            ("OUTRIGGER_PORT", "tcp://10.0.0.1:7079"),
            ("OUTRIGGER_PORT_7079_TCP", "tcp://10.0.0.1:7079"),
            ("CONSUL_NAMESPACE", "a"),
            ("CONSUL_HTTP_SSL_VERIFY", "false"),
        ],
        &Overrides::default(),
    );
    assert_eq!(
        warnings(&got),
        [
            "OUTRIGGER_PROT: unknown variable; did you mean OUTRIGGER_PORT?",
            "OUTRIGGER_WHATEVER: unknown variable; it is ignored",
            "CONSUL_NAMESPACE: is not supported and ignored; the default namespace is used",
            "CONSUL_HTTP_SSL_VERIFY: is ignored: certificates are always verified; name the authority to trust: CONSUL_CACERT",
        ]
    );
}

/// An environment in which each of these variables is not UTF-8.
fn not_utf8(names: &[&str]) -> Environment {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};
    Environment::from_os(names.iter().map(|name| ((*name).into(), OsString::from_vec(b"a\xff".to_vec()))))
}

#[test]
fn a_variable_that_is_not_utf8_is_a_problem_where_it_would_set_something_and_else_a_warning() {
    let known = outrigger_config::VARIABLES.iter().map(|(name, _)| *name);
    for name in known.chain(["OUTRIGGER_CONFIG", "CONSUL_HTTP_SSL"]) {
        let problems = load(None, &not_utf8(&[name]), &Overrides::default()).expect_err(name).to_string();
        assert!(problems.contains(name) && problems.contains("is not UTF-8"), "{name}: {problems}");
        assert!(!problems.contains("a\u{fffd}"), "no value is shown: {problems}");
    }
    let got = load(None, &not_utf8(&["OUTRIGGER_PROT", "PATH", "LS_COLORS"]), &Overrides::default()).unwrap();
    assert_eq!(
        warnings(&got),
        ["OUTRIGGER_PROT: is not UTF-8, and an unknown variable; did you mean OUTRIGGER_PORT?"]
    );
    let got = load(None, &not_utf8(&["STATE_DIRECTORY"]), &Overrides::default()).unwrap();
    assert!(warnings(&got)[0].starts_with("STATE_DIRECTORY: is not UTF-8, and not used"), "{got:?}");
    for text in ["workers: ${MINE}\n", "workers: ${MINE:-3}\n", "registry: {consul: {token: \"${MINE}\"}}\n"]
    {
        let problems = load(Some(("o.yaml", text)), &not_utf8(&["MINE"]), &Overrides::default()).unwrap_err();
        assert!(problems.to_string().contains("environment variable MINE is not UTF-8"), "{problems}");
    }
}

#[test]
fn the_hint_for_an_unknown_variable_is_the_nearest_one_or_the_key_that_it_spells() {
    for (name, hint) in [
        ("OUTRIGGER_SERVISE", "did you mean OUTRIGGER_SERVICE?"),
        ("OUTRIGGER_ADMINLISTEN", "did you mean OUTRIGGER_ADMIN_LISTEN?"),
        ("OUTRIGGER_LOG_LEVEL", "did you mean OUTRIGGER_LOG?"),
        ("OUTRIGGER_TOKEN", "did you mean OUTRIGGER_TOKEN_FILE?"),
        ("OUTRIGGER_CONSUL_ADDRESS", "did you mean OUTRIGGER_CONSUL?"),
        ("OUTRIGGER_OUTBOUND_LISTEN", "did you mean OUTRIGGER_LISTEN?"),
        (
            "OUTRIGGER_DEFAULTS_TIMEOUT",
            "it is ignored: no variable sets defaults.timeout; write it in the file",
        ),
        ("OUTRIGGER_ADMIN", "did you mean OUTRIGGER_ADMIN_LISTEN?"),
        ("OUTRIGGER_COLOUR", "it is ignored"),
    ] {
        assert_eq!(warnings(&in_env(&[(name, "1")])), [format!("{name}: unknown variable; {hint}")]);
    }
}

#[test]
fn the_variables_of_a_kubernetes_service_are_no_settings() {
    // As the kubelet sets them for the Services outrigger and outrigger-admin.
    let mut all = Vec::new();
    for prefix in ["OUTRIGGER", "OUTRIGGER_ADMIN"] {
        for (suffix, text) in [
            ("_SERVICE_HOST", "10.0.0.11"),
            ("_SERVICE_PORT", "7079"),
            ("_SERVICE_PORT_HTTP_ADMIN", "7079"),
            ("_PORT", "tcp://10.0.0.11:7079"),
            ("_PORT_7079_TCP", "tcp://10.0.0.11:7079"),
            ("_PORT_7079_TCP_PROTO", "tcp"),
            ("_PORT_7079_TCP_PORT", "7079"),
            ("_PORT_7079_TCP_ADDR", "10.0.0.11"),
            ("_PORT_53_UDP", "udp://10.0.0.11:53"),
            ("_PORT_53_UDP_PROTO", "udp"),
        ] {
            all.push((format!("{prefix}{suffix}"), text));
        }
    }
    let all: Vec<_> = all.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    let got = in_env(&all);
    assert_eq!(warnings(&got), [] as [&str; 0]);
    assert_eq!(got.config, Config::default());
    let own = in_env(&[("OUTRIGGER_SERVICE", "orders"), ("OUTRIGGER_PORT", "8080"), all[0], all[1]]);
    assert_eq!(
        own.config.services.first().map(|service| (service.name.clone(), service.port)),
        Some(("orders".into(), 8080))
    );
    let near = in_env(&[("OUTRIGGER_PORT_ALL", "1"), ("OUTRIGGER_PORT_80_HTTP", "1")]);
    assert_eq!(near.warnings.len(), 2, "{:?}", near.warnings);
}

#[test]
fn the_variable_of_a_registry_wins_as_its_flag_does() {
    let consul = |got: &LoadedConfig| match &got.config.registry {
        Registry::Consul(consul) => consul.address.to_string(),
        Registry::File(file) => file.display().to_string(),
    };
    let own = ("OUTRIGGER_CONSUL", "http://10.0.0.1:8501");
    let others = ("CONSUL_HTTP_ADDR", "http://10.0.0.2:8501");
    assert_eq!(consul(&in_env(&[others, own])), "http://10.0.0.1:8501");
    assert_eq!(
        consul(&loaded("registry: {file: s.yaml}\n", &[own], &Overrides::default())),
        "http://10.0.0.1:8501"
    );
    let flags = Overrides { registry_file: Some("s.yaml".into()), ..Overrides::default() };
    assert_eq!(consul(&loaded("{}\n", &[own], &flags)), "s.yaml");
    assert_eq!(consul(&in_env(&[own, ("CONSUL_HTTP_SSL", "true")])), "http://10.0.0.1:8501");
    let both: Environment = [own, ("OUTRIGGER_REGISTRY_FILE", "s.yaml")].into_iter().collect();
    let refused = load(None, &both, &Overrides::default()).unwrap_err().to_string();
    assert!(refused.contains("contradicts registry.consul"), "{refused}");
}

#[test]
fn an_admin_side_that_the_network_reaches_causes_a_warning() {
    for (listen, warned) in [
        ("localhost:7079", false),
        ("127.0.0.2:7079", false),
        ("\"[::1]:7079\"", false),
        ("0.0.0.0:7079", true),
        ("\"[::]:7079\"", true),
        ("\"[::ffff:0.0.0.0]:7079\"", true),
        ("10.0.0.5:7079", true),
    ] {
        let got = loaded(&format!("admin: {{listen: {listen}}}\n"), &[], &Overrides::default());
        let warnings = warnings(&got);
        assert_eq!(warnings.len(), usize::from(warned), "{listen}: {warnings:?}");
        assert!(!warned || warnings[0].contains("admin.metrics_listen"), "{warnings:?}");
    }
    let got = in_env(&[("OUTRIGGER_ADMIN_LISTEN", "0.0.0.0:7079")]);
    assert_eq!(
        warnings(&got),
        [
            "OUTRIGGER_ADMIN_LISTEN: 0.0.0.0:7079 listens on all addresses: whatever reaches it may drain or reload this sidecar; keep it on localhost; admin.metrics_listen opens metrics and health alone"
        ]
    );
}

#[test]
fn a_key_x_at_the_top_holds_anchors() {
    let text = "x-slow: &slow {timeout: 30s, outlier: {max: 2m}}\nx-list: [1, {a: b}]\n\
                upstreams:\n- {service: a, <<: *slow}\n- {service: b, <<: *slow, timeout: 9s}\nx-pool: ~\n";
    let got = loaded(text, &[], &Overrides::default());
    let timeouts: Vec<_> = got.config.upstreams.iter().map(|up| up.policy.timeout.as_secs()).collect();
    assert_eq!(timeouts, [30, 9]);
    assert_eq!(got.warnings.len(), 2, "an old name behind an anchor: {:?}", got.warnings);
    for (text, problem) in [
        ("xslow: 1\n", "conf/o.yaml:1:1 xslow: unknown key;"),
        (
            "outbound: {x-forwarded: on}\n",
            "conf/o.yaml:1:12 outbound.x-forwarded: unknown key; did you mean x_forwarded?",
        ),
        (
            "defaults: {x-slow: 1}\n",
            "conf/o.yaml:1:12 defaults.x-slow: unknown key; a key x-… for anchors belongs at the top of the file",
        ),
    ] {
        let problems = load(Some(("conf/o.yaml", text)), &Environment::default(), &Overrides::default());
        let problems = problems.unwrap_err().to_string();
        assert!(problems.starts_with(problem), "{problems}");
    }
}

#[test]
fn an_app_with_a_registry_file_causes_a_warning() {
    let got = loaded("service: {name: a, port: 1}\nregistry: {file: s.yaml}\n", &[], &Overrides::default());
    assert_eq!(
        warnings(&got),
        [
            "conf/o.yaml:1:17 service: is not registered: the registry is a file; use registry.consul to register it"
        ]
    );
}

#[test]
fn origins_that_any_page_can_send_and_hosts_without_a_listener_cause_a_warning() {
    for origin in ["\"*\"", "null", "\"null\""] {
        let got = loaded(&format!("outbound: {{allow_origins: [{origin}]}}\n"), &[], &Overrides::default());
        let shown = origin.trim_matches('"');
        let expected = format!(
            "conf/o.yaml:1:27 outbound.allow_origins: \"{shown}\" lets any page in a browser on this machine send requests; \
             name the pages, as https://app.example or https://*.example"
        );
        assert_eq!(warnings(&got), [expected]);
    }
    let got = loaded("outbound: {allow_origins: ['https://*.example']}\n", &[], &Overrides::default());
    assert_eq!(warnings(&got), [""; 0]);
    let got = loaded("upstreams: [{service: a, hosts: [app.example]}]\n", &[], &Overrides::default());
    assert_eq!(
        warnings(&got),
        [
            "conf/o.yaml:1:33 upstreams[0].hosts: is not used: the upstream has no listener of its own; set listen too"
        ]
    );
}

#[test]
fn no_secret_is_shown_anywhere() {
    let got = in_env(&[("CONSUL_HTTP_TOKEN", "s3cret")]);
    let page = render(&got.config, &got.origins);
    for text in [page.clone(), summarize(&got), format!("{got:?}")] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert!(page.contains("    token: (hidden)  # environment CONSUL_HTTP_TOKEN\n"), "{page}");
    assert_eq!(*got.origins.get("registry.consul.token"), Origin::Environment("CONSUL_HTTP_TOKEN".into()));
}

#[test]
fn the_summary_shows_what_would_run() {
    let text = "service: {name: orders, port: 8080, health: {http: /healthz}}\n\
                upstreams:\n- {service: payments, timeout: 2s, balance: weighted}\n- service: stock\n";
    let flags = Overrides { port: Some("8081".into()), ..Overrides::default() };
    let got = loaded(text, &[("OUTRIGGER_WORKRS", "1")], &flags);
    let expected = "\
register   orders at the agent's address, port 8081; health: GET /healthz every 2s
registry   Consul at http://127.0.0.1:8500, no token
outbound   localhost:7070, any service by its name
upstreams  payments: balance weighted, timeout 2s
           stock: the defaults
admin      localhost:7079
workers    auto

Set (all else is at its default):
  service.name          orders    conf/o.yaml:1
  service.port          8081      flag --port
  service.health.http   /healthz  conf/o.yaml:1
  upstreams[0].service  payments  conf/o.yaml:3
  upstreams[0].balance  weighted  conf/o.yaml:3
  upstreams[0].timeout  2s        conf/o.yaml:3
  upstreams[1].service  stock     conf/o.yaml:4
warning: OUTRIGGER_WORKRS: unknown variable; did you mean OUTRIGGER_WORKERS?
";
    assert_eq!(summarize(&got), expected);
}
