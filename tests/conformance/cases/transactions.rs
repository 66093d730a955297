//! Transactions: every verb on a key, its failure, and what no body may hold.

use super::sessions::UNKNOWN;
use crate::case::{Case, Step, call, case, get, outcome, put, watch};

fn txn(ops: &str) -> Step {
    put("/v1/txn", ops)
}

/// A transaction of these operations, each `VERB KEY`, with further fields of the operation.
fn ops(list: &[(&str, &str, &str)]) -> Step {
    let ops: Vec<String> = list
        .iter()
        .map(|(verb, key, fields)| {
            let comma = if fields.is_empty() { "" } else { "," };
            format!(r#"{{"KV":{{"Verb":"{verb}","Key":"{key}"{comma}{fields}}}}}"#)
        })
        .collect();
    txn(&format!("[{}]", ops.join(",")))
}

fn op(verb: &str, key: &str, fields: &str) -> Step {
    ops(&[(verb, key, fields)])
}

pub(crate) fn cases() -> Vec<Case> {
    let index = "/Results/0/KV/ModifyIndex";
    let elsewhere = "has transactions on keys only, and answers 501 to others";
    vec![
        case(
            "transactions on values",
            vec![
                op("set", "t", r#""Value":"eA==","Flags":3"#).saving(index, "first"),
                // An unchanged value does not move the index.
                op("set", "t", r#""Value":"eA==","Flags":3"#),
                op("check-index", "t", r#""Index":{first}"#),
                op("set", "t", r#""Value":"eQ==","Session":"ignored","Index":5"#),
                op("get", "t", ""),
                op("check-index", "t", r#""Index":{first}"#),
                op("check-index", "t", r#""Index":1"#),
                op("check-index", "none", r#""Index":1"#),
                op("cas", "t", r#""Index":{first}"#),
                op("cas", "t", r#""Index":0"#),
                op("cas", "none", r#""Index":1"#),
                op("cas", "new", r#""Index":0,"Value":"eA==""#).saving(index, "new"),
                op("cas", "new", r#""Index":{new},"Value":"eQ==""#).saving(index, "newer"),
                op("cas", "new", r#""Index":{newer},"Value":"eQ==""#),
                op("delete-cas", "new", r#""Index":{new}"#),
                op("delete-cas", "new", r#""Index":{newer}"#),
                op("delete-cas", "new", r#""Index":{newer}"#),
                op("delete", "none", ""),
                op("delete", "t", ""),
                op("get", "t", ""),
                op("check-not-exists", "t", ""),
                op("set", "t", ""),
                op("check-not-exists", "t", ""),
                op("get-tree", "none", ""),
                op("delete-tree", "none", ""),
                op("get-or-empty", "none", ""),
            ],
        ),
        case(
            "transactions on locks",
            vec![
                put("/v1/session/create", r#"{"LockDelay":0}"#).saving("/ID", "s"),
                put("/v1/session/create", r#"{"LockDelay":0}"#).saving("/ID", "o"),
                op("lock", "lk", ""),
                op("lock", "lk", r#""Session":"bad""#),
                op("lock", "lk", &format!(r#""Session":"{UNKNOWN}""#)),
                op("lock", "lk", r#""Session":"{s}","Value":"eA==","Flags":9"#).saving(index, "held"),
                // The holder locks again: true, and with the same value the index stays.
                op("lock", "lk", r#""Session":"{s}","Value":"eA==","Flags":9"#),
                op("check-index", "lk", r#""Index":{held}"#),
                op("lock", "lk", r#""Session":"{s}""#),
                op("lock", "lk", r#""Session":"{o}""#),
                op("get", "lk", ""),
                op("check-session", "lk", r#""Session":"{s}""#),
                op("check-session", "lk", r#""Session":"{o}""#),
                op("check-session", "lk", ""),
                op("check-session", "none", r#""Session":"{s}""#),
                op("unlock", "lk", r#""Session":"{o}""#),
                op("unlock", "lk", r#""Session":"bad""#),
                op("unlock", "lk", ""),
                op("unlock", "none", r#""Session":"{s}""#),
                op("unlock", "lk", r#""Session":"{s}","Value":"eg==""#),
                op("check-session", "lk", ""),
                op("get", "lk", ""),
                ops(&[
                    ("lock", "lk", r#""Session":"{s}""#),
                    ("unlock", "lk", r#""Session":"{s}""#),
                    ("lock", "lk", r#""Session":"{o}""#),
                ]),
                op("set", "lk", r#""Value":"eA==""#),
                get("/v1/kv/lk"),
                put("/v1/session/destroy/{o}", ""),
                get("/v1/kv/lk"),
            ],
        ),
        case(
            "several operations at once",
            vec![
                ops(&[
                    ("set", "m/1", r#""Value":"MQ==""#),
                    ("set", "m/2", r#""Value":"Mg==""#),
                    ("get", "m/1", ""),
                    ("get-tree", "m/", ""),
                    ("delete", "m/1", ""),
                    ("check-not-exists", "m/1", ""),
                    ("get-tree", "m/", ""),
                    ("delete-tree", "m/", ""),
                    ("get-tree", "m/", ""),
                    ("set", "m/3", r#""Value":"Mw==""#),
                ]),
                get("/v1/kv/m/?recurse"),
                ops(&[("get", "m/3", ""), ("get-tree", "m/", ""), ("check-not-exists", "m/4", "")]),
                // All or nothing: each failure is shown, and nothing is changed.
                ops(&[
                    ("set", "m/5", r#""Value":"NQ==""#),
                    ("get", "m/5", ""),
                    ("delete-tree", "m/", ""),
                    ("get", "m/3", ""),
                    ("cas", "m/3", r#""Index":1"#),
                    ("bogus", "m/3", ""),
                ]),
                get("/v1/kv/m/?recurse"),
                ops(&[("get", "none", ""), ("bogus", "x", ""), ("check-index", "m/3", r#""Index":1"#)]),
                ops(&[("set", "", ""), ("get", "none", ""), ("set", "", "")]),
                watch("/v1/kv/m/?recurse"),
                ops(&[("set", "m/6", ""), ("get", "none", "")]),
                outcome(),
                watch("/v1/kv/m/?recurse"),
                ops(&[("set", "m/6", ""), ("set", "m/7", ""), ("delete", "m/3", "")]),
                outcome(),
                ops(&[("get", "m/6", ""); 64]),
                ops(&[("get", "m/6", ""); 65]),
            ],
        ),
        case(
            "a transaction that writes to a tree and deletes it",
            vec![
                put("/v1/kv/q/a", "1"),
                put("/v1/kv/q/b", "1"),
                watch("/v1/kv/q/a"),
                ops(&[("set", "q/b", r#""Value":"Mg==""#), ("delete-tree", "q/", "")]),
                outcome().differs("wakes the watches of the deleted keys; Consul does not wake them"),
                get("/v1/kv/q/?keys"),
                put("/v1/kv/q/a", "1"),
                watch("/v1/kv/q/a"),
                ops(&[("delete-tree", "q/", "")]),
                outcome(),
            ],
        ),
        case(
            "bodies of transactions",
            vec![
                txn(""),
                txn("null"),
                txn("{}"),
                txn("5"),
                txn("\"x\""),
                txn("["),
                txn("[]"),
                txn("[] trailing"),
                txn("[{}]"),
                txn("[5]"),
                txn(r#"[{"KV":null}]"#),
                txn(r#"[{"KV":{}}]"#),
                txn(r#"[{"KV":5}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Value":5}}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Value":"x"}}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Value":"eA"}}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Value":"not base64!"}}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Value":"eA==x"}}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Value":"eA=x"}}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Value":"eA==\n"}}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Value":null}}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Flags":-1}}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Flags":"1"}}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Flags":1.5}}]"#),
                txn(r#"[{"KV":{"Verb":"set","Key":"a","Flags":18446744073709551615}}]"#),
                txn(r#"[{"KV":{"Verb":"cas","Key":"a","Index":"1"}}]"#),
                txn(r#"[{"KV":{"Verb":5,"Key":"a"}}]"#),
                txn(r#"[{"KV":{"Verb":"get","Key":5}}]"#),
                txn(r#"[{"KV":{"Verb":"get","Key":"a","Session":5}}]"#),
                txn(r#"[{"KV":{"Verb":"get","Key":"a","Bogus":1}}]"#),
                txn(r#"[{"Bogus":{}}]"#),
                txn(r#"[{"Session":{"Verb":"delete","Session":{"ID":"x"}}}]"#),
                txn(r#"[{"kv":{"verb":"set","key":"lower","value":"eA==","flags":7}}]"#),
                txn(r#"[{"KV":{"Verb":"SET","Key":"a"}}]"#),
                txn(r#"[{"KV":{"Verb":"get","Key":"a","Namespace":"x"}}]"#),
                txn(r#"[{"KV":{"Verb":"get-tree","Key":""}}]"#),
                txn(r#"[{"KV":{"Verb":"get","Key":"lower"},"Node":{"Verb":"get"}}]"#),
                txn(r#"[{"Node":{"Verb":"get","Node":{"Node":"nope"}}}]"#).differs(elsewhere),
                txn(r#"[{"Service":{"Verb":"get","Node":"lab1","Service":{"ID":"nope"}}}]"#)
                    .differs(elsewhere),
                txn(r#"[{"Check":{"Verb":"get","Check":{"Node":"lab1","CheckID":"nope"}}}]"#)
                    .differs(elsewhere),
                txn("{too large}"),
                put("/v1/txn?dc=nope", "{too large}"),
            ],
        ),
        case(
            "parameters of transactions",
            [
                ["set", "get"]
                    .into_iter()
                    .flat_map(|verb| {
                        let body = format!(r#"[{{"KV":{{"Verb":"{verb}","Key":"p"}}}}]"#);
                        ["pretty", "stale", "consistent", "stale&consistent", "cached&consistent"]
                            .into_iter()
                            .chain(["index=abc", "wait=abc", "dc=nope", "ns=x", "max_stale=bad"])
                            .map(move |query| put(&format!("/v1/txn?{query}"), &body))
                    })
                    .collect(),
                vec![
                    put("/v1/txn?pretty", r#"[{"KV":{"Verb":"get","Key":"none"}}]"#),
                    put("/v1/txn?dc=nope", "{"),
                    put("/v1/txn/", "[]"),
                    put("/v1/txn/x", "[]"),
                    get("/v1/txn"),
                    call("POST", "/v1/txn", "[]"),
                    call("DELETE", "/v1/txn", ""),
                    call("HEAD", "/v1/txn", ""),
                    call("OPTIONS", "/v1/txn", ""),
                ],
            ]
            .concat(),
        ),
    ]
}
