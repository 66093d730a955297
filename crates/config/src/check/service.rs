//! The local app.

use std::time::Duration;

use super::{reader::Reader, section::Section};
use crate::{
    ExpectedStatus, Health, Origin, Probe, ReachTest, Service, Weights,
    error::InvalidValue,
    names,
    raw::NodeValue,
    units::{DAY, HOUR, MINUTE, MS, duration_in, format_duration, integer, one_of, switch},
};

/// Consul's own limit.
const MAX_META: usize = 64;

/// The services of the app: that of the section `service` or of flags and variables, or those of the list `services`.
pub(super) fn read_services(r: &mut Reader<'_>, root: &Section<'_>) -> Vec<Service> {
    let Some(list) = root.node("services") else {
        let s = r.section(root, "service");
        let given = s.origin != Origin::Default || r.overlay.first_below("service").is_some();
        return if given { vec![read_service(r, &s)] } else { Vec::new() };
    };
    if let Some(single) = root.node("service") {
        let what = format!("is given, and so is services (line {})", list.at.line);
        let wrong = InvalidValue::new(what, "keep one of them: service for one service, services for a list");
        r.report(&r.origin_at(single.at), "service", wrong);
        return Vec::new();
    }
    if let NodeValue::Seq(items) = &list.value
        && let [only] = items.as_slice()
    {
        // The same as `service`: flags and variables apply to it.
        let s = r.open_section("service".to_owned(), root.subkeys("services"), Some(only));
        return vec![read_service(r, &s)];
    }
    if let Some(single) = r.overlay.first_below("service").cloned() {
        let what = "sets a key of the only service, and the file has a list of services";
        r.report(
            &single.origin,
            "",
            InvalidValue::new(what, "set it in the file, for the service that is meant"),
        );
    }
    let sections = r.sections(root, "services");
    let mut out: Vec<Service> = Vec::with_capacity(sections.len());
    for s in &sections {
        let problems = r.problems.len();
        let service = read_service(r, s);
        let read = r.problems.len() == problems;
        if read && let Some(first) = out.iter().position(|known| is_same(known, &service)) {
            let (key, what) = match &service.id {
                Some(id) => ("id", format!("{id} is the id of services[{first}] already")),
                None => ("name", format!("{} is there twice, first as services[{first}]", service.name)),
            };
            r.report_set(&s.key(key), what, "give each an id of its own");
        }
        out.push(service);
    }
    out
}

/// Whether both have one id; without an id of its own, a service has one that is made of its name and port. Consul's servers do not
/// tell upper from lower case in ids, so of two that the agent holds they list one (seen on 1.8.7).
fn is_same(a: &Service, b: &Service) -> bool {
    match (&a.id, &b.id) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        (None, None) => a.name.eq_ignore_ascii_case(&b.name) && a.port == b.port,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn read_service(r: &mut Reader<'_>, s: &Section<'_>) -> Service {
    let mut out = Service {
        name: read_required(r, s, "name", names::service).unwrap_or_default(),
        port: read_required(r, s, "port", integer(1..=u16::MAX)).unwrap_or_default(),
        address: None,
        id: None,
        tags: Vec::new(),
        meta: Default::default(),
        weights: Weights::default(),
        health: Health::default(),
        deregister_after: MINUTE,
    };
    out.address = r.get(s, "address", names::registered_host);
    out.id = r.get(s, "id", names::id);
    r.set_list(s, "tags", &mut out.tags, names::tag);
    r.set_map(s, "meta", &mut out.meta, names::meta_key, names::meta_value);
    if out.meta.len() > MAX_META
        && let Some(key) = r.first_set_of(s, &["meta"])
    {
        let what = format!("has {} pairs", out.meta.len());
        r.report_set(&key, what, format!("Consul allows at most {MAX_META}"));
    }
    let section = r.section(s, "weights");
    r.set(&section, "passing", &mut out.weights.passing, integer(1..=u16::MAX));
    r.set(&section, "warning", &mut out.weights.warning, integer(0..=u16::MAX));
    let section = r.section(s, "health");
    read_health(r, &section, &mut out.health);
    if out.health.reach == ReachTest::Require && !r.origins.is_set(&s.key("address")) {
        let address = s.key("address");
        let hint = format!(
            "set {address} too; without it the agent's own is registered, which the sidecar does not know"
        );
        r.report_set(&section.key("reach"), "require has no address to test", hint);
    }
    r.set(s, "deregister_after", &mut out.deregister_after, duration_in(MINUTE..=30 * DAY));
    out
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

/// `204`, `200-399`, or several with commas.
fn expected_status(text: &str) -> Result<ExpectedStatus, InvalidValue> {
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (200..=599).contains(status));
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (status(low)?, status(high)?);
        (low <= high).then_some(low..=high)
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    ranges.map(ExpectedStatus).ok_or_else(|| {
        InvalidValue::new("is no list of statuses", "write 204, 200-399 or 200-299,401; from 200 to 599")
    })
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
    out.address = r.get(s, "address", names::host_from_here);
    r.set(s, "method", &mut out.method, names::probe_method);
    out.host = r.get(s, "host", names::host_field);
    r.set_secret_map(s, "headers", &mut out.headers, names::probe_header, names::header_value);
    let mut names: Vec<_> = out.headers.keys().map(|name| name.to_ascii_lowercase()).collect();
    names.sort();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let what = format!("has the field {} twice; the case of letters says nothing", twice[0]);
        r.report_set(&s.key("headers"), what, "remove one of them");
    }
    out.status = r.get(s, "status", expected_status);
    if !r.origins.is_set(&http_key)
        && let Some(first) = r.first_set_of(s, &["method", "host", "headers", "status"])
    {
        r.report_set(
            &first,
            "is for a probe by HTTP alone",
            "set http: /path in place of tcp, or remove the key",
        );
    }
    r.set(s, "interval", &mut out.interval, duration_in(100 * MS..=HOUR));
    r.set(s, "timeout", &mut out.timeout, duration_in(10 * MS..=MINUTE));
    check_not_above(r, s, ("timeout", out.timeout), ("interval", out.interval));
    let ways = one_of(ReachTest::ALL, ReachTest::as_str);
    r.set(s, "reach", &mut out.reach, |text| match text {
        // YAML 1.1.
        "false" => Ok(ReachTest::Off),
        _ => ways(text),
    });
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
