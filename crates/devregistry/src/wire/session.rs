//! The body that creates a session.

use std::time::Duration;

use super::{
    decode::JsonFields,
    duration::{self, GoDuration},
    request::Refusal,
};
use crate::store::{Session, SessionBehavior, SessionServiceCheck};

/// The check of a node's liveness, which a session has by default.
const SERF_HEALTH: &str = "serfHealth";
const SECOND: i64 = 1_000_000_000;
/// The default lock-delay, nanoseconds.
const LOCK_DELAY: i64 = 15 * SECOND;
/// A lock-delay below so many nanoseconds is taken for seconds.
const LOCK_DELAY_IN_SECONDS_BELOW: i64 = 1000;
/// The bounds of a time to live, nanoseconds.
const TTL_MIN: i64 = 10 * SECOND;
const TTL_MAX: i64 = 24 * 3600 * SECOND;

/// The body of `session/create`; empty for the defaults. The session has no id yet; its time to live is beside it.
pub(crate) fn parse_session(body: &[u8], own_node: &str) -> Result<(Session, Option<Duration>), Refusal> {
    let mut fields = match body.is_empty() {
        true => JsonFields::default(),
        false => JsonFields::parse_as(body, "struct { LockDelay interface {}; *structs.Alias }")?,
    };
    // An unknown field is accepted here, as in Consul.
    let lock_delay = match fields.lock_delay("LockDelay")? {
        None => LOCK_DELAY,
        Some(GoDuration(nanos)) if nanos < LOCK_DELAY_IN_SECONDS_BELOW => nanos.wrapping_mul(SECOND),
        Some(GoDuration(nanos)) => nanos,
    };
    let name = fields.string("Name")?;
    let node = fields.nullable("Node", JsonFields::string)?;
    let behavior = fields.string_as("Behavior", "structs.SessionBehavior")?;
    let ttl = fields.string("TTL")?;
    let node_checks = fields.nullable("NodeChecks", JsonFields::strings)?;
    let checks = fields.nullable("Checks", |fields, name| fields.strings_as(name, "types.CheckID"))?;
    let service_checks = fields.nullable("ServiceChecks", |fields, name| {
        let items = fields.objects_as(name, "[]structs.ServiceCheck", "structs.ServiceCheck")?;
        items
            .into_iter()
            .map(|mut item| {
                Ok(SessionServiceCheck { id: item.string("ID")?, namespace: item.string("Namespace")? })
            })
            .collect()
    })?;

    let node = match node {
        None | Some(None) => own_node.to_owned(),
        Some(Some(node)) if node.is_empty() => return Err(Refusal::internal("Must provide Node")),
        Some(Some(node)) => node,
    };
    let behavior = match behavior.as_str() {
        "" | "release" => SessionBehavior::Release,
        "delete" => SessionBehavior::Delete,
        other => return Err(Refusal::internal(format!("Invalid Behavior setting '{other}'"))),
    };
    let life = parse_ttl(&ttl).map_err(Refusal::internal)?;
    let (node_checks, checks) = merge_checks(node_checks, checks);
    let session = Session {
        id: String::new(),
        name,
        node,
        lock_delay,
        behavior,
        ttl,
        node_checks,
        service_checks: service_checks.flatten(),
        checks,
        create_index: 0,
        modify_index: 0,
    };
    Ok((session, life))
}

fn parse_ttl(ttl: &str) -> Result<Option<Duration>, String> {
    if ttl.is_empty() {
        return Ok(None);
    }
    let parsed = duration::parse(ttl).map_err(|why| format!("Session TTL '{ttl}' invalid: {why}"))?;
    match parsed.0 {
        0 => Ok(None),
        TTL_MIN..=TTL_MAX => Ok(parsed.positive()),
        nanos => Err(format!("Invalid Session TTL '{nanos}', must be between [10s=24h0m0s]")),
    }
}

/// A list that may be absent, or `null`.
type OptionalList = Option<Option<Vec<String>>>;

/// The node checks and the checks in the old form, of which both have a default: an empty list in one form takes the
/// default of the other form away, and the default alone is not shown in the old form.
fn merge_checks(node_checks: OptionalList, checks: OptionalList) -> (Option<Vec<String>>, Vec<String>) {
    let default = || vec![SERF_HEALTH.to_owned()];
    let node_checks = node_checks.unwrap_or_else(|| Some(default()));
    let checks = checks.map_or_else(default, Option::unwrap_or_default);
    if checks.is_empty() {
        return (Some(Vec::new()), checks);
    }
    let hides_checks = node_checks.as_ref().is_none_or(Vec::is_empty) || checks == default();
    (node_checks, if hides_checks { Vec::new() } else { checks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_lists_of_checks_share_their_default() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let cases = [
            (None, None, Some(list(&["serfHealth"])), list(&[])),
            (None, Some(None), Some(list(&[])), list(&[])),
            (None, Some(Some(list(&[]))), Some(list(&[])), list(&[])),
            (None, Some(Some(list(&["a"]))), Some(list(&["serfHealth"])), list(&["a"])),
            (Some(None), None, None, list(&[])),
            (Some(Some(list(&[]))), Some(Some(list(&["a"]))), Some(list(&[])), list(&[])),
            (Some(Some(list(&["n"]))), Some(Some(list(&[]))), Some(list(&[])), list(&[])),
            (Some(Some(list(&["n"]))), Some(Some(list(&["a"]))), Some(list(&["n"])), list(&["a"])),
        ];
        for (node_checks, checks, expected_node_checks, expected_checks) in cases {
            let case = format!("{node_checks:?} {checks:?}");
            assert_eq!(merge_checks(node_checks, checks), (expected_node_checks, expected_checks), "{case}");
        }
    }
}
