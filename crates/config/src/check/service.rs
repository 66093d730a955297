//! The local app.

use std::time::Duration;

use super::{reader::Reader, section::Section};
use crate::{
    Health, Origin, Probe, Service, Weights,
    error::InvalidValue,
    names,
    units::{DAY, HOUR, MINUTE, MS, duration_in, format_duration, integer, switch},
};

/// Consul's own limit.
const MAX_META: usize = 64;

/// The app, when the file has a `service` section or a flag or variable sets a key of it.
pub(super) fn read_service(r: &mut Reader<'_>, root: &Section<'_>) -> Option<Service> {
    let s = r.section(root, "service");
    if s.origin == Origin::Default && r.overlay.first_below("service").is_none() {
        return None;
    }
    let mut out = Service {
        name: read_required(r, &s, "name", names::service).unwrap_or_default(),
        port: read_required(r, &s, "port", integer(1..=u16::MAX)).unwrap_or_default(),
        address: None,
        id: None,
        tags: Vec::new(),
        meta: Default::default(),
        weights: Weights::default(),
        health: Health::default(),
        deregister_after: MINUTE,
    };
    out.address = r.get(&s, "address", names::reachable_host);
    out.id = r.get(&s, "id", names::id);
    r.set_list(&s, "tags", &mut out.tags, names::tag);
    r.set_map(&s, "meta", &mut out.meta, names::meta_key, names::meta_value);
    if out.meta.len() > MAX_META
        && let Some(key) = r.first_set_of(&s, &["meta"])
    {
        let what = format!("has {} pairs", out.meta.len());
        r.report_set(&key, what, format!("Consul allows at most {MAX_META}"));
    }
    let section = r.section(&s, "weights");
    r.set(&section, "passing", &mut out.weights.passing, integer(1..=u16::MAX));
    r.set(&section, "warning", &mut out.weights.warning, integer(0..=u16::MAX));
    let section = r.section(&s, "health");
    read_health(r, &section, &mut out.health);
    r.set(&s, "deregister_after", &mut out.deregister_after, duration_in(MINUTE..=30 * DAY));
    Some(out)
}

/// A key that has no default.
pub(super) fn read_required<T>(
    r: &mut Reader<'_>,
    s: &Section<'_>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, InvalidValue>,
) -> Option<T> {
    let key = s.key(name);
    let given = s.node(name).is_some() || !r.overlay.get(&key).is_empty();
    if given {
        return r.get(s, name, parse);
    }
    let hint = match key.as_str() {
        "service.name" => "add service.name to the file, --service NAME or OUTRIGGER_SERVICE",
        "service.port" => "add service.port to the file, --port PORT or OUTRIGGER_PORT",
        _ => "add it",
    };
    let place = r.origin_of(s);
    let what = match place {
        Origin::File { .. } => "is missing".to_owned(),
        // The problem shows the flag or variable instead of the key.
        _ => format!("{key} is missing"),
    };
    r.report(&place, &key, InvalidValue::new(what, hint));
    None
}

fn read_health(r: &mut Reader<'_>, s: &Section<'_>, out: &mut Health) {
    let http = r.get(s, "http", names::path);
    let tcp = r.get(s, "tcp", switch);
    let (http_key, tcp_key) = (s.key("http"), s.key("tcp"));
    // An HTTP path from a flag or variable wins over `tcp: true` of the file.
    let same_rank = matches!(r.origins.get(&http_key), Origin::File { .. });
    match (http, tcp) {
        (Some(_), Some(true)) if same_rank => {
            r.report_set(&tcp_key, "contradicts http", "keep one of them");
        }
        (Some(path), _) => out.probe = Probe::Http(path),
        (None, Some(false)) if !r.origins.is_set(&http_key) => {
            r.report_set(&tcp_key, "leaves nothing to probe", "set http: /path, or remove the key");
        }
        (None, _) => {}
    }
    out.address = r.get(s, "address", names::reachable_host);
    r.set(s, "interval", &mut out.interval, duration_in(100 * MS..=HOUR));
    r.set(s, "timeout", &mut out.timeout, duration_in(10 * MS..=MINUTE));
    check_not_above(r, s, ("timeout", out.timeout), ("interval", out.interval));
}

/// Two durations of one section of which the first must not be above the second. No problem when neither is
/// set in this section: they were checked where they are set.
pub(super) fn check_not_above(
    r: &mut Reader<'_>,
    s: &Section<'_>,
    low: (&str, Duration),
    high: (&str, Duration),
) {
    if low.1 <= high.1 {
        return;
    }
    let Some(key) = r.first_set_of(s, &[low.0, high.0]) else { return };
    let (l, h) = (format_duration(low.1), format_duration(high.1));
    let (what, hint) = if key == s.key(low.0) {
        (format!("{l} is above {} ({h})", high.0), format!("at most {h}, or raise {}", high.0))
    } else {
        (format!("{h} is below {} ({l})", low.0), format!("at least {l}, or set {} too", low.0))
    };
    r.report_set(&key, what, hint);
}
