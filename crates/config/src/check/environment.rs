//! Variables that look as if they were meant for us but do nothing.

use std::collections::BTreeSet;

use super::reader::Reader;
use crate::{
    Origin, expand,
    overrides::{OTHER_VARIABLES, UNSUPPORTED, VARIABLES, is_service_link},
    raw::{Node, Value},
    schema,
};

const PREFIX: &str = "OUTRIGGER_";
const SSL_VERIFY: &str = "CONSUL_HTTP_SSL_VERIFY";

pub(super) fn check(r: &mut Reader<'_>, tree: Option<&Node>) {
    let mut used = BTreeSet::new();
    if let Some(tree) = tree {
        mentioned(tree, &mut used);
    }
    let ours = || VARIABLES.iter().map(|(name, _)| *name).chain(OTHER_VARIABLES.iter().copied());
    let unknown: Vec<_> = r
        .env
        .iter()
        .filter(|(name, text)| name.starts_with(PREFIX) && !is_service_link(name, text))
        .filter(|(name, _)| !used.contains(*name) && !ours().any(|known| known == *name))
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in unknown {
        let end = |name: &str| name.strip_prefix(PREFIX).unwrap_or_default().to_owned();
        let ends: Vec<_> = ours().filter(|name| name.starts_with(PREFIX)).map(end).collect();
        let hint = match schema::nearest(&end(&name), ends.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {PREFIX}{near}?"),
            None => "it is ignored".to_owned(),
        };
        r.warn(Origin::Environment(name.as_str().into()), "", "unknown variable", hint);
    }
    unsupported(r);
}

fn unsupported(r: &mut Reader<'_>) {
    for (name, hint) in UNSUPPORTED {
        if r.env.given(name).is_some() {
            r.warn(Origin::Environment((*name).into()), "", "is not supported and ignored", *hint);
        }
    }
    if matches!(r.env.given(SSL_VERIFY), Some("0" | "f" | "F" | "false" | "FALSE" | "False")) {
        let hint = "name the authority to trust: CONSUL_CACERT";
        r.warn(
            Origin::Environment(SSL_VERIFY.into()),
            "",
            "is ignored: certificates are always verified",
            hint,
        );
    }
}

fn mentioned(node: &Node, out: &mut BTreeSet<String>) {
    match &node.value {
        Value::Null => {}
        Value::Scalar(text) => out.extend(expand::mentioned(text).map(str::to_owned)),
        Value::Seq(items) => items.iter().for_each(|item| mentioned(item, out)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| mentioned(value, out)),
    }
}
