//! A sidecar does not call itself: not at an address of its own that a service is registered with, and, where the guard is on, not
//! through other sidecars.

use std::net::SocketAddr;

use outrigger_net::reserve_addr;
use outrigger_tests::{
    client,
    instance::{Answer, Instance},
    sidecar::{Services, Sidecar},
    wait,
};
use tokio::net::TcpStream;

/// Whether the instance `self` of `orders` is shown as this sidecar, and is not used.
fn is_shown_as_own(sidecar: &Sidecar) -> bool {
    let all = sidecar.endpoints("orders");
    all.iter().find(|one| one.id.ends_with("self")).is_some_and(|own| {
        let why = own.why_not.clone().unwrap_or_default();
        why.starts_with("this sidecar") && !own.usable && own.picks == 0
    })
}

#[tokio::test]
async fn an_own_listener_is_never_called_by_whatever_address_it_is_registered() {
    for (listen, registered) in [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "::1"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.7"),
        ("[::]", "127.0.0.7"),
        ("[::]", "::1"),
    ] {
        let case = format!("{registered} at {listen}");
        let port = reserve_addr().port();
        let healthy = Instance::start("well").await;
        let own = SocketAddr::new(registered.parse().unwrap(), port);
        let services = Services::of("orders", &[&healthy]).and_at("orders", "self", own, "");
        let listen = format!("{listen}:{port}");
        let sidecar = Sidecar::start(&format!("outbound: {{listen: \"{listen}\"}}"), &services).await;
        for _ in 0..4 {
            assert_eq!(sidecar.get("orders", "/").await.instance(), "well", "{case}");
        }
        assert!(is_shown_as_own(&sidecar), "{case}: {:?}", sidecar.endpoints("orders"));
        assert_eq!(sidecar.metric("outrigger_attempts_total", &[]), 4.0, "{case}");

        let services = Services::default().and_at("orders", "self", own, "");
        sidecar.write_services(&services);
        sidecar.wait_endpoints("orders", vec!["self"]).await;
        let refused = sidecar.get("orders", "/").await;
        assert_eq!((refused.status, refused.reason()), (503, "no_usable_instance"), "{case}: {refused:?}");
        assert!(refused.text().contains("1 at an address of this sidecar"), "{}", refused.text());
    }
}

#[tokio::test]
async fn a_listener_of_one_service_is_no_instance_either_and_a_reload_changes_what_is_own() {
    let (healthy, port) = (Instance::start("well").await, reserve_addr().port());
    let own = SocketAddr::from(([127, 0, 0, 1], port));
    let services = Services::of("orders", &[&healthy]).and_at("orders", "self", own, "");
    let with_listener = format!("upstreams: [{{service: orders, listen: \"127.0.0.1:{port}\"}}]");
    let sidecar = Sidecar::start(&with_listener, &services).await;
    wait::until_true("the address is its own", || is_shown_as_own(&sidecar)).await;
    assert_eq!(client::get(own, "any", "/").await.instance(), "well");

    // Once the listener is gone, the address is that of whatever may listen there.
    sidecar.apply_settings("upstreams: [{service: orders}]").await;
    wait::until_true("the address is another's", || {
        sidecar.endpoints("orders").iter().all(|one| one.why_not.is_none() && one.usable)
    })
    .await;
    wait::until("its socket is closed", wait::TIMEOUT, async || TcpStream::connect(own).await.is_err()).await;
    sidecar.apply_settings(&with_listener).await;
    wait::until_true("the address is its own again", || is_shown_as_own(&sidecar)).await;
}

#[tokio::test]
async fn a_request_that_comes_back_through_other_sidecars_is_ended_by_the_guard() {
    let on = |addr: SocketAddr| format!("outbound: {{listen: \"{addr}\", loop_guard: on}}");
    let off = |addr: SocketAddr| format!("outbound: {{listen: \"{addr}\"}}");
    let settings: [&dyn Fn(SocketAddr) -> String; 2] = [&on, &off];
    for other in settings {
        let (first, second) = (reserve_addr(), reserve_addr());
        // Each one takes the other for an instance.
        let to = |addr| Services::default().and_at("orders", "circle", addr, "");
        let sidecar = Sidecar::start(&on(first), &to(second)).await;
        let back = Sidecar::start(&other(second), &to(first)).await;
        let response = sidecar.get("orders", "/").await;
        assert_eq!((response.status, response.reason()), (508, "loop_detected"), "{response:?}");
        assert_eq!(sidecar.metric("outrigger_refused_total", &[("reason", "loop_detected")]), 1.0);
        assert_eq!(sidecar.metric("outrigger_attempts_total", &[]), 1.0);
        assert_eq!(back.metric("outrigger_attempts_total", &[]), 1.0);
    }
}

#[tokio::test]
async fn nothing_is_added_without_the_guard_and_an_id_is_added_to_those_of_others_with_it() {
    for is_on in [false, true] {
        let instance = Instance::scripted("a", |_| Answer::ok("x")).await;
        let word = if is_on { "on" } else { "off" };
        let settings = format!("outbound: {{listen: \"127.0.0.1:0\", loop_guard: {word}}}");
        let sidecar = Sidecar::orders(&settings, &[&instance]).await;
        for passed in ["", "x-outrigger-via: 0123456789abcdef\r\n"] {
            let request = format!("GET / HTTP/1.1\r\nHost: orders\r\n{passed}\r\n");
            assert_eq!(sidecar.exchange(&request).await.status, 200);
        }
        let seen: Vec<Vec<String>> = instance.seen().iter().map(|seen| ids(&seen.request.head)).collect();
        let own = usize::from(is_on);
        assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [own, own + 1], "{seen:?}");
        if is_on {
            assert_eq!((&*seen[1][0], &seen[1][1]), ("0123456789abcdef", &seen[0][0]), "{seen:?}");
        }
    }
}

/// The ids of the sidecars that a request has passed.
fn ids(head: &outrigger_tests::wire::Head) -> Vec<String> {
    head.values("x-outrigger-via").into_iter().map(str::to_owned).collect()
}
