//! Registrations that are refused, and the error texts.

use crate::case::{Case, case, get, register};

/// Bodies that Consul and the dev registry refuse with the same text.
const REFUSED: &[&str] = &[
    r#"{"Name":""}"#,
    r#"{"ID":"x"}"#,
    "",
    "null",
    r#"{"Name":"#,
    r#"{Name:"x"}"#,
    r#"{"Name":"e","Port":"80"}"#,
    r#"{"Name":"e","Port":80.5}"#,
    r#"{"Name":"e","Bogus":1}"#,
    r#"{"Name":"e","Check":{"TTL":"5s","Bogus":1}}"#,
    r#"{"Name":5}"#,
    r#"{"Name":"e","Tags":"a"}"#,
    r#"{"Name":"e","Tags":[1]}"#,
    r#"{"Name":"e","ID":7}"#,
    r#"{"Name":"e","Address":5}"#,
    r#"{"Name":"e","Address":"0.0.0.0"}"#,
    r#"{"Name":"e","Address":"::"}"#,
    r#"{"Name":"e","Namespace":"default"}"#,
    r#"{"Service":"e"}"#,
    r#"{"Name":"e","EnableTagOverride":"yes"}"#,
    r#"{"Name":"e","Checks":{"TTL":"5s"}}"#,
    r#"{"Name":"e","TaggedAddresses":{"lan":"127.0.0.1"}}"#,
    r#"{"Name":"e","Weights":{"Passing":0}}"#,
    r#"{"Name":"e","Weights":{"Passing":70000,"Warning":1}}"#,
    r#"{"Name":"e","Weights":{"Passing":-1,"Warning":1}}"#,
    r#"{"Name":"e","Weights":{"Warning":5}}"#,
    r#"{"Name":"e","Meta":{"bad key":"x"}}"#,
    r#"{"Name":"e","Meta":{"consul-foo":"x"}}"#,
    r#"{"Name":"e","Meta":{"k":1}}"#,
    r#"{"Name":"e","Meta":{"k":true}}"#,
    r#"{"Name":"e","Check":{"TTL":"5s","Timeout":"bad"}}"#,
    r#"{"Name":"e","Check":{"TTL":"30"}}"#,
    r#"{"Name":"e","Check":{"TTL":"5s","Status":"bogus"}}"#,
    r#"{"Name":"e","Check":{"Name":"only"}}"#,
    r#"{"Name":"e","Check":{"Interval":"5s"}}"#,
    r#"{"Name":"e","Check":{"TTL":"-5s"}}"#,
    r#"{"Name":"e","Check":{"TTL":"5s","Interval":"5s"}}"#,
    r#"{"Name":"e","Check":{"HTTP":"http://127.0.0.1:9"}}"#,
    r#"{"Name":"e","Check":{"TCP":"127.0.0.1:9"}}"#,
    r#"{"Name":"e","Check":{"OutputMaxSize":-1,"HTTP":"http://127.0.0.1:9","Interval":"10s"}}"#,
    r#"{"Name":"e","Check":{"Args":["true"],"Interval":"10s"}}"#,
];

pub(crate) fn cases() -> Vec<Case> {
    let mut steps: Vec<_> = REFUSED.iter().map(|body| register(body)).collect();
    let pairs = |count: usize, key: &str, value: &str| {
        let pairs: Vec<String> = (0..count).map(|nth| format!(r#""{key}{nth}":"{value}""#)).collect();
        format!(r#"{{"Name":"e","Meta":{{{}}}}}"#, pairs.join(","))
    };
    steps.push(register(&pairs(65, "k", "x")));
    steps.push(register(&pairs(1, &"k".repeat(128), "x")));
    steps.push(register(&pairs(1, "k", &"v".repeat(513))));
    // No refused registration left an entry.
    steps.push(get("/v1/agent/services"));
    steps.push(get("/v1/agent/checks"));
    vec![
        case("registrations refused", steps),
        case(
            "registrations that only consul takes",
            vec![
                register("[]").differs("gives a shorter error than Go about the type of a body"),
                register(r#"{"Name":"e","Check":[{"TTL":"5s"}]}"#)
                    .differs("gives a shorter error than Go about the type of a check"),
                register(r#"{"Name":"e","Check":{"GRPC":"127.0.0.1:9","Interval":"10s"}}"#)
                    .differs("runs no gRPC checks"),
                register(r#"{"Name":"e","Check":{"AliasService":"x"}}"#).differs("runs no alias checks"),
                register(r#"{"Name":"e","Check":{"HTTP":"https://127.0.0.1:9/","Interval":"10s"}}"#)
                    .differs("runs no HTTP checks with TLS"),
                register(r#"{"Name":"e","Connect":{"Native":true}}"#).differs("has no Connect"),
                register(r#"{"Name":"e","Kind":"connect-proxy"}"#).differs("has no Connect"),
            ],
        ),
    ]
}
