//! The verdict and the label of each outcome.

use std::collections::BTreeSet;

use outrigger_policy::{Outcome, Verdict};

/// Every outcome with its verdict and its label.
const OUTCOMES: [(Outcome, Verdict, &str); 34] = [
    (Outcome::Connected, Verdict::Success, "connected"),
    (Outcome::Status(101), Verdict::Success, "1xx"),
    (Outcome::Status(200), Verdict::Success, "2xx"),
    (Outcome::Status(304), Verdict::Success, "3xx"),
    (Outcome::Status(400), Verdict::Success, "4xx"),
    (Outcome::Status(404), Verdict::Success, "4xx"),
    (Outcome::Status(429), Verdict::Success, "4xx"),
    (Outcome::Status(500), Verdict::Success, "5xx"),
    (Outcome::Status(501), Verdict::Success, "5xx"),
    (Outcome::Status(502), Verdict::Failure, "5xx"),
    (Outcome::Status(503), Verdict::Failure, "5xx"),
    (Outcome::Status(504), Verdict::Failure, "5xx"),
    (Outcome::Status(505), Verdict::Success, "5xx"),
    (Outcome::Status(799), Verdict::Success, "other_status"),
    (Outcome::SidecarError(503), Verdict::Ignore, "sidecar_error"),
    (Outcome::ConnectRefused, Verdict::Failure, "connect_refused"),
    (Outcome::ConnectTimeout, Verdict::Failure, "connect_timeout"),
    (Outcome::ConnectFailed, Verdict::Failure, "connect_failed"),
    (Outcome::TlsFailed, Verdict::Failure, "tls_failed"),
    (Outcome::Closed, Verdict::Failure, "closed"),
    (Outcome::ClosedMidHead, Verdict::Failure, "closed_mid_head"),
    (Outcome::BadResponse, Verdict::Failure, "bad_response"),
    (Outcome::PerTryTimeout, Verdict::Failure, "per_try_timeout"),
    (Outcome::Timeout, Verdict::Failure, "timeout"),
    (Outcome::Deadline, Verdict::Ignore, "deadline"),
    (Outcome::Overloaded, Verdict::Ignore, "overloaded"),
    (Outcome::Resource, Verdict::Ignore, "resource"),
    (Outcome::UnreachableFromHere, Verdict::Ignore, "unreachable_from_here"),
    (Outcome::Unprocessed, Verdict::Ignore, "unprocessed"),
    (Outcome::Http1Instance, Verdict::Ignore, "http1_instance"),
    (Outcome::Grpc(2), Verdict::Failure, "grpc_failure"),
    (Outcome::Grpc(14), Verdict::Failure, "grpc_failure"),
    (Outcome::BadRequest, Verdict::Ignore, "bad_request"),
    (Outcome::ClientGone, Verdict::Ignore, "client_gone"),
];

#[test]
fn every_outcome_has_its_verdict_and_label() {
    for (outcome, verdict, label) in OUTCOMES {
        assert_eq!((outcome.verdict(), outcome.label()), (verdict, label), "{outcome:?}");
    }
}

#[test]
fn the_list_of_labels_is_complete_and_has_no_duplicates() {
    let listed = BTreeSet::from(Outcome::LABELS);
    assert_eq!(listed.len(), Outcome::LABELS.len());
    assert_eq!(listed, OUTCOMES.into_iter().map(|(.., label)| label).collect());
}

#[test]
fn every_response_has_a_status() {
    assert_eq!(Outcome::Status(418).status(), Some(418));
    assert_eq!(Outcome::SidecarError(503).status(), Some(503));
    assert_eq!(Outcome::Closed.status(), None);
}
