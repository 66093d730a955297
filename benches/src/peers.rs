//! What a request costs end to end, beside nginx, HAProxy and Envoy.
//!
//! The proxies take turns, so that other load on the machine affects all of them. The proxy has one
//! core; backends and load generator share another one. Every process is started here and on loopback.

mod client;
mod load;
mod outcome;
mod process;
mod proxy;
mod scenario;
mod tools;
mod turn;

use std::{net::SocketAddr, path::Path};

use tokio::runtime;

use self::{
    outcome::ProxyResults,
    proxy::ProxyProgram,
    scenario::BODY,
    tools::Tools,
    turn::{PeerSetup, free_address},
};
use crate::{Effort, Error, error::doing, machine, report::Section};

const BACKENDS: usize = 3;
/// Open files that are reserved for other uses than idle connections.
const SPARE_FILES: usize = 1000;

/// Measures `outrigger` (the binary) and every peer that is installed.
///
/// # Errors
/// There is no load generator, or a proxy does not start.
pub fn run(outrigger: &Path, effort: Effort) -> Result<Section, Error> {
    let cores = machine::cores()?;
    let [core, other_core, ..] = cores[..] else {
        return Ok(Section::new("Peers")
            .remark("Not measured: it takes two cores, one for the proxy and one for the load."));
    };
    let tools = Tools::find()?;
    let dir = tempfile::Builder::new().prefix("outrigger-bench-").tempdir();
    let dir = dir.map_err(doing("make a directory"))?;
    let backends: Vec<SocketAddr> = (0..BACKENDS).map(|_| free_address()).collect::<Result<_, _>>()?;
    let ports: Vec<u16> = backends.iter().map(SocketAddr::port).collect();
    let mut server = proxy::backends(tools.require("nginx")?, dir.path(), other_core, &ports, BODY)?;
    let scene = PeerSetup {
        dir: dir.path(),
        wrk: tools.require("wrk")?,
        h2load: tools.require("h2load")?,
        core,
        other_core,
        backends: &backends,
        backend_pid: server.pid(),
        connections: effort.choose(5000, 500).min(machine::file_limit()?.saturating_sub(SPARE_FILES)),
        effort,
    };
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(doing("build a runtime"))?;
    runtime.block_on(async {
        for backend in &backends {
            client::until_it_answers(&mut server, *backend).await?;
        }
        rounds(&scene, outrigger, &tools).await
    })
}

async fn rounds(scene: &PeerSetup<'_>, outrigger: &Path, tools: &Tools) -> Result<Section, Error> {
    let mut absent = Vec::new();
    let mut present = Vec::new();
    for proxy in ProxyProgram::ALL {
        match proxy.program(outrigger, tools) {
            Ok(program) => present
                .push((ProxyResults { proxy, version: proxy.version(&program), turns: Vec::new() }, program)),
            Err(why) => absent.push(format!("{proxy}, because {why}")),
        }
    }
    let rounds = scene.effort.choose(5, 1);
    for round in 1..=rounds {
        for (contestant, program) in &mut present {
            let turn = scene.turn(contestant.proxy, program).await?;
            eprintln!(
                "  round {round} of {rounds}, {}: {:.1} µs of CPU per request",
                contestant.proxy, turn.full.cpu
            );
            contestant.turns.push(turn);
        }
    }
    let contestants: Vec<ProxyResults> = present.into_iter().map(|(contestant, _)| contestant).collect();
    Ok(outcome::section(&contestants, &absent, scene.connections))
}
