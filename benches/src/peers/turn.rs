//! One turn of one proxy: first its memory, then its processor time.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use tokio::time::sleep;

use super::{
    client,
    load::{LoadGenerators, LoadResult},
    process::PinnedProcess,
    proxy::{ProxyProgram, ProxySetup},
};
use crate::{
    Effort, Error,
    error::doing,
    machine::{Noise, cpu_time, resident},
};

/// Outrigger drops the codec of a connection after a second without a request; the others need no such time.
const SETTLE: Duration = Duration::from_millis(2500);

/// What all turns of a run share.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerSetup<'a> {
    pub(super) dir: &'a Path,
    pub(super) wrk: &'a Path,
    pub(super) h2load: &'a Path,
    /// Core of the proxy.
    pub(super) core: usize,
    /// Core of everything else.
    pub(super) other_core: usize,
    pub(super) backends: &'a [SocketAddr],
    pub(super) backend_pid: u32,
    /// Idle connections to open.
    pub(super) connections: usize,
    pub(super) effort: Effort,
}

/// The result of one turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct TurnResult {
    /// MiB, after the first request.
    pub(super) idle_memory: f64,
    /// KiB per idle connection.
    pub(super) per_connection: f64,
    pub(super) full: LoadCost,
    pub(super) steady: LoadCost,
}

/// What one load cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadCost {
    /// Microseconds of processor time per request, user and system.
    pub(super) cpu: f64,
    /// Share of the machine's processor time that other processes had, 0 to 1.
    pub(super) noise: f64,
    pub(super) seen: LoadResult,
}

impl PeerSetup<'_> {
    /// Starts the proxy twice: once for its memory, once for its load.
    pub(super) async fn turn(&self, proxy: ProxyProgram, program: &Path) -> Result<TurnResult, Error> {
        let (idle_memory, per_connection) = self.memory(proxy, program).await?;
        let (process, addr) = self.start(proxy, program).await?;
        let load = LoadGenerators {
            wrk: self.wrk,
            h2load: self.h2load,
            core: self.other_core,
            to: addr,
            dir: self.dir,
        };
        let (time, warm_up) = (Duration::from_secs(self.effort.choose(4, 1)), Duration::from_secs(1));
        load.full(warm_up)?;
        let full = self.cost(&process, || load.full(time))?;
        let steady = self.cost(&process, || load.steady(time))?;
        Ok(TurnResult { idle_memory, per_connection, full, steady })
    }

    async fn start(&self, proxy: ProxyProgram, program: &Path) -> Result<(PinnedProcess, SocketAddr), Error> {
        let addr = free_address()?;
        let place = ProxySetup {
            dir: self.dir,
            core: self.core,
            port: addr.port(),
            backends: self.backends,
            connections: self.connections,
        };
        let mut process = proxy.start(program, place)?;
        client::until_it_answers(&mut process, addr).await?;
        Ok((process, addr))
    }

    /// MiB when idle, and KiB per idle connection.
    async fn memory(&self, proxy: ProxyProgram, program: &Path) -> Result<(f64, f64), Error> {
        let (process, addr) = self.start(proxy, program).await?;
        sleep(SETTLE).await;
        let before = resident(process.pid())? as f64;
        let connections = client::idle_connections(addr, self.connections).await?;
        sleep(SETTLE).await;
        let more = resident(process.pid())? as f64 - before;
        Ok((before / 1_048_576.0, more / 1024.0 / connections.len() as f64))
    }

    /// Runs a load and measures the processor time of the proxy.
    fn cost(
        &self,
        process: &PinnedProcess,
        load: impl FnOnce() -> Result<LoadResult, Error>,
    ) -> Result<LoadCost, Error> {
        let pids = [process.pid(), self.backend_pid];
        let noise = Noise::begin(&pids)?;
        let before = cpu_time(process.pid())?;
        let seen = load()?;
        let used = cpu_time(process.pid())?.saturating_sub(before);
        Ok(LoadCost { cpu: used.as_secs_f64() * 1e6 / seen.requests as f64, noise: noise.end()?, seen })
    }
}

/// A loopback address that was free a moment ago, because proxies accept no port 0.
pub(super) fn free_address() -> Result<SocketAddr, Error> {
    let held = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(doing("find a free port"))?;
    held.local_addr().map_err(doing("find a free port"))
}
