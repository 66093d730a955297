//! Waits until the local app has closed its port. A sidecar that did not start the app, and is stopped together
//! with the app, must not end before it.

use std::{net::IpAddr, time::Duration};

use outrigger_net::{DialStage, connect};
use tokio::time::sleep;

use crate::app_address::{AppAddress, AppFinder, NoConnection};

/// Pause between two attempts.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Longest wait for one connection. A time-out counts as open: the backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Resolves when none of the app's addresses accepts connections: those at which its health is asked. Unbounded: the caller sets a
/// time-out.
pub async fn wait_until_port_closed(app: AppAddress) {
    let finder = AppFinder::new(app);
    while is_open(&finder).await {
        sleep(POLL_INTERVAL).await;
    }
}

/// Whether an app accepts connections at an address that is reached without a network interface. True where that cannot be found
/// out, and for an app that lets connections wait.
pub async fn accepts_on_loopback(app: AppAddress) -> bool {
    let is_loopback = |host: &String| host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    let (only, registered) = (app.only.filter(is_loopback), app.registered.filter(is_loopback));
    is_open(&AppFinder::new(AppAddress { only, registered, ..app })).await
}

/// Whether an app listens, or may listen although no address was connected to: the judgement of a probe.
async fn is_open(app: &AppFinder) -> bool {
    let found = app.find(|addr| async move {
        match connect(addr, CONNECT_TIMEOUT).await {
            Ok(_) => Ok(()),
            Err(error) if error.stage == DialStage::TimedOut => Ok(()),
            Err(error) => Err(NoConnection::new(addr, error.fault, &error.source)),
        }
    });
    match found.await {
        Ok(()) => true,
        Err(not_found) => !not_found.is_news,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, time::timeout};

    use super::*;
    use crate::app_address::LOOPBACK_ADDRESSES;

    async fn check_it_is_closed_with_its_listener(listener: TcpListener, app: AppAddress) {
        assert!(is_open(&AppFinder::new(app.clone())).await, "{app:?}");
        let watch = tokio::spawn(wait_until_port_closed(app));
        drop(listener);
        timeout(Duration::from_secs(20), watch).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_port_is_closed_when_its_listener_is_dropped() {
        for ip in LOOPBACK_ADDRESSES {
            // The machine may have no IPv6.
            let Ok(listener) = TcpListener::bind((ip, 0)).await else { continue };
            let port = listener.local_addr().unwrap().port();
            check_it_is_closed_with_its_listener(listener, AppAddress { port, only: None, registered: None })
                .await;
        }
    }

    #[tokio::test]
    async fn an_app_that_listens_on_its_own_address_alone_is_waited_for() {
        let own = || Some("127.0.0.2".to_owned());
        for (only, registered) in [(None, own()), (own(), None)] {
            let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            check_it_is_closed_with_its_listener(listener, AppAddress { port, only, registered }).await;
        }
    }
}
