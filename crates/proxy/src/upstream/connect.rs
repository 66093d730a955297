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

/// The error as the app reads it, with what to do about it.
pub(crate) fn connect_detail(error: &DialError) -> String {
    let cure = error.cure().map(|cure| format!("; {cure}")).unwrap_or_default();
    format!("{error}: {}{cure}", error.source)
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

    #[test]
    fn the_text_names_what_mends_the_error() {
        for (number, expected) in
            [(24, Some("ulimit -n")), (99, Some("ip_local_port_range")), (13, Some("firewall")), (111, None)]
        {
            let source = io::Error::from_raw_os_error(number);
            let (stage, fault) = (DialStage::Connect, Fault::OwnShortage);
            let told = connect_detail(&DialError { peer: "10.0.0.1:80".into(), stage, fault, source });
            assert!(told.starts_with("connect to 10.0.0.1:80: "), "{told}");
            assert!(expected.is_none_or(|cure| told.contains(cure)), "{told}");
            assert_eq!(told.contains(';'), expected.is_some(), "{told}");
        }
    }
}
