//! What a failed connect means for an attempt.

use std::io;

use outrigger_net::{DialError, DialStage, Fault};
use outrigger_policy::Outcome;

/// The outcome of an attempt that got no connection.
pub(crate) fn connect_outcome(error: &DialError) -> Outcome {
    match (error.fault, error.stage) {
        (Fault::OwnShortage, _) => Outcome::Resource,
        (Fault::UnreachableFromHere, _) => Outcome::UnreachableFromHere,
        (Fault::Peer, DialStage::TimedOut) => Outcome::ConnectTimeout,
        (Fault::Peer, DialStage::Connect | DialStage::Configure) => match error.source.kind() {
            io::ErrorKind::ConnectionRefused => Outcome::ConnectRefused,
            io::ErrorKind::TimedOut => Outcome::ConnectTimeout,
            _ => Outcome::ConnectFailed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fault_of_the_peer_is_evidence_against_the_instance() {
        for (fault, stage, number, expected) in [
            (Fault::OwnShortage, DialStage::Connect, 24, Outcome::Resource),
            (Fault::OwnShortage, DialStage::Configure, 111, Outcome::Resource),
            (Fault::UnreachableFromHere, DialStage::Connect, 101, Outcome::UnreachableFromHere),
            (Fault::Peer, DialStage::Connect, 111, Outcome::ConnectRefused),
            (Fault::Peer, DialStage::Connect, 110, Outcome::ConnectTimeout),
            (Fault::Peer, DialStage::Connect, 113, Outcome::ConnectFailed),
            (Fault::Peer, DialStage::TimedOut, 110, Outcome::ConnectTimeout),
        ] {
            let source = io::Error::from_raw_os_error(number);
            let error = DialError { peer: String::new(), stage, fault, source };
            assert_eq!(connect_outcome(&error), expected, "{error:?}");
        }
    }
}
