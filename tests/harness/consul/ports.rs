//! Free ports for an agent. The kernel assigns them (port 0). Another process may take a port before Consul binds it,
//! so a start is tried again.

use std::{
    io,
    net::{IpAddr, TcpListener, UdpSocket},
};

/// The ports of one agent; DNS, gRPC and the WAN are off.
#[derive(Debug, Clone)]
pub(crate) struct AgentPorts {
    pub(crate) http: u16,
    pub(crate) server: u16,
    pub(crate) serf_lan: u16,
}

/// A port bound for TCP and UDP: Serf uses both on one number.
struct HeldPort {
    tcp: TcpListener,
    _udp: UdpSocket,
}

impl AgentPorts {
    /// Three different ports of `ip` that were free at the time of the call.
    pub(crate) fn pick(ip: IpAddr) -> io::Result<Self> {
        // All three are bound at the same time, so that they differ.
        let held = [hold_port(ip)?, hold_port(ip)?, hold_port(ip)?];
        let port = |held: &HeldPort| held.tcp.local_addr().map(|addr| addr.port());
        let [http, server, serf_lan] = &held;
        Ok(Self { http: port(http)?, server: port(server)?, serf_lan: port(serf_lan)? })
    }
}

fn hold_port(ip: IpAddr) -> io::Result<HeldPort> {
    const TRIES: usize = 20;
    let mut last = io::Error::other("no port tried");
    for _ in 0..TRIES {
        let tcp = TcpListener::bind((ip, 0))?;
        match UdpSocket::bind((ip, tcp.local_addr()?.port())) {
            Ok(udp) => return Ok(HeldPort { tcp, _udp: udp }),
            Err(error) => last = error,
        }
    }
    Err(last)
}
