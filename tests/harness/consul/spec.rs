//! The configuration of an agent.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use super::ports::AgentPorts;

/// The configuration of an agent.
#[derive(Debug, Clone)]
pub(super) struct AgentSpec {
    /// Node name.
    pub(super) node: String,
    /// The address that it binds and announces.
    pub(super) ip: IpAddr,
    /// `-dev`: all data in memory and lost at a restart, pretty-printed JSON.
    pub(super) dev: bool,
    /// Whether it is a server; otherwise an agent in client mode.
    pub(super) server: bool,
    /// The number of servers that elect the first leader.
    pub(super) expect: usize,
    /// Serf addresses of the other servers.
    pub(super) join: Vec<SocketAddr>,
    /// Its datacenter, one of several that are joined. `None`: there is one.
    pub(super) datacenter: Option<String>,
    /// More configuration, HCL.
    pub(super) extra: String,
}

impl AgentSpec {
    /// A single server.
    pub(super) fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            dev: false,
            server: true,
            expect: 1,
            join: Vec::new(),
            datacenter: None,
            extra: String::new(),
        }
    }

    /// The configuration file.
    pub(super) fn to_hcl(&self, ports: &AgentPorts, data: &Path) -> String {
        let Self { node, ip, dev, server: is_server, expect, join, datacenter, extra } = self;
        let AgentPorts { http, server, serf_lan, serf_wan } = ports;
        let serf_wan = if datacenter.is_some() { i32::from(*serf_wan) } else { -1 };
        let datacenter = datacenter.iter().map(|name| format!("datacenter = {name:?}\n")).collect::<String>();
        let join: Vec<String> = join.iter().map(|addr| format!("{:?}", addr.to_string())).collect();
        let join = join.join(", ");
        let server_part = if *dev {
            String::new()
        } else if *is_server {
            format!("server = true\nbootstrap_expect = {expect}\ndata_dir = {data:?}\n")
        } else {
            format!("data_dir = {data:?}\n")
        };
        format!(
            "node_name = {node:?}\nbind_addr = \"{ip}\"\nclient_addr = \"{ip}\"\n{server_part}\
             retry_join = [{join}]\nretry_interval = \"500ms\"\nlog_level = \"INFO\"\n\
             ports {{ http = {http} https = -1 dns = -1 grpc = -1 server = {server} \
             serf_lan = {serf_lan} serf_wan = {serf_wan} }}\n{datacenter}\
             performance {{ raft_multiplier = 1 }}\n\
             disable_update_check = true\ndisable_anonymous_signature = true\n{extra}\n"
        )
    }
}
