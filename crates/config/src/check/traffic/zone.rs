//! The zone of the sidecar, and of instances.

use std::sync::Arc;

use crate::{
    ZoneRouting, ZoneSource,
    check::{reader::Reader, section::Section},
    error::InvalidValue,
    keys, names,
    units::integer,
};

const MAX_ZONE_BYTES: usize = 128;

/// Puts the keys of `zone` over those of `out`.
pub(super) fn read(r: &mut Reader<'_>, s: &Section<'_>, out: &mut Option<ZoneRouting>) {
    let Some(node) = s.node("zone") else { return };
    let s = r.open_section(s.key("zone"), keys::ZONE, Some(node));
    let own = r.get(&s, "own", own_zone);
    if s.node("own").is_none() && out.is_none() && !r.has_problem_below(&s.path) {
        let wrong = InvalidValue::new("is missing", "add the zone of this sidecar: own: ${ZONE}");
        r.report(&r.origin_of(&s), &s.key("own"), wrong);
    }
    let mut zone = out.take().unwrap_or_else(|| ZoneRouting {
        own: "".into(),
        from: ["service.meta.zone", "node.meta.zone"]
            .into_iter()
            .filter_map(|one| source(one).ok())
            .collect(),
        min_instances: ZoneRouting::MIN_INSTANCES,
    });
    if let Some(own) = own {
        zone.own = own;
    }
    r.set_list(&s, "from", &mut zone.from, source);
    if s.is_empty_list("from") {
        r.report_set(&s.key("from"), "names no place", "name one, or remove the key");
    }
    r.set(&s, "min_instances", &mut zone.min_instances, integer(1..=10_000));
    *out = Some(zone);
}

fn own_zone(text: &str) -> Result<Arc<str>, InvalidValue> {
    let is_valid = (1..=MAX_ZONE_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
    let wrong =
        || InvalidValue::new("is no zone", "write the zone as it is in the registry, at most 128 bytes");
    is_valid.then(|| Arc::from(text)).ok_or_else(wrong)
}

fn source(text: &str) -> Result<ZoneSource, InvalidValue> {
    let key = |rest: &str| names::meta_key(rest);
    match (text.strip_prefix("service.meta."), text.strip_prefix("node.meta.")) {
        (Some(rest), _) => key(rest).map(ZoneSource::ServiceMeta),
        // Consul itself writes keys that begin so.
        (_, Some(rest)) => {
            let known = rest.strip_prefix("consul-").unwrap_or(rest);
            key(known).map(|_| ZoneSource::NodeMeta(rest.to_owned()))
        }
        _ => Err(InvalidValue::new("is no place of a zone", "write service.meta.KEY or node.meta.KEY")),
    }
}
