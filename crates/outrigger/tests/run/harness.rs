//! A sidecar around an app, a registry for it, and waits that have a bound.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_net::reserve_addr;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// Longest wait; far above every expected time.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What a process logs that has taken the place of another one.
pub(crate) const TAKEN: &str = "serving in the place of the earlier sidecar";

pub(crate) async fn wait_until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let from = Instant::now();
    while !is().await {
        assert!(from.elapsed() < TEST_TIMEOUT, "never came true: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn registry() -> DevRegistry {
    DevRegistry::bind((Ipv4Addr::LOCALHOST, 0).into(), DevRegistryOptions::default()).await.unwrap()
}

/// What starts a program as process 1 of a namespace; the program follows. `None`: this machine allows none, and the test is
/// skipped.
pub(crate) fn process_namespace() -> Option<Command> {
    let isolate = || {
        let mut command = Command::new("unshare");
        command.args(["-Urpf", "--mount-proc", "--kill-child"]);
        command
    };
    if isolate().arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Some(isolate());
    }
    eprintln!("skipped: this machine allows no process namespaces");
    None
}

/// Status and body of an answer; `None` without one.
pub(crate) async fn send_request(addr: SocketAddr, line: &str, body: &str) -> Option<(u16, String)> {
    let (method, path) = line.split_once(' ').unwrap();
    let exchange = async {
        let mut socket = TcpStream::connect(addr).await.ok()?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nx-outrigger-admin: 1\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        socket.write_all(head.as_bytes()).await.ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
    };
    timeout(TEST_TIMEOUT, exchange).await.unwrap()
}

/// Ids of the listed instances of `orders`, each with its worst status.
pub(crate) async fn listed_instances(registry: &DevRegistry) -> Vec<(String, String)> {
    listed_instances_of(registry, "orders").await
}

/// Ids of the listed instances of a service, each with its worst status.
pub(crate) async fn listed_instances_of(registry: &DevRegistry, service: &str) -> Vec<(String, String)> {
    let line = format!("GET /v1/health/service/{service}");
    let (_, body) = send_request(registry.addr(), &line, "").await.unwrap();
    let entries: Value = serde_json::from_str(&body).unwrap();
    let mut out: Vec<_> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let statuses: Vec<_> = entry["Checks"]
                .as_array()
                .unwrap()
                .iter()
                .map(|check| check["Status"].as_str().unwrap())
                .collect();
            let worst =
                ["critical", "warning"].into_iter().find(|s| statuses.contains(s)).unwrap_or("passing");
            (entry["Service"]["ID"].as_str().unwrap().to_owned(), worst.to_owned())
        })
        .collect();
    out.sort();
    out
}

/// Waits until exactly these instances of `orders` are listed.
pub(crate) async fn wait_until_listed(registry: &DevRegistry, wanted: &[(&str, &str)]) {
    wait_until_listed_of(registry, "orders", wanted).await;
}

/// Waits until exactly these instances of a service are listed.
pub(crate) async fn wait_until_listed_of(registry: &DevRegistry, service: &str, wanted: &[(&str, &str)]) {
    let wanted: Vec<_> = wanted.iter().map(|(id, status)| ((*id).to_owned(), (*status).to_owned())).collect();
    wait_until(&format!("the registry lists {wanted:?}"), async || {
        listed_instances_of(registry, service).await == wanted
    })
    .await;
}

/// Builds a sidecar process.
pub(crate) struct SidecarBuilder {
    pub(crate) dir: TempDir,
    pub(crate) port: u16,
    outbound: u16,
    admin: u16,
    registry: SocketAddr,
    pub(crate) command: Command,
    app: Vec<String>,
}

impl SidecarBuilder {
    /// A sidecar of the service `orders` with the instance `orders-1`; `more` has further settings in YAML.
    pub(crate) fn new(registry: &DevRegistry, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [port, outbound, admin] = std::array::from_fn(|_| reserve_addr().port());
        let registry = registry.addr();
        let settings = format!(
            "registry: {{consul: {{address: \"http://{registry}\"}}}}\n\
             service: {{name: orders, id: orders-1, port: {port}, address: 127.0.0.1, \
             health: {{interval: 100ms, timeout: 100ms}}}}\n\
             outbound: {{listen: \"127.0.0.1:{outbound}\"}}\nadmin: {{listen: \"127.0.0.1:{admin}\"}}\n{more}\n"
        );
        std::fs::write(dir.path().join("outrigger.yaml"), settings).unwrap();
        let command = run_command(dir.path());
        Self { dir, port, outbound, admin, registry, command, app: Vec::new() }
    }

    /// Takes the service out of the settings, so that nothing is registered.
    pub(crate) fn without_service(self) -> Self {
        let file = self.dir.path().join("outrigger.yaml");
        let settings = std::fs::read_to_string(&file).unwrap();
        let without: Vec<_> = settings.lines().filter(|line| !line.starts_with("service:")).collect();
        std::fs::write(&file, without.join("\n")).unwrap();
        self
    }

    /// Adds the service `orders-admin` with the instance `orders-admin-1`: the admin port of the same app. Gives that port.
    pub(crate) fn with_admin_service(mut self) -> (Self, u16) {
        let file = self.dir.path().join("outrigger.yaml");
        let settings = std::fs::read_to_string(&file).unwrap();
        let port = reserve_addr().port();
        let lines = settings.lines().map(|line| match line.strip_prefix("service: ") {
            Some(one) => {
                let other = one
                    .replace("name: orders, id: orders-1", "name: orders-admin, id: orders-admin-1")
                    .replace(&format!("port: {}", self.port), &format!("port: {port}"));
                format!("services:\n- {one}\n- {other}\n")
            }
            None => format!("{line}\n"),
        });
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        self.command.env("APP_ADMIN_PORT", port.to_string());
        (self, port)
    }

    /// Runs the app of these tests.
    pub(crate) fn with_test_app(mut self, orders: &[(&str, &str)]) -> Self {
        self.command
            .env("APP_PORT", self.port.to_string())
            .env("APP_LOG", self.dir.path().join("app"))
            .env("APP_OUTBOUND", format!("127.0.0.1:{}", self.outbound))
            .env("APP_REGISTRY", self.registry.to_string())
            .envs(orders.iter().copied());
        let this = std::env::current_exe().unwrap();
        self.app = [&this.to_string_lossy(), "app::the_app", "--exact", "--ignored", "--nocapture"]
            .map(ToString::to_string)
            .into();
        self
    }

    /// Where the app sends its requests.
    pub(crate) fn outbound_addr(&self) -> SocketAddr {
        loopback(self.outbound)
    }

    /// Starts it as a process manager does that holds `socket`, for the process `pid` (`$$`: the sidecar).
    pub(crate) fn with_socket(mut self, socket: &TcpListener, pid: &str) -> Self {
        self.command = with_socket(&self.command, socket, pid);
        self
    }

    /// Runs another program as app.
    pub(crate) fn with_app(mut self, app: &[&str]) -> Self {
        self.app = app.iter().map(ToString::to_string).collect();
        self
    }

    pub(crate) fn start(mut self) -> RunningSidecar {
        if !self.app.is_empty() {
            self.command.arg("--").args(&self.app);
        }
        let log = "log".to_owned();
        RunningSidecar {
            child: spawn(self.command, &self.dir.path().join(&log)),
            log,
            dir: Arc::new(self.dir),
            outbound: loopback(self.outbound),
            admin: loopback(self.admin),
            port: self.port,
        }
    }
}

/// `outrigger run` with the settings in `dir`, and without those of this environment.
fn run_command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CONSUL_") || text.starts_with("OUTRIGGER_") {
            command.env_remove(&name);
        }
    }
    command.arg("run").arg("-c").arg(dir.join("outrigger.yaml")).args(["--log-format", "json"]);
    command.env("XDG_STATE_HOME", dir).env_remove("STATE_DIRECTORY");
    command.stdin(Stdio::null());
    command
}

fn with_socket(command: &Command, socket: &TcpListener, pid: &str) -> Command {
    let script =
        format!("export LISTEN_PID={pid} LISTEN_FDS=1 LISTEN_FDNAMES=outbound; exec \"$@\" 3<&0 0</dev/null");
    let mut started = Command::new("sh");
    started.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => started.env(name, value),
            None => started.env_remove(name),
        };
    }
    started.stdin(OwnedFd::from(socket.try_clone().unwrap()));
    started
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let log = std::fs::File::create(log).unwrap();
    command.stdout(Stdio::piped()).stderr(log).spawn().unwrap()
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A running sidecar, killed when it is dropped.
pub(crate) struct RunningSidecar {
    pub(crate) child: Child,
    /// The name of its log.
    log: String,
    dir: Arc<TempDir>,
    pub(crate) outbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) port: u16,
}

impl RunningSidecar {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    pub(crate) fn log(&self) -> String {
        Self::read(&self.path(&self.log))
    }

    /// Starts another one with the settings that the file has now, as `run --replace`.
    pub(crate) fn replace(&self) -> Self {
        let mut command = run_command(self.dir.path());
        command.arg("--replace");
        let log = format!("{}-2", self.log);
        let child = spawn(command, &self.path(&log));
        Self { child, log, dir: self.dir.clone(), ..*self }
    }

    /// Starts it again as a process manager does that holds `socket`.
    pub(crate) fn next_run(&self, socket: &TcpListener) -> Self {
        let log = format!("{}-2", self.log);
        let child = spawn(with_socket(&run_command(self.dir.path()), socket, "$$"), &self.path(&log));
        Self { child, log, dir: self.dir.clone(), ..*self }
    }

    /// Waits until the log has this text.
    pub(crate) async fn wait_for_log(&self, text: &str) {
        wait_until(&format!("the log says {text:?}"), async || self.log().contains(text)).await;
    }

    /// Changes the settings for the next start.
    pub(crate) fn edit_settings(&self, from: &str, to: &str) {
        let path = self.path("outrigger.yaml");
        let text = Self::read(&path);
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// The lines that the app wrote.
    pub(crate) fn app_lines(&self) -> Vec<String> {
        Self::read(&self.path("app")).lines().map(ToOwned::to_owned).collect()
    }

    /// How often the app has started.
    pub(crate) fn app_starts(&self) -> usize {
        self.app_lines().iter().filter(|line| line.starts_with("started ")).count()
    }

    /// The process that the app was started as last. `None`: it has not started.
    pub(crate) fn app_pid(&self) -> Option<Pid> {
        let lines = self.app_lines();
        Pid::from_raw(lines.iter().rev().find_map(|line| line.strip_prefix("started ")?.parse().ok())?)
    }

    /// Waits until the app has written a line with this beginning.
    pub(crate) async fn wait_for_app_line(&self, line: &str) {
        wait_until(&format!("the app says {line:?}"), async || {
            self.app_lines().iter().any(|l| l.starts_with(line))
        })
        .await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end of the sidecar.
    pub(crate) async fn wait_for_exit(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until("the sidecar ends", async || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        ended.unwrap()
    }

    /// Waits until `/readyz` says 200.
    pub(crate) async fn wait_until_ready(&self) {
        wait_until("it is ready", async || {
            send_request(self.admin, "GET /readyz", "").await.is_some_and(|(s, _)| s == 200)
        })
        .await;
    }

    pub(crate) async fn get_json(&self, path: &str) -> Value {
        let (_, body) = send_request(self.admin, &format!("GET {path}"), "").await.unwrap();
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for RunningSidecar {
    fn drop(&mut self) {
        // A sidecar that ends by SIGKILL leaves its app running.
        let app = self.app_pid();
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            if let Some(pid) = app {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if std::thread::panicking() {
            eprintln!("log of the sidecar:\n{}\nof the app: {:?}", self.log(), self.app_lines());
        }
    }
}
