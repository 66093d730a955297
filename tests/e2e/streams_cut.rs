//! A close of one side closes the other side, and a cut answer never looks complete.

use outrigger_tests::{
    client::Client,
    instance::{Answer, ConnectionEnd, Gate, Instance, Kill},
    sidecar::Sidecar,
    wait,
    wire::WireError,
};

fn by_peer(end: &ConnectionEnd) -> bool {
    matches!(end, ConnectionEnd::ByPeer(WireError::Closed | WireError::Reset) | ConnectionEnd::Idle)
}

/// Sends `request`, waits for `reached`, and closes the client's connection. The instance's connection must end.
async fn assert_close_cancels(
    request: &str,
    script: fn() -> Answer,
    reached: impl AsyncFn(&mut Client, &Instance),
) {
    for reset in [false, true] {
        let instance = Instance::scripted("a", move |_| script()).await;
        let sidecar = Sidecar::orders("", &[&instance]).await;
        let mut client = sidecar.client().await;
        client.send(request).await;
        instance.wait_requests(1).await;
        reached(&mut client, &instance).await;
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        let end = instance.wait_connection_end(0).await;
        assert!(by_peer(&end), "reset {reset}: {end:?}");
        wait::until_true("no request is in flight", || sidecar.proxy.in_flight() == 0).await;
        let endpoint = &sidecar.endpoints("orders")[0];
        assert_eq!((endpoint.in_flight, endpoint.failures), (0, 0), "the instance was not at fault");
        assert_eq!(instance.count(), 1, "no retry for a client that has closed");
    }
}

#[tokio::test]
async fn a_client_that_disconnects_while_it_waits_cancels_the_attempt() {
    assert_close_cancels("GET / HTTP/1.1\r\nHost: orders\r\n\r\n", Answer::no_answer, async |_, _| {}).await;
}

#[tokio::test]
async fn a_client_that_disconnects_in_the_middle_of_its_body_cancels_the_attempt() {
    assert_close_cancels(
        "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 100\r\n\r\nhalf",
        || Answer::ok("ok"),
        async |_, instance| {
            wait::until_true("half of the body arrives", || instance.seen()[0].body_len() == 4).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_client_that_disconnects_in_the_middle_of_a_chunked_body_cancels_the_attempt() {
    assert_close_cancels(
        "POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        || Answer::ok("ok"),
        async |_, instance| {
            wait::until_true("half of the body arrives", || instance.seen()[0].body_len() == 4).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_client_that_disconnects_after_its_body_cancels_the_attempt() {
    assert_close_cancels(
        "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 4\r\n\r\nbody",
        Answer::no_answer,
        async |_, instance| {
            wait::until_true("the body arrives", || instance.seen()[0].body().complete).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_client_that_disconnects_in_the_middle_of_an_answer_ends_it() {
    assert_close_cancels(
        "GET / HTTP/1.1\r\nHost: orders\r\n\r\n",
        || Answer::pattern(1 << 30),
        async |client, _| {
            assert_eq!(client.head().await.unwrap().split_start_line().1, "200");
            client.wire.fill().await.unwrap();
        },
    )
    .await;
}

#[tokio::test]
async fn a_client_that_disconnects_during_a_silent_answer_ends_it() {
    assert_close_cancels(
        "GET / HTTP/1.1\r\nHost: orders\r\n\r\n",
        || Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").then_hang(),
        async |client, _| {
            assert_eq!(client.head().await.unwrap().split_start_line().1, "200");
        },
    )
    .await;
}

/// As documented, an app that shuts down its writing side while it waits counts as disconnected.
#[tokio::test]
async fn a_client_that_half_closes_while_it_waits_counts_as_disconnected() {
    let instance = Instance::scripted("a", |_| Answer::no_answer()).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    instance.wait_requests(1).await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.wire.stream).await.unwrap();
    assert!(by_peer(&instance.wait_connection_end(0).await));
    client.wait_closed().await;
}

#[tokio::test]
async fn a_client_that_disconnects_while_a_retry_waits_ends_the_request() {
    let dead = outrigger_tests::instance::refusing_addr();
    let hung = Instance::scripted("hung", |_| Answer::no_answer()).await;
    let services =
        outrigger_tests::sidecar::Services::of("orders", &[&hung]).and_at("orders", "dead", dead, "");
    let sidecar = Sidecar::start("", &services).await;
    for nth in 0..2 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        hung.wait_requests(nth + 1).await;
        drop(client);
        hung.wait_connection_end(nth).await;
    }
    wait::until_true("no request is in flight", || sidecar.proxy.in_flight() == 0).await;
}

/// Sends `request` and kills the instance after a part of the answer's body.
async fn cut_answer(
    head: &'static str,
    how: Kill,
    request: &str,
) -> (outrigger_tests::client::Response, Client) {
    let gate = Gate::closed();
    let opened = gate.clone();
    let instance = Instance::scripted("a", move |_| Answer::raw(head).then_wait(&opened).then_hang()).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send(request).await;
    instance.wait_requests(1).await;
    let (response, ()) = tokio::join!(client.response(), async {
        // The head has been passed on when the instance dies, so no retry is possible.
        wait::until_true("the request is in flight", || sidecar.proxy.in_flight() == 1).await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        instance.kill(how).await;
    });
    gate.open();
    (response, client)
}

#[tokio::test]
async fn an_instance_that_dies_in_the_middle_of_an_answer_closes_an_http_11_clients_connection() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\nhalf",
    ] {
        for how in [Kill::Fin, Kill::Reset] {
            let (response, mut client) =
                cut_answer(head, how, "GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
            assert_eq!(response.status, 200, "{head:?}");
            assert!(
                response.body_error.is_some(),
                "{head:?} {how:?}: the cut answer looks complete: {response:?}"
            );
            client.wait_closed().await;
        }
    }
}

#[tokio::test]
async fn an_instance_that_dies_in_the_middle_of_an_answer_resets_an_http_10_clients_connection() {
    // An HTTP/1.0 answer may end with the connection, so a plain close would look like a complete answer.
    for head in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
    ] {
        for how in [Kill::Fin, Kill::Reset] {
            let (response, _client) = cut_answer(head, how, "GET / HTTP/1.0\r\nHost: orders\r\n\r\n").await;
            assert!(
                response.body_error.is_some(),
                "{head:?} {how:?}: the cut answer looks complete: {response:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_a_reset_is_incomplete() {
    let (response, _client) =
        cut_answer("HTTP/1.1 200 OK\r\n\r\nhalf", Kill::Reset, "GET / HTTP/1.1\r\nHost: orders\r\n\r\n")
            .await;
    assert!(response.body_error.is_some(), "{response:?}");
}

#[tokio::test]
async fn an_answer_cut_in_its_body_is_not_retried() {
    let all = [
        Instance::scripted("a", |_| {
            Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx").then_close()
        })
        .await,
        Instance::scripted("b", |_| {
            Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx").then_close()
        })
        .await,
    ];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    let mut client = sidecar.client().await;
    client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    // The head may be lost together with the body.
    if let Ok(response) = client.try_response_to("GET").await {
        assert!(response.body_error.is_some(), "{response:?}");
    }
    assert_eq!(all[0].count() + all[1].count(), 1);
}

/// Without a byte of the answer, an app would take the close for that of an idle connection, and might send a POST once more.
#[tokio::test]
async fn an_answer_that_breaks_its_framing_still_shows_that_it_had_begun() {
    let begun = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    for version in ["1.1", "1.0"] {
        let gate = Gate::closed();
        let broken = Answer::raw(begun).then_wait(&gate).then_write("no size\r\n").then_hang();
        let instance = Instance::scripted("a", move |_| broken.clone()).await;
        let sidecar = Sidecar::orders("", &[&instance]).await;
        let mut client = sidecar.client().await;
        client.send(format!("POST / HTTP/{version}\r\nHost: orders\r\nContent-Length: 0\r\n\r\n")).await;
        let head = client.head().await.expect("the head is passed on before its body is complete");
        assert_eq!(head.split_start_line().1, "200", "{version}");
        gate.open();
        // To an app of 1.0 only a reset tells the cut from the end.
        let cut = client.wait_closed().await;
        assert!(version == "1.1" || cut == WireError::Reset, "{version}: {cut}");
        assert_eq!(instance.count(), 1);
    }
}

/// To an app of 1.0 an end in order would complete the response, also at the end of the sidecar.
#[tokio::test]
async fn an_answer_that_the_stop_cuts_resets_an_http_10_clients_connection() {
    let instance = Instance::scripted("a", |_| Answer::raw("HTTP/1.1 200 OK\r\n\r\nhalf").then_hang()).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = sidecar.client().await;
    client.send("GET / HTTP/1.0\r\nHost: orders\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().split_start_line().1, "200");
    assert_eq!(sidecar.stop(std::time::Duration::ZERO).await, 1);
    assert_eq!(client.wait_closed().await, WireError::Reset);
}
