//! One turn of one proxy: every load, and the processor time that it took.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use super::{
    backends::Backends,
    client,
    generator::{LoadGenerators, LoadResult},
    load::{BackendGroup, Load},
    process::PinnedProcess,
    proxy::{ProxyProgram, ProxySetup},
};
use crate::{
    Effort, Error,
    machine::{Noise, cpu_time},
};

/// Requests that open the connections to the servers before a proxy is measured.
const WARM_UP: u64 = 4000;

/// What all turns of a run share.
#[derive(Debug)]
pub(super) struct PeerSetup<'a> {
    pub(super) dir: &'a Path,
    pub(super) wrk: &'a Path,
    pub(super) h2load: &'a Path,
    /// Core of the proxy.
    pub(super) core: usize,
    /// Core of everything else.
    pub(super) other_core: usize,
    pub(super) backends: Backends,
    /// Idle connections per proxy.
    pub(super) connections: usize,
    pub(super) effort: Effort,
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
    /// Runs the loads; the proxy is started once for each group of servers.
    pub(super) async fn turn(
        &self,
        proxy: ProxyProgram,
        program: &Path,
        loads: &[Load],
    ) -> Result<BTreeMap<Load, LoadCost>, Error> {
        let mut costs = BTreeMap::new();
        for group in [BackendGroup::Answers, BackendGroup::Uploads] {
            let mut loads = loads.iter().filter(|load| load.shape().group == group).peekable();
            if loads.peek().is_none() {
                continue;
            }
            let (mut process, place) = self.place(group, |place| proxy.start(program, place))?;
            client::until_it_answers(&mut process, place).await?;
            let generators = self.generators(place);
            generators.requests(WARM_UP, loads.peek().map_or(1, |load| load.shape().connections))?;
            for &load in loads {
                costs.insert(load, self.cost(&process, || generators.run(load, self.effort))?);
            }
        }
        Ok(costs)
    }

    /// Calls `start` with a free address and the servers of a group.
    pub(super) fn place(
        &self,
        group: BackendGroup,
        start: impl FnOnce(ProxySetup<'_>) -> Result<PinnedProcess, Error>,
    ) -> Result<(PinnedProcess, SocketAddr), Error> {
        let addr = outrigger_net::reserve_addr();
        let process = start(ProxySetup {
            dir: self.dir,
            core: self.core,
            port: addr.port(),
            backends: self.backends.group(group),
            connections: self.connections,
        })?;
        Ok((process, addr))
    }

    pub(super) fn generators(&self, to: SocketAddr) -> LoadGenerators<'_> {
        LoadGenerators { wrk: self.wrk, h2load: self.h2load, core: self.other_core, to, dir: self.dir }
    }

    /// Runs a load and measures the processor time of the proxy.
    fn cost(
        &self,
        process: &PinnedProcess,
        load: impl FnOnce() -> Result<LoadResult, Error>,
    ) -> Result<LoadCost, Error> {
        let pids = [process.pid(), self.backends.pid()];
        let noise = Noise::begin(&pids)?;
        let before = cpu_time(process.pid())?;
        let seen = load()?;
        let used = cpu_time(process.pid())?.saturating_sub(before);
        Ok(LoadCost { cpu: used.as_secs_f64() * 1e6 / seen.requests as f64, noise: noise.end()?, seen })
    }
}
