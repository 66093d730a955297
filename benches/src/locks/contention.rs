//! One lock and many waiters behind two sidecars.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::client::LockStream;
use crate::{Error, clock, error::doing, stats::Samples};

/// Waiters at any time.
pub(super) const WAITERS: usize = 10;
/// How long each holder holds the lock: every other one waits by then.
const HOLD: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(60);

/// Milliseconds from the close of the holder's connection until another connection has the lock.
pub(super) async fn by_connections(apis: [SocketAddr; 2], rounds: usize) -> Result<Samples, Error> {
    let (told, mut acquired) = mpsc::unbounded_channel();
    let release = Arc::new(Notify::new());
    let mut waiters = JoinSet::new();
    for n in 0..=WAITERS {
        let (told, release, api) = (told.clone(), release.clone(), apis[n % apis.len()]);
        waiters.spawn(async move {
            loop {
                let held = LockStream::hold(api, "bench/contended?wait=50s").await;
                let failed = held.is_err();
                // The receiver is gone when the measurement has ended.
                if told.send(held.as_ref().map(|_| clock::now()).map_err(ToString::to_string)).is_err()
                    || failed
                {
                    return;
                }
                release.notified().await;
                drop(held);
            }
        });
    }
    drop(told);
    let mut samples = Vec::new();
    let mut released: Option<std::time::Instant> = None;
    while samples.len() < rounds {
        let next = timeout(TIMEOUT, acquired.recv()).await.map_err(doing("wait for the next holder"))?;
        let at = next.ok_or_else(|| Error::new("no waiter is left"))?.map_err(Error::new)?;
        if let Some(released) = released {
            samples.push((at - released).as_secs_f64() * 1e3);
        }
        sleep(HOLD).await;
        released = Some(clock::now());
        // The holder alone waits for it.
        release.notify_one();
    }
    waiters.shutdown().await;
    Ok(Samples::new(samples))
}
