//! `outrigger lock NAME -- COMMAND`, in Consul itself and by a sidecar, beside `consul lock`.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use outrigger_net::reserve_addr;
use outrigger_tests::{
    consul,
    process::{self, Process},
    registry_proxy::{RegistryMode, RegistryProxy},
    wait,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    process::{Child, ChildStdout, Command},
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::app::start_router;

const LONG: Duration = Duration::from_secs(100);

/// Says that it runs, with its token, and runs until its stdin is closed.
const UNTIL_EOF: &str = "echo held $OUTRIGGER_LOCK_TOKEN; cat >/dev/null";

/// A command under a lock.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

/// How it ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stderr: String,
}

impl Running {
    /// Starts `outrigger lock ARGUMENTS -- sh -c SCRIPT`.
    fn start(arguments: &[&str], script: &str) -> Self {
        let mut command = Command::from(process::outrigger_command());
        command.arg("lock").args(arguments).args(["--", "sh", "-c", script]);
        Self::spawn(command)
    }

    /// Starts `consul lock`, with the same script.
    fn consul(registry: SocketAddr, path: &str, limit: &str, script: &str) -> Self {
        let mut command = Command::new(consul::Consul::find().unwrap());
        command.args(["lock", "-http-addr", &format!("http://{registry}"), "-pass-stdin", "-n", limit]);
        command.args([path, script]);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(LONG, self.stdout.read_line(&mut line)).await.expect("a line in time").unwrap();
        line.trim().to_owned()
    }

    /// Waits until the script runs, and returns the token.
    async fn held(&mut self) -> u64 {
        let line = self.line().await;
        let token = line.strip_prefix("held").unwrap_or_else(|| panic!("{line:?}")).trim();
        token.parse().unwrap_or_default()
    }

    /// Whether the script does not begin within half a second.
    async fn waits(&mut self) -> bool {
        timeout(Duration::from_millis(500), self.stdout.fill_buf()).await.is_err()
    }

    fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    fn signal(&self, name: &str) {
        process::send_signal(self.child.id().unwrap(), name).unwrap();
    }

    async fn end(mut self) -> Ended {
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().unwrap();
        let ends = async {
            pipe.read_to_string(&mut stderr).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = timeout(LONG, ends).await.expect("it ends in time");
        Ended { code: status.code(), stderr }
    }

    async fn finish(mut self) -> Ended {
        self.close_stdin();
        self.end().await
    }
}

fn url(registry: SocketAddr) -> String {
    format!("http://{registry}")
}

async fn sessions(registry: SocketAddr) -> Vec<Value> {
    let answer = consul::http::get(registry, "/v1/session/list").await.unwrap();
    serde_json::from_slice::<Option<Vec<Value>>>(answer.body()).unwrap().unwrap_or_default()
}

/// Destroys the session that holds the lock, as an operator.
async fn destroy_sessions(registry: SocketAddr) {
    for session in sessions(registry).await {
        let path = format!("/v1/session/destroy/{}", session["ID"].as_str().unwrap());
        consul::http::put(registry, &path, "").await.unwrap();
    }
}

async fn wait_until_no_session(registry: SocketAddr) {
    wait::until("every session is ended", LONG, async || sessions(registry).await.is_empty()).await;
}

/// Whether a process runs: not one that has ended and is not collected.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

on_both_registries! {
    runs: super::a_command_has_its_streams_its_variables_and_its_code;
    waits: super::the_wait_ends_with_its_time_a_signal_or_a_release;
    signals: super::signals_reach_the_command_and_a_second_one_kills_it;
    losses: super::a_lost_lock_stops_the_command_by_the_policy;
    killed: super::a_killed_process_takes_its_command_with_it;
    outage: super::a_silent_registry_ends_the_command_before_another_has_the_lock;
    mutex: super::a_mutex_excludes_consul_lock_and_is_excluded;
    semaphore: super::three_holders_with_consul_lock_among_them;
    sidecar: super::a_sidecar_holds_the_lock_of_a_command;
    socket: super::a_sidecar_is_asked_by_its_unix_socket;
    sidecar_dies: super::a_silent_or_killed_sidecar_ends_the_command;
}

async fn a_command_has_its_streams_its_variables_and_its_code(registry: SocketAddr) {
    let script =
        "echo $OUTRIGGER_LOCK_TOKEN $OUTRIGGER_LOCK_NAME $CONSUL_LOCK_HELD; cat; echo wrong >&2; exit 7";
    let consul = url(registry);
    let mut first = Running::start(&["--consul", &consul, "--value", "me", "jobs/nightly"], script);
    let line = first.line().await;
    let (token, rest) = line.split_once(' ').unwrap();
    assert_eq!(rest, "jobs/nightly true");
    let held = sessions(registry).await;
    assert!(
        held[0]["Name"].as_str().unwrap().starts_with("outrigger: lock jobs/nightly of sh on "),
        "{held:?}"
    );
    let key = consul::http::get(registry, "/v1/kv/locks/jobs/nightly/.lock?raw").await.unwrap();
    assert_eq!(&key.body()[..], b"me");

    let second = Running::start(&["--consul", &consul, "--wait", "0s", "jobs/nightly"], "echo held");
    let refused = second.end().await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("jobs/nightly is not acquired"), "{refused:?}");
    let other = Running::start(&["--consul", &consul, "-n", "3", "jobs/nightly"], "echo held");
    let refused = other.end().await;
    assert_eq!(refused.code, Some(5), "another kind of lock: {refused:?}");

    first.child.stdin.as_mut().unwrap().write_all(b"from stdin\n").await.unwrap();
    assert_eq!(first.line().await, "from stdin");
    let ended = first.finish().await;
    assert_eq!((ended.code, &*ended.stderr), (Some(7), "wrong\n"), "nothing is said of a lock that was held");
    wait_until_no_session(registry).await;
    let mut next = Running::start(&["--consul", &consul, "--wait", "0s", "jobs/nightly"], UNTIL_EOF);
    assert!(next.held().await > token.parse().unwrap());
    assert_eq!(next.finish().await.code, Some(0));
    let missing = ["lock", "--consul", &consul, "jobs", "--", "/no/such/program"];
    let missing = process::run_outrigger(&missing).await;
    assert_eq!(missing.status.code(), Some(127), "{missing:?}");
    wait_until_no_session(registry).await;
}

async fn the_wait_ends_with_its_time_a_signal_or_a_release(registry: SocketAddr) {
    let consul = url(registry);
    let mut first = Running::start(&["--consul", &consul, "jobs"], UNTIL_EOF);
    let token = first.held().await;
    let began = Instant::now();
    let short = Running::start(&["--consul", &consul, "--wait", "1500ms", "jobs"], UNTIL_EOF).end().await;
    assert_eq!(short.code, Some(3), "{short:?}");
    assert!(began.elapsed() >= Duration::from_millis(1500));
    assert!(short.stderr.contains("waiting for the lock jobs: the lock is held"), "{short:?}");
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut waits = Running::start(&["--consul", &consul, "jobs"], UNTIL_EOF);
        // It waits, with a session.
        wait::until("it waits", LONG, async || sessions(registry).await.len() == 2).await;
        assert!(waits.waits().await);
        waits.signal(signal);
        assert_eq!(waits.end().await.code, Some(code));
        wait::until("its session is ended", LONG, async || sessions(registry).await.len() == 1).await;
    }
    let mut waits = Running::start(&["--consul", &consul, "jobs"], UNTIL_EOF);
    assert!(waits.waits().await);
    first.close_stdin();
    assert!(waits.held().await > token);
    assert_eq!((first.end().await.code, waits.finish().await.code), (Some(0), Some(0)));

    let down = url(reserve_addr());
    let refused = Running::start(&["--consul", &down, "--wait", "0s", "jobs"], UNTIL_EOF).end().await;
    assert_eq!(refused.code, Some(5), "{refused:?}");
    let wrong = Running::start(&["--consul", &consul, "../jobs"], UNTIL_EOF).end().await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    let short_ttl = Running::start(&["--consul", &consul, "--ttl", "5s", "jobs"], UNTIL_EOF).end().await;
    assert!(short_ttl.code == Some(2) && short_ttl.stderr.contains("--ttl"), "{short_ttl:?}");
    let negative = Running::start(&["--consul", &consul, "--wait", "-1s", "jobs"], UNTIL_EOF).end().await;
    let says = |text: &str| negative.stderr.contains(text);
    assert!(
        negative.code == Some(2) && says("'-1s' for '--wait <DURATION>'") && says("1m30s"),
        "{negative:?}"
    );
}

async fn signals_reach_the_command_and_a_second_one_kills_it(registry: SocketAddr) {
    let consul = url(registry);
    let script = "trap 'echo got' TERM; trap 'echo usr' USR1; echo held; while true; do sleep 0.1; done";
    let mut command = Running::start(&["--consul", &consul, "jobs"], script);
    command.held().await;
    command.signal("USR1");
    assert_eq!(command.line().await, "usr");
    command.signal("TERM");
    assert_eq!(command.line().await, "got");
    // It runs on, so the lock is held.
    assert_eq!(sessions(registry).await.len(), 1);
    command.signal("TERM");
    assert_eq!(command.end().await.code, Some(137));
    wait_until_no_session(registry).await;
    // The process group is a part of the command: the lock is given back when all of it has ended.
    let script = "sleep 1000 & echo $!; echo held";
    let mut command = Running::start(&["--consul", &consul, "jobs"], script);
    let pid = command.line().await;
    command.held().await;
    assert_eq!(command.end().await.code, Some(0));
    assert!(!runs(&pid));
    // The default action of a signal.
    let mut command = Running::start(&["--consul", &consul, "jobs"], UNTIL_EOF);
    command.held().await;
    command.signal("TERM");
    assert_eq!(command.end().await.code, Some(143));
}

async fn a_lost_lock_stops_the_command_by_the_policy(registry: SocketAddr) {
    let consul = url(registry);
    let started = |more: &[&str], script: &str| {
        let arguments: Vec<_> = [&["--consul", &*consul, "--lock-delay", "1s"], more, &["jobs"]].concat();
        Running::start(&arguments, script)
    };
    let deaf = "trap '' TERM; echo held; while true; do sleep 0.1; done";
    let mut term = started(&[], "trap 'echo got; exit 0' TERM; echo held; while true; do sleep 0.1; done");
    term.held().await;
    destroy_sessions(registry).await;
    assert_eq!(term.line().await, "got");
    let ended = term.end().await;
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("the lock jobs is lost: "), "{ended:?}");
    for (more, least) in [(&["--grace", "1s"][..], 1000), (&["--on-loss", "kill"], 0)] {
        let mut command = started(more, deaf);
        command.held().await;
        let at = Instant::now();
        destroy_sessions(registry).await;
        let ended = command.end().await;
        assert_eq!(ended.code, Some(4), "{ended:?}");
        assert!(at.elapsed() >= Duration::from_millis(least), "{:?}", at.elapsed());
    }
    let mut ignored = started(&["--on-loss", "ignore"], "echo held; cat >/dev/null; exit 6");
    ignored.held().await;
    destroy_sessions(registry).await;
    // The lock opens, while the command runs on.
    let mut next = started(&[], UNTIL_EOF);
    next.held().await;
    next.finish().await;
    let ended = ignored.finish().await;
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(ended.stderr.contains("the command runs on"), "{ended:?}");
}

async fn a_killed_process_takes_its_command_with_it(registry: SocketAddr) {
    let consul = url(registry);
    let script = "echo $$; echo held; exec sleep 1000";
    let mut command = Running::start(&["--consul", &consul, "jobs"], script);
    let pid = command.line().await;
    command.held().await;
    assert!(runs(&pid));
    command.signal("KILL");
    wait::until("the command has ended", LONG, async || !runs(&pid)).await;
    // Its lock is not given back: the session expires first.
    let refused = Running::start(&["--consul", &consul, "--wait", "0s", "jobs"], UNTIL_EOF).end().await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    destroy_sessions(registry).await;
    let mut ignoring = Running::start(&["--consul", &consul, "--on-loss", "ignore", "other"], script);
    let pid = ignoring.line().await;
    ignoring.held().await;
    ignoring.signal("KILL");
    ignoring.child.wait().await.unwrap();
    assert!(runs(&pid));
    process::send_signal(pid.parse().unwrap(), "KILL").unwrap();
}

async fn a_silent_registry_ends_the_command_before_another_has_the_lock(registry: SocketAddr) {
    let proxy = RegistryProxy::start(registry).await;
    let arguments = |consul: String| ["--consul".to_owned(), consul, "--ttl".into(), "10s".into()];
    let start = |consul: SocketAddr, script: &str| {
        let mut given = arguments(url(consul)).to_vec();
        given.extend(["--lock-delay", "1s", "jobs"].map(str::to_owned));
        let given: Vec<_> = given.iter().map(String::as_str).collect();
        Running::start(&given, script)
    };
    let script = "trap 'echo ended $(date +%s%N); exit 0' TERM; echo held $OUTRIGGER_LOCK_TOKEN; while true; do sleep 0.1; done";
    let mut first = start(proxy.addr(), script);
    let token = first.held().await;
    proxy.set(RegistryMode::Hang);
    let mut second = start(registry, "echo held $OUTRIGGER_LOCK_TOKEN; date +%s%N; cat >/dev/null");
    let ended = first.line().await;
    let ended: u128 = ended.strip_prefix("ended ").unwrap_or_else(|| panic!("{ended}")).parse().unwrap();
    assert!(second.held().await > token);
    let began: u128 = second.line().await.parse().unwrap();
    assert!(
        ended < began,
        "another held the lock {} ms before the end",
        (ended.saturating_sub(began)) / 1_000_000
    );
    let first = first.end().await;
    assert!(first.code == Some(4) && first.stderr.contains("in time"), "{first:?}");
    second.finish().await;
}

async fn a_mutex_excludes_consul_lock_and_is_excluded(registry: SocketAddr) {
    if !consul::available("`outrigger lock` excludes `consul lock` and is excluded") {
        return;
    }
    let consul = url(registry);
    let mut ours = Running::start(&["--consul", &consul, "both"], UNTIL_EOF);
    ours.held().await;
    let mut theirs = Running::consul(registry, "locks/both", "1", UNTIL_EOF);
    assert!(theirs.waits().await);
    ours.close_stdin();
    theirs.held().await;
    let refused = Running::start(&["--consul", &consul, "--wait", "0s", "both"], UNTIL_EOF).end().await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    let mut next = Running::start(&["--consul", &consul, "--prefix", "locks", "both"], UNTIL_EOF);
    assert!(next.waits().await);
    theirs.close_stdin();
    next.held().await;
    for running in [ours, theirs, next] {
        assert_eq!(running.finish().await.code, Some(0));
    }
}

async fn three_holders_with_consul_lock_among_them(registry: SocketAddr) {
    if !consul::available("`outrigger lock -n 3` beside `consul lock -n 3`") {
        return;
    }
    let consul = url(registry);
    let ours = || Running::start(&["--consul", &consul, "-n", "3", "pool"], UNTIL_EOF);
    let theirs = || Running::consul(registry, "locks/pool", "3", UNTIL_EOF);
    let (mut one, mut two, mut three) = (theirs(), ours(), ours());
    for running in [&mut one, &mut two, &mut three] {
        running.held().await;
    }
    let (mut fourth, mut fifth) = (ours(), theirs());
    assert!(fourth.waits().await && fifth.waits().await);
    one.close_stdin();
    two.close_stdin();
    fourth.held().await;
    fifth.held().await;
    let other = Running::start(&["--consul", &consul, "-n", "2", "pool"], UNTIL_EOF).end().await;
    assert!(other.code == Some(5) && other.stderr.contains("the limit of this semaphore is 3"), "{other:?}");
    for running in [one, two, three, fourth, fifth] {
        assert_eq!(running.finish().await.code, Some(0));
    }
}

async fn a_sidecar_holds_the_lock_of_a_command(registry: SocketAddr) {
    let (app, _) = start_router(
        registry,
        "api: {listen: \"127.0.0.1:0\", locks: {lock_delay: 1s}}\ndrain: {timeout: 2s}",
    )
    .await;
    let api = app.api_addrs()[0].to_string();
    let mut first = Running::start(&["--api", &api, "jobs"], UNTIL_EOF);
    let token = first.held().await;
    let refused =
        Running::start(&["--api", &format!("http://{api}"), "--wait", "0s", "jobs"], UNTIL_EOF).end().await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    let mut waits = Running::start(&["--api", &api, "jobs"], UNTIL_EOF);
    assert!(waits.waits().await);
    first.close_stdin();
    assert!(waits.held().await > token);
    assert_eq!(first.end().await.code, Some(0));
    destroy_sessions(registry).await;
    let lost = waits.end().await;
    assert!(lost.code == Some(4) && lost.stderr.contains("the lock jobs is lost: the registry"), "{lost:?}");
    for on_loss in ["term", "ignore"] {
        let missing = ["lock", "--api", &api, "--on-loss", on_loss, "missing", "--", "/no/such/program"];
        let missing = process::run_outrigger(&missing).await;
        assert_eq!(missing.status.code(), Some(127), "{missing:?}");
        wait_until_no_session(registry).await;
    }

    let mut killed = Running::start(&["--api", &api, "--ttl", "2s", "killed"], "echo $$; exec sleep 1000");
    let pid = killed.line().await;
    killed.signal("KILL");
    wait::until("the command has ended", LONG, async || !runs(&pid)).await;
    let refused = Running::start(&["--api", &api, "--wait", "0s", "killed"], UNTIL_EOF).end().await;
    assert_eq!(refused.code, Some(3), "the lease ends when it is not renewed: {refused:?}");
    let mut next = Running::start(&["--api", &api, "killed"], UNTIL_EOF);
    next.held().await;
    // The sidecar stops: the lock is lost before its session ends.
    tokio::spawn(app.shutdown());
    let stopped = next.end().await;
    assert!(stopped.code == Some(4) && stopped.stderr.contains("the sidecar stops"), "{stopped:?}");
    let down = Running::start(&["--api", &api, "--wait", "0s", "jobs"], UNTIL_EOF).end().await;
    assert!(down.code == Some(5) && down.stderr.contains("no sidecar answers"), "{down:?}");
}

async fn a_sidecar_is_asked_by_its_unix_socket(registry: SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let api = format!("unix:{}", folder.path().join("api.sock").display());
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "s3cret\n").unwrap();
    let token_file = token_file.display().to_string();
    let settings = format!("api: {{listen: \"{api}\", token_file: \"{token_file}\"}}");
    let (app, _) = start_router(registry, &settings).await;
    let arguments = ["--api", &*api, "--api-token-file", &*token_file, "jobs"];
    let mut first = Running::start(&arguments, UNTIL_EOF);
    let token = first.held().await;
    let refused =
        Running::start(&[&arguments[..4], &["--wait", "0s", "jobs"]].concat(), UNTIL_EOF).end().await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    let wrong = Running::start(&["--api", &api, "--wait", "0s", "jobs"], UNTIL_EOF).end().await;
    assert!(wrong.code == Some(5) && wrong.stderr.contains("401"), "{wrong:?}");
    let mut waits = Running::start(&arguments, UNTIL_EOF);
    assert!(waits.waits().await);
    first.close_stdin();
    assert!(waits.held().await > token);
    assert_eq!(first.end().await.code, Some(0));
    destroy_sessions(registry).await;
    let lost = waits.end().await;
    assert!(lost.code == Some(4) && lost.stderr.contains("the registry has ended its session"), "{lost:?}");
    app.shutdown().await;
    let down = Running::start(&["--api", &api, "--wait", "0s", "jobs"], UNTIL_EOF).end().await;
    assert!(down.code == Some(5) && down.stderr.contains("no sidecar answers at unix:/"), "{down:?}");
}

async fn a_silent_or_killed_sidecar_ends_the_command(registry: SocketAddr) {
    let api = reserve_addr();
    let sidecar = Process::run(&format!(
        "registry: {{consul: {{address: \"http://{registry}\"}}}}\n\
         api: {{listen: \"{api}\", locks: {{lock_delay: 1s}}}}",
    ))
    .await;
    let api = api.to_string();
    let arguments = ["--api", &*api, "--ttl", "10s", "jobs"];
    let script = "trap 'echo ended $(date +%s%N); exit 0' TERM; echo held $OUTRIGGER_LOCK_TOKEN; while true; do sleep 0.1; done";
    let mut first = Running::start(&arguments, script);
    let token = first.held().await;
    // Longer than the time to live of the session: the machine is suspended, or the process hangs.
    sidecar.signal("STOP");
    let at = Instant::now();
    let silent = Running::start(&["--api", &api, "--wait", "1s", "silent"], UNTIL_EOF).end().await;
    assert_eq!(silent.code, Some(5), "{silent:?}");
    assert!(at.elapsed() < Duration::from_secs(8), "{:?}", at.elapsed());
    let consul = url(registry);
    let next = ["--consul", &*consul, "--ttl", "10s", "--lock-delay", "1s", "jobs"];
    let mut second = Running::start(&next, "echo held $OUTRIGGER_LOCK_TOKEN; date +%s%N; cat >/dev/null");
    let ended = first.line().await;
    let ended: u128 = ended.strip_prefix("ended ").unwrap_or_else(|| panic!("{ended}")).parse().unwrap();
    assert!(second.held().await > token);
    let began: u128 = second.line().await.parse().unwrap();
    assert!(ended < began, "another held the lock before the end");
    assert_eq!(first.end().await.code, Some(4));
    // The sidecar goes on, and says that it has lost the lock.
    sidecar.signal("CONT");
    wait::until("the loss is told", LONG, async || sidecar.log().contains("the lock is lost")).await;
    let page = sidecar.admin_json("/locks").await;
    assert_eq!(page["held"], 0, "{page}");
    let refused = Running::start(&["--api", &api, "--wait", "0s", "jobs"], UNTIL_EOF).end().await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    second.finish().await;

    let mut third = Running::start(&["--api", &api, "--ttl", "10s", "third"], UNTIL_EOF);
    third.held().await;
    sidecar.signal("KILL");
    let lost = third.end().await;
    assert!(lost.code == Some(4) && lost.stderr.contains("no sidecar answers"), "{lost:?}");
}

/// A sidecar that gives a lease out, and answers its renewals with 503, or not at all.
async fn serve_lease(listener: TcpListener, hangs: bool, requests: mpsc::UnboundedSender<String>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        let line = String::from_utf8_lossy(&bytes[..read]).lines().next().unwrap_or_default().to_owned();
        let (status, body) = match (line.starts_with("DELETE"), line.contains("/renew ")) {
            (true, _) => ("204 No Content", String::new()),
            (_, true) => ("503 Service Unavailable", r#"{"reason": "restoring"}"#.to_owned()),
            _ => ("201 Created", format!(r#"{{"lease": "{}", "token": 1}}"#, "a".repeat(32))),
        };
        requests.send(line.clone()).unwrap();
        if hangs && line.contains("/renew ") {
            continue;
        }
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_lease_of_which_no_command_is_started_is_given_back() {
    for (hangs, wait, code) in [(false, "0s", 5), (true, "60s", 143)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = listener.local_addr().unwrap().to_string();
        let (sender, mut requests) = mpsc::unbounded_channel();
        let server = tokio::spawn(serve_lease(listener, hangs, sender));
        let command = Running::start(&["--api", &api, "--wait", wait, "jobs"], UNTIL_EOF);
        let mut next = async || timeout(LONG, requests.recv()).await.expect("a request in time").unwrap();
        while !next().await.contains("/renew ") {}
        if hangs {
            command.signal("TERM");
        }
        while !next().await.starts_with(&format!("DELETE /v1/locks/jobs/{}", "a".repeat(32))) {}
        let ended = command.end().await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        server.abort();
    }
}

#[tokio::test]
async fn a_name_that_is_another_request_of_a_sidecar_is_refused_at_once() {
    let lease = format!("x/{}", "a".repeat(32));
    for name in ["a/hold", "hold", "renew", "a/renew", &lease] {
        for place in [["--api", "127.0.0.1:9"], ["--consul", "http://127.0.0.1:9"]] {
            let command = [&["lock"], &place[..], &[name, "--", "true"]].concat();
            let refused = process::run_outrigger(&command).await;
            let stderr = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(2), "{name}: {stderr}");
            assert!(stderr.contains("the last segment of"), "{stderr}");
        }
    }
}
