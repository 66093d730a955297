//! What a probe finds. Which errors are evidence against an instance is tested in outrigger-net.

use super::*;

#[tokio::test]
async fn an_instance_to_which_this_side_has_no_way_may_be_alive() {
    // ENETUNREACH: no connection can be made to a multicast address.
    assert!(ConnectProbe.accepts_connection(([224, 0, 0, 1], 80).into(), &[], ROUND_TIMEOUT).await);
}

#[tokio::test]
async fn a_listener_answers_and_a_closed_port_does_not() {
    let listener = std::net::TcpListener::bind(outrigger_net::reserve_addr()).unwrap();
    let addr = listener.local_addr().unwrap();
    assert!(ConnectProbe.accepts_connection(addr, &[], ROUND_TIMEOUT).await);
    drop(listener);
    assert!(!ConnectProbe.accepts_connection(addr, &[], ROUND_TIMEOUT).await);
}

/// A host name with addresses of both families: the host may answer at one of them only.
#[tokio::test]
async fn an_instance_that_answers_at_another_of_its_addresses_is_alive() {
    let listener = std::net::TcpListener::bind(outrigger_net::reserve_addr()).unwrap();
    let (open, closed) = (listener.local_addr().unwrap(), outrigger_net::reserve_addr());
    let suspect = |id: &str, addrs: &[SocketAddr]| SuspectToProbe {
        id: InstanceId { datacenter: "dc1".into(), node: "n1".into(), id: id.into() },
        addr: addrs[0],
        others: addrs[1..].into(),
        only_traffic: false,
    };
    let suspects = vec![
        suspect("first", &[open, closed]),
        suspect("second", &[closed, open]),
        suspect("last", &[closed, closed, closed, open]),
        suspect("none", &[closed, closed]),
    ];
    let silent = LivenessProber::new().find_silent("orders", suspects, ROUND_TIMEOUT).await;
    assert_eq!(silent.iter().map(|id| &*id.id).collect::<Vec<_>>(), ["none"]);
}
