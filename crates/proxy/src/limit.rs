//! How a problem body names the setting that ended a request: with its value and its key, `timeout: 15s
//! (upstreams.orders.timeout)`.
//!
//! The key of a service's limit is that of its upstream, also where the value is that of `defaults`: there it can be set for
//! this service alone. A request that a route with limits of its own takes has the key of the route.

use std::fmt::Display;

use outrigger_config::format_size;
use outrigger_http1::{HeadLimits, Refusal, RefusalKind};

/// Fields that a response may have at least, also where the app's heads may have fewer.
pub(crate) const MIN_ANSWER_FIELDS: usize = 1000;

/// A limit of a service. `key` is its place below the upstream: `retry.max_body`.
pub(crate) fn service_limit(label: &str, key: &str, value: impl Display) -> String {
    limit(&format!("upstreams.{label}"), key, value)
}

/// A limit in a section of the settings: `discovery`, `outbound.limits`.
pub(crate) fn limit(section: &str, key: &str, value: impl Display) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    format!("{name}: {value} ({section}.{key})")
}

/// The limit that a head exceeds, if it does. `of_answer`: an instance sent it.
pub(crate) fn head_limit(kind: RefusalKind, limits: &HeadLimits, of_answer: bool) -> Option<String> {
    let section = "outbound.limits";
    match kind {
        RefusalKind::HeadTooLarge => Some(limit(section, "max_header_bytes", format_size(limits.bytes))),
        RefusalKind::TargetTooLong => Some(limit(section, "max_header_bytes", format_size(limits.target))),
        RefusalKind::TooManyFields => {
            let least = format!("; at least {MIN_ANSWER_FIELDS} for an answer");
            let note = if of_answer { least.as_str() } else { "" };
            Some(format!("max_headers: {} ({section}.max_headers{note})", limits.fields))
        }
        RefusalKind::Malformed
        | RefusalKind::Version
        | RefusalKind::Http2Preface
        | RefusalKind::TransferCoding
        | RefusalKind::Body => None,
    }
}

/// The detail of a head that is refused, with the limit that it exceeds.
pub(crate) fn refused_head(refusal: &Refusal, limits: &HeadLimits, of_answer: bool) -> String {
    match head_limit(refusal.kind, limits, of_answer) {
        Some(limit) => format!("{}; {limit}", refusal.detail),
        None => refusal.detail.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_its_value_and_its_key() {
        assert_eq!(
            service_limit("orders[v2]@dc2", "timeout", "15s"),
            "timeout: 15s (upstreams.orders[v2]@dc2.timeout)"
        );
        assert_eq!(
            service_limit("orders", "retry.max_body", "64KiB"),
            "max_body: 64KiB (upstreams.orders.retry.max_body)"
        );
        let limits = HeadLimits { bytes: 65_536, fields: 1000, target: 65_536 };
        for (kind, of_answer, expected) in [
            (RefusalKind::HeadTooLarge, false, "max_header_bytes: 64KiB (outbound.limits.max_header_bytes)"),
            (RefusalKind::TargetTooLong, false, "max_header_bytes: 64KiB (outbound.limits.max_header_bytes)"),
            (RefusalKind::TooManyFields, false, "max_headers: 1000 (outbound.limits.max_headers)"),
            (
                RefusalKind::TooManyFields,
                true,
                "max_headers: 1000 (outbound.limits.max_headers; at least 1000 for an answer)",
            ),
        ] {
            assert_eq!(head_limit(kind, &limits, of_answer).as_deref(), Some(expected));
        }
        assert_eq!(head_limit(RefusalKind::Malformed, &limits, false), None);
    }
}
