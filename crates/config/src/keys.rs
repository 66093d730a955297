//! Every key that a settings file may have, in one table.
//!
//! `check` reads values by these names and rejects all others. The hints (nearest key, "it belongs at ...")
//! and the test that `configs/full.yaml` is complete use the same table.

/// One key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeySpec {
    pub(crate) name: &'static str,
    pub(crate) kind: KeyKind,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum KeyKind {
    /// A value, a list of values, or a mapping with free keys.
    Value,
    /// A mapping with these keys.
    Section(&'static [KeySpec]),
    /// A list of sections.
    Sections(&'static [KeySpec]),
}

const fn value(name: &'static str) -> KeySpec {
    KeySpec { name, kind: KeyKind::Value }
}

const fn section(name: &'static str, keys: &'static [KeySpec]) -> KeySpec {
    KeySpec { name, kind: KeyKind::Section(keys) }
}

pub(crate) const ROOT: &[KeySpec] = &[
    section("service", SERVICE),
    section("registry", REGISTRY),
    section("discovery", DISCOVERY),
    value("state_dir"),
    section("outbound", OUTBOUND),
    section("defaults", POLICY),
    KeySpec { name: "upstreams", kind: KeyKind::Sections(UPSTREAM) },
    section("admin", ADMIN),
    section("drain", DRAIN),
    value("on_app_exit"),
    value("workers"),
    section("log", LOG),
];

const SERVICE: &[KeySpec] = &[
    value("name"),
    value("port"),
    value("address"),
    value("id"),
    value("tags"),
    value("meta"),
    section("weights", &[value("passing"), value("warning")]),
    section("health", &[value("http"), value("tcp"), value("interval"), value("timeout")]),
    value("deregister_after"),
];

const REGISTRY: &[KeySpec] = &[section("consul", CONSUL), value("file")];

const CONSUL: &[KeySpec] = &[
    value("address"),
    value("datacenter"),
    value("token"),
    value("token_file"),
    section("tls", &[value("ca_file"), value("cert_file"), value("key_file"), value("server_name")]),
    value("wait"),
    value("max_connections"),
];

const DISCOVERY: &[KeySpec] = &[
    value("first_answer"),
    value("idle"),
    value("max_services"),
    value("max_unknown"),
    value("unknown_ttl"),
    section("mass_loss", &[value("confirm_for"), value("hold_for"), value("probe_timeout")]),
];

const OUTBOUND: &[KeySpec] =
    &[value("listen"), value("x_forwarded"), value("via"), value("allow_origins"), section("limits", LIMITS)];

const LIMITS: &[KeySpec] = &[
    value("max_header_bytes"),
    value("max_headers"),
    value("head_timeout"),
    value("idle"),
    value("max_connections"),
    value("tunnel_idle"),
];

/// The keys of `defaults`: those of an upstream without its own four.
const POLICY: &[KeySpec] = UPSTREAM.split_at(4).1;

const UPSTREAM: &[KeySpec] = &[
    value("service"),
    value("listen"),
    value("tags"),
    value("datacenter"),
    value("balance"),
    value("timeout"),
    value("per_try_timeout"),
    value("deadline"),
    value("connect_timeout"),
    value("body_idle"),
    value("max_in_flight"),
    value("max_pending"),
    value("pending_timeout"),
    RETRY,
    HEDGE,
    CIRCUIT_BREAKER,
    OUTLIER,
    POOL,
];

const RETRY: KeySpec = section(
    "retry",
    &[
        value("max_retries"),
        value("backoff_base"),
        value("backoff_max"),
        value("statuses"),
        value("non_idempotent"),
        value("max_body"),
        section("budget", &[value("ratio"), value("min_per_second"), value("window")]),
    ],
);

const HEDGE: KeySpec = section("hedge", &[value("percentile"), value("min_delay")]);

const CIRCUIT_BREAKER: KeySpec = section(
    "circuit_breaker",
    &[
        value("failure_ratio"),
        value("window"),
        value("min_requests"),
        value("consecutive_failures"),
        value("open_for"),
        value("max_open_for"),
        value("probes"),
    ],
);

const OUTLIER: KeySpec = section(
    "outlier",
    &[
        value("consecutive_failures"),
        value("success_rate"),
        value("window"),
        value("min_requests"),
        value("max_ejection_percent"),
        value("base_ejection_time"),
        value("max_ejection_time"),
    ],
);

const POOL: KeySpec = section(
    "pool",
    &[
        value("idle_timeout"),
        value("non_idempotent_max_idle"),
        value("max_idle"),
        value("max_connections"),
        value("max_waiting"),
    ],
);

const ADMIN: &[KeySpec] = &[value("listen"), value("metrics_listen")];
const DRAIN: &[KeySpec] = &[
    value("timeout"),
    value("propagation"),
    value("margin"),
    value("max_propagation"),
    value("unobserved_wait"),
    value("await_app"),
];
const LOG: &[KeySpec] = &[value("level"), value("format"), value("access")];

/// Every key that holds a value, dotted, in the order of a settings file; the items of a list are
/// numbered 0 (`upstreams[0].timeout`).
pub fn keys() -> Vec<String> {
    let mut out = Vec::new();
    collect(ROOT, "", &mut out);
    out
}

fn collect(keys: &[KeySpec], prefix: &str, out: &mut Vec<String>) {
    for key in keys {
        let path = join(prefix, key.name);
        match key.kind {
            KeyKind::Value => out.push(path),
            KeyKind::Section(keys) => collect(keys, &path, out),
            KeyKind::Sections(keys) => collect(keys, &format!("{path}[0]"), out),
        }
    }
}

/// `a` and `b` make `a.b`; the root's path is empty.
pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// The hint for a key that is not one of `keys`.
pub(crate) fn suggest(unknown: &str, keys: &[KeySpec]) -> String {
    if let Some(name) = nearest(unknown, keys.iter().map(|key| key.name)) {
        return format!("did you mean {name}?");
    }
    let mut elsewhere = self::keys();
    elsewhere.retain(|path| path.rsplit('.').next() == Some(unknown));
    if !elsewhere.is_empty() {
        // The least nested key is the most likely one.
        elsewhere.sort_by_key(|path| path.matches('.').count());
        elsewhere.truncate(3);
        return format!("it belongs at {}", elsewhere.join(" or "));
    }
    format!("valid here: {}", keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", "))
}

/// The nearest name, if it is near enough to be the one that was meant.
pub(crate) fn nearest<'a>(unknown: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // `connectTimeout` and `connect-timeout` are treated like the typing error `connect_timout`.
    let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '-'], "");
    let unknown = plain(unknown);
    names
        .map(|name| (strsim::damerau_levenshtein(&unknown, &plain(name)), name))
        .filter(|(distance, name)| *distance <= name.len().div_ceil(4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_for_a_wrong_key_is_the_nearest_key() {
        let cases = [
            ("time_out", "did you mean timeout?"),
            ("connectTimeout", "did you mean connect_timeout?"),
            (
                "retries",
                "valid here: balance, timeout, per_try_timeout, deadline, connect_timeout, body_idle, max_in_flight, max_pending, pending_timeout, retry, hedge, circuit_breaker, outlier, pool",
            ),
            ("blance", "did you mean balance?"),
            ("deregister_after", "it belongs at service.deregister_after"),
            (
                "window",
                "it belongs at defaults.circuit_breaker.window or defaults.outlier.window or upstreams[0].circuit_breaker.window",
            ),
        ];
        for (unknown, expected) in cases {
            assert_eq!(suggest(unknown, POLICY), expected, "for {unknown}");
        }
    }

    #[test]
    fn keys_are_listed_with_their_whole_path() {
        let keys = keys();
        for key in ["workers", "service.health.http", "upstreams[0].retry.budget.ratio"] {
            assert!(keys.iter().any(|k| k == key), "{key} is missing");
        }
    }
}
