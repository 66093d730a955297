//! The real binary as its own process, with signals and exit codes.
#![allow(clippy::expect_used, clippy::panic, reason = "a harness fails its test by panicking")]

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tempfile::TempDir;

use crate::{client, client::Response, wait};

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Names the binary. Without effect once it is known.
pub fn set_binary(path: PathBuf) {
    // An error has the path that could not be set.
    let _ = BINARY.set(path);
}

/// The binary: what [`set_binary`] names, `OUTRIGGER_TEST_BIN`, else the binary that cargo builds beside the test. It is built
/// once per process, so that it is never outdated.
///
/// # Panics
/// It cannot be built.
pub fn binary() -> PathBuf {
    BINARY
        .get_or_init(|| std::env::var_os("OUTRIGGER_TEST_BIN").map_or_else(build_binary, PathBuf::from))
        .clone()
}

fn build_binary() -> PathBuf {
    // target/PROFILE/deps/THIS_TEST-HASH, or a program: target/PROFILE/PROGRAM
    let test = std::env::current_exe().expect("this test's own path");
    let folder = test.parent().expect("a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("target/PROFILE") } else { folder };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "outrigger", "--target-dir"]);
    command.arg(folder.parent().expect("target"));
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let built = command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).status();
    assert!(built.is_ok_and(|status| status.success()), "cargo build --package outrigger failed");
    folder.join("outrigger")
}

/// A running `outrigger`, killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    dir: Arc<TempDir>,
    /// The name of its log.
    log: String,
}

impl Process {
    /// Starts `outrigger run` with these settings (YAML) and waits until it serves. A listener without a
    /// setting takes a free port.
    pub async fn run(settings: &str) -> Self {
        let process = Self::start(settings);
        wait::until_true("the admin side is announced", || process.logged_addr("admin side").is_some()).await;
        process
    }

    /// As [`Process::run`], without a wait.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(settings: &str) -> Self {
        Self::start_with_app(settings, &[])
    }

    /// Starts `outrigger run -- app`, without a wait.
    ///
    /// The app outlives a sidecar that is killed, for example by the drop of this handle: the app has to end by itself
    /// when its parent has ended.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start_with_app(settings: &str, app: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("outrigger-e2e-").tempdir().expect("a directory");
        let file = dir.path().join("outrigger.yaml");
        std::fs::write(&file, with_listeners(settings)).expect("write outrigger.yaml");
        let arguments: Vec<_> = if app.is_empty() { Vec::new() } else { [&["--"], app].concat() };
        Self::spawn(Arc::new(dir), "log".to_owned(), &arguments)
    }

    /// Starts another process by the same settings file, as `run --replace`, and waits until it serves in the place of this one.
    pub async fn replace(&self) -> Self {
        let next = Self::spawn(self.dir.clone(), format!("{}-next", self.log), &["--replace"]);
        wait::until("it serves in the place of the earlier one", wait::TIMEOUT, async || {
            next.log().contains("serving in the place of the earlier sidecar")
        })
        .await;
        next
    }

    /// `outrigger run` by the settings file in `dir`.
    fn spawn(dir: Arc<TempDir>, log: String, arguments: &[&str]) -> Self {
        let file = std::fs::File::create(dir.path().join(&log)).expect("create the log");
        let mut command = Command::new(binary());
        command.args(["run", "--log-format", "json", "-c"]).arg(dir.path().join("outrigger.yaml"));
        command.args(arguments);
        remove_environment(&mut command);
        // Each process has its own state directory, unless the settings name one, so that tests do not share state.
        command.env("XDG_STATE_HOME", dir.path()).env_remove("STATE_DIRECTORY");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        Self { child: child.expect("start outrigger"), dir, log }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The whole log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join(&self.log)).unwrap_or_default()
    }

    /// The lines of the log that are JSON.
    pub fn log_lines(&self) -> Vec<serde_json::Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The outbound address, to which the app sends its requests.
    ///
    /// # Panics
    /// The log does not name it yet.
    pub fn outbound(&self) -> SocketAddr {
        self.logged_addr("carrying requests").unwrap_or_else(|| panic!("no outbound in\n{}", self.log()))
    }

    /// The address of the admin side.
    ///
    /// # Panics
    /// The log does not name it yet.
    pub fn admin(&self) -> SocketAddr {
        self.logged_addr("admin side").unwrap_or_else(|| panic!("no admin side in\n{}", self.log()))
    }

    /// Where the app sends its requests for `service`, which has a listener of its own.
    ///
    /// # Panics
    /// It has not said so.
    pub fn upstream(&self, service: &str) -> SocketAddr {
        self.find_addr(|line| {
            line["service"] == service && has_message(line, "carrying requests to one service")
        })
        .unwrap_or_else(|| panic!("no listener of {service} in\n{}", self.log()))
    }

    /// The address in the first log line with a message that starts with `message`.
    fn logged_addr(&self, message: &str) -> Option<SocketAddr> {
        self.find_addr(|line| has_message(line, message))
    }

    /// The address in the first line of the log that `is_wanted` accepts.
    fn find_addr(&self, is_wanted: impl Fn(&serde_json::Value) -> bool) -> Option<SocketAddr> {
        self.log().lines().find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            is_wanted(&line).then(|| line["addr"].as_str()?.parse().ok())?
        })
    }

    /// `GET path` of the admin side.
    pub async fn admin_get(&self, path: &str) -> Response {
        let admin = self.admin();
        client::get(admin, &admin.to_string(), path).await
    }

    /// `GET path` of the admin side, its body as JSON.
    ///
    /// # Panics
    /// The body is no JSON.
    pub async fn admin_json(&self, path: &str) -> serde_json::Value {
        let text = self.admin_get(path).await.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error} in\n{text}"))
    }

    /// `POST path` of the admin side, with the header that it requires.
    pub async fn admin_post(&self, path: &str) -> Response {
        let admin = self.admin();
        client::exchange(
            admin,
            format!(
                "POST {path} HTTP/1.1\r\nHost: {admin}\r\nx-outrigger-admin: 1\r\nContent-Length: 0\r\n\r\n"
            ),
        )
        .await
    }

    /// Waits until it is ready.
    pub async fn wait_ready(&self) {
        wait::until("it is ready", wait::TIMEOUT, async || self.admin_get("/readyz").await.status == 200)
            .await;
    }

    /// Replaces its settings file, without a reload.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write_settings(&self, settings: &str) {
        let file = self.dir.path().join("outrigger.yaml");
        std::fs::write(file, with_listeners(settings)).expect("write outrigger.yaml");
    }

    /// Empties its settings file, which is the first step of a program that rewrites it in place.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn empty_settings(&self) {
        std::fs::write(self.dir.path().join("outrigger.yaml"), "").expect("write outrigger.yaml");
    }

    /// The value of a metric without labels, or of a series in its printed form.
    ///
    /// # Panics
    /// There is no such series.
    pub async fn metric(&self, series: &str) -> f64 {
        let page = self.admin_get("/metrics").await.text();
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in\n{page}"))
    }

    /// Sends a signal: `TERM`, `INT`, `HUP`, `KILL`, `STOP`, `CONT`.
    ///
    /// # Panics
    /// The process has ended.
    pub fn signal(&self, name: &str) {
        send_signal(self.pid(), name).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits until the process has ended, and returns its exit status.
    pub async fn wait_exit(&mut self, bound: Duration) -> ExitStatus {
        let mut ended = None;
        wait::until("the process ends", bound, async || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some()
        })
        .await;
        ended.expect("just seen")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "log of outrigger {}:\n{}", self.child.id(), self.log());
        }
    }
}

/// Whether the message of a line of the log starts with `message`.
fn has_message(line: &serde_json::Value, message: &str) -> bool {
    line["message"].as_str().is_some_and(|text| text.starts_with(message))
}

/// The settings, with any free port for the listeners that they do not set.
fn with_listeners(settings: &str) -> String {
    let mut text = settings.to_owned();
    for section in ["outbound", "admin"] {
        if !settings.lines().any(|line| line.starts_with(&format!("{section}:"))) {
            let _ = write!(text, "\n{section}: {{listen: \"127.0.0.1:0\"}}");
        }
    }
    text
}

/// Sends a signal to a process: `TERM`, `INT`, `KILL`, `STOP`, `CONT`.
///
/// # Errors
/// There is no such process.
pub fn send_signal(pid: u32, name: &str) -> io::Result<()> {
    // The kill of the shell, because the system call would need `unsafe`.
    let kill = ["-c", "kill -\"$1\" \"$2\"", "sh", name, &pid.to_string()];
    let status = Command::new("sh").args(kill).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("kill -{name} {pid}: {status}"))) }
}

/// `outrigger` without the developer's own settings.
pub fn outrigger_command() -> Command {
    let mut command = Command::new(binary());
    remove_environment(&mut command);
    command
}

/// Runs `outrigger` with these arguments and waits for its end.
///
/// # Panics
/// It cannot be started.
pub async fn run_outrigger(arguments: &[&str]) -> std::process::Output {
    let mut command = outrigger_command();
    command.args(arguments).stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output());
    wait::within("the command ends", run).await.expect("a thread").expect("start outrigger")
}

/// Removes the developer's own settings of Consul and Outrigger.
fn remove_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CONSUL_") || text.starts_with("OUTRIGGER_") {
            command.env_remove(&name);
        }
    }
}
