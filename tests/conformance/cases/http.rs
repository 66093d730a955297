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
            "endpoints that the dev registry does not have",
            vec![
                get("/v1/query").differs(unsupported),
                get("/v1/acl/tokens").differs(unsupported),
                get("/v1/health/connect/x").differs(unsupported),
                get("/v1/operator/raft/configuration").differs(unsupported),
            ],
        ),
    ]
}
