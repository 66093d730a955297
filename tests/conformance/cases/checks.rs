//! Checks: status reports, checks that the agent runs, and checks registered on their own.

use crate::case::{Case, case, get, put, register, until};

pub(crate) fn cases() -> Vec<Case> {
    let checks = "/v1/agent/checks";
    vec![
        case(
            "reports on a check",
            vec![
                register(r#"{"Name":"cu","ID":"cu-1","Port":1,"Check":{"TTL":"60s","CheckID":"ttlc"}}"#),
                put("/v1/agent/check/pass/ttlc", ""),
                get(checks),
                put("/v1/agent/check/warn/ttlc?note=hm%20so", ""),
                get(checks),
                get("/v1/agent/health/service/id/cu-1"),
                get("/v1/health/service/cu?passing=1"),
                put("/v1/agent/check/fail/ttlc", ""),
                get(checks),
                put("/v1/agent/check/update/ttlc", r#"{"status":"passing","output":"<well>"}"#),
                get(checks),
                get("/v1/health/service/cu?passing"),
                // A change of the output alone reaches the agent at once and the catalog late.
                put("/v1/agent/check/pass/ttlc?note=later", ""),
                get(checks),
                get("/v1/health/checks/cu"),
                put("/v1/agent/check/update/ttlc", r#"{"Status":"maintenance"}"#),
                put("/v1/agent/check/update/ttlc", "{}"),
                put("/v1/agent/check/update/ttlc", ""),
                put("/v1/agent/check/update/ttlc", "{bad"),
                put("/v1/agent/check/update/ttlc", r#"{"Status":"passing","Bogus":1}"#),
                put("/v1/agent/check/update/nope", r#"{"Status":"bogus"}"#),
                put("/v1/agent/check/update/nope", r#"{"Status":"passing"}"#),
                put("/v1/agent/check/pass/nope", ""),
                put("/v1/agent/check/pass/", ""),
                put("/v1/agent/check/pass/cu-1", ""),
                put("/v1/agent/check/fail/serfHealth", ""),
                put(&format!("/v1/agent/check/pass/ttlc?note={}", "z".repeat(5000)), ""),
                get(checks),
            ],
        ),
        case(
            "a ttl that runs out",
            vec![
                register(r#"{"Name":"t","ID":"t-1","Check":{"TTL":"300ms","Status":"passing"}}"#),
                until(checks, "TTL expired"),
                // The catalog is updated shortly after the agent.
                until("/v1/health/service/t", "TTL expired"),
                put("/v1/agent/check/pass/service:t-1?note=back", ""),
                until(checks, "TTL expired (last"),
                put("/v1/agent/check/pass/service:t-1", ""),
                get("/v1/health/service/t?passing"),
            ],
        ),
        case(
            "checks of a service and their ids",
            vec![
                register(
                    r#"{"Name":"m","ID":"m-1","Checks":[{"TTL":"30s"},{"TTL":"40s","Status":"passing"},{"TCP":"{closed}","Interval":"60s","Name":"named"}]}"#,
                ),
                register(r#"{"Name":"m","ID":"m-2","Check":{"TTL":"30s"},"Checks":[{"TTL":"30s"}]}"#),
                register(
                    r#"{"Name":"m","ID":"m-3","Checks":[{"TTL":"30s","CheckID":"dup","Status":"warning"},{"TTL":"30s","CheckID":"dup"}]}"#,
                ),
                get(checks),
                // Another service takes over the check with its status.
                register(
                    r#"{"Name":"m","ID":"m-5","Check":{"CheckID":"dup","TTL":"30s","Status":"passing"}}"#,
                ),
                get(checks),
                get("/v1/agent/health/service/id/m-3"),
                get("/v1/agent/health/service/id/m-5"),
                get("/v1/health/service/m"),
                // One check instead of several gets another id and is added.
                register(r#"{"Name":"m","ID":"m-1","Checks":[{"TTL":"30s"}]}"#),
                get(checks),
                register(r#"{"Name":"m","ID":"empty","Check":{}}"#),
                register(r#"{"Name":"m","ID":"zero","Check":{"TTL":"0s"}}"#),
                register(r#"{"Name":"m","ID":"status","Check":{"TTL":"5s","Status":""}}"#),
                get(checks),
            ],
        ),
        case(
            "checks on their own",
            vec![
                put("/v1/agent/check/register", r#"{"Name":"mem","TTL":"30s"}"#),
                register(r#"{"Name":"cr","ID":"cr-1","Port":1,"Tags":["x"]}"#),
                put(
                    "/v1/agent/check/register",
                    r#"{"ID":"cr-chk","Name":"svc check","ServiceID":"cr-1","TTL":"30s","Status":"passing","Notes":"n"}"#,
                ),
                get(checks),
                get("/v1/health/service/cr"),
                get("/v1/health/node/lab1"),
                get("/v1/health/checks/cr"),
                put("/v1/agent/check/register", r#"{"Name":"orphan","ServiceID":"missing","TTL":"30s"}"#),
                put("/v1/agent/check/register", r#"{"TTL":"30s"}"#),
                put("/v1/agent/check/register", r#"{"Name":"x"}"#),
                put("/v1/agent/check/register", r#"{"Name":"x","Status":"bogus","TTL":"5s"}"#),
                put("/v1/agent/check/register", r#"{"Name":"x","Bogus":"bogus","TTL":"5s"}"#),
                put("/v1/agent/check/register", r#"{"Name":"x","CheckID":"cid","TTL":"5s"}"#),
                put("/v1/agent/check/register", "{"),
                put("/v1/agent/check/register", ""),
                put("/v1/agent/check/register", r#"{"Name":"x","ID":"two","TTL":"5s","Interval":"5s"}"#),
                put("/v1/agent/check/deregister/cr-chk", ""),
                get(checks),
            ],
        ),
        case(
            "http checks",
            vec![
                register(r#"{"Name":"w","ID":"ok","Check":{"HTTP":"http://{http}/200","Interval":"1s"}}"#),
                until(checks, "200 All Well Output: said GET"),
                register(r#"{"Name":"w","ID":"busy","Check":{"HTTP":"http://{http}/429","Interval":"1s"}}"#),
                until(checks, "429 Not So Output: said GET"),
                register(
                    r#"{"Name":"w","ID":"bad","Check":{"HTTP":"http://{http}/503","Interval":"1s","Status":"passing"}}"#,
                ),
                until(checks, "503 Not So Output: said GET"),
                register(r#"{"Name":"w","ID":"none","Check":{"HTTP":"http://{http}/204","Interval":"1s"}}"#),
                until(checks, "204 Not So Output: "),
                register(
                    r#"{"Name":"w","ID":"away","Check":{"HTTP":"http://{http}/302","Interval":"1s","Status":"passing"}}"#,
                ),
                until(checks, "missing Location header"),
                register(
                    r#"{"Name":"w","ID":"post","Check":{"HTTP":"http://{http}/200","Method":"POST","Body":"b","Header":{"X-A":["1"]},"OutputMaxSize":4,"Interval":"1s"}}"#,
                ),
                until(checks, "200 All Well Output: POST"),
                register(
                    r#"{"Name":"w","ID":"off","Check":{"HTTP":"http://{closed}/","Interval":"1s","Status":"passing"}}"#,
                ),
                until(checks, "connection refused"),
                until("/v1/health/checks/w", "connection refused"),
                get("/v1/health/service/w?passing"),
                put("/v1/agent/check/pass/service:ok", ""),
            ],
        ),
        case(
            "tcp checks",
            vec![
                register(r#"{"Name":"c","ID":"on","Check":{"TCP":"{open}","Interval":"1s"}}"#),
                until(checks, "Success"),
                register(
                    r#"{"Name":"c","ID":"off","Check":{"TCP":"{closed}","Interval":"1s","Status":"passing"}}"#,
                ),
                until(checks, "connection refused"),
                until("/v1/health/service/c", "connection refused"),
            ],
        ),
        case(
            "the health of a service on the agent",
            vec![
                get("/v1/agent/health/service/name/none"),
                get("/v1/agent/health/service/id/none"),
                get("/v1/agent/health/service/name/none?format=text"),
                get("/v1/agent/health/service/id/none?format=text"),
                get("/v1/agent/health/service/name/"),
                get("/v1/agent/health/service/id/"),
                register(r#"{"Name":"ah","ID":"ah-1","Port":1,"Check":{"TTL":"60s","Status":"passing"}}"#),
                get("/v1/agent/health/service/name/ah"),
                get("/v1/agent/health/service/id/ah-1?format=text"),
                put("/v1/agent/check/warn/service:ah-1", ""),
                get("/v1/agent/health/service/id/ah-1"),
                put("/v1/agent/check/fail/service:ah-1", ""),
                get("/v1/agent/health/service/id/ah-1"),
                get("/v1/agent/health/service/name/ah?format=text"),
            ],
        ),
    ]
}
