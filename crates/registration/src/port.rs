//! Waits until the local app has closed its port. A sidecar that did not start the app, and is stopped together
//! with the app, must not end before it.

use std::{net::SocketAddr, time::Duration};

use outrigger_net::{DialStage, connect};
use tokio::time::sleep;

use crate::health::{LOOPBACK_ADDRESSES, NoConnection, is_news};

/// Pause between two attempts.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Longest wait for one connection. A time-out counts as open: the backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Resolves when neither loopback address accepts connections on `port`. Unbounded: the caller sets a time-out.
pub async fn wait_until_port_closed(port: u16) {
    while is_open(port).await {
        sleep(POLL_INTERVAL).await;
    }
}

async fn is_open(port: u16) -> bool {
    let mut refused = Vec::new();
    for ip in LOOPBACK_ADDRESSES {
        let addr = SocketAddr::new(ip, port);
        match connect(addr, CONNECT_TIMEOUT).await {
            Ok(_) => return true,
            Err(error) if error.stage == DialStage::TimedOut => return true,
            Err(error) => refused.push(NoConnection::new(addr, error.fault, &error.source)),
        }
    }
    may_listen(&refused)
}

/// Whether an app may listen although neither address was connected to: the judgement of a probe.
fn may_listen(refused: &[NoConnection]) -> bool {
    !is_news(refused, None)
}

#[cfg(test)]
mod tests {
    use std::io;

    use outrigger_net::Fault;
    use tokio::{net::TcpListener, time::timeout};

    use super::*;

    #[test]
    fn a_firewall_rule_at_one_address_keeps_no_port_open() {
        use Fault::{OwnShortage, Peer, UnreachableFromHere};
        for (faults, open) in [
            ([Peer, Peer], false),
            ([Peer, UnreachableFromHere], false),
            ([UnreachableFromHere, Peer], false),
            // Neither address could be asked.
            ([UnreachableFromHere, UnreachableFromHere], true),
            ([OwnShortage, Peer], true),
            ([Peer, OwnShortage], true),
        ] {
            let error = io::Error::from(io::ErrorKind::PermissionDenied);
            // 127.0.0.1 twice, because the machine may have no IPv6.
            let refused = faults.map(|fault| NoConnection::new(([127, 0, 0, 1], 80).into(), fault, &error));
            assert_eq!(may_listen(&refused), open, "{faults:?}");
        }
        // An address for documentation, which no machine has: no app listens there.
        let at = |fault| {
            NoConnection::new(([192, 0, 2, 1], 80).into(), fault, &io::ErrorKind::AddrNotAvailable.into())
        };
        assert!(!may_listen(&[at(UnreachableFromHere), at(UnreachableFromHere)]));
    }

    #[tokio::test]
    async fn a_port_is_closed_when_its_listener_is_dropped() {
        for ip in LOOPBACK_ADDRESSES {
            // The machine may have no IPv6.
            let Ok(app) = TcpListener::bind((ip, 0)).await else { continue };
            let port = app.local_addr().unwrap().port();
            assert!(is_open(port).await, "{ip}");
            let watch = tokio::spawn(wait_until_port_closed(port));
            drop(app);
            timeout(Duration::from_secs(20), watch).await.unwrap().unwrap();
        }
    }
}
