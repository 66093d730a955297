//! Free ports for an agent.

use outrigger_net::reserve_addr;

/// The ports of one agent; DNS and gRPC are off.
#[derive(Debug, Clone)]
pub(crate) struct AgentPorts {
    pub(crate) http: u16,
    pub(crate) server: u16,
    pub(crate) serf_lan: u16,
    /// Only a server of several datacenters listens there.
    pub(crate) serf_wan: u16,
}

impl AgentPorts {
    /// Different ports, free on all loopback addresses.
    pub(crate) fn reserve() -> Self {
        let [http, server, serf_lan, serf_wan] = std::array::from_fn(|_| reserve_addr().port());
        Self { http, server, serf_lan, serf_wan }
    }
}
