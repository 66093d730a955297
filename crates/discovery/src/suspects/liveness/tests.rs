//! What a probe finds. Which errors are evidence against an instance is tested in outrigger-net.

use super::*;

#[tokio::test]
async fn an_instance_to_which_this_side_has_no_way_may_be_alive() {
    // ENETUNREACH: no connection can be made to a multicast address.
    assert!(ConnectProbe.accepts_connection(([224, 0, 0, 1], 80).into()).await);
}

#[tokio::test]
async fn a_listener_answers_and_a_closed_port_does_not() {
    let listener = std::net::TcpListener::bind(outrigger_net::reserve_addr()).unwrap();
    let addr = listener.local_addr().unwrap();
    assert!(ConnectProbe.accepts_connection(addr).await);
    drop(listener);
    assert!(!ConnectProbe.accepts_connection(addr).await);
}
