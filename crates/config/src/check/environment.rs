//! Warnings about variables that have no effect although their names suggest one.

use std::collections::BTreeSet;

use super::reader::Reader;
use crate::{
    Origin, expand, keys,
    layers::{OTHER_VARIABLES, UNSUPPORTED_VARIABLES, VARIABLES, is_kubernetes_service_link},
    raw::{Node, NodeValue},
};

const PREFIX: &str = "OUTRIGGER_";
const SSL_VERIFY: &str = "CONSUL_HTTP_SSL_VERIFY";

pub(super) fn check(r: &mut Reader<'_>, tree: Option<&Node>) {
    let mut used = BTreeSet::new();
    if let Some(tree) = tree {
        collect_referenced(tree, &mut used);
    }
    let ours = || VARIABLES.iter().map(|(name, _)| *name).chain(OTHER_VARIABLES.iter().copied());
    let unknown: Vec<_> = r
        .env
        .iter()
        .filter(|(name, text)| name.starts_with(PREFIX) && !is_kubernetes_service_link(name, text))
        .filter(|(name, _)| !used.contains(*name) && !ours().any(|known| known == *name))
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in unknown {
        let suffix = |name: &str| name.strip_prefix(PREFIX).unwrap_or_default().to_owned();
        let suffixes: Vec<_> = ours().filter(|name| name.starts_with(PREFIX)).map(suffix).collect();
        let hint = match keys::nearest(&suffix(&name), suffixes.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {PREFIX}{near}?"),
            None => "it is ignored".to_owned(),
        };
        r.warn(Origin::Environment(name.as_str().into()), "", "unknown variable", hint);
    }
    warn_unsupported(r);
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
