//! Which documents of the registry's KV are read, and what they may set.

use super::{
    policy,
    quote::{quote, sanitize},
    reader::Reader,
    section::Section,
};
use crate::{
    Bounds, DynamicConfig, Registry, SettingGroup, error::InvalidValue, keys, names, raw::NodeValue,
    units::one_of,
};

pub(super) fn read_dynamic_config(r: &mut Reader<'_>, s: &Section<'_>, registry: &Registry) -> DynamicConfig {
    let mut out = DynamicConfig::default();
    r.set_or_off(s, "prefix", &mut out.prefix, names::kv_prefix);
    if out.prefix.is_some() && matches!(registry, Registry::File(_)) {
        let (key, hint) = (s.key("prefix"), "use registry.consul");
        r.warn(r.origins.get(&key).clone(), &key, "is not used: the registry is a file", hint);
    }
    if out.prefix.is_none() && s.node("prefix").is_none() {
        let given =
            ["allow", "allow_services", "bounds"].into_iter().find_map(|name| Some((name, s.node(name)?)));
        if let Some((name, node)) = given {
            let what = "has no effect without a prefix: no document is read";
            r.warn(r.origin_at(node.at), &s.key(name), what, "add prefix: outrigger");
        }
    }
    r.set_list(s, "allow", &mut out.allow, one_of(SettingGroup::ALL, SettingGroup::as_str));
    r.set_list(s, "allow_services", &mut out.allow_services, names::service);
    let mut texts = Default::default();
    r.set_map(s, "bounds", &mut texts, |key| Ok(key.to_owned()), parse_bounds);
    for (key, text) in texts {
        let Some((low, high)) = text.split_once("..") else { continue };
        let bounds = Bounds { low: low.trim().to_owned(), high: high.trim().to_owned() };
        out.bounds.insert(key, bounds);
    }
    r.bounds = out.bounds.clone();
    let entries = match s.node("bounds").map(|node| &node.value) {
        Some(NodeValue::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    for (key, value) in entries.iter().filter(|(key, _)| out.bounds.contains_key(&key.name)) {
        r.unread_bounds.insert(key.name.clone(), r.origin_at(value.at));
    }
    policy::read_bounds(r);
    report_unread_bounds(r);
    out
}

/// `100ms..60s`
fn parse_bounds(text: &str) -> Result<String, InvalidValue> {
    let is_range =
        text.split_once("..").is_some_and(|(low, high)| ![low, high].iter().any(|end| end.trim().is_empty()));
    match is_range {
        true => Ok(text.to_owned()),
        false => {
            Err(InvalidValue::new("is not a range", "write the lowest and the highest value, as 100ms..60s"))
        }
    }
}

/// Reports the bounds of keys that are no settings with a range.
fn report_unread_bounds(r: &mut Reader<'_>) {
    for (key, origin) in std::mem::take(&mut r.unread_bounds) {
        let all = keys::keys();
        let policy: Vec<_> = all.iter().filter_map(|key| key.strip_prefix("defaults.")).collect();
        let hint = match keys::nearest(&key, policy.iter().copied()).filter(|near| *near != key) {
            Some(near) => format!("did you mean {near}?"),
            None => "write keys of defaults that have a range, as timeout or retry.max_retries".to_owned(),
        };
        let what = format!("{} has no range", quote(&key));
        let path = keys::join("dynamic_config.bounds", &sanitize(&key));
        r.report(&origin, &path, InvalidValue::new(what, hint));
    }
}
