//! The number of connections, their reuse, and the order of waiting.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    registration::registration,
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
    // Tried once more, because an agent that stops refuses the second one.
    assert_eq!((error.label(), agent.requests().len()), ("connection_limit", 2));
    assert!(error.to_string().contains("http_max_conns_per_client"), "{error}");
}

/// What an agent does with a connection beyond its limit.
#[derive(Debug, Clone, Copy)]
enum Beyond {
    /// Consul 1.8.
    Closes,
    /// Newer versions.
    Says429,
}

/// An agent that takes `most` connections at a time, answers a blocking query after its wait, and everything else at once.
/// Resolves with its address, and with a count of the connections that it refused.
async fn agent_with_limit(most: usize, beyond: Beyond) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, refused) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = refused.clone();
    tokio::spawn(async move {
        let slots = Arc::new(tokio::sync::Semaphore::new(most));
        while let Ok((stream, _)) = listener.accept().await {
            match slots.clone().try_acquire_owned() {
                Ok(slot) => _ = tokio::spawn(serve_until_closed(stream, slot)),
                Err(_) => {
                    counted.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(refuse(stream, beyond));
                }
            }
        }
    });
    (addr, refused)
}

async fn refuse(mut stream: tokio::net::TcpStream, beyond: Beyond) {
    if let Beyond::Says429 = beyond {
        // After the request, because a reset would take the response away.
        let _ = stream.read(&mut [0; 4096]).await;
        let said = "Your IP is issuing too many concurrent connections, please rate limit your calls\n";
        let _ = stream.write_all(&response(429, &[("Connection", "close")], said)).await;
    }
}

async fn serve_until_closed(mut stream: tokio::net::TcpStream, _slot: tokio::sync::OwnedSemaphorePermit) {
    let mut head = vec![0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut head).await {
        let text = String::from_utf8_lossy(&head[..read]).into_owned();
        let wait = text.split_once("wait=").map_or("0s", |(_, rest)| rest.split(' ').next().unwrap());
        let wait = match wait.strip_suffix("ms") {
            Some(millis) => Duration::from_millis(millis.parse().unwrap()),
            None => Duration::from_secs(wait.trim_end_matches('s').parse().unwrap()),
        };
        // Closing the connection does not end a query, as in Consul.
        tokio::time::sleep(wait).await;
        let answer =
            if text.starts_with("PUT") { response(200, &[], "") } else { health_response("8", "[]") };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn client_of(addr: std::net::SocketAddr) -> Arc<Consul> {
    let address = config::ConsulAddress { tls: false, host: "127.0.0.1".into(), port: addr.port() };
    let settings = config::ConsulSettings { address, ..config::ConsulSettings::default() };
    Arc::new(Consul::new(&settings).unwrap())
}

/// Watches `count` services, each for a few turns of `wait`. Resolves with the number of answers and of errors.
async fn watch_many(consul: &Arc<Consul>, count: usize, wait: Duration) -> (usize, usize) {
    let mut watches = tokio::task::JoinSet::new();
    for number in 0..count {
        let consul = consul.clone();
        watches.spawn(async move {
            let service = query(&format!("service-{number}"));
            consul.watch(&service, Cursor::at(7), Consistency::Default, wait).await.map(drop)
        });
    }
    let ended = watches.join_all().await;
    let good = ended.iter().filter(|one| one.is_ok()).count();
    (good, ended.len() - good)
}

#[tokio::test(start_paused = true)]
async fn watches_beyond_the_limit_of_the_agent_take_turns_on_the_connections_that_there_are() {
    for beyond in [Beyond::Closes, Beyond::Says429] {
        let (addr, refused) = agent_with_limit(3, beyond).await;
        let consul = client_of(addr);
        consul.update_check("orders-1", ReportedHealth::Passing, "well").await.unwrap();
        // Those with a connection keep it for their whole wait, and may leave no time for the others.
        let (good, _) = watch_many(&consul, 8, Duration::from_secs(60)).await;
        assert!(good >= 3, "{beyond:?}: {good}");
        // From now on all get a turn, and none is refused.
        let before = refused.load(Ordering::SeqCst);
        assert_eq!(watch_many(&consul, 8, Duration::from_secs(60)).await, (8, 0), "{beyond:?}");
        assert!(refused.load(Ordering::SeqCst) - before <= 4, "{beyond:?}: {before} before");
        assert!(refused.load(Ordering::SeqCst) > 0);
        let load = consul.watch_load();
        assert!(load.limit <= 4 + 9 && consul.api.pool.open() <= 3, "{load:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_comes_before_watches_where_connections_are_few() {
    let (addr, _) = agent_with_limit(2, Beyond::Closes).await;
    let consul = client_of(addr);
    let watching = {
        let consul = consul.clone();
        tokio::spawn(async move {
            // The first turns are long: nothing was refused yet.
            let _ = watch_many(&consul, 2, Duration::from_secs(8)).await;
            watch_many(&consul, 20, Duration::from_secs(600)).await
        })
    };
    while consul.api.pool.open() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..5 {
        let before = Instant::now();
        consul.update_check("orders-1", ReportedHealth::Passing, "well").await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(12), "{:?}", before.elapsed());
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    watching.abort();
}

#[tokio::test(start_paused = true)]
async fn registration_and_reports_of_three_processes_that_start_at_once_wait_for_no_watch() {
    for beyond in [Beyond::Closes, Beyond::Says429] {
        let (addr, refused) = agent_with_limit(9, beyond).await;
        let processes = [(); 3].map(|()| client_of(addr));
        let mut watching = tokio::task::JoinSet::new();
        for consul in &processes {
            consul.keep_connection_for_calls(true);
            let consul = consul.clone();
            watching.spawn(async move { watch_many(&consul, 8, Duration::from_secs(60)).await });
        }
        while refused.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for _ in 0..4 {
            let before = Instant::now();
            for consul in &processes {
                let held = consul.agent_service("orders-1", None, LONG).await;
                // This agent answers it with the list of a service.
                assert_eq!(held.unwrap_err().label(), "malformed", "{beyond:?}");
                consul.update_check("orders-1", ReportedHealth::Passing, "well").await.unwrap();
            }
            assert!(before.elapsed() < Duration::from_secs(1), "{beyond:?}: {:?}", before.elapsed());
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        watching.abort_all();
    }
    // One connection is for all questions.
    let (addr, _) = agent_with_limit(1, Beyond::Closes).await;
    let consul = client_of(addr);
    consul.keep_connection_for_calls(true);
    consul.update_check("orders-1", ReportedHealth::Passing, "well").await.unwrap();
    assert_eq!(watch_many(&consul, 1, Duration::from_secs(5)).await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_process_with_many_connections_leaves_room_for_one_that_has_none() {
    let (addr, refused) = agent_with_limit(10, Beyond::Closes).await;
    let (first, second) = (client_of(addr), client_of(addr));
    let watching = {
        let first = first.clone();
        tokio::spawn(async move {
            loop {
                watch_many(&first, 10, Duration::from_secs(40)).await;
            }
        })
    };
    while first.api.pool.open() < 10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = second.update_check("orders-1", ReportedHealth::Passing, "well").await.unwrap_err();
    assert_eq!(error.label(), "connection_limit", "a process without a connection is told at once");
    let from = Instant::now();
    while second.update_check("orders-1", ReportedHealth::Passing, "well").await.is_err() {
        assert!(from.elapsed() < Duration::from_secs(180), "the first process keeps all");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(refused.load(Ordering::SeqCst) > 0 && first.api.pool.open() < 10);
    watching.abort();
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
async fn agent_calls_do_not_wait_for_the_questions_about_eight_registrations() {
    let agent = ScriptedAgent::start(|_, text| match text.starts_with("PUT") {
        true => AgentAction::Send(response(200, &[], "")),
        false => AgentAction::Hang,
    })
    .await;
    let consul = Arc::new(client(&agent));
    let mut questions = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (held, listed) = (consul.clone(), consul.clone());
        let registration = Registration { id: format!("orders-{number}"), ..registration() };
        let id = registration.id.clone();
        questions.spawn(async move { held.agent_service(&id, Some("7"), LONG).await.map(drop) });
        questions
            .spawn(async move { listed.catalog_entry(&registration, Cursor::at(7), LONG).await.map(drop) });
    }
    agent.wait_for_requests(16).await;
    let reported = consul.update_check("orders-1", ReportedHealth::Passing, "well");
    tokio::time::timeout(LONG, reported).await.expect("stands in line").unwrap();
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
