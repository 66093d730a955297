//! Which path is which endpoint, and with which methods.

use crate::store::Status;

/// The endpoint of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Root,
    AgentSelf,
    AgentMembers,
    AgentServices,
    AgentService,
    AgentChecks,
    AgentRegister,
    AgentDeregister,
    AgentServiceMaintenance,
    AgentMaintenance,
    CheckRegister,
    CheckDeregister,
    CheckReport(Status),
    CheckUpdate,
    AgentHealthByName,
    AgentHealthById,
    Datacenters,
    Nodes,
    Node,
    NodeServices,
    Services,
    Instances,
    CatalogRegister,
    CatalogDeregister,
    HealthService,
    HealthChecks,
    HealthState,
    HealthNode,
    Leader,
    Peers,
    /// An endpoint of Consul that this registry does not have; the name of the feature.
    Unsupported(&'static str),
}

/// A path that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) methods: &'static [&'static str],
    /// What follows the endpoint's path.
    pub(super) rest: &'a str,
}

const GET: &[&str] = &["GET"];
const PUT: &[&str] = &["PUT"];
const ANY: &[&str] = &["GET", "PUT", "POST", "DELETE"];

/// A path that ends in `/` matches every path that begins with it.
#[rustfmt::skip]
const PATHS: &[(&str, &[&str], Endpoint)] = &[
    ("/v1/agent/self", GET, Endpoint::AgentSelf),
    ("/v1/agent/members", GET, Endpoint::AgentMembers),
    ("/v1/agent/services", GET, Endpoint::AgentServices),
    ("/v1/agent/service/", GET, Endpoint::AgentService),
    ("/v1/agent/checks", GET, Endpoint::AgentChecks),
    ("/v1/agent/service/register", PUT, Endpoint::AgentRegister),
    ("/v1/agent/service/deregister/", PUT, Endpoint::AgentDeregister),
    ("/v1/agent/service/maintenance/", PUT, Endpoint::AgentServiceMaintenance),
    ("/v1/agent/maintenance", PUT, Endpoint::AgentMaintenance),
    ("/v1/agent/check/register", PUT, Endpoint::CheckRegister),
    ("/v1/agent/check/deregister/", PUT, Endpoint::CheckDeregister),
    ("/v1/agent/check/pass/", PUT, Endpoint::CheckReport(Status::Passing)),
    ("/v1/agent/check/warn/", PUT, Endpoint::CheckReport(Status::Warning)),
    ("/v1/agent/check/fail/", PUT, Endpoint::CheckReport(Status::Critical)),
    ("/v1/agent/check/update/", PUT, Endpoint::CheckUpdate),
    ("/v1/agent/health/service/name/", GET, Endpoint::AgentHealthByName),
    ("/v1/agent/health/service/id/", GET, Endpoint::AgentHealthById),
    ("/v1/catalog/datacenters", GET, Endpoint::Datacenters),
    ("/v1/catalog/nodes", GET, Endpoint::Nodes),
    ("/v1/catalog/node/", GET, Endpoint::Node),
    ("/v1/catalog/node-services/", GET, Endpoint::NodeServices),
    ("/v1/catalog/services", GET, Endpoint::Services),
    ("/v1/catalog/service/", GET, Endpoint::Instances),
    ("/v1/catalog/register", PUT, Endpoint::CatalogRegister),
    ("/v1/catalog/deregister", PUT, Endpoint::CatalogDeregister),
    ("/v1/health/service/", GET, Endpoint::HealthService),
    ("/v1/health/checks/", GET, Endpoint::HealthChecks),
    ("/v1/health/state/", GET, Endpoint::HealthState),
    ("/v1/health/node/", GET, Endpoint::HealthNode),
    ("/v1/status/leader", GET, Endpoint::Leader),
    ("/v1/status/peers", GET, Endpoint::Peers),
    ("/v1/kv/", ANY, Endpoint::Unsupported("key-value store")),
    ("/v1/session/", ANY, Endpoint::Unsupported("sessions")),
    ("/v1/event/", ANY, Endpoint::Unsupported("events")),
    ("/v1/query", ANY, Endpoint::Unsupported("prepared queries")),
    ("/v1/query/", ANY, Endpoint::Unsupported("prepared queries")),
    ("/v1/txn", ANY, Endpoint::Unsupported("transactions")),
    ("/v1/acl/", ANY, Endpoint::Unsupported("ACLs")),
    ("/v1/config", ANY, Endpoint::Unsupported("configuration entries")),
    ("/v1/config/", ANY, Endpoint::Unsupported("configuration entries")),
    ("/v1/connect/", ANY, Endpoint::Unsupported("Connect")),
    ("/v1/discovery-chain/", ANY, Endpoint::Unsupported("Connect")),
    ("/v1/agent/connect/", ANY, Endpoint::Unsupported("Connect")),
    ("/v1/catalog/connect/", ANY, Endpoint::Unsupported("Connect")),
    ("/v1/catalog/gateway-services/", ANY, Endpoint::Unsupported("Connect")),
    ("/v1/health/connect/", ANY, Endpoint::Unsupported("Connect")),
    ("/v1/health/ingress/", ANY, Endpoint::Unsupported("Connect")),
    ("/v1/coordinate/", ANY, Endpoint::Unsupported("network coordinates")),
    ("/v1/operator/", ANY, Endpoint::Unsupported("operator endpoints")),
    ("/v1/snapshot", ANY, Endpoint::Unsupported("snapshots")),
    ("/v1/agent/join/", ANY, Endpoint::Unsupported("cluster to join")),
    ("/v1/agent/leave", ANY, Endpoint::Unsupported("cluster to leave")),
    ("/v1/agent/force-leave/", ANY, Endpoint::Unsupported("cluster to leave")),
    ("/v1/agent/reload", ANY, Endpoint::Unsupported("configuration to reload")),
    ("/v1/agent/host", ANY, Endpoint::Unsupported("facts of its host")),
    ("/v1/agent/metrics", ANY, Endpoint::Unsupported("metrics")),
    ("/v1/agent/monitor", ANY, Endpoint::Unsupported("log to follow")),
    ("/v1/agent/token/", ANY, Endpoint::Unsupported("ACLs")),
];

/// The endpoint of a decoded path: the longest match.
pub(super) fn find_route(path: &str) -> Option<Route<'_>> {
    if path == "/" {
        return Some(Route { endpoint: Endpoint::Root, methods: &["GET", "HEAD"], rest: "" });
    }
    let fits = |known: &str| if known.ends_with('/') { path.starts_with(known) } else { path == known };
    let (known, methods, endpoint) =
        PATHS.iter().filter(|(known, ..)| fits(known)).max_by_key(|(known, ..)| known.len())?;
    Some(Route { endpoint: *endpoint, methods, rest: path.strip_prefix(known).unwrap_or_default() })
}

/// The path with a final `/`, if the path exists only with it.
pub(super) fn add_missing_slash(path: &str) -> Option<String> {
    let slashed = format!("{path}/");
    let has = |wanted: &str| PATHS.iter().any(|(known, ..)| *known == wanted);
    (!has(path) && has(&slashed)).then_some(slashed)
}

/// The path without `//`, `/./` and `/../`. `None`: it contains none of these.
pub(super) fn clean_path(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let last = parts.len().saturating_sub(1);
    let odd =
        |(index, part): (usize, &&str)| matches!(*part, "." | "..") || (part.is_empty() && index != last);
    if !parts.iter().enumerate().any(odd) {
        return None;
    }
    let mut clean: Vec<&str> = Vec::new();
    for part in &parts {
        match *part {
            "" | "." => {}
            ".." => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    let end = if path.ends_with('/') && !clean.is_empty() { "/" } else { "" };
    Some(format!("/{}{end}", clean.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_match_is_the_endpoint() {
        let cases = [
            ("/v1/agent/service/register", Some((Endpoint::AgentRegister, ""))),
            ("/v1/agent/service/register/", Some((Endpoint::AgentService, "register/"))),
            ("/v1/agent/service/deregister/a/b", Some((Endpoint::AgentDeregister, "a/b"))),
            ("/v1/health/service/", Some((Endpoint::HealthService, ""))),
            ("/v1/agent/services/", None),
            ("/V1/agent/services", None),
            ("/v1/agent/version", None),
        ];
        for (path, expected) in cases {
            assert_eq!(find_route(path).map(|route| (route.endpoint, route.rest)), expected, "{path}");
        }
    }

    #[test]
    fn a_missing_final_slash_is_added() {
        let cases = [
            ("/v1/agent/service/deregister", Some("/v1/agent/service/deregister/")),
            ("/v1/health/service", Some("/v1/health/service/")),
            ("/v1/agent/service/register", None),
            ("/v1/query", None),
            ("/v1/nope", None),
        ];
        for (path, expected) in cases {
            assert_eq!(add_missing_slash(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn unclean_paths_are_cleaned() {
        let cases = [
            ("/v1/agent/services", None),
            ("/v1/health/service/", None),
            ("/v1//agent/services", Some("/v1/agent/services")),
            ("/v1/./agent/self", Some("/v1/agent/self")),
            ("/v1/x/../agent/", Some("/v1/agent/")),
            ("/../..", Some("/")),
        ];
        for (path, expected) in cases {
            assert_eq!(clean_path(path).as_deref(), expected, "{path}");
        }
    }
}
