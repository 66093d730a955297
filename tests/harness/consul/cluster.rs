//! A cluster of three Consul servers, for tests that lose the leader or a quorum.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{Consul, Error, POLL_INTERVAL, TIMEOUT, http, spec::AgentSpec};

/// Three servers on 127.0.0.2, 127.0.0.3 and 127.0.0.4, `raft_multiplier = 1`.
#[derive(Debug)]
pub struct ConsulCluster {
    servers: [Consul; 3],
}

impl ConsulCluster {
    /// Starts the servers and waits until each of them knows the leader.
    ///
    /// # Errors
    /// No binary, or no leader within 60 s.
    pub async fn start_three() -> Result<Self, Error> {
        let prepare = |last: u8| {
            let mut spec = AgentSpec::new(&format!("server{last}"));
            spec.ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
            spec.expect = 3;
            Consul::prepare(spec)
        };
        let mut servers = [prepare(2)?, prepare(3)?, prepare(4)?];
        let serf: Vec<_> = servers.iter().map(Consul::serf_addr).collect();
        for server in &mut servers {
            let own = server.serf_addr();
            server.spec.join = serf.iter().copied().filter(|addr| *addr != own).collect();
            server.spawn()?;
        }
        let mut cluster = Self { servers };
        for server in &mut cluster.servers {
            server.wait_until_leader().await?;
        }
        Ok(cluster)
    }

    /// Starts an agent in client mode on 127.0.0.1, like the agent beside an app. After SIGTERM it leaves the cluster
    /// with all its registrations.
    ///
    /// # Errors
    /// No binary, or the agent did not start.
    pub async fn start_agent(&self) -> Result<Consul, Error> {
        self.start_named_agent("agent1").await
    }

    /// As [`ConsulCluster::start_agent`], for the agent of another node.
    ///
    /// # Errors
    /// No binary, or the agent did not start.
    pub async fn start_named_agent(&self, node: &str) -> Result<Consul, Error> {
        Consul::launch(AgentSpec {
            server: false,
            join: self.servers.iter().map(Consul::serf_addr).collect(),
            ..AgentSpec::new(node)
        })
        .await
    }

    /// Kills all servers, like a power cut. Their data stay.
    ///
    /// # Errors
    /// A server could not be killed.
    pub fn kill_all(&mut self) -> Result<(), Error> {
        self.servers.iter_mut().try_for_each(Consul::kill)
    }

    /// Starts the servers that do not run, and waits until all know a leader.
    ///
    /// # Errors
    /// No leader within 60 s.
    pub async fn start_all(&mut self) -> Result<(), Error> {
        self.servers.iter_mut().try_for_each(Consul::spawn)?;
        for server in &mut self.servers {
            server.wait_until_leader().await?;
        }
        Ok(())
    }

    /// Lets every server join `agent`, like an operator. A restarted server may not know an agent that joined shortly
    /// before the kill, because serf writes its snapshot late.
    ///
    /// # Errors
    /// A server did not join within 60 s.
    pub async fn join_agent(&self, agent: &Consul) -> Result<(), Error> {
        let path = format!("/v1/agent/join/{}", agent.serf_addr());
        for server in &self.servers {
            let end = Instant::now() + TIMEOUT;
            while !http::put(server.http_addr(), &path, "").await.is_ok_and(|answer| answer.status() == 200) {
                if Instant::now() >= end {
                    return Err(server.timeout_error("joining an agent"));
                }
                sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// The servers, in the order of their addresses.
    pub fn servers(&self) -> &[Consul; 3] {
        &self.servers
    }

    /// One server, to kill, stop or start.
    ///
    /// # Panics
    /// On an index above 2.
    pub fn server(&mut self, index: usize) -> &mut Consul {
        &mut self.servers[index]
    }

    /// The index of the leader on which all running servers agree.
    ///
    /// # Errors
    /// The servers do not agree within 60 s.
    pub async fn leader(&mut self) -> Result<usize, Error> {
        self.leader_within(TIMEOUT).await
    }

    async fn leader_within(&mut self, limit: Duration) -> Result<usize, Error> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(leader) = self.agreed_leader().await {
                return Ok(leader);
            }
            sleep(POLL_INTERVAL).await;
        }
        Err(self.servers[0].timeout_error("an agreement on the leader"))
    }

    /// The leader that every running server names, if that leader runs.
    async fn agreed_leader(&mut self) -> Option<usize> {
        let mut named = Vec::new();
        for server in &mut self.servers {
            if server.is_running() {
                let answer = http::get(server.http_addr(), "/v1/status/leader").await.ok()?;
                named.push(String::from_utf8_lossy(answer.body()).trim().trim_matches('"').to_owned());
            }
        }
        let first = named.first()?;
        let all_agree = named.iter().all(|name| name == first);
        let index = self.servers.iter().position(|server| server.rpc_addr().to_string() == *first)?;
        (all_agree && self.servers[index].is_running()).then_some(index)
    }

    /// Kills the leader with SIGKILL and returns its index.
    ///
    /// # Errors
    /// There was no leader, or the leader could not be killed.
    pub async fn kill_leader(&mut self) -> Result<usize, Error> {
        let leader = self.leader().await?;
        self.servers[leader].kill()?;
        Ok(leader)
    }

    /// Stops the leader with SIGTERM and returns its index.
    ///
    /// # Errors
    /// There was no leader, or the leader did not end.
    pub async fn stop_leader(&mut self) -> Result<usize, Error> {
        let leader = self.leader().await?;
        self.servers[leader].stop().await?;
        Ok(leader)
    }
}
