//! Parts of problem bodies: which bound in time ended a request, and why it was not tried again.

use std::time::Duration;

use outrigger_config::{self as config, format_coarse_duration, format_duration, format_size};
use outrigger_policy::retry::GiveUp;

use crate::{
    limit::service_limit,
    reason::{Reason, Refusal},
    request::call::{Bound, Call},
};

/// The bound in time that ended an attempt or a request.
pub(crate) fn time_limit(call: &Call<'_>, bound: Bound) -> String {
    let policy = &call.settings.policy;
    let service = |key, value| call.limit(key, format_duration(value));
    match bound {
        Bound::Timeout => service("timeout", policy.timeout),
        Bound::PerTry => service("per_try_timeout", policy.per_try_timeout.unwrap_or(policy.timeout)),
        Bound::BodyIdle => service("body_idle", policy.body_idle),
        Bound::Deadline => match (call.client_deadline.timeout, policy.deadline) {
            (own, Some(limit)) if own.is_none_or(|own| limit < own) => service("deadline", limit),
            (own, _) => own_deadline(own.unwrap_or_default()),
        },
    }
}

/// The deadline that the app sent.
pub(crate) fn own_deadline(timeout: Duration) -> String {
    format!(
        "the request asks for an answer within {} (x-outrigger-timeout or grpc-timeout)",
        format_duration(timeout)
    )
}

/// `connect_timeout` of the service.
pub(crate) fn connect_limit(call: &Call<'_>) -> String {
    call.limit("connect_timeout", format_duration(call.settings.policy.connect_timeout))
}

/// The limits of the connections to an instance, and of the requests that wait for one.
pub(crate) fn pool_limits(call: &Call<'_>) -> String {
    let pool = &call.settings.policy.pool;
    let service = |key, value| call.limit(key, value);
    format!(
        "{}, {}",
        service("pool.max_connections", pool.max_connections),
        service("pool.max_waiting", pool.max_waiting)
    )
}

/// Why no other attempt was made after `attempts`; a part of a sentence.
pub(crate) fn give_up(call: &Call<'_>, why: GiveUp, attempts: u32) -> String {
    let retry = &call.settings.policy.retry;
    let service = |key: &str, value: String| call.limit(key, value);
    let max_retries = || service("retry.max_retries", retry.max_retries.to_string());
    match why {
        GiveUp::NotRetryable => "another attempt would not help".to_owned(),
        GiveUp::Off if !call.traits.allowed => {
            "the request forbids another attempt (x-outrigger-retry: off)".to_owned()
        }
        GiveUp::Off => format!("retries are off; {}", max_retries()),
        GiveUp::Attempts if attempts > retry.max_retries => {
            format!("attempt {attempts} was the last one; {}", max_retries())
        }
        GiveUp::Attempts => "no other instance is left to try".to_owned(),
        GiveUp::Budget => {
            let ratio = service("retry.budget.ratio", retry.budget.ratio.to_string());
            format!("the budget for retries to the service is spent; {ratio}")
        }
        GiveUp::Deadline => "no time is left for another attempt".to_owned(),
        GiveUp::BodyGone => {
            let most = service("retry.max_body", format_size(retry.max_body));
            format!("more of its body was sent than is kept for another attempt; {most}")
        }
        GiveUp::Pushback => "the instance asked for no other attempt".to_owned(),
        GiveUp::SentUnknown => format!(
            "it was sent, so that it may have been carried out, and {} may not be repeated without an Idempotency-Key; {}",
            call.head.method().escape_ascii(),
            service("retry.non_idempotent", retry.non_idempotent.to_string()),
        ),
    }
}

/// The refusal of a request, to all instances or to those of a subset, that the circuit breaker does not admit.
pub(crate) fn describe_open(
    label: &str,
    subset: Option<&str>,
    policy: &config::Policy,
    retry_after: Duration,
) -> Refusal {
    let of_subset = subset.map(|name| format!(" of the subset {name}")).unwrap_or_default();
    let mut detail = format!(
        "{label}: the circuit breaker{of_subset} is open, because too many requests failed, and lets the next one through in {}",
        format_coarse_duration(retry_after)
    );
    if let Some(breaker) = &policy.circuit_breaker {
        let ratio = service_limit(label, "circuit_breaker.failure_ratio", breaker.failure_ratio);
        detail.push_str(&format!("; {ratio}"));
    }
    Refusal { retry_after: Some(retry_after), ..Refusal::new(Reason::CircuitOpen, detail) }
}
