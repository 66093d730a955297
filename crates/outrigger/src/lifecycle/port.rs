//! Waits until the local app has closed its port. A sidecar that did not start the app, and is stopped together
//! with the app, must not end before it.

use std::{net::SocketAddr, time::Duration};

use outrigger_net::{DialStage, Fault, connect, has_address};
use tokio::time::sleep;

use super::health::LOOPBACK_ADDRESSES;

/// Pause between two attempts.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Longest wait for one connection. A time-out counts as open: the backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Resolves when neither loopback address accepts connections on `port`. Unbounded: the caller sets a time-out.
pub(crate) async fn wait_until_port_closed(port: u16) {
    while is_open(port).await {
        sleep(POLL_INTERVAL).await;
    }
}

async fn is_open(port: u16) -> bool {
    for ip in LOOPBACK_ADDRESSES {
        let Err(error) = connect(SocketAddr::new(ip, port), CONNECT_TIMEOUT).await else { return true };
        // A fault of this side says nothing of the port, unless the machine has no such address.
        let is_unknown = error.fault != Fault::Peer && has_address(ip);
        if is_unknown || error.stage == DialStage::TimedOut {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, time::timeout};

    use super::*;

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
