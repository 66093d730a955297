//! Sessions: what they hold, how they end, and what becomes of their locks.

use std::time::Duration;

use crate::case::{
    Case, Step, all, call, case, deregister, fresh_case, get, outcome, over, pause, put, register, watch,
};

/// The id of no session.
pub(super) const UNKNOWN: &str = "11111111-1111-1111-1111-111111111111";

/// Creates a session; `{name}` stands for its id from then on.
fn create(body: &str, name: &'static str) -> Step {
    put("/v1/session/create", body).saving("/ID", name)
}

fn destroy(name: &str) -> Step {
    put(&format!("/v1/session/destroy/{{{name}}}"), "")
}

fn info(name: &str) -> Step {
    get(&format!("/v1/session/info/{{{name}}}"))
}

fn acquire(key: &str, name: &str, value: &str) -> Step {
    put(&format!("/v1/kv/{key}?acquire={{{name}}}"), value)
}

fn release(key: &str, name: &str, value: &str) -> Step {
    put(&format!("/v1/kv/{key}?release={{{name}}}"), value)
}

/// A body that is accepted, and the session that it makes.
fn accepted(body: &str) -> Vec<Step> {
    vec![create(body, "s"), info("s"), destroy("s")]
}

pub(crate) fn cases() -> Vec<Case> {
    [lives(), bodies(), locks(), ends()].into_iter().flatten().collect()
}

fn lives() -> Vec<Case> {
    let info_of = |id: &str| get(&format!("/v1/session/info/{id}"));
    let ids = [
        "bad",
        "",
        UNKNOWN,
        "11111111-1111-1111-1111-11111111111",
        "11111111-1111-1111-1111-1111111111111",
        "zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz",
        "111111111111111111111111111111111111",
        "------------------------------------",
        "11111111-1111-1111-1111-11111111-111",
        "11111111-1111-1111-111111111-11111z1",
        "1111111-1111-1111-1111-111111111111a",
        "11111111-1111-1111-1111-11111111111%20",
        "11111111-1111-1111-1111-1111111111%C3%A9",
        "11111111-1111-1111-1111-11111111111%01",
        "11111111111111111111111-111111111111",
        "a/b",
    ];
    vec![
        fresh_case(
            "no session at all",
            vec![
                get("/v1/session/list"),
                get("/v1/session/node/lab1"),
                get("/v1/session/node/nope"),
                info_of(UNKNOWN),
                put(&format!("/v1/session/destroy/{UNKNOWN}"), ""),
                get("/v1/session/list"),
            ],
        ),
        case(
            "a session",
            vec![
                create("", "s"),
                info("s"),
                get("/v1/session/list"),
                get("/v1/session/list?pretty"),
                get("/v1/session/list?stale"),
                get("/v1/session/list?cached"),
                get("/v1/session/node/lab1"),
                get("/v1/session/node/LAB1"),
                get("/v1/session/node/nope"),
                put("/v1/session/renew/{s}", ""),
                put("/v1/session/renew/{s}?pretty", "a body is ignored"),
                destroy("s"),
                destroy("s"),
                info("s"),
                put("/v1/session/renew/{s}", ""),
                get("/v1/session/list"),
                put("/v1/session/create?pretty", "{}"),
            ],
        ),
        case(
            "ids of sessions",
            all(ids
                .map(|id| {
                    vec![
                        info_of(id),
                        put(&format!("/v1/session/renew/{id}"), ""),
                        put(&format!("/v1/session/destroy/{id}"), ""),
                        put(&format!("/v1/kv/id?acquire={id}"), "x"),
                        put(&format!("/v1/kv/id?release={id}"), "x"),
                    ]
                })
                .into()),
        ),
        case(
            "requests on sessions refused",
            vec![
                get("/v1/session/node/"),
                get("/v1/session/info/"),
                get("/v1/session/info"),
                get("/v1/session/node"),
                get("/v1/session/renew"),
                get("/v1/session/"),
                get("/v1/session/nope"),
                get("/v1/session/list/"),
                get("/v1/session/create"),
                call("POST", "/v1/session/create", "{}"),
                call("POST", "/v1/session/renew/x", ""),
                call("DELETE", "/v1/session/destroy/x", ""),
                call("PUT", "/v1/session/list", ""),
                call("PUT", "/v1/session/node/x", ""),
                call("PUT", "/v1/session/info/x", ""),
                call("HEAD", "/v1/session/list", ""),
                call("OPTIONS", "/v1/session/list", ""),
                call("OPTIONS", "/v1/session/renew/x", ""),
                get("/v1/session/list?index=abc"),
                get("/v1/session/list?wait=x"),
                get("/v1/session/list?stale&consistent"),
                get("/v1/session/list?dc=nope"),
                get("/v1/session/list?ns=x"),
                get("/v1/session/node/x?dc=nope"),
                get("/v1/session/node/x?index=abc"),
                get("/v1/session/node/?index=abc"),
                get(&format!("/v1/session/info/{UNKNOWN}?index=abc")),
                get(&format!("/v1/session/info/{UNKNOWN}?dc=nope")),
                get("/v1/session/info/bad?dc=nope"),
                put(&format!("/v1/session/renew/{UNKNOWN}?index=abc"), ""),
                put(&format!("/v1/session/renew/{UNKNOWN}?wait=abc"), ""),
                put(&format!("/v1/session/renew/{UNKNOWN}?stale&consistent"), ""),
                put(&format!("/v1/session/renew/{UNKNOWN}?dc=nope"), ""),
                put(&format!("/v1/session/destroy/{UNKNOWN}?index=abc"), ""),
                put(&format!("/v1/session/destroy/{UNKNOWN}?dc=nope"), ""),
                put("/v1/session/create?dc=nope", "{}"),
                put("/v1/session/create?dc=nope", "{"),
                put("/v1/session/create?dc=nope", r#"{"TTL":"5s"}"#),
                put("/v1/session/create?ns=x", "{}"),
                put("/v1/session/create?index=abc", r#"{"TTL":"5s"}"#),
            ],
        ),
        case(
            "sessions and their watchers",
            all(vec![
                vec![create("", "s")],
                over("/v1/session/list", put("/v1/session/renew/{s}", "")),
                over("/v1/session/list", put("/v1/kv/other", "x")),
                over("/v1/session/info/{s}", create("", "t")),
                over("/v1/session/info/{s}", destroy("t")),
                over("/v1/session/info/{s}", destroy("s")),
                over("/v1/session/info/{s}", destroy("t")),
                over("/v1/session/list", destroy("t")),
                over("/v1/session/list", create("", "u")),
                over("/v1/session/list", destroy("u")),
                over("/v1/session/node/lab1", create("", "v")),
                over("/v1/session/node/lab1", destroy("v")),
                over("/v1/session/node/nope", create("", "w")),
            ]),
        ),
    ]
}

fn bodies() -> Vec<Case> {
    let good = [
        "{}",
        "null",
        r#"{"Name":"a b <c>","Node":"LAB1","TTL":"10s","LockDelay":"1s","Behavior":"delete"}"#,
        r#"{"name":"lower","ttl":"60s","lockdelay":"2s","behavior":"release"}"#,
        r#"{"Bogus":1,"ID":"x","CreateIndex":7,"Namespace":"x","Datacenter":"dc9"} trailing"#,
        r#"{"Behavior":"","TTL":"","LockDelay":null,"Node":null,"Name":null}"#,
        r#"{"TTL":"0s"}"#,
        r#"{"TTL":"0"}"#,
        r#"{"TTL":"24h"}"#,
        r#"{"TTL":null}"#,
        r#"{"LockDelay":0}"#,
        r#"{"LockDelay":15}"#,
        r#"{"LockDelay":999}"#,
        r#"{"LockDelay":1000}"#,
        r#"{"LockDelay":1.5}"#,
        r#"{"LockDelay":-5}"#,
        r#"{"LockDelay":5000000000}"#,
        r#"{"LockDelay":"0"}"#,
        r#"{"LockDelay":"2m"}"#,
        r#"{"LockDelay":"-1s"}"#,
        r#"{"LockDelay":"999ns"}"#,
        r#"{"LockDelay":true}"#,
        r#"{"LockDelay":[1]}"#,
        r#"{"Checks":null}"#,
        r#"{"Checks":[]}"#,
        r#"{"Checks":["serfHealth"]}"#,
        r#"{"Checks":["svchk"]}"#,
        r#"{"Checks":["svchk","serfHealth"]}"#,
        r#"{"NodeChecks":null}"#,
        r#"{"NodeChecks":[]}"#,
        r#"{"NodeChecks":["SERFHEALTH","svchk"]}"#,
        r#"{"NodeChecks":[],"Checks":[]}"#,
        r#"{"NodeChecks":[],"Checks":["svchk"]}"#,
        r#"{"NodeChecks":["serfHealth"],"Checks":[]}"#,
        r#"{"NodeChecks":["serfHealth"],"Checks":["svchk"]}"#,
        r#"{"ServiceChecks":null}"#,
        r#"{"ServiceChecks":[]}"#,
        r#"{"ServiceChecks":[{"ID":"svchk"}]}"#,
        r#"{"ServiceChecks":[{"id":"svchk","Namespace":"x"}],"NodeChecks":[]}"#,
        r#"{"node_checks":[],"Lock_Delay":"3s"}"#,
    ];
    let bad = [
        "[]",
        "\"x\"",
        "5",
        "{",
        "{bad",
        r#"{"TTL":"5s"}"#,
        r#"{"TTL":"9999ms"}"#,
        r#"{"TTL":"25h"}"#,
        r#"{"TTL":"86401s"}"#,
        r#"{"TTL":"-10s"}"#,
        r#"{"TTL":"10"}"#,
        r#"{"TTL":"bad"}"#,
        r#"{"TTL":10}"#,
        r#"{"LockDelay":"bad"}"#,
        r#"{"LockDelay":""}"#,
        r#"{"Behavior":"bogus"}"#,
        r#"{"Behavior":"DELETE"}"#,
        r#"{"Behavior":5}"#,
        r#"{"Name":5}"#,
        r#"{"Node":""}"#,
        r#"{"Node":"nonode"}"#,
        r#"{"Node":"nonode","TTL":"5s"}"#,
        r#"{"Node":"","TTL":"5s"}"#,
        r#"{"TTL":"5s","Behavior":"bogus"}"#,
        r#"{"Checks":["nope"]}"#,
        r#"{"Checks":"x"}"#,
        r#"{"Checks":[1]}"#,
        r#"{"NodeChecks":["nope"]}"#,
        r#"{"NodeChecks":[""]}"#,
        r#"{"NodeChecks":5}"#,
        r#"{"NodeChecks":[5]}"#,
        r#"{"ServiceChecks":[{"ID":"nope"}]}"#,
        r#"{"ServiceChecks":[{}]}"#,
        r#"{"ServiceChecks":["x"]}"#,
        r#"{"ServiceChecks":"x"}"#,
        r#"{"NodeChecks":["critical"]}"#,
        r#"{"ServiceChecks":[{"ID":"critical"}]}"#,
        r#"{"Checks":["serfHealth","critical"]}"#,
    ];
    let service = r#"{"Name":"sv","Checks":[{"CheckID":"svchk","TTL":"10m","Status":"passing"},{"CheckID":"critical","TTL":"10m"}]}"#;
    vec![
        case(
            "bodies that create a session",
            [vec![register(service)], all(good.map(accepted).into())].concat(),
        ),
        case(
            "bodies that create no session",
            [vec![register(service)], bad.map(|body| put("/v1/session/create", body)).into()].concat(),
        ),
    ]
}

fn locks() -> Vec<Case> {
    vec![
        case(
            "a lock",
            vec![
                create("", "s"),
                create(r#"{"Name":"other"}"#, "t"),
                acquire("lk", "s", "holder"),
                get("/v1/kv/lk").saving("/0/ModifyIndex", "held"),
                // The same value again by the holder changes nothing.
                acquire("lk", "s", "holder"),
                put("/v1/kv/lk?cas={held}", "holder"),
                acquire("lk", "s", "again"),
                get("/v1/kv/lk"),
                acquire("lk", "t", "other"),
                release("lk", "t", "other"),
                get("/v1/kv/lk"),
                release("lk", "s", "free"),
                get("/v1/kv/lk"),
                release("lk", "s", "free"),
                release("none", "s", "x"),
                get("/v1/kv/none"),
                // No lock-delay after a release.
                put("/v1/kv/lk?acquire={t}&flags=7", "second"),
                get("/v1/kv/lk"),
                put("/v1/kv/lk", "a plain write"),
                get("/v1/kv/lk"),
                acquire("lk", "t", "a plain write"),
                get("/v1/kv/lk"),
                release("lk", "t", ""),
                get("/v1/kv/lk"),
                put("/v1/kv/lk?acquire=", "x"),
                put("/v1/kv/lk?release=", "x"),
                put(&format!("/v1/kv/lk?acquire={UNKNOWN}"), "x"),
                acquire("lk", "s", "x"),
                call("DELETE", "/v1/kv/lk", ""),
                info("s"),
                acquire("lk", "t", "x"),
                get("/v1/kv/lk"),
            ],
        ),
        case(
            "a lock and its watchers",
            all(vec![
                vec![create(r#"{"LockDelay":0}"#, "s"), create(r#"{"LockDelay":0}"#, "t")],
                over("/v1/kv/wl", acquire("wl", "s", "1")),
                over("/v1/kv/wl", acquire("wl", "s", "1")),
                over("/v1/kv/wl", acquire("wl", "t", "1")),
                over("/v1/kv/wl", release("wl", "t", "1")),
                over("/v1/kv/wl", release("wl", "s", "1")),
                over("/v1/kv/wl", acquire("wl", "t", "1")),
                over("/v1/kv/wl", destroy("t")),
                over("/v1/kv/wl", acquire("wl", "s", "1")),
                over("/v1/kv/?keys", destroy("s")),
            ]),
        ),
        case(
            "a session that deletes its keys",
            all(vec![
                vec![
                    create(r#"{"Behavior":"delete","LockDelay":0}"#, "s"),
                    acquire("dk/1", "s", "1"),
                    acquire("dk/2", "s", "2"),
                    put("/v1/kv/dk/3", "3"),
                ],
                over("/v1/kv/dk/?recurse", destroy("s")),
                vec![get("/v1/kv/dk/?keys"), create("", "t"), acquire("dk/1", "t", "1"), get("/v1/kv/dk/1")],
            ]),
        ),
        case(
            "the lock-delay",
            vec![
                create(r#"{"LockDelay":"1s"}"#, "s"),
                create("", "t"),
                acquire("ld", "s", "1"),
                acquire("ld2", "s", "1"),
                acquire("free", "s", "1"),
                release("free", "s", "1"),
                destroy("s"),
                get("/v1/kv/ld"),
                acquire("ld", "t", "2"),
                acquire("free", "t", "2"),
                put("/v1/kv/ld", "a plain write"),
                put("/v1/txn", r#"[{"KV":{"Verb":"lock","Key":"ld","Session":"{t}"}}]"#),
                put(
                    "/v1/txn",
                    r#"[{"KV":{"Verb":"get","Key":"none"}},{"KV":{"Verb":"lock","Key":"ld","Session":"{t}"}},{"KV":{"Verb":"lock","Key":"ld2","Session":"bad"}}]"#,
                ),
                // The lock-delay outlives the key.
                call("DELETE", "/v1/kv/ld", ""),
                acquire("ld", "t", "2"),
                pause(Duration::from_millis(1300)),
                acquire("ld", "t", "3"),
                get("/v1/kv/ld"),
                acquire("ld2", "t", "3"),
                create(r#"{"LockDelay":"1m","Behavior":"delete"}"#, "u"),
                acquire("ld3", "u", "1"),
                destroy("u"),
                acquire("ld3", "t", "1"),
                create(r#"{"LockDelay":"-1s"}"#, "v"),
                acquire("ld4", "v", "1"),
                destroy("v"),
                acquire("ld4", "t", "1"),
            ],
        ),
    ]
}

fn ends() -> Vec<Case> {
    let service =
        r#"{"Name":"sv","ID":"sv-1","Port":1,"Check":{"TTL":"10m","Status":"passing","CheckID":"svchk"}}"#;
    let node_check = r#"{"Name":"nodechk","TTL":"10m","Status":"passing"}"#;
    let report = |status: &str, check: &str| put(&format!("/v1/agent/check/{status}/{check}"), "");
    // A session with these checks and a lock, during a change.
    let during = |checks: &str, change: Step| {
        vec![
            register(service),
            put("/v1/agent/check/register", node_check),
            put("/v1/agent/check/pass/svchk", ""),
            put("/v1/agent/check/pass/nodechk", ""),
            create(&format!(r#"{{"LockDelay":0,{checks}}}"#), "s"),
            acquire("el", "s", "x"),
            watch("/v1/session/info/{s}"),
            change,
            outcome(),
            get("/v1/kv/el"),
            destroy("s"),
        ]
    };
    let external = |checks: &str, status: &str| {
        let body =
            format!(r#"{{"Node":"ext1","Address":"127.0.0.9","Check":{{"Name":"ec","Status":"{status}"}}}}"#);
        [
            vec![put("/v1/catalog/register", &body)],
            vec![create(&format!(r#"{{"Node":"ext1",{checks}}}"#), "s")],
        ]
        .concat()
    };
    vec![
        case(
            "sessions and their checks",
            all(vec![
                during(r#""NodeChecks":["nodechk"]"#, report("warn", "nodechk")),
                during(r#""NodeChecks":["nodechk"]"#, report("fail", "nodechk")),
                during(r#""NodeChecks":["NODECHK"]"#, report("fail", "nodechk")),
                during(r#""NodeChecks":["nodechk"]"#, put("/v1/agent/check/deregister/nodechk", "")),
                during(r#""NodeChecks":["serfHealth"]"#, report("fail", "nodechk")),
                during(r#""ServiceChecks":[{"ID":"svchk"}]"#, report("fail", "svchk")),
                during(r#""ServiceChecks":[{"ID":"svchk"}]"#, deregister("sv-1")),
                during(r#""ServiceChecks":[{"ID":"svchk"}]"#, register(service)),
                during(r#""Checks":["svchk"]"#, report("fail", "svchk")),
                during(r#""Behavior":"delete","Checks":["svchk"]"#, report("fail", "svchk")),
                during(r#""Name":"x""#, put("/v1/agent/maintenance?enable=true", "")),
                vec![put("/v1/agent/maintenance?enable=false", "")],
            ]),
        ),
        case(
            "sessions of a node without an agent",
            all(vec![
                vec![put("/v1/session/create", r#"{"Node":"ext1"}"#)],
                external(r#""Name":"x""#, "passing"),
                external(r#""NodeChecks":["ec"]"#, "critical"),
                external(r#""NodeChecks":["ec"],"LockDelay":0"#, "passing"),
                vec![
                    info("s"),
                    get("/v1/session/node/ext1"),
                    get("/v1/session/node/EXT1"),
                    acquire("xl", "s", "1"),
                ],
                over(
                    "/v1/session/node/ext1",
                    put(
                        "/v1/catalog/register",
                        r#"{"Node":"ext1","Address":"127.0.0.9","Check":{"Name":"ec","Status":"critical"}}"#,
                    ),
                ),
                vec![get("/v1/kv/xl")],
                external(r#""NodeChecks":["ec"],"LockDelay":0"#, "passing"),
                over(
                    "/v1/session/node/ext1",
                    put("/v1/catalog/deregister", r#"{"Node":"ext1","CheckID":"ec"}"#),
                ),
                external(r#""NodeChecks":[],"LockDelay":0"#, "passing"),
                vec![acquire("xl", "s", "2")],
                over("/v1/session/node/ext1", put("/v1/catalog/deregister", r#"{"Node":"ext1"}"#)),
                vec![get("/v1/kv/xl"), info("s")],
            ]),
        ),
        case(
            "the time to live of a session",
            vec![
                create(r#"{"TTL":"10s","LockDelay":0}"#, "short"),
                create(r#"{"TTL":"10s","LockDelay":0}"#, "renewed"),
                create(r#"{"TTL":"0s"}"#, "endless"),
                acquire("ttl", "short", "x"),
                pause(Duration::from_secs(11)),
                // The server waits twice the time to live.
                info("short"),
                put("/v1/session/renew/{renewed}", ""),
                pause(Duration::from_secs(10)),
                info("short"),
                info("renewed"),
                info("endless"),
                get("/v1/kv/ttl"),
                put("/v1/session/renew/{short}", ""),
            ],
        ),
    ]
}
