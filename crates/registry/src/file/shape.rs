//! The shape of a file of static instances, and the problems that it may have. Pure.
//!
//! ```yaml
//! services:
//!   orders:
//!     - {address: 127.0.0.1, port: 9001, id: orders-1, weight: 3, tags: [v2], meta: {zone: a}, status: passing}
//!     - 127.0.0.1:9002
//! ```
//!
//! A key `x-…` beside `services` may hold anything, for YAML anchors. Only `address` and `port` are required. Defaults: `id` is `address:port`, `weight` 1 (range 1–65535; a
//! `warning` instance always has weight 1, as in Consul), no tags, no meta, `status` passing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use outrigger_config::Weights;
use outrigger_net::parse_ip;
use serde_saphyr::{Location, Spanned};

use super::raw::{self, FullForm, RawInstance};
use crate::HealthStatus;

/// The content of a file: instances by service; service names are lower case.
pub(super) type StaticServices = BTreeMap<String, Vec<StaticInstance>>;

/// One instance of the file, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StaticInstance {
    pub(super) id: String,
    /// IP address or host name.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) weights: Weights,
    pub(super) tags: Vec<String>,
    pub(super) meta: BTreeMap<String, String>,
    pub(super) status: HealthStatus,
}

/// A problem with its line and column, which count from 1.
#[derive(Debug)]
pub(super) struct FileProblem {
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) reason: String,
}

impl FileProblem {
    fn at(location: Location, what: impl Into<String>) -> Self {
        Self { line: location.line().max(1), column: location.column().max(1), reason: what.into() }
    }
}

/// Parses and checks a whole file. The first problem is returned.
pub(super) fn parse(text: &str) -> Result<StaticServices, FileProblem> {
    let document = raw::parse_document(text).map_err(syntax_problem)?;
    // A file is empty for a moment while it is written: that must not be read as "no instances".
    let Some(listed) = document.services else {
        return Err(FileProblem::at(
            Location::UNKNOWN,
            "lists no `services`; if that is meant, write `services: {}`",
        ));
    };
    let mut services = StaticServices::new();
    for (name, listed) in listed {
        let place = listed.referenced;
        let name = normalize_name(&name).map_err(|what| FileProblem::at(place, what))?;
        let entries = check_instances(&name, listed.value.unwrap_or_default())?;
        if services.contains_key(&name) {
            return Err(FileProblem::at(
                place,
                format!("service {name} is listed twice: case does not tell names apart"),
            ));
        }
        services.insert(name, entries);
    }
    Ok(services)
}

/// The message of the parser without its line and column, which [`FileProblem`] prints first.
fn syntax_problem(error: serde_saphyr::Error) -> FileProblem {
    let location = error.location().unwrap_or(Location::UNKNOWN);
    let message = error.without_snippet().to_string();
    let line = message.lines().next().unwrap_or_default();
    let line = line.split_once("error: ").map_or(line, |(_, rest)| rest);
    FileProblem::at(location, line.split(" at line ").next().unwrap_or(line))
}

fn normalize_name(name: &str) -> Result<String, String> {
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("{name:?} is no name of a service"));
    }
    Ok(name.to_ascii_lowercase())
}

fn check_instances(
    service: &str,
    listed: Vec<Spanned<RawInstance>>,
) -> Result<Vec<StaticInstance>, FileProblem> {
    let mut ids = BTreeSet::new();
    let mut entries = Vec::with_capacity(listed.len());
    for raw in listed {
        let place = raw.referenced;
        let entry = check_instance(raw)?;
        if !ids.insert(entry.id.clone()) {
            return Err(FileProblem::at(
                place,
                format!("a second instance of {service} with id {:?}: give it an `id` of its own", entry.id),
            ));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn check_instance(raw: Spanned<RawInstance>) -> Result<StaticInstance, FileProblem> {
    match raw.value {
        RawInstance::Short(text) => {
            parse_short_form(&text).map_err(|what| FileProblem::at(raw.referenced, what))
        }
        RawInstance::Full(full) => check_full_form(*full),
    }
}

fn parse_short_form(text: &str) -> Result<StaticInstance, String> {
    let expected = || format!("{text:?} is not `address:port`, as 127.0.0.1:9001 or \"[::1]:9001\"");
    let (address, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(expected)?;
    let host = parse_host(address).ok_or_else(expected)?;
    Ok(default_instance(host, port))
}

fn default_instance(host: String, port: u16) -> StaticInstance {
    let id = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    StaticInstance {
        id,
        host,
        port,
        weights: Weights::default(),
        tags: Vec::new(),
        meta: BTreeMap::new(),
        status: HealthStatus::Passing,
    }
}

fn check_full_form(full: FullForm) -> Result<StaticInstance, FileProblem> {
    let host = parse_host(&full.address.value).ok_or_else(|| {
        let what = format!("address: {:?} is neither an IP address nor a host name", full.address.value);
        FileProblem::at(full.address.referenced, what)
    })?;
    let port = check_between_1_and_65535("port", &full.port)?;
    let mut entry = default_instance(host, port);
    if let Some(id) = full.id {
        if id.value.is_empty() {
            return Err(FileProblem::at(
                id.referenced,
                "id: an id is not empty; leave it out for address:port",
            ));
        }
        entry.id = id.value;
    }
    if let Some(weight) = full.weight {
        entry.weights.passing = check_between_1_and_65535("weight", &weight)?;
    }
    if let Some(word) = full.status {
        entry.status = parse_status(&word)?;
    }
    for tag in full.tags.unwrap_or_default() {
        if tag.value.is_empty() {
            return Err(FileProblem::at(tag.referenced, "tags: a tag is not empty"));
        }
        entry.tags.push(tag.value);
    }
    entry.meta = full.meta.unwrap_or_default();
    Ok(entry)
}

fn check_between_1_and_65535(key: &str, number: &Spanned<i64>) -> Result<u16, FileProblem> {
    u16::try_from(number.value).ok().filter(|number| *number != 0).ok_or_else(|| {
        FileProblem::at(number.referenced, format!("{key}: {} is not between 1 and 65535", number.value))
    })
}

fn parse_status(word: &Spanned<String>) -> Result<HealthStatus, FileProblem> {
    [HealthStatus::Passing, HealthStatus::Warning, HealthStatus::Critical, HealthStatus::Maintenance]
        .into_iter()
        .find(|status| status.label() == word.value)
        .ok_or_else(|| {
            let what = format!("status: {:?} is not passing, warning, critical or maintenance", word.value);
            FileProblem::at(word.referenced, what)
        })
}

/// An IP address, in brackets or not, or something that may be a host name.
fn parse_host(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Some(ip.to_string());
    }
    // With a zone.
    if parse_ip(bare, 0).is_some() {
        return Some(bare.to_owned());
    }
    let name = !text.is_empty()
        && text.len() <= 253
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    name.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_fails(text: &str, place: &str, words: &str) {
        let FileProblem { line, column, reason } = parse(text).expect_err(text);
        let wrong = format!("{line}:{column}: {reason}");
        assert!(wrong.starts_with(place) && wrong.contains(words), "{text:?}: {wrong}");
        assert!(!wrong.contains('\n'), "{wrong:?}");
    }

    #[test]
    fn an_instance_is_a_map_or_address_and_port() {
        let services = parse(
            "services:\n  Orders:\n    - {address: 10.0.0.1, port: 9001, id: o1, weight: 3, tags: [v2], \
             meta: {zone: a}, status: warning}\n    - 127.0.0.1:9002\n    - db-1.internal:9003\n    - \"[::1]:9004\"\n    - \"[fe80::1%eth0]:9005\"\n  none:\n",
        )
        .unwrap();
        let orders = &services["orders"];
        let full = StaticInstance {
            id: "o1".into(),
            weights: Weights { passing: 3, warning: 1 },
            tags: vec!["v2".into()],
            meta: [("zone".to_owned(), "a".to_owned())].into(),
            status: HealthStatus::Warning,
            ..default_instance("10.0.0.1".into(), 9001)
        };
        assert_eq!(orders[0], full);
        let ids: Vec<_> = orders.iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!(ids, ["o1", "127.0.0.1:9002", "db-1.internal:9003", "[::1]:9004", "[fe80::1%eth0]:9005"]);
        assert_eq!([&*orders[3].host, &orders[4].host], ["::1", "fe80::1%eth0"]);
        assert_eq!(services["none"], []);
    }

    #[test]
    fn an_empty_file_must_state_that_there_are_no_services() {
        assert_eq!(parse("services: {}\n").unwrap(), StaticServices::new());
        for text in ["", "services:\n", "# nothing\n", "{}"] {
            assert_fails(text, "1:1:", "lists no `services`");
        }
    }

    #[test]
    fn a_problem_has_line_column_and_reason() {
        let list = "services:\n  orders:\n    - ";
        assert_fails(&format!("{list}{{address: a, port: 70000}}\n"), "3:26:", "port: 70000 is not between");
        assert_fails(&format!("{list}{{address: a, port: 0}}\n"), "3:26:", "port: 0 is not between");
        assert_fails(&format!("{list}{{address: a, port: 1, weight: -1}}\n"), "3:37:", "weight: -1");
        assert_fails(&format!("{list}{{address: a, port: 1, status: well}}\n"), "3:37:", "status: \"well\"");
        assert_fails(
            &format!("{list}{{address: 'a b', port: 1}}\n"),
            "3:17:",
            "neither an IP address nor a host",
        );
        assert_fails(&format!("{list}{{address: a, port: 1, id: ''}}\n"), "3:33:", "id:");
        assert_fails(&format!("{list}{{address: a, port: 1, tags: [b, '']}}\n"), "3:39:", "tags:");
        assert_fails(&format!("{list}a:1\n    - a:1\n"), "4:7:", "a second instance of orders");
        assert_fails(&format!("{list}a\n"), "3:7:", "`address:port`");
        assert_fails(&format!("{list}a:0\n"), "3:7:", "`address:port`");
        assert_fails(&format!("{list}a:1\n  ORDERS:\n    - b:1\n"), "", "twice");
    }

    #[test]
    fn unknown_and_missing_keys_are_problems_with_a_line() {
        let list = "services:\n  orders:\n    - ";
        assert_fails(&format!("{list}{{address: a, prot: 1}}\n"), "3:", "prot");
        assert_fails(&format!("{list}{{address: a}}\n"), "3:", "port");
        assert_fails("servces: {}\n", "1:1:", "servces");
        assert_fails("services:\n  orders: 7\n", "2:", "");
        assert_fails("services: [\n", "", "");
    }

    #[test]
    fn keys_for_anchors_are_skipped_at_the_top_and_nowhere_else() {
        let services = parse(
            "x-local: &local {address: 127.0.0.1, weight: 3}\nx-empty:\nservices:\n  orders:\n    - {<<: *local, port: 9001}\n",
        )
        .unwrap();
        let orders = StaticInstance {
            weights: Weights { passing: 3, warning: 1 },
            ..default_instance("127.0.0.1".into(), 9001)
        };
        assert_eq!(services["orders"], [orders]);
        assert_fails("x-local: {}\n", "1:1:", "lists no `services`");
        assert_fails("services: {}\nx_local: {}\n", "2:1:", "x_local");
        assert_fails("services: {}\nservices: {}\n", "2:1:", "services");
        assert_fails("services:\n  orders:\n    - {address: a, port: 1, x-a: 1}\n", "3:", "x-a");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
            let _ = parse(&format!("services:\n  a:\n    - {text}\n"));
        }
    }
}
