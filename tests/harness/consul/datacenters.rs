//! Two datacenters with a server each, joined over the WAN.

use std::net::{IpAddr, Ipv4Addr};

use tokio::time::{Instant, sleep};

use super::{Consul, Error, POLL_INTERVAL, TIMEOUT, http, spec::AgentSpec};

/// `dc1` on 127.0.7.1 and `dc2` on 127.0.7.2.
#[derive(Debug)]
pub struct ConsulDatacenters {
    /// The server of the first one.
    pub dc1: Consul,
    /// The server of the second one.
    pub dc2: Consul,
}

impl ConsulDatacenters {
    /// Starts the servers, and waits until each answers questions about the other one's datacenter.
    ///
    /// # Errors
    /// No binary, no leader, or no way from one to the other within 60 s.
    pub async fn start() -> Result<Self, Error> {
        Self::start_with("").await
    }

    /// As [`ConsulDatacenters::start`], with `extra` configuration (HCL) of both servers.
    ///
    /// # Errors
    /// As [`ConsulDatacenters::start`].
    pub async fn start_with(extra: &str) -> Result<Self, Error> {
        let prepare = |last: u8| {
            let mut spec = AgentSpec::new(&format!("dc{last}-server"));
            spec.ip = IpAddr::V4(Ipv4Addr::new(127, 0, 7, last));
            spec.datacenter = Some(format!("dc{last}"));
            // Only then are chains compiled.
            spec.extra = format!("connect {{ enabled = true }}\n{extra}");
            Consul::prepare(spec)
        };
        let (mut dc1, mut dc2) = (prepare(1)?, prepare(2)?);
        dc1.spawn()?;
        dc2.spawn()?;
        dc1.wait_until_leader().await?;
        dc2.wait_until_leader().await?;
        let both = Self { dc1, dc2 };
        both.join().await?;
        Ok(both)
    }

    /// Joins the two, and waits until each answers questions about the other one's datacenter.
    ///
    /// # Errors
    /// There is no way from one to the other within 60 s.
    pub async fn join(&self) -> Result<(), Error> {
        let end = Instant::now() + TIMEOUT;
        let join = format!("/v1/agent/join/{}?wan=1", self.dc1.wan_addr());
        loop {
            let _ = http::put(self.dc2.http_addr(), &join, "").await;
            if answers_for(&self.dc1, "dc2").await && answers_for(&self.dc2, "dc1").await {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(self.dc1.timeout_error("the way to another datacenter"));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

async fn answers_for(server: &Consul, datacenter: &str) -> bool {
    let path = format!("/v1/health/service/consul?dc={datacenter}");
    http::get(server.http_addr(), &path).await.is_ok_and(|answer| answer.status() == 200)
}
