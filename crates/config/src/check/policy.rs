//! The policy of a service: the same keys in `defaults` and in every upstream.

use std::{collections::BTreeMap, time::Duration};

use super::{
    reader::{BoundedValue, Reader},
    section::Section,
    service::check_not_above,
};
use crate::{
    AddressKind, Balance, CircuitBreaker, HedgePolicy, OutlierDetection, Policy, Pool, RetryBudget,
    RetryPolicy,
    error::InvalidValue,
    keys, names,
    raw::{KeyNode, Node, NodeValue, Position},
    units::{
        DAY, HOUR, MIB, MINUTE, MS, SECOND, duration_in, integer, on_or_off, one_of, percent, ratio_in,
        size_in, switch,
    },
};

/// Reads the bounds of every setting that has a range, as values of that setting.
pub(super) fn read_bounds(r: &mut Reader<'_>) {
    visit_settings(r, &Policy::default());
}

/// The settings of the policy that have bounds. Those of a section that is `off` are `off`.
fn bounded_values(r: &mut Reader<'_>, policy: &Policy) -> BTreeMap<String, BoundedValue> {
    r.bounded = Some(BTreeMap::new());
    let known = (r.problems.len(), r.warnings.len());
    visit_settings(r, policy);
    r.problems.truncate(known.0);
    r.warnings.truncate(known.1);
    let mut values = r.bounded.take().unwrap_or_default();
    let sections = [
        ("hedge.", policy.hedge.is_none()),
        ("circuit_breaker.", policy.circuit_breaker.is_none()),
        ("outlier.", policy.outlier.is_none()),
    ];
    let is_off = |key: &str| sections.iter().any(|(section, is_off)| *is_off && key.starts_with(section));
    for (key, value) in values.iter_mut().filter(|(key, _)| is_off(key)) {
        *value = r.bounded_off(key);
    }
    values
}

/// The settings of `after` that are out of their bounds: what is wrong, and whether `before` has the same.
pub(super) fn out_of_bounds(
    r: &mut Reader<'_>,
    before: &Policy,
    after: &Policy,
) -> Vec<(String, InvalidValue, bool)> {
    let before = bounded_values(r, before);
    let after = bounded_values(r, after).into_iter();
    let wrong = after.filter_map(|(key, value)| {
        let is_same = before.get(&key) == Some(&value);
        Some((key, value.within.err()?, is_same))
    });
    wrong.collect()
}

/// Reads a policy over which nothing is set, with every section.
fn visit_settings(r: &mut Reader<'_>, policy: &Policy) {
    let at = Position { line: 1, col: 1 };
    let section = |name: &str, inside| {
        let key = KeyNode { at, name: name.to_owned() };
        (key, Node { at, value: NodeValue::Map(inside) })
    };
    let mut sections: Vec<_> =
        ["hedge", "circuit_breaker", "outlier", "pool"].map(|name| section(name, Vec::new())).into();
    sections.push(section("retry", vec![section("budget", Vec::new())]));
    let every_section = Node { at, value: NodeValue::Map(sections) };
    let origins = std::mem::take(&mut r.origins);
    let s = r.open_section("defaults".to_owned(), keys::POLICY, Some(&every_section));
    read_policy(r, &s, policy);
    r.origins = origins;
}

/// `base`, overridden by the settings of the section.
pub(super) fn read_policy(r: &mut Reader<'_>, s: &Section<'_>, base: &Policy) -> Policy {
    let mut out = base.clone();
    r.begin_policy(&s.path);
    r.set(s, "balance", &mut out.balance, one_of(&Balance::ALL, Balance::as_str));
    r.set(s, "address", &mut out.address, one_of(&AddressKind::ALL, AddressKind::as_str));
    r.tune(s, "timeout", &mut out.timeout, duration_in(MS..=HOUR));
    r.tune_or_off(s, "per_try_timeout", &mut out.per_try_timeout, duration_in(MS..=HOUR));
    if let Some(per_try) = out.per_try_timeout {
        check_not_above(r, s, ("per_try_timeout", per_try), ("timeout", out.timeout));
    }
    r.tune_or_off(s, "deadline", &mut out.deadline, duration_in(MS..=DAY));
    r.tune(s, "connect_timeout", &mut out.connect_timeout, duration_in(MS..=MINUTE));
    r.tune(s, "body_idle", &mut out.body_idle, duration_in(10 * MS..=DAY));
    r.tune_or_off(s, "max_in_flight", &mut out.max_in_flight, integer(1..=1_000_000));
    r.tune(s, "max_pending", &mut out.max_pending, integer(0..=100_000));
    r.tune(s, "pending_timeout", &mut out.pending_timeout, duration_in(MS..=HOUR));
    read_retry(r, s, &mut out.retry);
    read_optional_section(r, s, "hedge", &mut out.hedge, read_hedge_section);
    read_optional_section(r, s, "circuit_breaker", &mut out.circuit_breaker, read_breaker_section);
    read_optional_section(r, s, "outlier", &mut out.outlier, read_outlier_section);
    let section = r.section(s, "pool");
    read_pool(r, &section, &mut out.pool);
    out
}

/// `retry: off` is `max_retries: 0`; `retry: on` cancels an `off` of the defaults.
fn read_retry(r: &mut Reader<'_>, parent: &Section<'_>, out: &mut RetryPolicy) {
    match r.read_switch(parent, "retry") {
        Some(false) => {
            out.max_retries = 0;
            r.origins.copy(&parent.key("retry"), parent.key("retry.max_retries"));
        }
        Some(true) if out.max_retries == 0 => {
            out.max_retries = RetryPolicy::default().max_retries;
            r.origins.copy(&parent.key("retry"), parent.key("retry.max_retries"));
        }
        Some(true) => {}
        None => {
            let section = r.section(parent, "retry");
            read_retry_section(r, &section, out);
        }
    }
}

fn read_retry_section(r: &mut Reader<'_>, s: &Section<'_>, out: &mut RetryPolicy) {
    r.tune(s, "max_retries", &mut out.max_retries, integer(0..=10));
    r.tune(s, "backoff_base", &mut out.backoff_base, duration_in(Duration::ZERO..=10 * SECOND));
    r.tune(s, "backoff_max", &mut out.backoff_max, duration_in(Duration::ZERO..=MINUTE));
    // A limit that is not set does not exceed the one that is set.
    if s.node("backoff_base").is_none() {
        out.backoff_base = out.backoff_base.min(out.backoff_max);
    }
    check_not_above(r, s, ("backoff_base", out.backoff_base), ("backoff_max", out.backoff_max));
    r.set_list(s, "statuses", &mut out.statuses, integer(400..=599));
    r.set(s, "non_idempotent", &mut out.non_idempotent, switch);
    r.set_list(s, "grpc_methods", &mut out.grpc_methods, names::grpc_method);
    r.tune(s, "max_retry_after", &mut out.max_retry_after, duration_in(Duration::ZERO..=HOUR));
    r.set(s, "stalled", &mut out.stalled, on_or_off);
    r.tune(s, "max_body", &mut out.max_body, size_in(0..=MIB));
    let section = r.section(s, "budget");
    read_budget(r, &section, &mut out.budget);
}

fn read_budget(r: &mut Reader<'_>, s: &Section<'_>, out: &mut RetryBudget) {
    r.tune(s, "ratio", &mut out.ratio, ratio_in(0.0..=1.0));
    r.tune(s, "min_per_second", &mut out.min_per_second, integer(0..=10_000));
    r.tune(s, "window", &mut out.window, duration_in(SECOND..=MINUTE));
}

/// A section that may be `off`; a mapping (or `on`) turns it on.
fn read_optional_section<T: Copy + Default>(
    r: &mut Reader<'_>,
    parent: &Section<'_>,
    name: &str,
    out: &mut Option<T>,
    read: impl Fn(&mut Reader<'_>, &Section<'_>, &mut T),
) {
    match r.read_switch(parent, name) {
        Some(false) => *out = None,
        Some(true) => *out = Some(out.unwrap_or_default()),
        None if parent.node(name).is_none() => {}
        None => {
            let section = r.section(parent, name);
            // The section alone turns it on, so it has an origin even when it is empty.
            r.origins.set(section.path.clone(), section.origin.clone());
            let mut settings = out.unwrap_or_default();
            read(r, &section, &mut settings);
            *out = Some(settings);
        }
    }
}

fn read_hedge_section(r: &mut Reader<'_>, s: &Section<'_>, out: &mut HedgePolicy) {
    r.tune(s, "percentile", &mut out.percentile, ratio_in(0.5..=0.999));
    r.tune(s, "min_delay", &mut out.min_delay, duration_in(Duration::ZERO..=MINUTE));
}

fn read_outlier_section(r: &mut Reader<'_>, s: &Section<'_>, out: &mut OutlierDetection) {
    r.tune_or_off(s, "consecutive_failures", &mut out.consecutive_failures, integer(1..=1_000_000));
    r.tune_or_off(s, "success_rate", &mut out.success_rate, ratio_in(0.01..=1.0));
    r.tune(s, "window", &mut out.window, duration_in(SECOND..=10 * MINUTE));
    r.tune(s, "min_requests", &mut out.min_requests, integer(1..=1_000_000));
    r.tune(s, "max_ejection_percent", &mut out.max_ejection_percent, percent);
    r.tune(s, "base_ejection_time", &mut out.base_ejection_time, duration_in(10 * MS..=HOUR));
    r.tune(s, "max_ejection_time", &mut out.max_ejection_time, duration_in(10 * MS..=HOUR));
    let base = ("base_ejection_time", out.base_ejection_time);
    check_not_above(r, s, base, ("max_ejection_time", out.max_ejection_time));
}

fn read_breaker_section(r: &mut Reader<'_>, s: &Section<'_>, out: &mut CircuitBreaker) {
    r.tune(s, "failure_ratio", &mut out.failure_ratio, ratio_in(0.01..=1.0));
    r.tune(s, "window", &mut out.window, duration_in(SECOND..=10 * MINUTE));
    r.tune(s, "min_requests", &mut out.min_requests, integer(1..=1_000_000));
    r.tune_or_off(s, "consecutive_failures", &mut out.consecutive_failures, integer(1..=1_000_000));
    r.tune(s, "open_for", &mut out.open_for, duration_in(10 * MS..=HOUR));
    r.tune(s, "max_open_for", &mut out.max_open_for, duration_in(10 * MS..=HOUR));
    check_not_above(r, s, ("open_for", out.open_for), ("max_open_for", out.max_open_for));
    r.tune(s, "probes", &mut out.probes, integer(1..=100));
}

fn read_pool(r: &mut Reader<'_>, s: &Section<'_>, out: &mut Pool) {
    r.tune(s, "idle_timeout", &mut out.idle_timeout, duration_in(Duration::ZERO..=HOUR));
    r.tune(
        s,
        "non_idempotent_max_idle",
        &mut out.non_idempotent_max_idle,
        duration_in(Duration::ZERO..=HOUR),
    );
    if s.node("non_idempotent_max_idle").is_none() {
        out.non_idempotent_max_idle = out.non_idempotent_max_idle.min(out.idle_timeout);
    }
    let reused = ("non_idempotent_max_idle", out.non_idempotent_max_idle);
    check_not_above(r, s, reused, ("idle_timeout", out.idle_timeout));
    r.tune(s, "max_idle", &mut out.max_idle, integer(0..=100_000));
    r.tune(s, "max_connections", &mut out.max_connections, integer(1..=100_000));
    r.tune(s, "max_waiting", &mut out.max_waiting, integer(0..=100_000));
    if s.node("max_idle").is_none() {
        out.max_idle = out.max_idle.min(out.max_connections);
    }
    let too_many = out.max_idle > out.max_connections;
    if too_many && let Some(key) = r.first_set_of(s, &["max_idle", "max_connections"]) {
        let what = format!("max_idle {} is above max_connections {}", out.max_idle, out.max_connections);
        r.report_set(&key, what, "an idle connection is one of the connections; lower max_idle");
    }
}
