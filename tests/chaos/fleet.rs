//! The instances of a service: processes that a case kills, stops or makes fail.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use outrigger_tests::{client::Client, load::RequestResults, process, registry::ConsulAgent, wait};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    case_report::CaseReport,
    instance::{BEHAVIOUR_FIELD, Behaviour, CONTROL},
    nginx,
};

/// Pause of a loop that watches something closely.
pub(crate) const FINE_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What an instance is.
#[derive(Debug, Clone)]
pub(crate) enum MemberKind {
    /// Our own server.
    OwnServer,
    /// nginx, with these lines in its `server`.
    Nginx(String),
}

/// An instance. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its id in the registry.
    pub(crate) name: String,
    /// Where it serves.
    pub(crate) addr: SocketAddr,
    /// What it is.
    pub(crate) kind: MemberKind,
    request_log: PathBuf,
    dir: PathBuf,
    child: Option<Child>,
}

impl Member {
    /// The command that serves as this instance, for a program that starts it (a sidecar:
    /// `outrigger run -- …`); its standard input may be empty.
    pub(crate) fn command(&self) -> Vec<String> {
        match &self.kind {
            MemberKind::OwnServer => {
                let program = std::env::current_exe().expect("this program's own path");
                [
                    program.display().to_string(),
                    "instance".into(),
                    format!("--name={}", self.name),
                    format!("--listen={}", self.addr),
                    format!("--request-log={}", self.request_log.display()),
                ]
                .into()
            }
            MemberKind::Nginx(server) => nginx::command(&self.dir, self.addr, &self.request_log, server),
        }
    }

    /// Starts it (again), and waits until it accepts connections.
    pub(crate) async fn start(&mut self) {
        let words = self.command();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let MemberKind::OwnServer = self.kind {
            command.arg("--stdin").stdin(Stdio::piped());
        }
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", words[0])));
        self.wait_accepting().await;
    }

    /// Waits until it accepts connections.
    pub(crate) async fn wait_accepting(&self) {
        let what = format!("{} accepts connections", self.name);
        wait::until(&what, wait::TIMEOUT, async || TcpStream::connect(self.addr).await.is_ok()).await;
    }

    /// Kills the process by SIGKILL; the process has ended when this returns.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill an instance");
            child.wait().expect("wait for an instance's end");
        }
    }

    /// Sends a signal: `STOP`, `CONT`, `TERM`, `QUIT`.
    pub(crate) fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("an instance that runs");
        process::send_signal(child.id(), name).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Changes its behaviour.
    pub(crate) async fn set_behaviour(&self, behaviour: &Behaviour) {
        let behaviour = serde_json::to_string(behaviour).expect("plain data");
        self.send_command(&format!("{BEHAVIOUR_FIELD}: {behaviour}\r\n")).await;
    }

    /// Requests since its start.
    pub(crate) async fn request_count(&self) -> u64 {
        self.send_command("").await
    }

    /// Returns how many requests it has logged since its start.
    async fn send_command(&self, field: &str) -> u64 {
        let mut client = Client::connect(self.addr).await;
        let answer = client.exchange(format!("GET {CONTROL} HTTP/1.1\r\nHost: a\r\n{field}\r\n")).await;
        answer.text().parse().expect("a number of requests")
    }

    /// Requests in its log, over all its starts: method and number.
    pub(crate) fn logged_requests(&self) -> Vec<(String, u64)> {
        let text = fs::read_to_string(&self.request_log).unwrap_or_default();
        let line = |line: &str| {
            let (method, id) = line.split_once(' ')?;
            Some((method.to_owned(), id.parse().ok()?))
        };
        text.lines().filter_map(line).collect()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// All instances of a service.
#[derive(Debug)]
pub(crate) struct Fleet {
    /// The service's name.
    pub(crate) service: String,
    /// Its instances.
    pub(crate) members: Vec<Member>,
    /// How many names were given so far.
    names_given: usize,
    dir: TempDir,
}

impl Fleet {
    /// A fleet without instances.
    pub(crate) fn new(service: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("chaos-fleet-").tempdir().expect("a directory");
        Self { service: service.to_owned(), members: Vec::new(), names_given: 0, dir }
    }

    /// Three of our own servers, started and registered.
    pub(crate) async fn start_three(service: &str, agent: ConsulAgent) -> Self {
        let mut fleet = Self::new(service);
        for _ in 0..3 {
            let member = fleet.add_own_server();
            member.start().await;
        }
        fleet.register(agent).await;
        fleet
    }

    /// Adds one of our own servers, not started.
    pub(crate) fn add_own_server(&mut self) -> &mut Member {
        self.add(MemberKind::OwnServer)
    }

    /// Adds an instance, not started.
    pub(crate) fn add(&mut self, kind: MemberKind) -> &mut Member {
        self.names_given += 1;
        let name = format!("{}-{}", self.service, self.names_given);
        let dir = self.dir.path().join(&name);
        fs::create_dir(&dir).expect("a directory");
        let request_log = dir.join("requests");
        self.members.push(Member {
            name,
            addr: outrigger_net::reserve_addr(),
            kind,
            request_log,
            dir,
            child: None,
        });
        self.members.last_mut().expect("just added")
    }

    /// Registers all of them at the agent, which then connects to each once a second, and waits until
    /// all are passing.
    pub(crate) async fn register(&self, agent: ConsulAgent) {
        self.register_by(agent, |member| {
            json!([{ "TCP": member.addr.to_string(), "Interval": "1s", "Timeout": "1s", "Status": "passing" }])
        })
        .await;
    }

    /// Registers all of them without a check: the agent never detects a failure.
    pub(crate) async fn register_unchecked(&self, agent: ConsulAgent) {
        self.register_by(agent, |_| json!([])).await;
    }

    async fn register_by(&self, agent: ConsulAgent, checks: impl Fn(&Member) -> Value) {
        for member in &self.members {
            let service = json!({
                "Name": self.service, "ID": member.name, "Address": member.addr.ip().to_string(),
                "Port": member.addr.port(), "Checks": checks(member),
            });
            agent.put("/v1/agent/service/register", &service).await;
        }
        self.wait_passing(agent).await;
    }

    /// Waits until the registry shows all of them, and as passing.
    pub(crate) async fn wait_passing(&self, agent: ConsulAgent) {
        let mut all: Vec<_> = self.members.iter().map(|one| (one.name.as_str(), "passing")).collect();
        all.sort_unstable();
        agent.wait_health(&self.service, &all).await;
    }

    /// Takes all of them out of the registry.
    pub(crate) async fn deregister(&self, agent: ConsulAgent) {
        for member in &self.members {
            agent.deregister(&member.name).await;
        }
    }

    /// Requires what must hold in every case: no POST was executed twice, and every POST that succeeded was executed.
    pub(crate) fn check_posts(&self, tally: &RequestResults, row: &mut CaseReport) {
        Self::check_posts_of(&[self], tally, row);
    }

    /// The same of several fleets that take the requests together.
    pub(crate) fn check_posts_of(fleets: &[&Self], tally: &RequestResults, row: &mut CaseReport) {
        let mut seen: HashMap<u64, u32> = HashMap::new();
        let members = fleets.iter().flat_map(|fleet| &fleet.members);
        for (method, id) in members.flat_map(Member::logged_requests) {
            if method == "POST" {
                *seen.entry(id).or_default() += 1;
            }
        }
        let twice = seen.values().filter(|count| **count > 1).count();
        row.require(twice == 0, || format!("{twice} POSTs were done twice"));
        let lost = tally.successful_posts().iter().filter(|id| !seen.contains_key(id)).count();
        row.require(lost == 0, || format!("{lost} POSTs were answered and never done"));
    }
}
