//! Whether the local app still listens: for a sidecar that is stopped together with an app that it did
//! not start, and must not end before it.

use std::{net::SocketAddr, time::Duration};

use tokio::time::timeout;
use tokio::{net::TcpStream, time::sleep};

use super::health::LOOPBACK_ADDRESSES;

/// Pause between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Longest wait for one connection. A full backlog is a listener all the same.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Resolves when neither loopback address accepts connections on `port`. It may never: put a time-out
/// around it.
pub(crate) async fn wait_until_port_closed(port: u16) {
    while is_open(port).await {
        sleep(POLL_INTERVAL).await;
    }
}

async fn is_open(port: u16) -> bool {
    for ip in LOOPBACK_ADDRESSES {
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(SocketAddr::new(ip, port))).await;
        // An error: refused, or a machine without that family.
        if connected.map_or(true, |connected| connected.is_ok()) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_is_closed_when_nobody_listens_on_it_any_more() {
        for ip in LOOPBACK_ADDRESSES {
            // A machine without IPv6 has nothing to show there.
            let Ok(app) = TcpListener::bind((ip, 0)).await else { continue };
            let port = app.local_addr().unwrap().port();
            assert!(is_open(port).await, "{ip}");
            let watch = tokio::spawn(wait_until_port_closed(port));
            drop(app);
            timeout(Duration::from_secs(20), watch).await.unwrap().unwrap();
        }
    }
}
