//! The HTTP layer: paths, methods, headers.

use crate::case::{Case, call, case, get, header_names};

pub(crate) fn cases() -> Vec<Case> {
    let unsupported = "answers 501 with an explanation for such an endpoint";
    vec![
        case(
            "paths and methods",
            vec![
                get("/"),
                get("/v1/nope"),
                get("/v1/agent/version"),
                get("/v1/agent/services/"),
                get("/V1/agent/services"),
                get("/v1//agent/services"),
                get("/v1/./agent/services"),
                get("/v1/x/../agent/services"),
                get("/v1/agent/service/nope"),
                call("POST", "/v1/agent/service/register", "{}"),
                call("GET", "/v1/agent/service/register", ""),
                call("DELETE", "/v1/agent/service/register", ""),
                call("OPTIONS", "/v1/agent/service/register", ""),
                call("HEAD", "/v1/agent/services", ""),
                call("PUT", "/v1/agent/services", ""),
                call("PUT", "/v1/agent/service/register/", "{}"),
                call("POST", "/v1/agent/check/pass/x", ""),
                call("PUT", "/v1/health/service/x", ""),
                call("HEAD", "/v1/nope", ""),
                get("/v1/status/leader?pretty"),
                get("/v1/agent/services?pretty"),
                get("/v1/catalog/datacenters?pretty=false"),
                get("/v1/catalog/datacenters?PRETTY"),
                get("/v1/agent/services?dc=nope&index=5&wait=1s"),
                get("/v1/agent/services?ns=default"),
                get("/v1/health/service/x?tag=%zz"),
                get("/v1/health/service/x%zz"),
                get("/v1/kv/x%2"),
                get("/v1/health/service/%FF"),
                call("PUT", "/v1/kv/%FF%FE", "x"),
                get("/v1/kv/%FF%FE?raw"),
                call("DELETE", "/v1/kv/%FF%FE", ""),
            ],
        ),
        case(
            "headers as written",
            vec![
                header_names("GET", "/v1/health/service/consul"),
                header_names("GET", "/v1/agent/services"),
                header_names("GET", "/v1/health/service/x?dc=nope"),
                header_names("PUT", "/v1/agent/service/deregister/x"),
                header_names("PUT", "/v1/agent/check/pass/x"),
                header_names("POST", "/v1/agent/services"),
                header_names("GET", "/v1/nope"),
            ],
        ),
        case(
            "features that are off or not used",
            vec![
                get("/v1/acl/tokens"),
                get("/v1/acl/nope"),
                get("/v1/acl/"),
                get("/v1/acl/token/x?ns=a"),
                get("/v1/acl/token/self"),
                get("/v1/acl/policy/name/x"),
                get("/v1/acl/bootstrap"),
                call("PUT", "/v1/acl/bootstrap", ""),
                call("PUT", "/v1/acl/token/x", "{"),
                call("PUT", "/v1/acl/policies", ""),
                call("DELETE", "/v1/acl/role/x", ""),
                call("POST", "/v1/acl/login", "{"),
                call("PUT", "/v1/acl/logout", ""),
                call("PUT", "/v1/agent/token/default", "{"),
                get("/v1/agent/token/default"),
                get("/v1/agent/token"),
                get("/v1/agent/monitor?loglevel=bad"),
                call("PUT", "/v1/agent/monitor", ""),
                get("/v1/catalog/connect/x"),
                get("/v1/catalog/connect/x?filter=Nope==1"),
                get("/v1/catalog/connect/x?stale&consistent"),
                get("/v1/catalog/connect/"),
                get("/v1/health/connect/x?filter=Service.ID==x&stale"),
                get("/v1/health/connect/x?filter=Nope==1"),
                get("/v1/health/connect/x?passing=bad"),
                get("/v1/health/connect/x?dc=nope"),
                get("/v1/health/connect/"),
                get("/v1/health/ingress/x"),
                get("/v1/health/ingress/x?passing&filter=Node.Node!=x"),
                get("/v1/health/ingress/"),
                call("PUT", "/v1/health/ingress/x", ""),
            ],
        ),
        case(
            "the parameter of namespaces",
            [
                "agent/members",
                "agent/services",
                "agent/service/x",
                "agent/checks",
                "agent/health/service/name/x",
                "agent/health/service/id/x",
                "agent/monitor",
                "catalog/datacenters",
                "catalog/nodes",
                "catalog/node/nope",
                "catalog/node-services/nope",
                "catalog/service/x",
                "catalog/connect/x",
                "health/service/x",
                "health/checks/x",
                "health/state/critical",
                "health/node/nope",
                "health/connect/x",
                "health/ingress/x",
                "event/list",
                "coordinate/node/nope",
                "status/leader",
                "acl/tokens",
            ]
            .iter()
            .map(|path| get(&format!("/v1/{path}?ns=x&loglevel=bad")))
            .chain(
                [
                    "agent/reload",
                    "agent/maintenance",
                    "agent/force-leave/nope",
                    "coordinate/update",
                    "event/fire/",
                ]
                .iter()
                .chain(&["agent/service/register", "agent/check/pass/x", "txn"])
                .map(|path| call("PUT", &format!("/v1/{path}?ns=x"), "")),
            )
            .collect(),
        ),
        case(
            "endpoints that the dev registry does not have",
            vec![
                get("/v1/query").differs(unsupported),
                get("/v1/operator/raft/configuration").differs(unsupported),
            ],
        ),
    ]
}
