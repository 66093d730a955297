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

/// Names of keys. Braces hold the keys of a section; `[LIST]` names them, `[..LIST]` those of a list of
/// sections.
macro_rules! keys {
    (@kind) => { KeyKind::Value };
    (@kind { $($section:tt)* }) => { KeyKind::Section(keys!($($section)*)) };
    (@kind [..$list:expr]) => { KeyKind::Sections($list) };
    (@kind [$section:expr]) => { KeyKind::Section($section) };
    ($($name:ident $({ $($section:tt)* })? $([$($list:tt)*])?)*) => {
        &[$(KeySpec { name: stringify!($name), kind: keys!(@kind $({ $($section)* })? $([$($list)*])?) }),*]
    };
}

pub(crate) const ROOT: &[KeySpec] = keys! {
    service [SERVICE]
    services [..SERVICE]
    registry {
        consul {
            address datacenter domain token token_file
            tls { ca_file cert_file key_file server_name }
            wait max_connections
        }
        file
    }
    discovery {
        first_answer idle max_services max_new_per_second max_unknown unknown_ttl
        mass_loss { confirm_for hold_for probe_timeout }
    }
    state_dir
    outbound {
        listen names connect x_forwarded via loop_guard rewrite_cookie_path allow_origins
        limits { max_header_bytes max_headers head_timeout idle max_connections tunnel_idle tunnel_grace }
    }
    defaults [POLICY]
    upstreams [..UPSTREAM]
    dynamic_config { prefix allow allow_services bounds }
    routing { consul }
    admin { listen metrics_listen }
    api {
        listen mode owner token_file
        config {
            allow cache
            sources [..SOURCE]
            files [..CONFIG_FILE]
        }
        locks { prefix max_held max_waiters lock_delay ends_with_node }
    }
    dns { listen answer forward consul browsers }
    drain { timeout propagation margin max_propagation unobserved_wait await_app linger }
    app { consul_token process_group }
    on_app_exit
    workers
    log { level format access }
};

const SERVICE: &[KeySpec] = keys! {
    name port address id tags meta
    weights { passing warning }
    health { address http tcp method host headers status interval timeout reach }
    deregister_after
};

const SOURCE: &[KeySpec] = keys! {
    prefix as
    spring { root app profiles default_context profile_separator format data_key }
};

const CONFIG_FILE: &[KeySpec] = keys! {
    prefix path format mode wait required
    on_change { signal http restart at_once min_interval }
};

/// The keys of a document about a service: those of an upstream without what says which instances and listeners it has.
pub(crate) const SERVICE_DOCUMENT: &[KeySpec] = UPSTREAM.split_at(8).1;

/// The keys of `defaults`: those of a document about a service without its traffic rules.
pub(crate) const POLICY: &[KeySpec] = SERVICE_DOCUMENT.split_at(8).1;

/// The traffic rules of an upstream. For this table each is a value; what is in it is below.
pub(crate) const TRAFFIC: &[KeySpec] = SERVICE_DOCUMENT.split_at(8).0;

pub(crate) const SUBSET: &[KeySpec] = keys! { tags meta filter };

/// Of a split.
pub(crate) const SPLIT_ENTRY: &[KeySpec] = keys! { subset service weight };

pub(crate) const STICKY: &[KeySpec] = keys! { header cookie };

/// The first ones are those of a policy that a route may have.
pub(crate) const ROUTE: &[KeySpec] = keys! {
    timeout per_try_timeout deadline body_idle retry [RETRY] hedge [HEDGE]
    match [ROUTE_MATCH]
    to { subset service split sticky [STICKY] }
    on_empty rewrite { prefix }
    headers { set add remove }
};

/// The keys of a route that are those of a policy.
pub(crate) const ROUTE_POLICY: &[KeySpec] = ROUTE.split_at(6).0;

pub(crate) const ROUTE_MATCH: &[KeySpec] = keys! { path { exact prefix regex } headers query methods };

/// How a header field or a parameter is matched.
pub(crate) const VALUE_MATCH: &[KeySpec] = keys! { present exact prefix suffix regex not };

pub(crate) const MIRROR: &[KeySpec] = keys! {
    to { subset service }
    share methods credentials max_in_flight timeout
};

pub(crate) const ZONE: &[KeySpec] = keys! { own from min_instances };

pub(crate) const FAILOVER_TARGET: &[KeySpec] = keys! { datacenter service };

/// The keys of `on_empty`, where it is a mapping.
pub(crate) const ON_EMPTY: &[KeySpec] = keys! { subset };

const RETRY: &[KeySpec] = keys! {
    max_retries backoff_base backoff_max statuses non_idempotent grpc_methods max_retry_after stalled max_body
    budget { ratio min_per_second window }
};

const HEDGE: &[KeySpec] = keys! { percentile min_delay };

pub(crate) const UPSTREAM: &[KeySpec] = keys! {
    service listen protocol
    tls { ca_file cert_file key_file server_name sans verify }
    tcp { idle max_connections grace proxy_protocol }
    hosts tags datacenter
    subsets split sticky routes mirror failover return_after zone
    balance address timeout per_try_timeout deadline connect_timeout body_idle
    max_in_flight max_pending pending_timeout
    retry [RETRY]
    hedge [HEDGE]
    circuit_breaker {
        failure_ratio window min_requests consecutive_failures open_for max_open_for probes
    }
    outlier {
        consecutive_failures success_rate window min_requests
        max_ejection_percent base_ejection_time max_ejection_time
    }
    pool { idle_timeout non_idempotent_max_idle max_idle max_connections max_waiting }
};

/// Whether a route can set the key of a policy: `timeout`, `retry.max_retries`.
pub fn is_key_of_routes(key: &str) -> bool {
    let group = key.split('.').next().unwrap_or(key);
    ROUTE_POLICY.iter().any(|known| known.name == group)
}

/// Every key that holds a value, dotted, in the order of a settings file; the items of a list are
/// numbered 0 (`upstreams[0].timeout`). Without those of `services`, which are those of `service`.
pub fn keys() -> Vec<String> {
    let mut out = Vec::new();
    collect(ROOT, "", &mut out);
    out.retain(|key| !key.starts_with("services["));
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
    if let Some(name) = nearest_key(unknown, keys) {
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
    valid_here(keys)
}

pub(crate) fn valid_here(keys: &[KeySpec]) -> String {
    format!("valid here: {}", keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", "))
}

/// The nearest of these keys, if it is near enough to be the one that was meant.
pub(crate) fn nearest_key(unknown: &str, keys: &[KeySpec]) -> Option<&'static str> {
    nearest(unknown, keys.iter().map(|key| key.name))
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
                "valid here: balance, address, timeout, per_try_timeout, deadline, connect_timeout, body_idle, max_in_flight, max_pending, pending_timeout, retry, hedge, circuit_breaker, outlier, pool",
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
