//! The changes that move an index, and the watches that they wake.

use crate::case::{
    Case, all, case, deregister, fresh_case, get, outcome, over, put, register, watch, watch_ahead,
};

pub(crate) fn cases() -> Vec<Case> {
    let lc = "/v1/health/service/lc";
    let plain = r#"{"Name":"lc","ID":"lc-1","Port":1}"#;
    let tagged = r#"{"Name":"lc","ID":"lc-1","Port":1,"Tags":["x"]}"#;
    let checked = r#"{"Name":"lc","ID":"lc-1","Port":1,"Tags":["x"],"Check":{"TTL":"10m"}}"#;
    let other = r#"{"Name":"unrel","ID":"un-1","Port":1,"Check":{"TTL":"10m","Status":"passing"}}"#;
    vec![
        case(
            "a service and its watchers",
            all(vec![
                // A name without a service, after a service was removed.
                vec![register(other), deregister("un-1")],
                over(lc, register(r#"{"Name":"unrel","ID":"un-1","Port":1}"#)),
                over(lc, deregister("un-1")),
                over(lc, register(plain)),
                over(lc, register(plain)),
                over(lc, register(tagged)),
                over(lc, register(checked)),
                over(lc, put("/v1/agent/check/pass/service:lc-1", "")),
                over(lc, put("/v1/agent/check/pass/service:lc-1", "")),
                over(lc, put("/v1/agent/check/pass/service:lc-1?note=changed", "")),
                over(lc, put("/v1/agent/check/warn/service:lc-1", "")),
                over(lc, register(r#"{"Name":"lc","ID":"lc-2","Port":2}"#)),
                over(lc, register(other)),
                over(lc, put("/v1/agent/check/fail/service:un-1", "")),
                over(lc, deregister("un-1")),
                over(
                    lc,
                    put("/v1/agent/check/register", r#"{"Name":"nodechk","TTL":"10m","Status":"passing"}"#),
                ),
                over(lc, put("/v1/agent/check/fail/nodechk", "")),
                over(lc, put("/v1/agent/check/deregister/nodechk", "")),
                over("/v1/health/service/lc?passing=1", put("/v1/agent/check/fail/service:lc-1", "")),
                over("/v1/health/service/lc?tag=x", register(r#"{"Name":"lc","ID":"lc-2","Port":22}"#)),
                over(lc, put("/v1/agent/service/maintenance/lc-1?enable=true", "")),
                over(lc, put("/v1/agent/service/maintenance/lc-1?enable=false", "")),
                over(lc, deregister("lc-1")),
                over(lc, deregister("lc-2")),
            ]),
        ),
        case(
            "an index that was never reached",
            vec![register(plain), watch_ahead(lc), register(tagged), outcome()],
        ),
        case(
            "a service renamed",
            vec![
                register(plain),
                watch(lc),
                register(r#"{"Name":"lcx","ID":"lc-1","Port":1}"#),
                outcome().differs("wakes the watches of the old name; Consul does not wake them"),
                get(lc),
                get("/v1/health/service/lcx"),
            ],
        ),
        case(
            "the catalog and its watchers",
            all(vec![
                vec![register(checked), register(other)],
                over("/v1/catalog/service/lc", put("/v1/agent/check/pass/service:lc-1", "")),
                over("/v1/catalog/service/lc", register(other)),
                over("/v1/catalog/service/lc", register(plain)),
                over("/v1/catalog/services", put("/v1/agent/check/fail/service:lc-1", "")),
                over("/v1/catalog/services", register(r#"{"Name":"unrel","ID":"un-2","Port":9}"#)),
                over("/v1/catalog/nodes", register(r#"{"Name":"unrel","ID":"un-2","Port":10}"#)),
                over("/v1/catalog/node/lab1", put("/v1/agent/check/pass/service:lc-1", "")),
                over("/v1/catalog/node/lab1", register(r#"{"Name":"unrel","ID":"un-2","Port":11}"#)),
                over("/v1/health/checks/lc", put("/v1/agent/check/fail/service:un-1", "")),
                over("/v1/health/state/any", put("/v1/agent/check/pass/service:un-1", "")),
                over("/v1/health/node/lab1", put("/v1/agent/check/fail/service:un-1", "")),
                over("/v1/health/node/lab1", register(r#"{"Name":"unrel","ID":"un-2","Port":12}"#)),
            ]),
        ),
        fresh_case(
            "names without a service before the first loss",
            all(vec![
                over(
                    lc,
                    register(r#"{"Name":"u","ID":"u-1","Port":1,"Check":{"TTL":"10m","Status":"passing"}}"#),
                ),
                over(lc, put("/v1/agent/check/fail/service:u-1", "")),
                over(
                    lc,
                    register(r#"{"Name":"u","ID":"u-1","Port":2,"Check":{"TTL":"10m","Status":"passing"}}"#),
                ),
                over(lc, put("/v1/agent/check/register", r#"{"Name":"n","TTL":"10m"}"#)),
                over(lc, deregister("u-1")),
                over(lc, register(r#"{"Name":"v","ID":"v-1","Port":1}"#)),
            ]),
        ),
        case(
            "parameters of a blocking query",
            vec![
                get("/v1/health/service/x?index=abc"),
                get("/v1/health/service/x?index=-1"),
                get("/v1/health/service/x?index=1.5"),
                get("/v1/health/service/x?index=+2"),
                get("/v1/health/service/x?index=18446744073709551616"),
                get("/v1/health/service/x?index="),
                get("/v1/health/service/x?index=0&wait=1s"),
                get("/v1/health/service/x?wait=1"),
                get("/v1/health/service/x?wait=abc"),
                get("/v1/health/service/x?wait=1%20s"),
                get("/v1/health/service/x?index=1&wait=10m"),
            ],
        ),
    ]
}
