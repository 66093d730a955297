//! Which errors are evidence against an instance.

use super::*;

#[test]
fn a_lack_of_local_resources_is_no_evidence_against_an_instance() {
    let of = |errno: i32| is_evidence_of_absence(io::Error::from_raw_os_error(errno).kind());
    // ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ETIMEDOUT, ECONNRESET
    assert!([111, 113, 101, 110, 104].into_iter().all(of));
    // EMFILE, ENFILE, ENOMEM, ENOBUFS, EADDRNOTAVAIL, EACCES
    assert!(![24, 23, 12, 105, 99, 13].into_iter().any(of));
}

#[tokio::test]
async fn a_listener_answers_and_a_closed_port_does_not() {
    let listener = std::net::TcpListener::bind(outrigger_net::reserve_addr()).unwrap();
    let addr = listener.local_addr().unwrap();
    assert!(ConnectProbe.accepts_connection(addr).await);
    drop(listener);
    assert!(!ConnectProbe.accepts_connection(addr).await);
}
