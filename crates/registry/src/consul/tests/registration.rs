//! Agent calls about the local app.

use super::{
    scripted_agent::{AgentAction, response},
    *,
};

pub(super) fn registration() -> Registration {
    Registration {
        id: "orders/1".into(),
        name: "orders".into(),
        address: None,
        port: 8080,
        tags: vec!["v2".into()],
        meta: [("version".to_owned(), "2.3.1".to_owned())].into(),
        weights: config::Weights { passing: 10, warning: 1 },
        ttl: Duration::from_secs(30),
        deregister_after: Duration::from_secs(60),
        initial_health: ReportedHealth::Critical,
    }
}

async fn accepting_agent() -> ScriptedAgent {
    ScriptedAgent::answering(response(200, &[], "")).await
}

#[tokio::test]
async fn a_registration_leaves_other_checks_alone_and_so_maintenance() {
    let agent = accepting_agent().await;
    client(&agent).register(&registration()).await.unwrap();
    assert_eq!(agent.request_lines(), ["PUT /v1/agent/service/register HTTP/1.1"]);
    let asked = agent.requests();
    let body: serde_json::Value = serde_json::from_str(asked[0].split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["Check"]["CheckID"], "service:orders/1");
    assert_eq!(body["Check"]["Status"], "critical");
}

#[tokio::test]
async fn the_checks_of_a_registration_are_ours_maintenance_and_others_whatever_its_health() {
    let body = r#"{"AggregatedStatus":"maintenance","Service":{"ID":"orders/1"},"Checks":[
        {"CheckID":"service:orders/1","ServiceID":"orders/1","ServiceName":"orders",
         "Name":"Outrigger: health of orders","Status":"warning","Output":"told"},
        {"CheckID":"own http","ServiceID":"orders/1"},{"CheckID":"service:orders/1:2","ServiceID":"orders/1"},
        {"CheckID":"_service_maintenance:orders/1","ServiceID":"orders/1","Notes":"disk"},
        {"CheckID":"mem","ServiceID":""},{"CheckID":"_node_maintenance"}]}"#;
    for status in [200, 429, 503] {
        let agent = ScriptedAgent::answering(response(status, &[], body)).await;
        let checks = client(&agent).service_checks("orders/1").await.unwrap();
        let own = OwnCheck {
            id: "service:orders/1".into(),
            has_our_name: true,
            health: ReportedHealth::Warning,
            output: "told".into(),
            ttl_expired: false,
        };
        let others = ["own http", "service:orders/1:2"].map(str::to_owned).to_vec();
        assert_eq!(checks, ServiceChecks { own: Some(own), others, maintenance: Some("disk".into()) });
        assert_eq!(agent.request_lines(), ["GET /v1/agent/health/service/id/orders%2F1 HTTP/1.1"]);
    }
}

#[tokio::test]
async fn a_check_that_replaced_ours_is_recognised() {
    let body = r#"{"Checks":[{"CheckID":"service:orders/1","ServiceID":"orders/1","ServiceName":"orders",
        "Name":"theirs","Status":"critical","Output":"connection refused"}]}"#;
    let agent = ScriptedAgent::answering(response(503, &[], body)).await;
    let own = client(&agent).service_checks("orders/1").await.unwrap().own.unwrap();
    assert!(!own.has_our_name && !own.ttl_expired, "{own:?}");
    let body = body.replace("connection refused", "TTL expired (last output before timeout follows): told");
    let agent = ScriptedAgent::answering(response(503, &[], &body)).await;
    assert!(client(&agent).service_checks("orders/1").await.unwrap().own.unwrap().ttl_expired);
}

#[tokio::test]
async fn a_service_without_checks_and_an_unknown_service_have_none() {
    let nothing = r#"{"AggregatedStatus":"critical","Service":null,"Checks":null}"#;
    for (status, body) in [(200, r#"{"Checks":[]}"#), (404, nothing), (404, "unknown service ID")] {
        let agent = ScriptedAgent::answering(response(status, &[], body)).await;
        assert_eq!(client(&agent).service_checks("orders/1").await.unwrap(), ServiceChecks::default());
    }
}

#[tokio::test]
async fn a_refusal_to_list_checks_is_an_error() {
    for (status, body, label) in [
        (403, "Permission denied", "forbidden"),
        (429, "Your request is rate limited", "rate_limited"),
        (503, "over capacity", "refused"),
        (200, "{}", "malformed"),
    ] {
        let agent = ScriptedAgent::answering(response(status, &[], body)).await;
        let error = client(&agent).service_checks("orders/1").await.unwrap_err();
        assert_eq!(error.label(), label, "{error}");
    }
}

#[tokio::test]
async fn a_check_is_removed_and_an_unknown_check_is_no_error() {
    for (status, body) in [(200, ""), (500, r#"Unknown check "own http""#)] {
        let agent = ScriptedAgent::answering(response(status, &[], body)).await;
        client(&agent).deregister_check("own http").await.unwrap();
        assert_eq!(agent.request_lines(), ["PUT /v1/agent/check/deregister/own%20http HTTP/1.1"]);
    }
}

#[tokio::test]
async fn health_is_reported_on_the_check_of_the_registration() {
    let agent = accepting_agent().await;
    let consul = client(&agent);
    for health in [ReportedHealth::Passing, ReportedHealth::Warning, ReportedHealth::Critical] {
        consul.update_check("orders/1", health, "seen").await.unwrap();
    }
    let asked = agent.requests();
    for (text, status) in asked.iter().zip(["passing", "warning", "critical"]) {
        assert!(text.starts_with("PUT /v1/agent/check/update/service:orders%2F1 HTTP/1.1\r\n"), "{text}");
        assert!(text.ends_with(&format!(r#"{{"Status":"{status}","Output":"seen"}}"#)), "{text}");
    }
}

#[tokio::test]
async fn an_unknown_check_differs_from_other_refusals() {
    for (status, body, unknown) in [
        (500, r#"CheckID "service:orders/1" does not have associated TTL"#, true),
        (500, r#"Unknown check "service:orders/1""#, true),
        (
            404,
            r#"Unknown check ID "service:orders/1". Ensure that the check ID is passed, not the check name."#,
            true,
        ),
        (500, "No cluster leader", false),
        (403, "ACL not found", false),
    ] {
        let agent = ScriptedAgent::answering(response(status, &[], body)).await;
        let error = client(&agent).update_check("orders/1", ReportedHealth::Passing, "").await.unwrap_err();
        assert_eq!(error.is_unknown_check(), unknown, "{error}");
    }
}

#[tokio::test]
async fn a_service_that_is_already_gone_is_no_error() {
    for (status, body) in
        [(200, ""), (500, r#"Unknown service {"nope" {}}"#), (404, "Unknown service ID \"nope\"")]
    {
        let agent = ScriptedAgent::answering(response(status, &[], body)).await;
        client(&agent).deregister("nope").await.unwrap();
        assert_eq!(agent.request_lines(), ["PUT /v1/agent/service/deregister/nope HTTP/1.1"]);
    }
    let agent =
        ScriptedAgent::answering(response(403, &[], "Permission denied: Missing service:write on web")).await;
    assert_eq!(client(&agent).deregister("web").await.unwrap_err().label(), "forbidden");
}

#[tokio::test]
async fn maintenance_has_a_reason() {
    let agent = accepting_agent().await;
    let consul = client(&agent);
    consul.set_maintenance("orders/1", true, "a new disk & more").await.unwrap();
    consul.set_maintenance("orders/1", false, "").await.unwrap();
    let path = "PUT /v1/agent/service/maintenance/orders%2F1";
    let expected = [
        format!("{path}?enable=true&reason=a%20new%20disk%20%26%20more HTTP/1.1"),
        format!("{path}?enable=false&reason= HTTP/1.1"),
    ];
    assert_eq!(agent.request_lines(), expected);
}

#[tokio::test]
async fn an_agent_service_is_read_and_watched_by_its_hash() {
    let body = r#"{"ID":"ttl-1","Service":"ttlsvc","Tags":[],"Meta":{},"Port":1234,"Address":"","Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"ContentHash":"b2df7cd7bc03d93b"}"#;
    let agent =
        ScriptedAgent::answering(response(200, &[("X-Consul-Contenthash", "b2df7cd7bc03d93b")], body)).await;
    let consul = client(&agent);
    let held = consul.agent_service("ttl-1", None, LONG).await.unwrap().unwrap();
    assert_eq!((held.name.as_str(), held.port, held.address.as_deref()), ("ttlsvc", 1234, None));
    consul.agent_service("ttl-1", Some(&held.content_hash), LONG).await.unwrap();
    let path = "GET /v1/agent/service/ttl-1";
    let expected = [format!("{path} HTTP/1.1"), format!("{path}?hash=b2df7cd7bc03d93b&wait=20s HTTP/1.1")];
    assert_eq!(agent.request_lines(), expected);
}

#[tokio::test]
async fn a_service_that_the_agent_does_not_hold_is_none() {
    let agent = ScriptedAgent::answering(response(404, &[], "unknown service ID: ttl-1")).await;
    assert_eq!(client(&agent).agent_service("ttl-1", None, LONG).await.unwrap(), None);
}

#[tokio::test]
async fn every_agent_service_is_listed() {
    let body = r#"{"ttl-1":{"ID":"ttl-1","Service":"ttlsvc","Tags":null,"Meta":null,"Port":70000,"Address":"10.0.0.1"},"ttl-2":{"ID":"ttl-2","Service":"ttlsvc"}}"#;
    let agent = ScriptedAgent::start(move |n, _| {
        AgentAction::Send(response(200, &[], if n == 0 { body } else { "{}" }))
    })
    .await;
    let consul = client(&agent);
    let held = consul.agent_services().await.unwrap();
    let seen: Vec<_> =
        held.iter().map(|held| (held.id.as_str(), held.port, held.address.as_deref())).collect();
    assert_eq!(seen, [("ttl-1", 70000, Some("10.0.0.1")), ("ttl-2", 0, None)]);
    assert_eq!(consul.agent_services().await.unwrap(), []);
}

#[tokio::test]
async fn an_agent_call_outlasts_an_election() {
    let (_agent, consul) = client_of_silent_agent().await;
    let before = Instant::now();
    let error = consul.register(&registration()).await.unwrap_err();
    assert_eq!((error.label(), before.elapsed().as_secs()), ("timeout", 15));
}
