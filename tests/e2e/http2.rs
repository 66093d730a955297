//! HTTP/2 with apps and with instances, in every combination with HTTP/1.1; calls of gRPC.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response};
use outrigger_tests::{
    client::Client,
    http2::{H2Client, H2Instance},
    instance::{Answer, Instance, Kill, refusing_addr},
    sidecar::{Services, Sidecar},
    wait,
};

const HTTP2: &str = "meta: {protocol: http2}";

/// An instance that answers each call of gRPC with `code`: with its head alone, or behind a message.
async fn grpc(code: &'static str, message: Option<&'static str>) -> H2Instance {
    H2Instance::start(move |request, mut respond| async move {
        drop(request);
        let head = Response::builder().header("content-type", "application/grpc");
        let Some(message) = message else {
            let _ = respond.send_response(head.header("grpc-status", code).body(()).unwrap(), true);
            return;
        };
        let Ok(mut sent) = respond.send_response(head.body(()).unwrap(), false) else { return };
        let _ = sent.send_data(message.into(), false);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.parse().unwrap());
        let _ = sent.send_trailers(trailers);
    })
    .await
}

#[tokio::test]
async fn an_app_of_http_2_and_an_instance_of_http_1() {
    let instance = Instance::scripted("one", |request| match request.target() {
        "/chunked" => Answer::chunked(&["ab", "cd"], &["sum: 4"]),
        _ => Answer::ok("one").field("X-Case", "Kept"),
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = H2Client::connect(sidecar.addr()).await;
    let response = client.get("http://orders/a?b=c").await.unwrap();
    assert_eq!((response.status, &*response.body, response.field("x-case")), (200, "one", "Kept"));
    let seen = instance.only_request();
    assert_eq!(seen.request.target(), "/a?b=c");
    let post = Request::post("http://orders/p").header("cookie", "a=1").header("cookie", "b=2");
    assert_eq!(client.send(post.body(()).unwrap(), "hello").await.unwrap().status, 200);
    let seen = instance.first_with_method("POST");
    assert_eq!((seen.body_len(), seen.request.head.get("cookie")), (5, Some("a=1; b=2")));
    let response = client.get("http://orders/chunked").await.unwrap();
    assert_eq!((&*response.body, response.trailer("sum")), ("abcd", "4"));
}

#[tokio::test]
async fn an_app_of_http_1_and_an_instance_of_http_2() {
    let instance = H2Instance::echo("two").await;
    let services = Services::default().and_at("orders", "two", instance.addr, HTTP2);
    let sidecar = Sidecar::start("", &services).await;
    let mut client = sidecar.client().await;
    for body in ["", "hello"] {
        let response = client.post("orders", "/", body).await;
        assert_eq!((response.status, &*response.text(), response.instance()), (200, body, "two"));
    }
    let big = "x".repeat(300_000);
    assert_eq!(client.post("orders", "/", &big).await.text(), big);
    assert_eq!((instance.accepted(), instance.requests()), (1, 3), "requests share a connection");
}

#[tokio::test]
async fn protocol_says_how_instances_are_called() {
    let (one, two) = (Instance::start("one").await, H2Instance::echo("two").await);
    let services = Services::of("plain", &[&one])
        .and_at("new", "two", two.addr, "")
        .and_at("wrong", "one", one.addr(), HTTP2)
        .and_at("forced", "one", one.addr(), HTTP2);
    let settings = "upstreams: [{service: new, protocol: http2}, {service: forced, protocol: http}]";
    let sidecar = Sidecar::start(settings, &services).await;
    for (service, expected) in [("plain", "one"), ("new", "two"), ("forced", "one")] {
        let response = sidecar.get(service, "/").await;
        assert_eq!((response.status, response.instance()), (200, expected), "{service}");
    }
    let response = sidecar.get("wrong", "/").await;
    assert_eq!((response.status, response.reason()), (502, "http1_instance"), "{}", response.text());
    assert!(sidecar.endpoints("wrong")[0].ejected.is_none(), "the registration is wrong, not the instance");
}

#[tokio::test]
async fn each_stream_of_a_connection_is_balanced() {
    let all = [Instance::start("a").await, Instance::start("b").await];
    let sidecar = Sidecar::orders("", &[&all[0], &all[1]]).await;
    let client = H2Client::connect(sidecar.addr()).await;
    let requests = (0..40).map(|_| {
        let (mut requests, request) =
            (client.requests.clone(), Request::get("http://orders/").body(()).unwrap());
        tokio::spawn(async move { requests.send_request(request, true).unwrap().0.await.unwrap().status() })
    });
    for status in requests.collect::<Vec<_>>() {
        assert_eq!(wait::within("a response", status).await.unwrap(), 200);
    }
    assert_eq!(all.each_ref().map(Instance::count), [20, 20]);
}

#[tokio::test]
async fn errors_of_the_sidecar_are_those_of_http_for_plain_requests_and_codes_for_grpc() {
    let sidecar =
        Sidecar::start("", &Services::default().empty("orders").and_at("dead", "d", refusing_addr(), ""))
            .await;
    let mut client = H2Client::connect(sidecar.addr()).await;
    let response = client.get("http://orders/").await.unwrap();
    assert_eq!((response.status, response.field("x-outrigger-error")), (404, "unknown_service"));
    assert!(response.body.contains("\"reason\":\"unknown_service\""), "{}", response.body);
    for (uri, code, reason) in [
        ("http://orders/s/M", "12", "unknown_service"),
        ("http://dead/s/M", "14", "connect_failed"),
        ("http://1.2.3.4/s/M", "12", "outside_host"),
    ] {
        let response = client.call(uri, "x").await.unwrap();
        assert_eq!((response.status, response.field("grpc-status")), (200, code), "{response:?}");
        assert_eq!((response.field("x-outrigger-error"), &*response.body), (reason, ""));
        assert!(!response.field("grpc-message").is_empty());
    }
}

#[tokio::test]
async fn a_call_of_grpc_goes_as_http_2_and_keeps_its_trailers() {
    for message in [None, Some("answer")] {
        let instance = grpc("5", message).await;
        let sidecar = Sidecar::start("", &Services::default().and_at("orders", "g", instance.addr, "")).await;
        let response = H2Client::connect(sidecar.addr()).await.call("http://orders/s/M", "x").await.unwrap();
        let status =
            if message.is_some() { response.trailer("grpc-status") } else { response.field("grpc-status") };
        assert_eq!((status, &*response.body), ("5", message.unwrap_or_default()), "{response:?}");
        assert_eq!(response.trailers.is_empty(), message.is_none(), "{response:?}");
    }
}

#[tokio::test]
async fn a_call_is_repeated_only_where_its_method_is_named() {
    let (bad, good) = (grpc("14", None).await, grpc("0", Some("good")).await);
    let services =
        Services::default().and_at("orders", "bad", bad.addr, "").and_at("orders", "good", good.addr, "");
    let settings = "upstreams: [{service: orders, circuit_breaker: off, outlier: off, \
                    retry: {grpc_methods: [/s.S/Get*], budget: {ratio: 1.0}}}]";
    let sidecar = Sidecar::start(settings, &services).await;
    let mut client = H2Client::connect(sidecar.addr()).await;
    for _ in 0..4 {
        let response = client.call("http://orders/s.S/GetOne", "x").await.unwrap();
        assert_eq!((&*response.body, response.trailer("grpc-status")), ("good", "0"), "{response:?}");
    }
    assert_eq!((bad.requests(), good.requests()), (2, 4));
    let mut codes = Vec::new();
    for _ in 0..4 {
        let response = client.call("http://orders/s.S/Put", "x").await.unwrap();
        codes.push(format!("{}{}", response.field("grpc-status"), response.trailer("grpc-status")));
    }
    codes.sort();
    assert_eq!(codes, ["0", "0", "14", "14"]);
}

#[tokio::test]
async fn an_instance_that_fails_calls_is_ejected() {
    let (bad, good) = (grpc("14", None).await, grpc("0", Some("good")).await);
    let services =
        Services::default().and_at("orders", "bad", bad.addr, "").and_at("orders", "good", good.addr, "");
    let sidecar = Sidecar::start("", &services).await;
    let mut client = H2Client::connect(sidecar.addr()).await;
    for _ in 0..10 {
        client.call("http://orders/s.S/Put", "x").await.unwrap();
    }
    let ejected =
        |id: &str| sidecar.endpoints("orders").iter().any(|one| one.id.contains(id) && one.ejected.is_some());
    wait::until_true("the bad one is ejected", || ejected("bad")).await;
    assert!(!ejected("good"));
}

#[tokio::test]
async fn a_call_that_loses_its_instance_ends_with_unavailable_and_no_reset() {
    let instance = H2Instance::start(|request, mut respond| async move {
        let _body = request.into_body();
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut sent = respond.send_response(head, false).unwrap();
        sent.send_data("part".into(), false).unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let sidecar = Sidecar::start("", &Services::default().and_at("orders", "g", instance.addr, "")).await;
    let client = H2Client::connect(sidecar.addr()).await;
    let request =
        Request::post("http://orders/s/M").header("content-type", "application/grpc").body(()).unwrap();
    let (response, mut body) = client.requests.clone().send_request(request, false).unwrap();
    body.send_data("x".into(), true).unwrap();
    let mut response = wait::within("a head", response).await.unwrap();
    assert_eq!(wait::within("a part", response.body_mut().data()).await.unwrap().unwrap(), "part");
    instance.kill().await;
    assert!(wait::within("the end", response.body_mut().data()).await.is_none());
    let trailers = wait::within("trailers", response.body_mut().trailers()).await.unwrap().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-outrigger-error"]),
        (&"14".parse().unwrap(), &"upstream_closed".parse().unwrap())
    );
}

#[tokio::test]
async fn a_refused_stream_goes_elsewhere_with_any_method() {
    let refuses =
        H2Instance::start(|_, mut respond| async move { respond.send_reset(Reason::REFUSED_STREAM) }).await;
    let good = H2Instance::echo("good").await;
    let services = Services::default()
        .and_at("orders", "bad", refuses.addr, HTTP2)
        .and_at("orders", "good", good.addr, HTTP2);
    let sidecar = Sidecar::start("", &services).await;
    for _ in 0..6 {
        let mut client = sidecar.client().await;
        let response = client.post("orders", "/", "body").await;
        assert_eq!((response.status, &*response.text()), (200, "body"), "{response:?}");
    }
    assert!(refuses.requests() >= 2);
    assert!(sidecar.endpoints("orders").iter().all(|one| one.ejected.is_none()), "it ends streams in order");
}

/// An instance that answers one request on each connection, and says GOAWAY behind it.
#[tokio::test]
async fn an_instance_that_ends_its_connections_in_order_fails_no_request() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let _: Result<h2::SendStream<Bytes>, _> = respond.send_response(Response::new(()), true);
                    connection.graceful_shutdown();
                }
            });
        }
    });
    let services = Services::default().and_at("orders", "a", addr, HTTP2);
    let sidecar = Sidecar::start("upstreams: [{service: orders, circuit_breaker: off, retry: {budget: {ratio: 1.0, min_per_second: 100}}}]", &services).await;
    let requests = (0..4).map(|_| {
        let addr = sidecar.addr();
        tokio::spawn(async move {
            let mut client = Client::connect(addr).await;
            for _ in 0..25 {
                let response = client.post("orders", "/", "x").await;
                assert_eq!(response.status, 200, "{response:?}");
            }
        })
    });
    for one in requests.collect::<Vec<_>>() {
        wait::within("the requests", one).await.unwrap();
    }
    task.abort();
}

#[tokio::test]
async fn the_app_that_cancels_a_stream_cancels_it_at_the_instance_and_blames_none() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let counted = cancelled.clone();
    let instance = H2Instance::start(move |request, mut respond| {
        let counted = counted.clone();
        async move {
            drop(request);
            if let Ok(Reason::CANCEL) = std::future::poll_fn(|cx| respond.poll_reset(cx)).await {
                counted.fetch_add(1, Relaxed);
            }
        }
    })
    .await;
    let sidecar = Sidecar::start("", &Services::default().and_at("orders", "g", instance.addr, HTTP2)).await;
    let client = H2Client::connect(sidecar.addr()).await;
    let (response, mut body) = client
        .requests
        .clone()
        .send_request(Request::get("http://orders/").body(()).unwrap(), false)
        .unwrap();
    wait::until_true("the request came", || instance.requests() == 1).await;
    body.send_reset(Reason::CANCEL);
    drop(response);
    wait::until_true("it is cancelled", || cancelled.load(Relaxed) == 1).await;
    wait::until_true("it is counted", || {
        sidecar.metric("outrigger_errors_total", &[("service", "orders"), ("reason", "client_gone")]) == 1.0
    })
    .await;
    assert_eq!(sidecar.endpoints("orders")[0].failures, 0);
}

#[tokio::test]
async fn a_drain_ends_a_connection_behind_its_streams() {
    let gate = outrigger_tests::instance::Gate::closed();
    let held = gate.clone();
    let instance = Instance::scripted("one", move |_| Answer::ok("one").when(&held)).await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = H2Client::connect(sidecar.addr()).await;
    let (response, _) =
        client.requests.clone().send_request(Request::get("http://orders/").body(()).unwrap(), true).unwrap();
    instance.wait_requests(1).await;
    let stopped = tokio::spawn(sidecar.stop(Duration::from_secs(15)));
    gate.open();
    assert_eq!(wait::within("the response", response).await.unwrap().status(), 200);
    client.wait_closed().await;
    assert_eq!(wait::within("the stop", stopped).await.unwrap(), 0, "no connection was cut");
}

#[tokio::test]
async fn a_killed_instance_fails_no_repeatable_call() {
    let make = || async {
        H2Instance::start(|_, mut respond| async move {
            let head =
                Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
            let _ = respond.send_response(head.body(()).unwrap(), true);
        })
        .await
    };
    let (dies, stays) = (make().await, make().await);
    let services =
        Services::default().and_at("orders", "dies", dies.addr, "").and_at("orders", "stays", stays.addr, "");
    let sidecar =
        Sidecar::start("upstreams: [{service: orders, retry: {grpc_methods: [/s.S/Get]}}]", &services).await;
    let addr = sidecar.addr();
    let calls = (0..4).map(|_| {
        tokio::spawn(async move {
            let mut client = H2Client::connect(addr).await;
            for _ in 0..100 {
                let response = client.call("http://orders/s.S/Get", "x").await.unwrap();
                assert_eq!(response.field("grpc-status"), "0", "{response:?}");
            }
        })
    });
    let calls: Vec<_> = calls.collect();
    wait::until_true("both are used", || dies.requests() > 5 && stays.requests() > 5).await;
    dies.kill().await;
    for one in calls {
        wait::within("the calls", one).await.unwrap();
    }
}

/// An instance that is killed in the middle of requests of HTTP/1.1 from an app of HTTP/2.
#[tokio::test]
async fn a_cut_response_resets_its_stream_and_no_other() {
    let instance = Instance::scripted("one", |request| match request.target() {
        "/cut" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").then_close(),
        _ => Answer::ok("one"),
    })
    .await;
    let sidecar = Sidecar::orders("", &[&instance]).await;
    let mut client = H2Client::connect(sidecar.addr()).await;
    let error = client.get("http://orders/cut").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{error:?}");
    assert_eq!(client.get("http://orders/").await.unwrap().status, 200);
    instance.kill(Kill::Fin).await;
}
