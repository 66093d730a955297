//! The memory of the proxies, when idle and with idle connections.

use std::{path::Path, time::Duration};

use tokio::time::sleep;

use super::{client, load::BackendGroup, proxy::ProxyProgram, turn::PeerSetup};
use crate::{Error, machine::resident};

/// Until the memory of a started proxy is read.
const START_WAIT: Duration = Duration::from_millis(2500);
/// From the last request until the memory is read again.
const IDLE_WAIT: Duration = Duration::from_secs(6);

/// Resident memory of one proxy.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemoryUse {
    /// MiB, after the first request.
    pub(super) idle: f64,
    /// KiB per idle connection, each of which carried one request.
    pub(super) per_connection: f64,
}

impl PeerSetup<'_> {
    /// Measures all `proxies` at once, because the waits are the longest part. The result has the order of `proxies`.
    pub(super) async fn memory(&self, proxies: &[(ProxyProgram, &Path)]) -> Result<Vec<MemoryUse>, Error> {
        let mut started = Vec::new();
        for (proxy, program) in proxies {
            let (mut process, addr) =
                self.place(BackendGroup::Answers, |place| proxy.start(program, place))?;
            client::until_it_answers(&mut process, addr).await?;
            started.push((process, addr));
        }
        sleep(START_WAIT).await;
        let before = resident_of_all(started.iter().map(|(process, _)| process.pid()))?;
        let mut connections = Vec::new();
        for (_, addr) in &started {
            connections.push(client::idle_connections(*addr, self.connections).await?);
        }
        sleep(IDLE_WAIT).await;
        let after = resident_of_all(started.iter().map(|(process, _)| process.pid()))?;
        let used = before.into_iter().zip(after).map(|(before, after)| MemoryUse {
            idle: before / 1_048_576.0,
            per_connection: (after - before) / 1024.0 / self.connections as f64,
        });
        Ok(used.collect())
    }
}

fn resident_of_all(pids: impl Iterator<Item = u32>) -> Result<Vec<f64>, Error> {
    pids.map(|pid| Ok(resident(pid)? as f64)).collect()
}
