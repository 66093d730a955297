//! The command line of `outrigger config`, and the check of a document.

use clap::{CommandFactory, Parser};
use outrigger_config::{Environment, SettingsDocument};

use super::{
    ConfigArguments,
    document::{SourceText, TextSource, check, parse_key},
    place::{DocumentPlace, PlaceFlags},
};

#[derive(Debug, Parser)]
struct ConfigCommandLine {
    #[command(flatten)]
    arguments: ConfigArguments,
}

fn place() -> DocumentPlace {
    PlaceFlags::default().open(&Environment::default()).unwrap()
}

#[test]
fn the_help_of_every_command_ends_with_an_example() {
    let mut root = ConfigCommandLine::command();
    root.build();
    let commands: Vec<_> = root.get_subcommands().filter(|c| c.get_name() != "help").cloned().collect();
    assert_eq!(commands.len(), 7);
    for mut command in commands {
        let name = command.get_name().to_owned();
        let help = command.render_long_help().to_string();
        let example = help.split_once("Example:").map(|(_, rest)| rest.to_owned());
        assert!(example.is_some_and(|rest| rest.contains(&format!("config {name}"))), "{name}:\n{help}");
    }
}

#[test]
fn each_command_line_of_the_manual_parses() {
    for line in [
        "init",
        "init --prefix team/outrigger",
        "put services/payments payments.yaml",
        "put services/payments - --at 813 --dry-run -c outrigger.yaml",
        "get services/payments",
        "get services/payments --index 813",
        "get services/payments --history",
        "diff services/payments payments.yaml",
        "revert services/payments",
        "revert services/payments --to 813 --dry-run",
        "delete services/payments --dry-run",
        "status",
        "status services/payments --wait --timeout 30s --at-least 3 --json",
        "status --consul http://127.0.0.1:8500 --token-file /run/token",
    ] {
        let parsed = ConfigCommandLine::try_parse_from(["x"].into_iter().chain(line.split_whitespace()));
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
}

#[test]
fn a_key_may_have_the_prefix_before_it() {
    for text in ["services/a", "settings/services/a", "team/o/settings/services/a", "/settings/services/a"] {
        assert_eq!(parse_key(text, "team/o").unwrap(), "services/a", "{text}");
    }
    // A service may have the name of a part.
    assert_eq!(parse_key("services/settings", "o").unwrap(), "services/settings");
    for text in ["", "services", "services/a/b", ".outrigger", "other/settings/services/a", "receipts/a/b"] {
        let error = parse_key(text, "team/o").unwrap_err().to_string();
        assert!(error.contains("apps/APP/services/NAME"), "{text}: {error}");
    }
}

fn text(value: &str) -> SourceText {
    SourceText { source: TextSource::File("p.yaml".into()), value: value.into() }
}

fn checked(name: &str, value: &str, others: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let other = |(name, value): &(&str, &str)| SettingsDocument {
        name: (*name).to_owned(),
        index: 5,
        created: 5,
        value: value.as_bytes().to_vec(),
    };
    let others: Vec<_> = others.iter().map(other).collect();
    check(&place(), name, &text(value), &others).map_err(|error| error.to_string())
}

#[test]
fn a_problem_has_the_file_the_line_and_the_column() {
    for (value, start, words) in [
        ("timeout: 2s\nretry: {max_retries: many}\n", "p.yaml:2:22 retry.max_retries: ", "whole number"),
        ("timeout: 2s\ntimeuot: 3s\n", "p.yaml:2:1 ", "timeout"),
        ("a: [\n", "p.yaml:", ""),
        ("tls: {}\n", "p.yaml:1:1 tls: ", "settings file"),
        ("rollout: 200%\n", "p.yaml:1:10 rollout: ", ""),
        ("timeout: &a 2s\n", "p.yaml:1:", "anchor"),
        ("timeout: 1s\nper_try_timeout: 2s\n", "p.yaml:", "per_try_timeout"),
    ] {
        let problem = checked("services/a", value, &[]).unwrap_err();
        assert!(problem.starts_with(start) && problem.contains(words), "{value}: {problem}");
    }
    let all = checked("defaults", "timeout: soon\nmax_pending: few\n", &[]).unwrap_err();
    assert_eq!(all.lines().count(), 2, "{all}");
    assert_eq!(checked("services/a", "timeout: 2s\n", &[]), Ok(Vec::new()));
    let large = "#".repeat(70_000);
    assert!(checked("services/a", &large, &[]).unwrap_err().starts_with("p.yaml: has 70000 bytes"));
}

#[test]
fn a_document_is_also_checked_over_the_others() {
    let others = [("defaults", "per_try_timeout: 5s\n"), ("services/a", "max_pending: 3\n")];
    let problem = checked("services/a", "timeout: 2s\n", &others).unwrap_err();
    assert!(problem.starts_with("p.yaml:1:10 ") && problem.contains("per_try_timeout"), "{problem}");
    assert_eq!(checked("services/a", "timeout: 8s\n", &others), Ok(Vec::new()));
    let problem = checked("services/A", "timeout: 8s\n", &others).unwrap_err();
    assert!(problem.contains("outrigger/settings/services/a is there"), "{problem}");
    // It makes another one wrong, which was not wrong before.
    let others = [("services/a", "per_try_timeout: 5s\n"), ("services/b", "timeout: never\n")];
    let warnings = checked("defaults", "timeout: 2s\n", &others).unwrap();
    assert!(
        warnings.len() == 1 && warnings[0].contains("kv:outrigger/settings/services/a@5:1:18"),
        "{warnings:?}"
    );
    let apps = [("apps/shop/defaults", "per_try_timeout: 5s\n")];
    assert!(checked("apps/shop/services/a", "timeout: 2s\n", &apps).is_err());
    assert_eq!(checked("apps/web/services/a", "timeout: 2s\n", &apps), Ok(Vec::new()));
    let large: Vec<_> = (0..18).map(|n| format!("services/s{n}")).collect();
    let value = format!("# {}\n", "x".repeat(60_000));
    let large: Vec<_> = large.iter().map(|name| (name.as_str(), value.as_str())).collect();
    assert!(checked("services/a", "timeout: 2s\n", &large).unwrap_err().contains("all documents together"));
}
