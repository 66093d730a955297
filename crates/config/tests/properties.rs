//! Properties of every file: nothing panics, a problem is found on its line, and a rendered configuration
//! loads as itself.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use outrigger_config::{Environment, LoadedConfig, Origin, Overrides, Problems, load, render, summarize};
use proptest::prelude::*;

const FULL: &str = include_str!("../../../configs/full.yaml");

fn read(text: &str) -> Result<LoadedConfig, Problems> {
    load(Some(("o.yaml", text)), &Environment::default(), &Overrides::default())
}

/// Every line of `full.yaml` that has a key, by its number from 1, with where the key starts.
fn lines_with_a_key() -> Vec<(usize, usize)> {
    let key = |line: &str| {
        let start = line.len() - line.trim_start_matches([' ', '-']).len();
        line[start..].starts_with(|c: char| c.is_ascii_lowercase()).then_some(start)
    };
    FULL.lines().enumerate().filter_map(|(n, line)| Some((n + 1, key(line)?))).collect()
}

/// The lines with a value that can be wrong: not those of sections and of free text.
fn lines_with_a_value() -> Vec<usize> {
    let wrong_is_possible = |line: &str| {
        let value = line.split('#').next().unwrap().split_once(':').unwrap().1.trim();
        !value.is_empty() && !["_file:", "  id:", "state_dir:", " path:"].iter().any(|key| line.contains(key))
    };
    let line = |number: usize| FULL.lines().nth(number - 1).unwrap();
    lines_with_a_key().into_iter().map(|(number, _)| number).filter(|n| wrong_is_possible(line(*n))).collect()
}

fn with_line(number: usize, change: impl Fn(&str) -> String) -> String {
    let lines = FULL.lines().enumerate();
    lines.map(|(n, line)| if n + 1 == number { change(line) } else { line.to_owned() } + "\n").collect()
}

/// The places of the problems.
fn places(text: &str) -> Vec<(u32, u32)> {
    let problems =
        read(text).err().map(|problems| problems.iter().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let place = |origin: &Origin| match origin {
        Origin::File { line, col, .. } => (*line, *col),
        other => panic!("{other} is no place in the file"),
    };
    problems.iter().map(|problem| place(&problem.origin)).collect()
}

fn ok(text: &str) -> LoadedConfig {
    read(text).unwrap_or_else(|problems| panic!("{problems}\nin:\n{text}"))
}

fn text() -> impl Strategy<Value = String> {
    // All characters with a meaning in YAML or in a value, between ordinary letters.
    "[ -~éß\u{2028}\n\t]{0,20}"
}

fn duration(low: u64, high: u64) -> impl Strategy<Value = String> {
    (low..=high).prop_map(|ms| format!("{ms}ms"))
}

fn quoted(text: &str) -> String {
    text.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect()
}

prop_compose! {
    /// A valid file with free values in many of its keys.
    fn file()(
        name in "[a-z][a-z0-9]{0,8}",
        port in 1u16..7000,
        metadata in proptest::collection::btree_map("[a-zA-Z0-9_][a-zA-Z0-9_-]{0,6}", text(), 0..4),
        tags in proptest::collection::vec("[!-~]([ -~]{0,8}[!-~])?", 0..3),
        timeout in duration(2000, 3_600_000),
        per_try in proptest::option::of(duration(1, 2000)),
        ratio in 0u32..=100,
        size in 0usize..=1_048_576,
        breaker in prop_oneof![Just("off".to_owned()), Just("{}".to_owned()), duration(1000, 30_000).prop_map(|d| format!("{{open_for: {d}}}"))],
        outlier in prop_oneof![Just("off".to_owned()), Just("{}".to_owned()), Just("{success_rate: off}".to_owned()), duration(1000, 60_000).prop_map(|d| format!("{{base_ejection_time: {d}}}"))],
        retry in prop_oneof![Just("off"), Just("on"), Just("{max_retries: 3}"), Just("{statuses: []}")],
        upstreams in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..4),
    ) -> String {
        let metadata: String = metadata.iter().map(|(key, value)| format!("    \"{key}\": \"{}\"\n", quoted(value))).collect();
        let tags: Vec<_> = tags.iter().map(|tag| format!("\"{}\"", quoted(&tag.replace('$', "$$")))).collect();
        let metadata = metadata.replace(&quoted("$"), &quoted("$$"));
        let mut out = format!("service:\n  name: {name}\n  port: {port}\n  tags: [{}]\n  meta:\n{metadata}", tags.join(", "));
        out += &format!("defaults:\n  timeout: {timeout}\n  circuit_breaker: {breaker}\n  outlier: {outlier}\n");
        if let Some(per_try) = per_try {
            out += &format!("  per_try_timeout: {per_try}\n");
        }
        out += &format!("  retry: {{max_body: {size}, budget: {{ratio: {ratio}%}}}}\n");
        if !upstreams.is_empty() {
            out += "upstreams:\n";
        }
        for (n, (listen, policy, switch)) in upstreams.iter().enumerate() {
            out += &format!("  - service: s{n}\n");
            if *listen {
                out += &format!("    listen: 127.0.0.1:{}\n", 9000 + n);
            }
            if *policy {
                out += &format!("    retry: {retry}\n    per_try_timeout: off\n    pool: {{idle_timeout: 9s}}\n");
            }
            if *switch {
                out += "    circuit_breaker: {}\n    outlier: {}\n    datacenter: dc2\n    tags: [v2]\n";
            }
        }
        out
    }
}

proptest! {
    #[test]
    fn no_text_makes_loading_panic(text in ".*") {
        let _ = read(&text);
    }

    #[test]
    fn no_change_of_a_valid_file_makes_loading_panic(at in 0..FULL.len(), len in 0usize..40, with in "[ -~\n\t]{0,5}") {
        let end = (at + len).min(FULL.len());
        let text = format!("{}{with}{}", FULL.get(..at).unwrap_or_default(), FULL.get(end..).unwrap_or_default());
        if let Ok(loaded) = read(&text) {
            let _ = (render(&loaded.config, &loaded.origins), summarize(&loaded));
        }
    }

    #[test]
    fn the_problem_of_an_unknown_key_has_its_place(pick in any::<prop::sample::Index>()) {
        let lines = lines_with_a_key();
        let (number, start) = lines[pick.index(lines.len())];
        let text = with_line(number, |line| format!("{}zzz{}", &line[..start], &line[start..]));
        let found = places(&text);
        let place = (u32::try_from(number).unwrap(), u32::try_from(start + 1).unwrap());
        prop_assert!(found.contains(&place), "{place:?} is not among {found:?}");
    }

    #[test]
    fn the_problem_of_a_wrong_value_has_its_line(pick in any::<prop::sample::Index>()) {
        let lines = lines_with_a_value();
        let number = lines[pick.index(lines.len())];
        let text = with_line(number, |line| format!("{}: \"? ?\"", line.split_once(':').unwrap().0));
        let found = places(&text);
        prop_assert!(found.iter().any(|(line, _)| *line as usize == number), "line {number} is not among {found:?}");
    }

    #[test]
    fn a_rendered_configuration_loads_as_itself(text in file()) {
        let first = ok(&text);
        let page = render(&first.config, &first.origins);
        let second = ok(&page);
        prop_assert_eq!(&first.config, &second.config, "rendered:\n{}", page);
    }

    #[test]
    fn a_summary_fits_on_one_screen(text in file()) {
        let summary = summarize(&ok(&text));
        prop_assert!(summary.lines().count() <= 48, "{}", summary);
    }
}

#[test]
fn the_full_example_loads_as_itself() {
    let first = ok(FULL);
    let page = render(&first.config, &first.origins);
    let mut second = ok(&page).config;
    // The values of these fields may be secrets.
    let headers = first.config.services[0].health.headers.clone();
    assert!(headers.values().all(|value| !page.contains(&format!("x-probe: {}", value.reveal()))), "{page}");
    let shown = std::mem::replace(&mut second.services[0].health.headers, headers.clone());
    assert!(shown.keys().eq(headers.keys()) && shown != headers);
    let edits = first.config.upstreams[0].traffic.routes[0].headers.clone();
    let values = edits.set.iter().chain(&edits.add);
    assert!(values.clone().count() > 0);
    assert!(
        values.clone().all(|(name, value)| !page.contains(&format!("{name}: {}", value.reveal()))),
        "{page}"
    );
    let shown = std::mem::replace(&mut second.upstreams[0].traffic.routes[0].headers, edits.clone());
    assert!(shown != edits && shown.remove == edits.remove);
    assert_eq!(first.config, second);
}
