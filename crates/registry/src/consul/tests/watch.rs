//! Blocking queries: the request, and the meaning of an answer.

use super::{
    scripted_agent::{AgentAction, health_response, response},
    *,
};

#[tokio::test]
async fn a_first_question_is_a_plain_read() {
    let agent = ScriptedAgent::answering(health_response("23", "[]")).await;
    let watched = watch(&client(&agent), 0).await.unwrap();
    assert_eq!(agent.request_lines(), ["GET /v1/health/service/orders HTTP/1.1"]);
    assert_eq!((watched.cursor, watched.index_went_back), (Cursor::at(23), false));
    assert_eq!((watched.age, watched.known_leader), (None, true));
}

#[tokio::test]
async fn a_later_question_blocks_from_the_cursor() {
    let agent = ScriptedAgent::answering(health_response("24", "[]")).await;
    watch(&client(&agent), 23).await.unwrap();
    assert_eq!(agent.request_lines(), ["GET /v1/health/service/orders?index=23&wait=1s HTTP/1.1"]);
}

#[tokio::test]
async fn a_registration_is_read_by_its_id_in_the_datacenter_of_the_agent() {
    let agent = ScriptedAgent::answering(health_response("24", "[]")).await;
    let settings = config::ConsulSettings { datacenter: Some("dc2".into()), ..settings(&agent) };
    let consul = Consul::new(&settings).unwrap();
    let wait = Duration::from_secs(2);
    for (id, cursor) in [("o-1", Cursor::START), ("o-1", Cursor::at(7)), ("o\"1", Cursor::at(7))] {
        let us = Registration { id: id.into(), ..super::registration::registration() };
        let listed = consul.catalog_entry(&us, cursor, wait).await.unwrap();
        assert_eq!((listed.instances, listed.cursor), (Vec::new(), Cursor::at(24)));
    }
    let path = "GET /v1/health/service/orders";
    let filter = "filter=Service.ID%20%3D%3D%20%22o-1%22";
    let expected = [
        format!("{path}?{filter} HTTP/1.1"),
        format!("{path}?index=7&wait=2s&{filter} HTTP/1.1"),
        // An expression would need escapes for it.
        format!("{path}?index=7&wait=2s HTTP/1.1"),
    ];
    assert_eq!(agent.request_lines(), expected);
}

#[tokio::test]
async fn the_query_has_datacenter_consistency_and_escaped_names() {
    let agent = ScriptedAgent::answering(health_response("24", "[]")).await;
    let consul = client(&agent);
    let odd = Query::new("a b/ü?", Some("dc&2".into()));
    let part = Query { filter: Some("Service.Kind == \"\" and x in Service.Tags".into()), ..odd.clone() };
    for consistency in [Consistency::Stale, Consistency::Consistent] {
        consul.watch(&odd, Cursor::at(7), consistency, Duration::from_millis(1500)).await.unwrap();
    }
    let path = "/v1/health/service/a%20b%2F%C3%BC%3F?index=7&wait=1500ms&dc=dc%262";
    assert_eq!(
        agent.request_lines(),
        [format!("GET {path}&stale HTTP/1.1"), format!("GET {path}&consistent HTTP/1.1")]
    );
    consul.watch(&part, Cursor::START, Consistency::Default, Duration::ZERO).await.unwrap();
    let filter = "filter=Service.Kind%20%3D%3D%20%22%22%20and%20x%20in%20Service.Tags";
    let path = "/v1/health/service/a%20b%2F%C3%BC%3F?dc=dc%262";
    assert_eq!(agent.request_lines().last(), Some(&format!("GET {path}&{filter} HTTP/1.1")));
}

#[tokio::test]
async fn the_configured_datacenter_is_used_when_the_query_names_none() {
    let agent = ScriptedAgent::answering(health_response("24", "[]")).await;
    let settings = config::ConsulSettings { datacenter: Some("dc2".into()), ..settings(&agent) };
    watch(&Consul::new(&settings).unwrap(), 0).await.unwrap();
    assert_eq!(agent.request_lines(), ["GET /v1/health/service/orders?dc=dc2 HTTP/1.1"]);
}

#[tokio::test]
async fn a_wait_is_never_sent_as_zero_or_above_ten_minutes() {
    let agent = ScriptedAgent::answering(health_response("24", "[]")).await;
    let consul = client(&agent);
    for wait in [Duration::ZERO, Duration::from_secs(86_400)] {
        // One connection of many is in use: the wait is as long as asked for.
        consul.watch(&query("a"), Cursor::at(1), Consistency::Default, wait).await.unwrap();
    }
    let lines = agent.request_lines();
    assert!(lines[0].contains("wait=10ms "), "{lines:?}");
    assert!(lines[1].contains("wait=") && !lines[1].contains("wait=86400s"), "{lines:?}");
}

#[tokio::test]
async fn an_index_that_went_back_starts_the_watch_again() {
    for (index, went_back) in [("12", true), ("0", true)] {
        let agent = ScriptedAgent::answering(health_response(index, "[]")).await;
        let watched = watch(&client(&agent), 33).await.unwrap();
        assert_eq!((watched.cursor, watched.index_went_back), (Cursor::START, went_back), "{index}");
    }
}

#[tokio::test]
async fn an_answer_without_an_index_starts_the_watch_again() {
    let agent = ScriptedAgent::answering(response(200, &[], "[]")).await;
    let watched = watch(&client(&agent), 33).await.unwrap();
    assert_eq!((watched.cursor, watched.index_went_back), (Cursor::START, false));
}

#[tokio::test]
async fn the_index_of_a_failed_read_is_not_kept() {
    let headers = [("X-Consul-Index", "1"), ("X-Consul-Knownleader", "false"), ("X-Consul-Lastcontact", "0")];
    for status in [500, 403, 404, 429, 301, 204] {
        let body = if status == 204 { "" } else { "rpc error making call: EOF" };
        let agent = ScriptedAgent::answering(response(status, &headers, body)).await;
        let error = watch(&client(&agent), 33).await.unwrap_err();
        assert!(matches!(error, Error::Refused { status: given, .. } if given == status), "{error:?}");
    }
}

#[tokio::test]
async fn a_stale_answer_has_its_age_and_whether_there_is_a_leader() {
    let headers =
        [("X-Consul-Index", "14"), ("X-Consul-Knownleader", "false"), ("X-Consul-Lastcontact", "21351")];
    let agent = ScriptedAgent::answering(response(200, &headers, "[]")).await;
    let consul = client(&agent);
    let ask = |consistency| {
        let consul = &consul;
        async move {
            let orders = query("orders");
            consul.watch(&orders, Cursor::START, consistency, Duration::from_secs(1)).await.unwrap()
        }
    };
    let stale = ask(Consistency::Stale).await;
    assert_eq!((stale.age, stale.known_leader), (Some(Duration::from_millis(21_351)), false));
    let default = ask(Consistency::Default).await;
    assert_eq!(default.age, None, "only a stale read has an age");
    assert!(default.known_leader, "only the leader answers a default read");
    assert!(!ask(Consistency::Consistent).await.known_leader);
}

#[tokio::test]
async fn an_answer_of_a_streaming_agent_says_nothing_of_age_and_leader() {
    for backend in ["streaming", "Streaming"] {
        let headers = [
            ("X-Consul-Default-Acl-Policy", "allow"),
            ("X-Consul-Index", "14"),
            ("X-Consul-Knownleader", "false"),
            ("X-Consul-Lastcontact", "0"),
            ("X-Consul-Query-Backend", backend),
        ];
        let agent = ScriptedAgent::answering(response(200, &headers, "[]")).await;
        let consul = client(&agent);
        for consistency in [Consistency::Default, Consistency::Stale, Consistency::Consistent] {
            let (orders, wait) = (query("orders"), Duration::from_secs(1));
            let answer = consul.watch(&orders, Cursor::at(7), consistency, wait).await.unwrap();
            assert_eq!((answer.age, answer.known_leader), (None, true), "{consistency:?}");
            assert_eq!((answer.cursor, answer.index_went_back), (Cursor::at(14), false));
        }
    }
    // The same agent says so where a server has answered.
    let headers = [
        ("X-Consul-Index", "14"),
        ("X-Consul-Knownleader", "false"),
        ("X-Consul-Lastcontact", "21"),
        ("X-Consul-Query-Backend", "blocking-query"),
    ];
    let agent = ScriptedAgent::answering(response(200, &headers, "[]")).await;
    let (consul, orders) = (client(&agent), query("orders"));
    let answer =
        consul.watch(&orders, Cursor::at(7), Consistency::Stale, Duration::from_secs(1)).await.unwrap();
    assert_eq!((answer.age, answer.known_leader), (Some(Duration::from_millis(21)), false));
}

#[tokio::test]
async fn a_silent_agent_is_an_error_only_after_wait_and_a_sixteenth_and_a_margin() {
    // The only connection is in use: a wait is 10 s at most.
    for (index, millis, expected) in
        [(7, 8_000, 8_500 + 5_000), (7, 160_000, 10_625 + 5_000), (0, 160_000, 10_000)]
    {
        let (agent, consul) = client_of_silent_agent().await;
        let before = Instant::now();
        let wait = Duration::from_millis(millis);
        let error =
            consul.watch(&query("orders"), Cursor::at(index), Consistency::Default, wait).await.unwrap_err();
        assert_eq!(error.label(), "timeout", "{error:?}");
        assert_eq!(before.elapsed().as_millis() / 10, expected / 10, "index {index}, wait {wait:?}");
        assert_eq!(agent.connections(), 1, "on the connection that was there");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn an_empty_answer_may_have_a_reason() {
    let token = Some(config::Token::Value(config::Secret::new("x")));
    let with = Consul::new(&config::ConsulSettings { token, ..config::ConsulSettings::default() }).unwrap();
    assert!(with.empty_hint().is_some_and(|hint| hint.contains("node:read")));
    let without = Consul::new(&config::ConsulSettings::default()).unwrap();
    assert!(without.empty_hint().is_some_and(|hint| hint.contains("no token")));
}

#[tokio::test]
async fn an_answer_in_chunks_is_read_whole() {
    let text = "HTTP/1.1 200 OK\r\nX-Consul-Index: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n1\r\n]\r\n0\r\n\r\n";
    let agent = ScriptedAgent::answering(text.as_bytes().to_vec()).await;
    assert_eq!(watch(&client(&agent), 0).await.unwrap().cursor, Cursor::at(9));
}

/// A server that was restarted answers with the chains of earlier entries while it reads its log.
#[tokio::test]
async fn a_chain_is_read_at_the_leader_unless_the_question_waits_for_a_newer_one() {
    const CHAIN: &str = r#"{"Chain": {"ServiceName": "orders", "Protocol": "tcp", "StartNode": "", "Nodes": {}, "Targets": {}}}"#;
    // The second question waits, and its answer is older than what it waits for.
    let agent = ScriptedAgent::start(|n, _| {
        let index = if n == 1 { "12" } else { "33" };
        AgentAction::Send(response(200, &[("X-Consul-Index", index)], CHAIN))
    })
    .await;
    let (consul, wait) = (client(&agent), Duration::from_secs(1));
    let first = consul.read_chain("orders", Cursor::START, wait).await.unwrap();
    assert_eq!(first.cursor, Cursor::at(33));
    let second = consul.read_chain("orders", first.cursor, wait).await.unwrap();
    assert_eq!(second.cursor, Cursor::at(33));
    let path = "GET /v1/discovery-chain/orders";
    let expected = [
        format!("{path}?consistent HTTP/1.1"),
        format!("{path}?index=33&wait=1s HTTP/1.1"),
        format!("{path}?consistent HTTP/1.1"),
    ];
    assert_eq!(agent.request_lines(), expected);
}
