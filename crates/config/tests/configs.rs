//! The files in `configs/` load, and `full.yaml` is complete and has the real defaults.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, path::PathBuf};

use outrigger_config::{Environment, LoadedConfig, Origin, Overrides, keys, load, load_path, render};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

fn loaded(name: &str) -> LoadedConfig {
    load_path(&path(name), &Environment::default(), &Overrides::default())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// Each key of a rendered configuration with its value.
fn values(loaded: &LoadedConfig) -> BTreeMap<String, String> {
    let mut open: Vec<(usize, String)> = Vec::new();
    let mut out = BTreeMap::new();
    for line in render(&loaded.config, &loaded.origins).lines() {
        let indent = line.len() - line.trim_start_matches([' ', '-']).len();
        open.retain(|(at, _)| *at < indent);
        let (name, rest) = line[indent..].split_once(':').unwrap();
        let path: String = open.iter().map(|(_, name)| format!("{name}.")).collect::<String>() + name;
        match rest.split("  # ").next().unwrap().trim() {
            "" => open.push((indent, name.to_owned())),
            value => drop(out.insert(path, value.to_owned())),
        }
    }
    out
}

#[test]
fn every_example_loads_without_a_warning() {
    for name in ["minimal.yaml", "development.yaml", "full.yaml"] {
        assert_eq!(loaded(name).warnings, [], "in {name}");
    }
}

#[test]
fn full_yaml_has_every_key() {
    let (full, text) = (loaded("full.yaml"), text("full.yaml"));
    for key in keys() {
        // Of two keys that exclude each other, one is a comment; so are the keys of what is off by default.
        let name = key.rsplit('.').next().unwrap();
        let alternatives =
            ["tcp", "token", "file", "percentile", "min_delay", "signal", "http", "mode", "owner"];
        let is_named = alternatives.contains(&name) || key.starts_with("api.config.sources[0].spring.");
        let alternative = is_named
            && text
                .lines()
                .any(|line| line.trim_start().starts_with('#') && line.contains(&format!(" {name}: ")));
        let of_tcp = key.replace("upstreams[0].tcp.", "upstreams[1].tcp.");
        assert!(full.origins.is_set(&of_tcp) || alternative, "{key} is missing from configs/full.yaml");
    }
}

#[test]
fn full_yaml_has_a_default_or_an_example_and_a_comment_for_each_key() {
    let text = text("full.yaml");
    for (key, origin) in loaded("full.yaml").origins.iter() {
        let Origin::File { line, .. } = origin else { panic!("{key} comes from {origin}") };
        let line = text.lines().nth(*line as usize - 1).unwrap();
        let marked = ["# default. ", "# example. ", "# example.", "# example, required."];
        let section = key.ends_with("circuit_breaker") || key.ends_with("outlier");
        assert!(section || marked.iter().any(|mark| line.contains(mark)), "{key}: {line}");
    }
}

#[test]
fn each_default_of_full_yaml_is_the_real_default() {
    let text = text("full.yaml");
    let full = loaded("full.yaml");
    let minimal = values(&loaded("minimal.yaml"));
    let mut checked = 0;
    for (key, value) in values(&full) {
        let Origin::File { line, .. } = full.origins.get(&key) else { continue };
        if text.lines().nth(*line as usize - 1).unwrap().contains("# default") {
            assert_eq!(Some(&value), minimal.get(&key), "{key} in configs/full.yaml");
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} defaults were found");
}

/// The range that a comment has: `1ms to 1h`.
fn range(comment: &str) -> Option<String> {
    let word = |text: &str| text.trim_matches(['.', ',', ';', ':', ')']).to_owned();
    let words: Vec<_> = comment.split(' ').map(word).collect();
    let starts_with_digit = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let range = words.windows(3).find(|three| starts_with_digit(&three[0]) && three[1] == "to");
    range.map(|three| three.join(" "))
}

#[test]
fn each_range_of_full_yaml_is_the_real_range() {
    let text = text("full.yaml");
    let mut checked = 0;
    for (n, line) in text.lines().enumerate() {
        let Some((setting, comment)) = line.split_once("# default. ") else { continue };
        let Some(range) = range(comment).filter(|_| !setting.contains('#')) else { continue };
        let key = setting.split_once(':').unwrap().0;
        // Far above every range, in each unit.
        let hint = ["99999h", "99999GiB", "99999%", "9999999999", "[9999]"].iter().find_map(|value| {
            let changed = format!("{key}: {value}");
            let changed: Vec<_> =
                text.lines().enumerate().map(|(m, line)| if m == n { &changed } else { line }).collect();
            let problems = load(
                Some(("full.yaml", &changed.join("\n"))),
                &Environment::default(),
                &Overrides::default(),
            );
            let hints: Vec<_> = problems.unwrap_err().iter().map(|problem| problem.hint.clone()).collect();
            hints.into_iter().find(|hint| hint.contains(&range))
        });
        assert!(hint.is_some(), "{range} is not the range of: {line}");
        checked += 1;
    }
    assert!(checked > 30, "only {checked} ranges were found");
}

#[test]
fn the_alternatives_in_the_comments_are_valid_too() {
    let text = text("full.yaml");
    let swap = |text: &str, out: &str, comment: &str| {
        assert!(text.contains(out) && text.contains(comment), "{out} or {comment} is not there");
        let with = comment.strip_prefix("# ").unwrap();
        text.replace(out, &format!("# {out}")).replace(comment, with)
    };
    let (from, to) = (text.find("    http: /").unwrap(), text.find("    # tcp: true").unwrap());
    let tcp = format!("{}{}", &text[..from], text[to..].replacen("# tcp", "tcp", 1));
    let token = swap(&text, "token_file: ", "# token: ${");
    let from = text.find("  consul:\n").unwrap();
    let to = text.find("  # file: ").unwrap();
    let file = format!("{}{}", &text[..from], &text[to..]).replace("  # file: ", "  file: ");
    // A file of the app is read from Consul.
    let file = file.replace("required: true", "required: false");
    let env: Environment = [("CONSUL_TOKEN", "hush")].into_iter().collect();
    let (from, to) = (text.find("service:\n").unwrap(), text.find("# An app with several ports").unwrap());
    let to_registry = text.find("# Where instances come from").unwrap();
    let list = text[to..to_registry].replace("\n# services:", "\nservices:").replace("\n#   - ", "\n  - ");
    let services = format!("{}{list}{}", &text[..from], &text[to_registry..]);
    for text in [tcp, token, file, services] {
        load(Some(("full.yaml", &text)), &env, &Overrides::default())
            .unwrap_or_else(|problems| panic!("{problems}"));
    }
}

#[test]
fn an_empty_configuration_is_valid() {
    let nothing = load(None, &Environment::default(), &Overrides::default()).unwrap();
    assert_eq!(nothing.config, outrigger_config::Config::default());
    assert_eq!(nothing.origins.iter().count(), 0);
    let empty = load(Some(("empty.yaml", "")), &Environment::default(), &Overrides::default()).unwrap();
    assert_eq!(empty, nothing);
}
