//! What a failed connect means for an attempt.

use std::io;

use outrigger_net::{DialError, DialStage, is_own_shortage};
use outrigger_policy::Outcome;

/// The outcome of an attempt that got no connection. A shortage of this machine, or a local firewall
/// rule, is [`Outcome::Resource`]: it is no evidence against the instance.
pub(crate) fn connect_outcome(error: &DialError) -> Outcome {
    match error.stage {
        DialStage::TimedOut => Outcome::ConnectTimeout,
        DialStage::Configure => Outcome::Resource,
        DialStage::Connect => match error.source.kind() {
            io::ErrorKind::ConnectionRefused => Outcome::ConnectRefused,
            io::ErrorKind::TimedOut => Outcome::ConnectTimeout,
            _ if is_own_shortage(&error.source) => Outcome::Resource,
            _ => Outcome::ConnectFailed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(stage: DialStage, number: i32) -> Outcome {
        let source = io::Error::from_raw_os_error(number);
        connect_outcome(&DialError { peer: String::new(), stage, source })
    }

    #[test]
    fn shortages_of_this_machine_are_no_evidence_against_the_instance() {
        for (number, expected) in [
            (24, Outcome::Resource),
            (99, Outcome::Resource),
            (1, Outcome::Resource),
            (13, Outcome::Resource),
            (111, Outcome::ConnectRefused),
            (110, Outcome::ConnectTimeout),
            (113, Outcome::ConnectFailed),
        ] {
            assert_eq!(outcome(DialStage::Connect, number), expected, "{number}");
        }
        assert_eq!(outcome(DialStage::TimedOut, 110), Outcome::ConnectTimeout);
        assert_eq!(outcome(DialStage::Configure, 111), Outcome::Resource);
    }
}
