//! The number of connections, their reuse, and the order of waiting.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use super::{
    scripted_agent::{AgentAction, health_response, response},
    *,
};

#[tokio::test]
async fn questions_in_a_row_share_a_connection() {
    let agent = ScriptedAgent::answering(health_response("5", "[]")).await;
    let consul = client(&agent);
    for _ in 0..5 {
        watch(&consul, 0).await.unwrap();
    }
    assert_eq!((agent.requests().len(), agent.connections()), (5, 1));
}

#[tokio::test]
async fn an_idle_connection_that_the_agent_closed_is_replaced() {
    // Every connection carries one answer, without a header that announces the close.
    let agent = ScriptedAgent::start(|_, _| AgentAction::SendAndClose(health_response("5", "[]"))).await;
    let consul = client(&agent);
    for _ in 0..5 {
        watch(&consul, 0).await.unwrap();
    }
    assert_eq!(agent.connections(), 5);
}

#[tokio::test]
async fn a_reused_connection_that_breaks_before_an_answer_is_replaced_once() {
    let agent = ScriptedAgent::start(|number, _| match number {
        1 => AgentAction::SendAndClose(Vec::new()),
        _ => AgentAction::Send(health_response("5", "[]")),
    })
    .await;
    let consul = client(&agent);
    watch(&consul, 0).await.unwrap();
    watch(&consul, 0).await.unwrap();
    assert_eq!((agent.requests().len(), agent.connections()), (3, 2));
}

#[tokio::test]
async fn a_reused_connection_that_breaks_within_an_answer_is_an_error() {
    let agent = ScriptedAgent::start(|number, _| match number {
        1 => AgentAction::SendAndClose(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        _ => AgentAction::Send(health_response("5", "[]")),
    })
    .await;
    let consul = client(&agent);
    watch(&consul, 0).await.unwrap();
    let error = watch(&consul, 0).await.unwrap_err();
    assert_eq!((error.label(), agent.requests().len()), ("exchange", 2));
}

#[tokio::test]
async fn a_fresh_connection_closed_without_a_byte_is_an_error_that_names_the_limit() {
    let agent = ScriptedAgent::start(|_, _| AgentAction::SendAndClose(Vec::new())).await;
    let error = watch(&client(&agent), 0).await.unwrap_err();
    assert_eq!((error.label(), agent.requests().len()), ("exchange", 1));
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("http_max_conns_per_client"), "{source}");
}

#[tokio::test]
async fn agent_calls_do_not_wait_for_watches() {
    let agent = ScriptedAgent::start(|_, text| match text.starts_with("PUT") {
        true => AgentAction::Send(response(200, &[], "")),
        false => AgentAction::Hang,
    })
    .await;
    let consul =
        Arc::new(Consul::new(&config::ConsulSettings { max_connections: 2, ..settings(&agent) }).unwrap());
    let mut watches = tokio::task::JoinSet::new();
    for index in [0, 0, 7, 7, 7] {
        let consul = consul.clone();
        watches.spawn(async move { watch(&consul, index).await.map(drop) });
    }
    agent.wait_for_requests(2).await;
    let reported = consul.update_check("orders-1", ReportedHealth::Passing, "well");
    tokio::time::timeout(LONG, reported).await.expect("stands in line").unwrap();
    assert_eq!(agent.connections(), 3);
    assert_eq!(consul.watch_load(), WatchLoad { in_use: 2, waiting: 3, limit: 2 });
}

#[tokio::test]
async fn a_first_question_does_not_wait_for_blocking_queries() {
    let agent = ScriptedAgent::start(|_, text| match text.contains("index=") {
        true => AgentAction::Hang,
        false => AgentAction::Send(health_response("5", "[]")),
    })
    .await;
    let consul =
        Arc::new(Consul::new(&config::ConsulSettings { max_connections: 2, ..settings(&agent) }).unwrap());
    let blocked = {
        let consul = consul.clone();
        tokio::spawn(async move { watch(&consul, 7).await.map(drop) })
    };
    agent.wait_for_requests(1).await;
    tokio::time::timeout(LONG, watch(&consul, 0)).await.expect("stands in line").unwrap();
    blocked.abort();
}

#[tokio::test]
async fn more_watches_than_connections_all_get_a_connection() {
    let most = Arc::new(Mutex::new((0_usize, 0_usize)));
    let agent = ScriptedAgent::answering(health_response("8", "[]")).await;
    let consul =
        Arc::new(Consul::new(&config::ConsulSettings { max_connections: 3, ..settings(&agent) }).unwrap());
    let mut watches = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (consul, most) = (consul.clone(), most.clone());
        watches.spawn(async move {
            let watched = watch(&consul, 7).await;
            let load = consul.watch_load();
            let mut most = most.lock().unwrap();
            *most = (most.0.max(load.in_use), most.1.max(load.waiting));
            watched.map(drop)
        });
    }
    while let Some(watched) = watches.join_next().await {
        watched.unwrap().unwrap();
    }
    let (in_use, waiting) = *most.lock().unwrap();
    assert!(in_use <= 3 && waiting > 0, "{in_use} in use, {waiting} waiting");
    assert!(agent.connections() <= 3);
    assert_eq!(consul.watch_load(), WatchLoad { in_use: 0, waiting: 0, limit: 3 });
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_gets_no_connection_is_an_error_in_bounded_time() {
    let agent = ScriptedAgent::start(|_, _| AgentAction::Hang).await;
    let consul = Consul::new(&config::ConsulSettings { max_connections: 1, ..settings(&agent) }).unwrap();
    let (held, other) = (query("held"), query("orders"));
    let mut first = consul.watch(&held, Cursor::at(7), Consistency::Default, Duration::from_secs(60));
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    let before = Instant::now();
    let error =
        consul.watch(&other, Cursor::at(7), Consistency::Default, Duration::from_secs(5)).await.unwrap_err();
    assert_eq!((error.label(), before.elapsed().as_secs()), ("busy", 5));
    assert!(error.to_string().contains("/v1/health/service/orders"), "{error}");
}

#[tokio::test]
async fn a_cancelled_watch_frees_its_slot_and_is_reported() {
    let agent = ScriptedAgent::start(|_, _| AgentAction::Hang).await;
    let cancelled = Arc::new(AtomicBool::new(false));
    let told = cancelled.clone();
    let observer = Observer::new(move |seen| {
        told.store((seen.operation, seen.outcome) == ("watch", "cancelled"), Ordering::SeqCst);
    });
    let consul = Consul::with_observer(&settings(&agent), observer).unwrap();
    tokio::select! {
        _ = watch(&consul, 7) => panic!("the agent hangs"),
        () = agent.wait_for_requests(1) => {}
    }
    assert_eq!(consul.watch_load().in_use, 0);
    assert!(cancelled.load(Ordering::SeqCst));
}
