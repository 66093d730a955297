//! Variables that have no effect although their names suggest one: a warning, or a problem where the value of a setting is lost.

use std::collections::BTreeSet;

use super::reader::Reader;
use crate::{
    Origin,
    error::InvalidValue,
    expand, keys,
    layers::{CONFIG_VARIABLE, UNSUPPORTED_VARIABLES, VARIABLES, is_kubernetes_service_link},
    raw::{Node, NodeValue},
};

const PREFIX: &str = "OUTRIGGER_";
const SSL_VERIFY: &str = "CONSUL_HTTP_SSL_VERIFY";

pub(super) fn check(r: &mut Reader<'_>, tree: Option<&Node>) {
    let mut used = BTreeSet::new();
    if let Some(tree) = tree {
        collect_referenced(tree, &mut used);
    }
    let unknown: Vec<_> = r
        .env
        .iter()
        .filter(|(name, text)| name.starts_with(PREFIX) && !is_kubernetes_service_link(name, text))
        .filter(|(name, _)| !used.contains(*name) && !own_variables().any(|known| known == *name))
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in unknown {
        let hint = suggest_variable(&name);
        r.warn(Origin::Environment(name.as_str().into()), "", "unknown variable", hint);
    }
    report_not_utf8(r, &used);
    warn_unsupported(r);
}

/// A variable that is not UTF-8 has no value. One that would set something is a problem, because the setting would be missing
/// without a word. One that the file refers to (`used`) is reported at its place there.
fn report_not_utf8(r: &mut Reader<'_>, used: &BTreeSet<String>) {
    const HINT: &str = "set it to UTF-8 text, or unset it";
    let read_by_name = [CONFIG_VARIABLE, super::registry::SSL];
    let env = r.env;
    for name in env.not_utf8() {
        let origin = Origin::Environment(name.into());
        let key = VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, key)| *key);
        if key.is_some() || read_by_name.contains(&name) {
            r.report(&origin, key.unwrap_or_default(), InvalidValue::new("is not UTF-8", HINT));
        } else if name.starts_with(PREFIX) && !used.contains(name) && !is_kubernetes_service_link(name, "") {
            r.warn(origin, "", "is not UTF-8, and an unknown variable", suggest_variable(name));
        }
    }
}

fn own_variables() -> impl Iterator<Item = &'static str> {
    let own = VARIABLES.iter().map(|(name, _)| *name).filter(|name| name.starts_with(PREFIX));
    own.chain([CONFIG_VARIABLE])
}

/// The hint for a variable that sets nothing: the nearest variable; else the variable or the place of the key
/// that its name spells (`OUTRIGGER_OUTBOUND_LISTEN`); else a variable with a name that is longer or shorter by
/// whole words (`OUTRIGGER_LOG_LEVEL`).
fn suggest_variable(name: &str) -> String {
    let suffix = name.strip_prefix(PREFIX).unwrap_or_default();
    let known: Vec<_> = own_variables().filter_map(|name| name.strip_prefix(PREFIX)).collect();
    if let Some(near) = keys::nearest(suffix, known.iter().copied()) {
        return format!("did you mean {PREFIX}{near}?");
    }
    let spelled = |key: &String| key.replace(['.', '_'], "").eq_ignore_ascii_case(&suffix.replace('_', ""));
    if let Some(key) = keys::keys().into_iter().find(spelled) {
        return match VARIABLES.iter().find(|(_, sets)| *sets == key) {
            Some((variable, _)) => format!("did you mean {variable}?"),
            None => format!("it is ignored: no variable sets {key}; write it in the file"),
        };
    }
    let extends =
        |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.starts_with('_'));
    let by_words = known.iter().filter(|known| extends(known, suffix) || extends(suffix, known));
    match by_words.max_by_key(|known| known.len()) {
        Some(near) => format!("did you mean {PREFIX}{near}?"),
        None => "it is ignored".to_owned(),
    }
}

fn warn_unsupported(r: &mut Reader<'_>) {
    for (name, hint) in UNSUPPORTED_VARIABLES {
        if r.env.non_empty(name).is_some() {
            r.warn(Origin::Environment((*name).into()), "", "is not supported and ignored", *hint);
        }
    }
    if matches!(r.env.non_empty(SSL_VERIFY), Some("0" | "f" | "F" | "false" | "FALSE" | "False")) {
        let hint = "name the authority to trust: CONSUL_CACERT";
        let what = "is ignored: certificates are always verified";
        r.warn(Origin::Environment(SSL_VERIFY.into()), "", what, hint);
    }
}

fn collect_referenced(node: &Node, out: &mut BTreeSet<String>) {
    match &node.value {
        NodeValue::Null => {}
        NodeValue::Scalar(text) => out.extend(expand::referenced_variables(text).map(str::to_owned)),
        NodeValue::Seq(items) => items.iter().for_each(|item| collect_referenced(item, out)),
        NodeValue::Map(entries) => entries.iter().for_each(|(_, value)| collect_referenced(value, out)),
    }
}
