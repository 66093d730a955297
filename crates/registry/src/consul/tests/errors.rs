//! Everything that an agent may send becomes an answer or a typed error.

use std::sync::{Arc, Mutex};

use super::{
    scripted_agent::{AgentAction, health_response, response},
    *,
};

#[tokio::test]
async fn a_refused_connection_is_an_error_that_names_the_address() {
    let agent = ScriptedAgent::answering(Vec::new()).await;
    let settings = settings(&agent);
    drop(agent);
    // The task of the listener is aborted soon, not at once.
    let consul = Consul::new(&settings).unwrap();
    let refused = async {
        loop {
            match watch(&consul, 0).await {
                Err(error) if error.label() == "connect" => return error,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let error = tokio::time::timeout(LONG, refused).await.unwrap();
    assert!(error.to_string().contains(&settings.address.to_string()), "{error}");
}

#[tokio::test]
async fn broken_json_is_an_error_with_line_and_column() {
    for (body, place) in [
        ("[{", "line 1 column 2"),
        ("[\n{\"Node\":7}]", "line 2 column"),
        ("", "EOF"),
        ("true", "invalid type"),
    ] {
        let agent = ScriptedAgent::answering(health_response("5", body)).await;
        let error = watch(&client(&agent), 0).await.unwrap_err();
        assert_eq!(error.label(), "malformed", "{error:?}");
        assert!(error.to_string().contains(place), "{error}");
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_not_read() {
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n".to_vec();
    let chunked =
        [chunked, vec![b' '; 1024], b"\r\n400\r\n".to_vec(), vec![b' '; 1024], b"\r\n0\r\n\r\n".to_vec()];
    for bytes in [health_response("5", &" ".repeat(2000)), chunked.concat()] {
        let agent = ScriptedAgent::answering(bytes).await;
        let mut consul = client(&agent);
        consul.api = consul.api.with_max_body(1500);
        let error = watch(&consul, 0).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit: 1500, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn an_announced_length_beyond_64_mib_is_refused_before_it_is_read() {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", (64 << 20) + 1);
    let agent = ScriptedAgent::answering(head.into_bytes()).await;
    let error = tokio::time::timeout(LONG, watch(&client(&agent), 0)).await.unwrap().unwrap_err();
    assert_eq!(error.label(), "too_large");
}

#[tokio::test]
async fn the_quote_of_an_unreadable_answer_is_cut() {
    let body = format!("[{{\"Node\":\"{}\"}}]", "x".repeat(1 << 20));
    let agent = ScriptedAgent::answering(health_response("5", &body)).await;
    let error = watch(&client(&agent), 0).await.unwrap_err();
    assert_eq!(error.label(), "malformed");
    assert!(error.to_string().len() < 1000, "{} bytes", error.to_string().len());
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_error() {
    let agent = ScriptedAgent::start(|_, _| {
        AgentAction::SendAndClose(
            b"HTTP/1.1 200 OK\r\nX-Consul-Index: 5\r\nContent-Length: 10\r\n\r\n[]".to_vec(),
        )
    })
    .await;
    assert_eq!(watch(&client(&agent), 0).await.unwrap_err().label(), "exchange");
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_an_error() {
    for bytes in [
        &b"\x15\x03\x01\x00\x02\x02\x16"[..],
        b"SSH-2.0-x\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
    ] {
        let bytes = bytes.to_vec();
        let agent = ScriptedAgent::start(move |_, _| AgentAction::SendAndClose(bytes.clone())).await;
        assert_eq!(watch(&client(&agent), 0).await.unwrap_err().label(), "exchange");
    }
}

#[tokio::test]
async fn an_endless_head_is_an_error() {
    let agent = ScriptedAgent::start(|_, _| {
        let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
        bytes.extend(b"a: b\r\n".repeat(1 << 18));
        AgentAction::SendAndClose(bytes)
    })
    .await;
    assert_eq!(watch(&client(&agent), 0).await.unwrap_err().label(), "exchange");
}

#[tokio::test]
async fn a_refusal_has_the_text_of_consul_and_a_hint() {
    let agent = ScriptedAgent::answering(response(403, &[], "ACL not found")).await;
    let error = watch(&client(&agent), 0).await.unwrap_err().to_string();
    assert!(
        error.starts_with("GET /v1/health/service/orders answered 403: ACL not found (the token"),
        "{error}"
    );
}

#[tokio::test]
async fn a_lost_leader_differs_from_other_refusals() {
    for (body, no_leader) in [
        ("No cluster leader", true),
        ("rpc error making call: No cluster leader", true),
        ("rpc error making call: EOF", true),
        (
            "rpc error getting client: failed to get conn: dial tcp 127.0.0.2:18300: connect: connection refused",
            true,
        ),
        ("rpc error getting client: failed to get conn: rpc error: lead thread didn't get connection", true),
        ("No path to datacenter", false),
    ] {
        let agent = ScriptedAgent::answering(response(500, &[("X-Consul-Index", "1")], body)).await;
        assert_eq!(watch(&client(&agent), 9).await.unwrap_err().is_no_leader(), no_leader, "{body}");
    }
}

#[tokio::test]
async fn every_exchange_is_reported_with_its_outcome() {
    let agent = ScriptedAgent::start(|number, _| match number {
        0 => AgentAction::Send(health_response("5", "[]")),
        1 => AgentAction::Send(response(200, &[], "{}")),
        4 => AgentAction::Send(health_response("5", "{")),
        _ => AgentAction::Send(response(403, &[], "Permission denied")),
    })
    .await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let observer = Observer::new(move |o| told.lock().unwrap().push((o.operation, o.outcome)));
    let consul = Consul::with_observer(&settings(&agent), observer).unwrap();
    watch(&consul, 0).await.unwrap();
    consul.agent_services().await.unwrap();
    consul.deregister("orders-1").await.unwrap_err();
    watch(&consul, 3).await.unwrap_err();
    watch(&consul, 0).await.unwrap_err();
    let expected = [
        ("read", "ok"),
        ("all_held", "ok"),
        ("deregister", "forbidden"),
        ("watch", "forbidden"),
        ("read", "malformed"),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn debug_shows_no_token() {
    let token = config::Token::Value(config::Secret::new("s3cret"));
    let settings = config::ConsulSettings { token: Some(token), ..config::ConsulSettings::default() };
    let shown = format!("{:?}", Consul::new(&settings).unwrap());
    assert!(shown.contains("127.0.0.1:8500") && !shown.contains("s3cret"), "{shown}");
}

/// Consul answers a question about a prefix as if the keys that the token may not read did not exist.
#[tokio::test]
async fn a_lock_that_the_token_may_not_read_is_not_an_unused_one() {
    use crate::{LockPlace, Locks as _};

    let agent = ScriptedAgent::start(|_, request| {
        AgentAction::Send(match request.contains("recurse") {
            true => response(404, &[("X-Consul-Index", "5")], ""),
            false => response(403, &[], "Permission denied"),
        })
    })
    .await;
    for limit in [1, 2] {
        let place = LockPlace { path: "locks/jobs".into(), limit };
        let error = client(&agent).watch_lock(&place, Cursor::START, LONG).await.unwrap_err();
        assert!(error.is_forbidden(), "{limit}: {error}");
        assert!(error.to_string().contains("/v1/kv/locks/jobs/.lock"), "{limit}: {error}");
    }
}
