//! Settings with a new name: the old name still works, with a warning.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use outrigger_config::{Environment, LoadedConfig, Origin, Overrides, Problems, load, render, summarize};

fn read(text: &str) -> Result<LoadedConfig, Problems> {
    let env: Environment = [("SHARE", "30%"), ("HUSH", "s3cret")].into_iter().collect();
    load(Some(("o.yaml", text)), &env, &Overrides::default())
}

fn loaded(text: &str) -> LoadedConfig {
    read(text).unwrap_or_else(|problems| panic!("{problems}\nin:\n{text}"))
}

fn refused(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

/// A section, a setting of it by its old name, the same by its new name.
const OF_A_POLICY: [(&str, &str, &str); 7] = [
    ("circuit_breaker", "open: 2s", "open_for: 2s"),
    ("circuit_breaker", "open_max: 2m", "max_open_for: 2m"),
    ("outlier", "max_ejected: 0.29", "max_ejection_percent: 29"),
    ("outlier", "base: 2s", "base_ejection_time: 2s"),
    ("outlier", "max: 2m", "max_ejection_time: 2m"),
    ("pool", "idle: 9s", "idle_timeout: 9s"),
    ("pool", "fresh: 500ms", "non_idempotent_max_idle: 500ms"),
];
const OTHERS: [(&str, &str, &str); 7] = [
    ("discovery", "guard: off", "mass_loss: off"),
    ("discovery", "guard: {hold_for: 20s}", "mass_loss: {hold_for: 20s}"),
    ("discovery.mass_loss", "confirm: 2s", "confirm_for: 2s"),
    ("discovery.mass_loss", "hold: 20s", "hold_for: 20s"),
    ("discovery.mass_loss", "probe: 200ms", "probe_timeout: 200ms"),
    ("drain", "cap: 9s", "max_propagation: 9s"),
    ("drain", "blind: 2s", "unobserved_wait: 2s"),
];

/// A setting below its section, with all lines above it.
fn nest(section: &str, setting: &str) -> String {
    let mut text = String::new();
    let mut indent = String::new();
    for name in section.split('.') {
        if let Some(list) = name.strip_suffix("[0]") {
            text += &format!("{list}:\n- service: a\n");
        } else {
            text += &format!("{indent}{name}:\n");
        }
        indent += "  ";
    }
    format!("{text}{indent}{setting}\n")
}

fn check(section: &str, old: &str, new: &str) {
    let name = |setting: &str| setting.split(':').next().unwrap().to_owned();
    let text = nest(section, old);
    let (by_old, by_new) = (loaded(&text), loaded(&nest(section, new)));
    assert_eq!(by_old.config, by_new.config, "{text}");
    assert_ne!(by_old.config, loaded(&nest("defaults", "timeout: 15s")).config, "{text} changes nothing");
    let page = |loaded: &LoadedConfig| render(&loaded.config, &loaded.origins);
    assert_eq!(page(&by_old), page(&by_new));
    assert!(page(&by_old).contains(&format!(" {}:", name(new))), "{}", page(&by_old));
    assert_eq!(by_new.warnings, []);
    let (line, col) = (text.lines().count(), 1 + text.lines().last().unwrap().find(old).unwrap());
    let expected = format!(
        "o.yaml:{line}:{col} {section}.{}: has a new name: {section}.{}; the old name works until the next minor release",
        name(old),
        name(new),
    );
    let [warning] = by_old.warnings.as_slice() else { panic!("{:?}", by_old.warnings) };
    assert_eq!(warning.to_string(), expected);
    assert!(summarize(&by_old).contains(&format!("warning: {expected}\n")));
}

#[test]
fn an_old_name_works_with_a_warning_that_has_its_place_and_the_new_name() {
    for (section, old, new) in OTHERS {
        check(section, old, new);
    }
    for (section, old, new) in OF_A_POLICY {
        check(&format!("defaults.{section}"), old, new);
        check(&format!("upstreams[0].{section}"), old, new);
    }
}

#[test]
fn each_old_name_of_a_section_with_an_old_name_is_warned_about() {
    let got = loaded("discovery:\n  guard:\n    confirm: 2s\n    hold_for: 20s\n");
    let keys: Vec<_> = got.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(keys, ["discovery.guard", "discovery.guard.confirm"]);
    assert_eq!(got.config, loaded("discovery: {mass_loss: {confirm_for: 2s, hold_for: 20s}}").config);
}

#[test]
fn both_names_in_one_file_are_an_error_that_has_both_places() {
    assert_eq!(
        refused("drain:\n  cap: 9s\n  max_propagation: 9s\n"),
        "o.yaml:2:3 drain.cap: is the old name of drain.max_propagation, which is given on line 3, column 3; remove the old one"
    );
    for (section, old, new) in OTHERS {
        assert_eq!(
            refused(&nest(section, &format!("{{{old}, {new}}}"))).lines().count(),
            1,
            "{section} {old}"
        );
    }
    for (section, old, new) in OF_A_POLICY {
        let problems = refused(&nest(&format!("upstreams[0].{section}"), &format!("{{{old}, {new}}}")));
        assert!(problems.contains(" is the old name of upstreams[0]."), "{problems}");
    }
    assert_eq!(
        refused("drain: {cap: 9s, cap: 8s}\n"),
        "o.yaml:1:18 drain.cap: is given twice, first on line 1; remove one of them"
    );
}

#[test]
fn an_upstream_may_use_one_name_and_the_defaults_the_other() {
    let text =
        "defaults: {pool: {idle: 9s}}\nupstreams: [{service: a, pool: {idle_timeout: 8s}}, {service: b}]\n";
    let config = loaded(text).config;
    let idle = |n: usize| config.upstreams[n].policy.pool.idle_timeout.as_secs();
    assert_eq!((idle(0), idle(1)), (8, 9));
}

#[test]
fn a_problem_names_the_key_that_is_in_the_file() {
    for (text, expected) in [
        ("drain: {cap: 1h}", "o.yaml:1:14 drain.cap: \"1h\" is out of range; allowed: 0s to 5m"),
        ("drain: {blind: }", "o.yaml:1:14 drain.blind: has no value; give one, or remove the key"),
        (
            "discovery: {guard: {probe: 1ms}}",
            "o.yaml:1:28 discovery.guard.probe: \"1ms\" is out of range; allowed: 10ms to 5s",
        ),
        (
            "discovery: {guard: {zzz: 1}}",
            "o.yaml:1:21 discovery.guard.zzz: unknown key; valid here: confirm_for, hold_for, probe_timeout",
        ),
        (
            "defaults: {circuit_breaker: {open: 1m}}",
            "o.yaml:1:36 defaults.circuit_breaker.open: 1m is above max_open_for (30s); at most 30s, or raise max_open_for",
        ),
        (
            "upstreams: [{service: a, outlier: {max_ejected: 1.5}}]",
            "o.yaml:1:49 upstreams[0].outlier.max_ejected: \"1.5\" is out of range; allowed: 0 to 1",
        ),
        (
            "defaults: {outlier: {max_ejected: \"${HUSH}\"}}",
            "o.yaml:1:35 defaults.outlier.max_ejected: \"${HUSH}\" is not a share; write 20% or 0.2",
        ),
    ] {
        assert_eq!(refused(&format!("{text}\n")), expected);
    }
}

#[test]
fn a_share_becomes_a_percentage() {
    let percent = |setting: &str| {
        let config = loaded(&format!("defaults: {{outlier: {{{setting}}}}}")).config;
        config.defaults.outlier.unwrap().max_ejection_percent
    };
    for (setting, expected) in [
        ("max_ejected: 0", 0.0),
        ("max_ejected: 0.07", 7.0),
        ("max_ejected: 0.29", 29.0),
        ("max_ejected: 0.125", 12.5),
        ("max_ejected: 30%", 30.0),
        ("max_ejected: \"${SHARE}\"", 30.0),
        ("max_ejected: 1", 100.0),
        ("max_ejection_percent: 1", 1.0),
        ("max_ejection_percent: 12.5%", 12.5),
        ("max_ejection_percent: \"${SHARE}\"", 30.0),
    ] {
        assert_eq!(percent(setting), expected, "{setting}");
    }
}

#[test]
fn a_name_that_is_old_in_one_section_is_not_old_in_another() {
    let got = loaded("discovery: {idle: 9m}\noutbound: {limits: {idle: 9m}}\n");
    assert_eq!(got.warnings, []);
    let Origin::File { line, .. } = got.origins.get("discovery.idle") else { panic!("not from the file") };
    assert_eq!(*line, 1);
}

#[test]
fn a_typing_error_in_an_old_name_gets_the_new_name_as_its_hint() {
    for (text, expected) in [
        (
            "drain: {blnid: 2s}",
            "o.yaml:1:9 drain.blnid: unknown key; did you mean unobserved_wait, formerly blind?",
        ),
        (
            "discovery: {gaurd: off}",
            "o.yaml:1:13 discovery.gaurd: unknown key; did you mean mass_loss, formerly guard?",
        ),
        (
            "discovery: {mass_loss: {confrim: 2s}}",
            "o.yaml:1:25 discovery.mass_loss.confrim: unknown key; did you mean confirm_for, formerly confirm?",
        ),
        (
            "defaults: {outlier: {max-ejectd: 0.3}}",
            "o.yaml:1:22 defaults.outlier.max-ejectd: unknown key; did you mean max_ejection_percent, formerly max_ejected?",
        ),
        (
            "upstreams: [{service: a, pool: {frehs: 1s}}]",
            "o.yaml:1:33 upstreams[0].pool.frehs: unknown key; did you mean non_idempotent_max_idle, formerly fresh?",
        ),
        (
            "guard: off",
            "o.yaml:1:1 guard: unknown key; it belongs at discovery.mass_loss, formerly discovery.guard",
        ),
        (
            "defaults: {open: 2s}",
            "o.yaml:1:12 defaults.open: unknown key; it belongs at defaults.circuit_breaker.open_for, formerly defaults.circuit_breaker.open",
        ),
        // A present name that is as near comes first.
        (
            "defaults: {circuit_breaker: {open_fro: 2s}}",
            "o.yaml:1:30 defaults.circuit_breaker.open_fro: unknown key; did you mean open_for?",
        ),
    ] {
        assert_eq!(refused(&format!("{text}\n")), expected);
    }
}

#[test]
fn problems_carry_the_warnings_about_old_names() {
    let problems = read("workers: many\ndrain: {cap: 9s}\ndefaults: {pool: {idle: 1s}}\n").unwrap_err();
    assert_eq!(problems.len(), 1);
    let keys: Vec<_> = problems.warnings().iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(keys, ["drain.cap", "defaults.pool.idle"]);
}
