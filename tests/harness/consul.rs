//! Real Consul agents for tests: one process each, on loopback, on ports of its own, gone when the
//! handle is dropped.
//!
//! The binary comes from `tests/tools/consul.sh`. Where there is none, a test says so and ends:
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
//! Every wait here is bounded, on the real clock: not for tests with a paused one. It makes no
//! request about services; a test brings its own client ([`http::exchange`] is a plain one).

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
pub mod http;
mod ports;
mod spec;
#[cfg(test)]
mod tests;

pub use cluster::ConsulCluster;
use ports::AgentPorts;
use spec::AgentSpec;

pub use crate::tool::ToolMissing;
use crate::{process, skip, tool};

/// Longest wait for a leader, and for an agent to come up or to end.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two looks while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How often a start is tried on fresh ports: another process may take one before Consul binds it.
const MAX_START_TRIES: usize = 4;

/// Whether there is a Consul. If not, says on stderr that `test` was skipped, and why (past the
/// test runner's capture).
pub fn available(test: &str) -> bool {
    match Consul::find() {
        Ok(_) => true,
        Err(why) => {
            skip::report_skipped(test, &why.to_string());
            false
        }
    }
}

/// What went wrong with an agent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no binary: ask [`available`] first.
    #[error("no consul here: {0}")]
    ToolMissing(ToolMissing),
    /// The process, its files or its ports.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The process ended by itself.
    #[error("consul ended with {status}; its log ends with:\n{log}")]
    Exited {
        /// How.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {after:?}; the log ends with:\n{log}")]
    Timeout {
        /// What.
        what: &'static str,
        /// How long was waited.
        after: Duration,
        /// The last lines of its log.
        log: String,
    },
}

/// A Consul agent: a process of ours.
#[derive(Debug)]
pub struct Consul {
    spec: AgentSpec,
    ports: AgentPorts,
    dir: TempDir,
    child: Option<Child>,
}

impl Consul {
    /// The binary, or why there is none. Asked once per process; may take minutes the first time.
    ///
    /// # Errors
    /// [`ToolMissing`] with the sentence that `consul.sh` printed.
    pub fn find() -> Result<PathBuf, ToolMissing> {
        static FOUND: OnceLock<Result<PathBuf, ToolMissing>> = OnceLock::new();
        FOUND.get_or_init(|| tool::find("consul.sh")).clone()
    }

    /// A dev agent (`-dev`): everything in memory, so that a restart forgets all. Has a leader.
    ///
    /// # Errors
    /// No binary, or it did not come up.
    pub async fn dev() -> Result<Self, Error> {
        Self::launch(AgentSpec { dev: true, ..AgentSpec::new("dev1") }).await
    }

    /// A single server with a data directory and `raft_multiplier = 1`. Has a leader.
    ///
    /// # Errors
    /// No binary, or it did not come up.
    pub async fn server() -> Result<Self, Error> {
        Self::server_with("").await
    }

    /// As [`Consul::server`], with `extra` configuration (HCL), for example an `acl` block.
    ///
    /// # Errors
    /// No binary, or it did not come up.
    pub async fn server_with(extra: &str) -> Result<Self, Error> {
        Self::launch(AgentSpec { extra: extra.to_owned(), ..AgentSpec::new("lab1") }).await
    }

    async fn launch(spec: AgentSpec) -> Result<Self, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut consul = Self::prepare(spec.clone())?;
            match consul.start().await {
                Ok(()) => return Ok(consul),
                Err(Error::Exited { .. }) if tries < MAX_START_TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Ports and directories, but no process yet.
    fn prepare(spec: AgentSpec) -> Result<Self, Error> {
        Self::find().map_err(Error::ToolMissing)?;
        let ports = AgentPorts::pick(spec.ip).map_err(io_error("pick free ports"))?;
        let dir = tempfile::Builder::new()
            .prefix("outrigger-consul-")
            .tempdir()
            .map_err(io_error("make a directory for consul"))?;
        Ok(Self { spec, ports, dir, child: None })
    }

    /// Address of the HTTP API. Stays the same over a restart.
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

    pub(crate) fn serf_addr(&self) -> SocketAddr {
        SocketAddr::new(self.spec.ip, self.ports.serf_lan)
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.spec.node
    }

    /// The agent's log: all its lives, one after the other.
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("consul.log")
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts it (again), with the data and the ports that it had, and waits for a leader. Nothing
    /// happens to one that runs.
    ///
    /// # Errors
    /// It did not come up in 60 s, or ended by itself.
    pub async fn start(&mut self) -> Result<(), Error> {
        self.spawn()?;
        self.wait_until_leader().await
    }

    /// Starts the process and waits for nothing.
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
        // Its environment may name another Consul or a token.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONSUL_"))
        {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.child = Some(command.spawn().map_err(io_error("start consul"))?);
        Ok(())
    }

    /// Waits until the agent answers and knows a leader that has put the node into the catalog.
    ///
    /// # Errors
    /// Not within 60 s, or the process ended.
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

    /// A leader is known, has seen this agent's node alive, and the agent has put its own word in: a
    /// moment before, the node has no id yet.
    async fn has_leader(&self) -> bool {
        let addr = self.http_addr();
        let Ok(leader) = http::get(addr, "/v1/status/leader").await else { return false };
        if !leader.status().is_success() || leader.body().len() <= br#""""#.len() + 1 {
            return false;
        }
        let contains = |path: &'static str, word: &'static str| async move {
            let path = format!("{path}{}", self.spec.node);
            let answer = http::get(addr, &path).await.ok()?;
            String::from_utf8_lossy(answer.body()).contains(word).then_some(())
        };
        contains("/v1/health/node/", "serfHealth").await.is_some()
            && contains("/v1/catalog/node/", "lan_ipv4").await.is_some()
    }

    /// Ends it with SIGTERM, and waits for the end. Its data stay. A server does not leave the
    /// cluster by that.
    ///
    /// # Errors
    /// It did not end within 60 s: then it was killed.
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

    /// Ends it with SIGKILL, as a crash would. Its data stay.
    ///
    /// # Errors
    /// The process could not be killed.
    pub fn kill(&mut self) -> Result<(), Error> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().map_err(io_error("kill consul"))?;
        child.wait().map(|_| ()).map_err(io_error("wait for consul's end"))
    }

    /// Stops it, and removes its data: the next [`Consul::start`] is a new node.
    ///
    /// # Errors
    /// It could not be stopped, or the data not be removed.
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
        child.try_wait().map_err(io_error("look after consul"))
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
        // Nothing is left to do about a process that cannot be killed.
        let _ = self.kill();
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("consul {} is kept for a look: {}", self.spec.node, self.dir.path().display());
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
