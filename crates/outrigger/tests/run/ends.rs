//! The end of the app, and the exit code of the sidecar.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    SidecarBuilder, process_namespace, registry, send_request, wait_until, wait_until_listed,
};

async fn exit_code_of(app: &[&str]) -> Option<i32> {
    let registry = registry().await;
    SidecarBuilder::new(&registry, "").with_app(app).start().wait_for_exit().await.code()
}

#[tokio::test]
async fn the_exit_code_is_the_apps() {
    assert_eq!(exit_code_of(&["sh", "-c", "exit 0"]).await, Some(0));
    assert_eq!(exit_code_of(&["sh", "-c", "exit 3"]).await, Some(3));
    assert_eq!(exit_code_of(&["sh", "-c", "kill -9 $$"]).await, Some(137), "128 plus the signal");
    assert_eq!(exit_code_of(&["sh", "-c", "kill -SEGV $$"]).await, Some(139));
}

#[tokio::test]
async fn an_app_that_cannot_be_started_has_the_exit_code_of_a_shell() {
    assert_eq!(exit_code_of(&["/no/such/app"]).await, Some(127));
    assert_eq!(exit_code_of(&["/etc/passwd"]).await, Some(126));
}

#[tokio::test]
async fn an_app_that_is_killed_is_deregistered_at_once_and_ends_the_sidecar() {
    let registry = registry().await;
    // The sidecar does not wait for the callers of an app that has ended.
    let mut sidecar = SidecarBuilder::new(&registry, "drain: {propagation: 5m}").with_test_app(&[]).start();
    wait_until_listed(&registry, &[("orders-1", "passing")]).await;
    kill_process(sidecar.app_pid().unwrap(), Signal::KILL).unwrap();
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(137));
    wait_until_listed(&registry, &[]).await;
}

#[tokio::test]
async fn an_app_that_is_killed_is_started_again_with_on_app_exit_restart() {
    let registry = registry().await;
    let mut sidecar = SidecarBuilder::new(&registry, "on_app_exit: restart").with_test_app(&[]).start();
    for round in 1..=2 {
        sidecar.wait_until_ready().await;
        wait_until_listed(&registry, &[("orders-1", "passing")]).await;
        kill_process(sidecar.app_pid().unwrap(), Signal::KILL).unwrap();
        wait_until("it is started again", async || sidecar.app_starts() == round + 1).await;
    }
    wait_until_listed(&registry, &[("orders-1", "passing")]).await;
    let (_, metrics) = send_request(sidecar.admin, "GET /metrics", "").await.unwrap();
    assert!(metrics.lines().any(|line| line == "outrigger_app_starts_total 3"), "{metrics}");
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0), "and the app can be stopped");
    wait_until_listed(&registry, &[]).await;
}

#[tokio::test]
async fn an_app_that_waits_for_its_restart_is_critical_at_once() {
    let registry = registry().await;
    let settings = "on_app_exit: restart";
    let mut plan = SidecarBuilder::new(&registry, settings);
    // One probe an hour: only the end of the app itself can cause the report.
    let path = plan.dir.path().join("outrigger.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("interval: 100ms", "interval: 1h")).unwrap();
    let once = plan.dir.path().join("once");
    plan.command.env("ONCE", &once);
    let port = plan.port;
    let sidecar =
        plan.with_app(&["sh", "-c", "test -e $ONCE && exec sleep 60; touch $ONCE; exec sleep 60"]).start();
    let app = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    wait_until_listed(&registry, &[("orders-1", "passing")]).await;
    drop(app);
    let children = format!("/proc/{0}/task/{0}/children", sidecar.child.id());
    let children = std::fs::read_to_string(children).unwrap();
    kill_process(Pid::from_raw(children.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    wait_until_listed(&registry, &[("orders-1", "critical")]).await;
}

#[tokio::test]
async fn an_app_that_does_not_end_is_killed_after_drain_timeout() {
    let registry = registry().await;
    let plan = SidecarBuilder::new(&registry, "drain: {timeout: 300ms, propagation: 0s}");
    let marker = plan.dir.path().join("trapped");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 1; done", marker.display());
    let mut sidecar = plan.with_app(&["sh", "-c", &script]).start();
    wait_until("it ignores TERM", async || marker.exists()).await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(137));
}

#[tokio::test]
async fn the_app_has_the_standard_streams() {
    let registry = registry().await;
    let mut plan = SidecarBuilder::new(&registry, "");
    plan.command.stdin(Stdio::piped());
    let mut sidecar = plan.with_app(&["sh", "-c", "cat; echo to-stderr >&2"]).start();
    let mut stdin = sidecar.child.stdin.take().unwrap();
    let text = "a line\nand the rest without an end";
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
    let mut out = String::new();
    sidecar.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, text, "the sidecar writes nothing to stdout");
    assert!(sidecar.log().lines().any(|line| line == "to-stderr"), "{}", sidecar.log());
}

#[tokio::test]
async fn on_app_exit_follows_a_reload() {
    let registry = registry().await;
    let mut sidecar = SidecarBuilder::new(&registry, "drain: {propagation: 0s}").with_test_app(&[]).start();
    sidecar.wait_until_ready().await;
    let file = sidecar.path("outrigger.yaml");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{before}on_app_exit: restart\n")).unwrap();
    let (status, answer) = send_request(sidecar.admin, "POST /reload", "").await.unwrap();
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("on_app_exit: exit → restart"), "{answer}");
    kill_process(sidecar.app_pid().unwrap(), Signal::KILL).unwrap();
    wait_until("it is started again", async || sidecar.app_starts() == 2).await;
    sidecar.wait_until_ready().await;
    std::fs::write(&file, before).unwrap();
    assert_eq!(send_request(sidecar.admin, "POST /reload", "").await.unwrap().0, 200);
    kill_process(sidecar.app_pid().unwrap(), Signal::KILL).unwrap();
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(137));
}

#[tokio::test]
async fn process_one_collects_orphans() {
    let Some(mut command) = process_namespace() else { return };
    let registry = registry().await;
    let plan = SidecarBuilder::new(&registry, "drain: {propagation: 0s}");
    // Twenty orphans, and then no zombie. Exit code 8: the orphans are not collected.
    let orphans = "test $PPID = 1 || exit 7; cd \"$0\"; \
                   for n in $(seq 20); do (sh -c \"touch orphan-$n\" &); done; \
                   tries=0; while [ $(ls | grep -c orphan-) -lt 20 ] || grep -q '^State:.Z' /proc/[0-9]*/status; do \
                   tries=$((tries+1)); [ $tries -lt 300 ] || exit 8; sleep 0.1; done; exit 0";
    let folder = plan.dir.path().to_string_lossy().into_owned();
    command.arg(env!("CARGO_BIN_EXE_outrigger"));
    command.args(plan.command.get_args()).args(["--", "sh", "-c", orphans, &folder]);
    let log = std::fs::File::create(plan.dir.path().join("log")).unwrap();
    command.stdin(Stdio::null()).stderr(log);
    let status = tokio::task::spawn_blocking(move || command.status().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}
