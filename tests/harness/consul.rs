//! Real Consul agents for tests: one process each, on loopback and on free ports, killed when the handle is
//! dropped.
//!
//! The binary comes from `tests/tools/consul.sh`. Without a binary, a test reports that it is skipped and returns:
//!
//! ```no_run
//! # async fn a_test() -> Result<(), outrigger_tests::consul::Error> {
//! use outrigger_tests::consul::{self, Consul};
//! if !consul::available("the watch survives a restart") {
//!     return Ok(());
//! }
//! let consul = Consul::server().await?;
//! println!("agent at {}", consul.http_addr());
//! # Ok(())
//! # }
//! ```
//!
//! Every wait is bounded by the real clock, so a test cannot pause its clock. This module sends no request about
//! services; a test uses its own client ([`http::exchange`] is a plain one).

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

mod cluster;
mod datacenters;
pub mod http;
mod ports;
mod spec;
#[cfg(test)]
mod tests;

pub use cluster::ConsulCluster;
pub use datacenters::ConsulDatacenters;
use ports::AgentPorts;
use spec::AgentSpec;

pub use crate::tool::ToolMissing;
use crate::{process, skip, tool};

/// Longest wait for a leader, and for an agent to come up or to end.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Whether there is a Consul binary. If not, reports on stderr that `test` was skipped, and why; the test runner does
/// not capture this report.
pub fn available(test: &str) -> bool {
    match Consul::find() {
        Ok(_) => true,
        Err(why) => {
            skip::report_skipped(test, &why.to_string());
            false
        }
    }
}

/// An error of an agent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no binary: call [`available`] first.
    #[error("no consul here: {0}")]
    ToolMissing(ToolMissing),
    /// An I/O error of the process, its files or its ports.
    #[error("{doing}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The process ended by itself.
    #[error("consul ended with {status}; its log ends with:\n{log}")]
    Exited {
        /// The exit status.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// An event did not happen in time.
    #[error("{what} did not happen within {after:?}; the log ends with:\n{log}")]
    Timeout {
        /// The event.
        what: &'static str,
        /// The time limit.
        after: Duration,
        /// The last lines of its log.
        log: String,
    },
}

/// A Consul agent that runs as a child process.
#[derive(Debug)]
pub struct Consul {
    spec: AgentSpec,
    ports: AgentPorts,
    dir: TempDir,
    child: Option<Child>,
}

impl Consul {
    /// The binary, or why there is none. Searched once per process; may take minutes the first time.
    ///
    /// # Errors
    /// [`ToolMissing`] with the text that `consul.sh` printed.
    pub fn find() -> Result<PathBuf, ToolMissing> {
        static FOUND: OnceLock<Result<PathBuf, ToolMissing>> = OnceLock::new();
        FOUND.get_or_init(|| tool::find("consul.sh", &[])).clone()
    }

    /// A dev agent (`-dev`), with a leader. All data are in memory and lost at a restart.
    ///
    /// # Errors
    /// No binary, or the agent did not start.
    pub async fn dev() -> Result<Self, Error> {
        Self::launch(AgentSpec { dev: true, ..AgentSpec::new("dev1") }).await
    }

    /// A single server with a data directory and `raft_multiplier = 1`, with a leader.
    ///
    /// # Errors
    /// No binary, or the agent did not start.
    pub async fn server() -> Result<Self, Error> {
        Self::server_with("").await
    }

    /// As [`Consul::server`], with `extra` configuration (HCL), for example an `acl` block.
    ///
    /// # Errors
    /// No binary, or the agent did not start.
    pub async fn server_with(extra: &str) -> Result<Self, Error> {
        Self::launch(AgentSpec { extra: extra.to_owned(), ..AgentSpec::new("lab1") }).await
    }

    async fn launch(spec: AgentSpec) -> Result<Self, Error> {
        let mut consul = Self::prepare(spec)?;
        consul.start().await?;
        Ok(consul)
    }

    /// Picks ports and makes the directory; starts no process.
    fn prepare(spec: AgentSpec) -> Result<Self, Error> {
        Self::find().map_err(Error::ToolMissing)?;
        let ports = AgentPorts::reserve();
        let dir = tempfile::Builder::new()
            .prefix("outrigger-consul-")
            .tempdir()
            .map_err(io_error("make a directory for consul"))?;
        Ok(Self { spec, ports, dir, child: None })
    }

    /// Address of the HTTP API. A restart does not change it.
    pub fn http_addr(&self) -> SocketAddr {
        SocketAddr::new(self.spec.ip, self.ports.http)
    }

    /// `http://ADDRESS:PORT` of the HTTP API.
    pub fn url(&self) -> String {
        format!("http://{}", self.http_addr())
    }

    /// Address of the servers' RPC, as `/v1/status/leader` names it.
    pub fn rpc_addr(&self) -> SocketAddr {
        SocketAddr::new(self.spec.ip, self.ports.server)
    }

    /// The address of its gossip with other agents.
    pub fn serf_addr(&self) -> SocketAddr {
        SocketAddr::new(self.spec.ip, self.ports.serf_lan)
    }

    /// The address of its gossip with the servers of other datacenters.
    pub fn wan_addr(&self) -> SocketAddr {
        SocketAddr::new(self.spec.ip, self.ports.serf_wan)
    }

    /// Sends a signal to the process: `STOP`, `CONT`.
    ///
    /// # Errors
    /// The process could not be signalled, or does not run.
    pub fn signal(&self, name: &str) -> Result<(), Error> {
        let child =
            self.child.as_ref().ok_or_else(|| io_error("signal consul")(io::ErrorKind::NotFound.into()))?;
        process::send_signal(child.id(), name).map_err(io_error("signal consul"))
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.spec.node
    }

    /// The agent's log. Each start appends to it.
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("consul.log")
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts the agent with its data and ports, and waits for a leader. Does not restart a running agent.
    ///
    /// # Errors
    /// There was no leader within 60 s, or the process ended.
    pub async fn start(&mut self) -> Result<(), Error> {
        self.spawn()?;
        self.wait_until_leader().await
    }

    /// Starts the process without a wait.
    ///
    /// # Errors
    /// The process could not be started.
    pub fn spawn(&mut self) -> Result<(), Error> {
        if self.is_running() {
            return Ok(());
        }
        let binary = Self::find().map_err(Error::ToolMissing)?;
        fs::create_dir_all(self.data_dir()).map_err(io_error("make consul's data directory"))?;
        let config = self.dir.path().join("consul.hcl");
        fs::write(&config, self.spec.to_hcl(&self.ports, &self.data_dir()))
            .map_err(io_error("write consul's configuration"))?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .map_err(io_error("open consul's log"))?;
        let errors = log.try_clone().map_err(io_error("open consul's log"))?;

        let mut command = Command::new(binary);
        command.arg("agent").arg("-config-file").arg(config);
        if self.spec.dev {
            command.arg("-dev");
        }
        // The environment may name another Consul or a token.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONSUL_"))
        {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.child = Some(command.spawn().map_err(io_error("start consul"))?);
        Ok(())
    }

    /// Waits until the agent answers and knows a leader, and the catalog has the node.
    ///
    /// # Errors
    /// This took longer than 60 s, or the process ended.
    pub async fn wait_until_leader(&mut self) -> Result<(), Error> {
        let end = Instant::now() + TIMEOUT;
        while Instant::now() < end {
            if let Some(status) = self.exit_status()? {
                return Err(Error::Exited { status, log: self.log_tail() });
            }
            if self.has_leader().await {
                return Ok(());
            }
            sleep(POLL_INTERVAL).await;
        }
        Err(self.timeout_error("a leader's election"))
    }

    /// Whether a leader is known, the leader has marked this agent's node alive, and the agent has written its node
    /// entry: without that entry the node has no id yet.
    async fn has_leader(&self) -> bool {
        let addr = self.http_addr();
        let Ok(leader) = http::get(addr, "/v1/status/leader").await else { return false };
        if !leader.status().is_success() || leader.body().len() <= br#""""#.len() + 1 {
            return false;
        }
        let contains = |path: &'static str, text: &'static str| async move {
            let path = format!("{path}{}", self.spec.node);
            let answer = http::get(addr, &path).await.ok()?;
            String::from_utf8_lossy(answer.body()).contains(text).then_some(())
        };
        contains("/v1/health/node/", "serfHealth").await.is_some()
            && contains("/v1/catalog/node/", "lan_ipv4").await.is_some()
    }

    /// Sends SIGTERM and waits for the end. The data stay, and a server stays a member of the cluster.
    ///
    /// # Errors
    /// The process did not end within 60 s and was killed.
    pub async fn stop(&mut self) -> Result<(), Error> {
        let Some(child) = &self.child else { return Ok(()) };
        process::send_signal(child.id(), "TERM").map_err(io_error("send SIGTERM to consul"))?;
        let end = Instant::now() + TIMEOUT;
        while Instant::now() < end {
            if self.exit_status()?.is_some() {
                self.child = None;
                return Ok(());
            }
            sleep(POLL_INTERVAL).await;
        }
        let late = self.timeout_error("the end after SIGTERM");
        self.kill()?;
        Err(late)
    }

    /// Ends the process with SIGKILL, like a crash. The data stay.
    ///
    /// # Errors
    /// The process could not be killed.
    pub fn kill(&mut self) -> Result<(), Error> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().map_err(io_error("kill consul"))?;
        child.wait().map(|_| ()).map_err(io_error("wait for consul's end"))
    }

    /// Stops the agent and removes its data: the next [`Consul::start`] makes a new node.
    ///
    /// # Errors
    /// The agent could not be stopped, or its data could not be removed.
    pub async fn wipe(&mut self) -> Result<(), Error> {
        self.stop().await?;
        let data = self.data_dir();
        if data.exists() {
            fs::remove_dir_all(data).map_err(io_error("remove consul's data"))
        } else {
            Ok(())
        }
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>, Error> {
        let Some(child) = &mut self.child else { return Ok(None) };
        child.try_wait().map_err(io_error("read the state of consul's process"))
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn timeout_error(&self, what: &'static str) -> Error {
        Error::Timeout { what, after: TIMEOUT, log: self.log_tail() }
    }

    fn log_tail(&self) -> String {
        log_tail(&self.log_path())
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        // A process that cannot be killed is ignored.
        let _ = self.kill();
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("the directory of consul {} is kept: {}", self.spec.node, self.dir.path().display());
        }
    }
}

fn log_tail(path: &Path) -> String {
    const LINES: usize = 15;
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { doing, source }
}
