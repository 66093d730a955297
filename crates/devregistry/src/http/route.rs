//! Which path is which endpoint, and with which methods.

use std::pin::Pin;

use http::Method;

use Handler::{Blocking, Plain, Unsupported};

use super::{
    agent, agent_health, agent_process, catalog, context::HttpContext, coordinate, event, health, kv,
    reply::Reply, request::ApiRequest, session, txn, unused,
};
use crate::store::Status;

/// What answers a call.
#[derive(Clone, Copy)]
pub(super) enum Handler {
    Plain(fn(&HttpContext, &ApiRequest) -> Result<Reply, Reply>),
    Blocking(for<'a> fn(&'a HttpContext, &'a ApiRequest) -> BlockingReply<'a>),
    /// An endpoint of Consul that this registry does not have; the name of the feature.
    Unsupported(&'static str),
}

pub(super) type BlockingReply<'a> = Pin<Box<dyn Future<Output = Result<Reply, Reply>> + Send + 'a>>;

/// A path that was found.
pub(super) struct Route<'a> {
    /// The endpoint's path; with a final `/` if more follows it.
    pub(super) path: &'static str,
    pub(super) handler: Handler,
    pub(super) methods: &'static [&'static str],
    /// What follows the endpoint's path.
    pub(super) rest: &'a str,
    /// Whether the handler refuses a request that is too large; the body is not read then.
    pub(super) judges_size: bool,
    /// Whether the parameter `ns` is ignored, not refused.
    pub(super) takes_namespace: bool,
}

impl Route<'_> {
    /// The name under which Consul keeps the times of these requests.
    pub(super) fn metric_name(&self, method: &Method) -> String {
        let parts = self.path.split('/').skip(1).map(|part| if part.is_empty() { "_" } else { part });
        ["consul", "http", method.as_str()].into_iter().chain(parts).collect::<Vec<_>>().join(".")
    }
}

const GET: &[&str] = &["GET"];
const PUT: &[&str] = &["PUT"];
const POST: &[&str] = &["POST"];
const CRUD: &[&str] = &["GET", "PUT", "DELETE"];
const ANY: &[&str] = &["GET", "PUT", "POST", "DELETE"];

const KV: &str = "/v1/kv/";
const TXN: &str = "/v1/txn";

/// The beginnings of the paths of endpoints that know no namespaces: these ignore the parameter.
const IGNORE_NAMESPACE: &[&str] = &[
    "/v1/acl/",
    "/v1/agent/force-leave/",
    "/v1/agent/join/",
    "/v1/agent/leave",
    "/v1/agent/maintenance",
    "/v1/agent/members",
    "/v1/agent/metrics",
    "/v1/agent/monitor",
    "/v1/agent/reload",
    "/v1/agent/self",
    "/v1/agent/token/",
    "/v1/catalog/datacenters",
    "/v1/catalog/nodes",
    "/v1/coordinate/",
    "/v1/event/",
    "/v1/operator/",
    "/v1/status/",
    TXN,
];

/// A path that ends in `/` matches every path that begins with it.
#[rustfmt::skip]
const PATHS: &[(&str, &[&str], Handler)] = &[
    ("/v1/agent/self", GET, Plain(agent_process::agent_self)),
    ("/v1/agent/members", GET, Plain(agent_process::members)),
    ("/v1/agent/metrics", GET, Plain(agent_process::metrics)),
    ("/v1/agent/reload", PUT, Plain(agent_process::reload)),
    ("/v1/agent/leave", PUT, Plain(agent_process::leave)),
    ("/v1/agent/force-leave/", PUT, Plain(agent_process::force_leave)),
    ("/v1/agent/services", GET, Plain(agent::services)),
    ("/v1/agent/service/", GET, Blocking(|c, r| Box::pin(agent::service(c, r)))),
    ("/v1/agent/checks", GET, Plain(agent::checks)),
    ("/v1/agent/service/register", PUT, Plain(agent::register)),
    ("/v1/agent/service/deregister/", PUT, Plain(agent::deregister)),
    ("/v1/agent/service/maintenance/", PUT, Plain(agent::set_service_maintenance)),
    ("/v1/agent/maintenance", PUT, Plain(agent::set_node_maintenance)),
    ("/v1/agent/check/register", PUT, Plain(agent::register_check)),
    ("/v1/agent/check/deregister/", PUT, Plain(agent::deregister_check)),
    ("/v1/agent/check/pass/", PUT, Plain(|c, r| agent::report(c, r, Status::Passing))),
    ("/v1/agent/check/warn/", PUT, Plain(|c, r| agent::report(c, r, Status::Warning))),
    ("/v1/agent/check/fail/", PUT, Plain(|c, r| agent::report(c, r, Status::Critical))),
    ("/v1/agent/check/update/", PUT, Plain(agent::update)),
    ("/v1/agent/health/service/name/", GET, Plain(agent_health::by_name)),
    ("/v1/agent/health/service/id/", GET, Plain(agent_health::by_id)),
    ("/v1/catalog/datacenters", GET, Plain(catalog::datacenters)),
    ("/v1/catalog/nodes", GET, Blocking(|c, r| Box::pin(catalog::nodes(c, r)))),
    ("/v1/catalog/node/", GET, Blocking(|c, r| Box::pin(catalog::node(c, r)))),
    ("/v1/catalog/node-services/", GET, Blocking(|c, r| Box::pin(catalog::node_services(c, r)))),
    ("/v1/catalog/services", GET, Blocking(|c, r| Box::pin(catalog::services(c, r)))),
    ("/v1/catalog/service/", GET, Blocking(|c, r| Box::pin(catalog::instances(c, r)))),
    ("/v1/catalog/register", PUT, Plain(catalog::register)),
    ("/v1/catalog/deregister", PUT, Plain(catalog::deregister)),
    ("/v1/health/service/", GET, Blocking(|c, r| Box::pin(health::service(c, r)))),
    ("/v1/health/checks/", GET, Blocking(|c, r| Box::pin(health::checks(c, r)))),
    ("/v1/health/state/", GET, Blocking(|c, r| Box::pin(health::state(c, r)))),
    ("/v1/health/node/", GET, Blocking(|c, r| Box::pin(health::node(c, r)))),
    ("/v1/status/leader", GET, Plain(catalog::leader)),
    ("/v1/status/peers", GET, Plain(catalog::peers)),
    (KV, CRUD, Blocking(|c, r| Box::pin(kv::endpoint(c, r)))),
    (TXN, PUT, Plain(txn::transact)),
    ("/v1/session/create", PUT, Plain(session::create)),
    ("/v1/session/renew/", PUT, Plain(session::renew)),
    ("/v1/session/destroy/", PUT, Plain(session::destroy)),
    ("/v1/session/info/", GET, Blocking(|c, r| Box::pin(session::info(c, r)))),
    ("/v1/session/node/", GET, Blocking(|c, r| Box::pin(session::of_node(c, r)))),
    ("/v1/session/list", GET, Blocking(|c, r| Box::pin(session::list(c, r)))),
    ("/v1/event/fire/", PUT, Plain(event::fire)),
    ("/v1/event/list", GET, Blocking(|c, r| Box::pin(event::list(c, r)))),
    ("/v1/query", ANY, Unsupported("prepared queries")),
    ("/v1/query/", ANY, Unsupported("prepared queries")),
    ("/v1/acl/bootstrap", PUT, Plain(unused::acl)),
    ("/v1/acl/create", PUT, Plain(unused::acl)),
    ("/v1/acl/update", PUT, Plain(unused::acl)),
    ("/v1/acl/destroy/", PUT, Plain(unused::acl)),
    ("/v1/acl/info/", GET, Plain(unused::acl)),
    ("/v1/acl/clone/", PUT, Plain(unused::acl)),
    ("/v1/acl/list", GET, Plain(unused::acl)),
    ("/v1/acl/login", POST, Plain(unused::acl)),
    ("/v1/acl/logout", POST, Plain(unused::acl)),
    ("/v1/acl/replication", GET, Plain(unused::acl)),
    ("/v1/acl/policies", GET, Plain(unused::acl)),
    ("/v1/acl/policy", PUT, Plain(unused::acl)),
    ("/v1/acl/policy/", CRUD, Plain(unused::acl)),
    ("/v1/acl/policy/name/", GET, Plain(unused::acl)),
    ("/v1/acl/roles", GET, Plain(unused::acl)),
    ("/v1/acl/role", PUT, Plain(unused::acl)),
    ("/v1/acl/role/name/", GET, Plain(unused::acl)),
    ("/v1/acl/role/", CRUD, Plain(unused::acl)),
    ("/v1/acl/binding-rules", GET, Plain(unused::acl)),
    ("/v1/acl/binding-rule", PUT, Plain(unused::acl)),
    ("/v1/acl/binding-rule/", CRUD, Plain(unused::acl)),
    ("/v1/acl/auth-methods", GET, Plain(unused::acl)),
    ("/v1/acl/auth-method", PUT, Plain(unused::acl)),
    ("/v1/acl/auth-method/", CRUD, Plain(unused::acl)),
    ("/v1/acl/tokens", GET, Plain(unused::acl)),
    ("/v1/acl/token", PUT, Plain(unused::acl)),
    ("/v1/acl/token/self", GET, Plain(unused::acl)),
    ("/v1/acl/token/", CRUD, Plain(unused::acl)),
    ("/v1/acl/rules/translate", ANY, Unsupported("ACLs")),
    ("/v1/acl/rules/translate/", ANY, Unsupported("ACLs")),
    ("/v1/config", ANY, Unsupported("configuration entries")),
    ("/v1/config/", ANY, Unsupported("configuration entries")),
    ("/v1/connect/", ANY, Unsupported("Connect")),
    ("/v1/discovery-chain/", ANY, Unsupported("Connect")),
    ("/v1/agent/connect/", ANY, Unsupported("Connect")),
    ("/v1/catalog/connect/", GET, Blocking(|c, r| Box::pin(unused::proxies(c, r)))),
    ("/v1/catalog/gateway-services/", ANY, Unsupported("Connect")),
    ("/v1/health/connect/", GET, Blocking(|c, r| Box::pin(unused::proxy_health(c, r)))),
    ("/v1/health/ingress/", GET, Blocking(|c, r| Box::pin(unused::gateway_health(c, r)))),
    ("/v1/coordinate/datacenters", GET, Plain(coordinate::datacenters)),
    ("/v1/coordinate/nodes", GET, Blocking(|c, r| Box::pin(coordinate::nodes(c, r)))),
    ("/v1/coordinate/node/", GET, Blocking(|c, r| Box::pin(coordinate::node(c, r)))),
    ("/v1/coordinate/update", PUT, Plain(coordinate::update)),
    ("/v1/operator/", ANY, Unsupported("operator endpoints")),
    ("/v1/snapshot", ANY, Unsupported("snapshots")),
    ("/v1/agent/join/", ANY, Unsupported("cluster to join")),
    ("/v1/agent/host", ANY, Unsupported("facts of its host")),
    ("/v1/agent/monitor", GET, Plain(unused::monitor)),
    ("/v1/agent/token/", PUT, Plain(unused::acl)),
];

/// The endpoint of a decoded path: the longest match.
pub(super) fn find_route(path: &str) -> Option<Route<'_>> {
    if path == "/" {
        let handler = Plain(|_, _| Ok(Reply::root()));
        return Some(Route {
            path: "/",
            handler,
            methods: &["GET", "HEAD"],
            rest: "",
            judges_size: false,
            takes_namespace: true,
        });
    }
    let fits = |known: &str| if known.ends_with('/') { path.starts_with(known) } else { path == known };
    let (known, methods, handler) =
        PATHS.iter().filter(|(known, ..)| fits(known)).max_by_key(|(known, ..)| known.len())?;
    let rest = path.strip_prefix(known).unwrap_or_default();
    let judges_size = [KV, TXN].contains(known);
    let takes_namespace = IGNORE_NAMESPACE.iter().any(|beginning| known.starts_with(beginning));
    Some(Route { path: known, handler: *handler, methods, rest, judges_size, takes_namespace })
}

/// Whether Consul takes this character in a path: no control characters, and no space but the common one.
pub(super) fn is_printable(char: char) -> bool {
    char == ' ' || !(char.is_control() || char.is_whitespace())
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
            ("/v1/agent/service/register", Some("")),
            ("/v1/agent/service/register/", Some("register/")),
            ("/v1/agent/service/deregister/a/b", Some("a/b")),
            ("/v1/health/service/", Some("")),
            ("/v1/agent/services/", None),
            ("/V1/agent/services", None),
            ("/v1/agent/version", None),
        ];
        for (path, expected) in cases {
            // What is left tells which path matched.
            assert_eq!(find_route(path).map(|route| route.rest), expected, "{path}");
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
