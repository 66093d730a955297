//! Instances as they are deployed: each under a sidecar of its own that registers it, `outrigger run --
//! app`. The app ends at once on SIGTERM, also with requests under way.

use std::{net::SocketAddr, time::Duration};

use outrigger_tests::{process::Process, registry::ConsulAgent, scrape::Scrape, wait};

use crate::fleet::Member;

/// Longest that a sidecar may take to leave: measured, it is about two seconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A sidecar that runs an instance.
#[derive(Debug)]
pub(crate) struct DeployedInstance {
    pub(crate) id: String,
    pub(crate) process: Process,
}

impl DeployedInstance {
    /// Starts `member` under a sidecar, and waits until the registry at `agent` lists it as passing.
    pub(crate) async fn start(member: &Member, service: &str, agent: SocketAddr) -> Self {
        Self::start_with(member, service, agent, "", &[]).await
    }

    /// The same with further settings (lines of YAML), and further arguments of the instance.
    pub(crate) async fn start_with(
        member: &Member,
        service: &str,
        agent: SocketAddr,
        settings: &str,
        arguments: &[String],
    ) -> Self {
        let settings = format!(
            "registry: {{consul: {{address: \"http://{agent}\"}}}}\nstate_dir: off\n\
             service: {{name: {service}, id: {id}, port: {port}, address: \"{ip}\", \
             health: {{interval: 500ms, timeout: 500ms}}}}\n{settings}",
            id = member.name,
            port = member.addr.port(),
            ip = member.addr.ip(),
        );
        let command = [member.command(), arguments.to_vec()].concat();
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let deployed = Self { id: member.name.clone(), process: Process::start_with_app(&settings, &words) };
        deployed.wait_passing(service, agent).await;
        deployed
    }

    /// Waits until the registry lists it as passing.
    async fn wait_passing(&self, service: &str, agent: SocketAddr) {
        let what = format!("{} is passing in the registry", self.id);
        wait::until(&what, wait::TIMEOUT, async || {
            ConsulAgent(agent).health(service).await.contains(&(self.id.clone(), "passing".to_owned()))
        })
        .await;
    }

    /// Its metrics now.
    pub(crate) async fn metrics(&self) -> Scrape {
        Scrape::parse(&self.process.admin_get("/metrics").await.text())
    }

    /// SIGTERM, and nothing else. It has ended when this returns, and the app before it.
    pub(crate) async fn stop(mut self) {
        self.process.signal("TERM");
        self.process.wait_exit(STOP_TIMEOUT).await;
    }
}

/// Stops all of them at once: dropping a sidecar would leave its app running.
pub(crate) async fn stop_all(all: Vec<DeployedInstance>) {
    futures_util::future::join_all(all.into_iter().map(DeployedInstance::stop)).await;
}
