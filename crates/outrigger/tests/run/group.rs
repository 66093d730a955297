//! The process group of the app: what happens to the processes that the app has started, when the app ends.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::harness::{RunningSidecar, SidecarBuilder, process_namespace, registry, wait_until};

/// A sidecar with the app `sh -c script`. In the script `$0` is a folder, and `child SCRIPT` starts a shell that writes its
/// process id to the file `child` there. The app writes its own to `app`.
async fn start_shell(settings: &str, script: &str) -> RunningSidecar {
    let registry = registry().await;
    let plan = SidecarBuilder::new(&registry, settings);
    let folder = plan.dir.path().to_string_lossy().into_owned();
    let script = format!(
        "cd \"$0\"; child() {{ sh -c 'echo $$ > child.tmp; mv child.tmp child; eval \"$0\"' \"$1\"; }}; \
         echo $$ > app.tmp; mv app.tmp app; {script}"
    );
    plan.with_app(&["sh", "-c", &script, &folder]).start()
}

fn pid_in(sidecar: &RunningSidecar, name: &str) -> Option<Pid> {
    Pid::from_raw(std::fs::read_to_string(sidecar.path(name)).ok()?.trim().parse().ok()?)
}

/// The process id in the file `name`, once it is there.
async fn wait_for_pid(sidecar: &RunningSidecar, name: &str) -> Pid {
    wait_until(name, async || pid_in(sidecar, name).is_some()).await;
    pid_in(sidecar, name).unwrap()
}

fn is_running(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

const QUICK: &str = "drain: {propagation: 0s, timeout: 20s}";

#[tokio::test]
async fn a_shell_that_does_not_pass_its_signal_on_ends_with_its_child() {
    let mut sidecar = start_shell(QUICK, "child 'exec sleep 600'; true").await;
    let child = wait_for_pid(&sidecar, "child").await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(143), "the shell's");
    assert!(!is_running(child));
    assert!(!sidecar.log().contains("killing"), "asked is enough: {}", sidecar.log());
}

#[tokio::test]
async fn a_child_gets_its_signal_only_after_the_app_has_ended() {
    let script = "trap 'sleep 0.5; date +%s%N > app-ended; exit 5' TERM; \
                  child 'trap \"date +%s%N > child-ended; exit 0\" TERM; touch trapped; while :; do sleep 0.05; done' & \
                  while :; do sleep 0.05; done";
    let mut sidecar = start_shell(QUICK, script).await;
    let trapped = sidecar.path("trapped");
    wait_until("the child ignores no signal", async || trapped.exists()).await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(5));
    let read =
        |name: &str| std::fs::read_to_string(sidecar.path(name)).unwrap().trim().parse::<u64>().unwrap();
    assert!(read("app-ended") < read("child-ended"));
}

#[tokio::test]
async fn a_child_that_ignores_its_signal_is_killed_at_the_time_out() {
    let settings = "drain: {propagation: 0s, timeout: 400ms}";
    let script = "child 'trap \"\" TERM; touch trapped; while :; do sleep 0.05; done' & \
                  trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let mut sidecar = start_shell(settings, script).await;
    let trapped = sidecar.path("trapped");
    wait_until("the child ignores TERM", async || trapped.exists()).await;
    let child = wait_for_pid(&sidecar, "child").await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0), "the app's");
    wait_until("the child is gone", async || !is_running(child)).await;
    assert!(sidecar.log().contains("have not ended, killing them"), "{}", sidecar.log());
}

#[tokio::test]
async fn an_app_that_ignores_its_signal_is_killed_with_its_children() {
    let settings = "drain: {propagation: 0s, timeout: 400ms}";
    let mut sidecar =
        start_shell(settings, "trap '' TERM; child 'exec sleep 600' & wait; while :; do sleep 1; done").await;
    let child = wait_for_pid(&sidecar, "child").await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(137));
    wait_until("the child is gone", async || !is_running(child)).await;
}

#[tokio::test]
async fn the_children_of_an_app_that_ended_by_itself_end_before_it_starts_again() {
    // The second start fails while a child of the first one runs.
    let script = "if [ -e child ]; then kill -0 $(cat child) 2>/dev/null && exec touch both; exec touch alone; fi; \
                  child 'trap \"sleep 1; exit 0\" TERM; touch trapped; while :; do sleep 0.05; done' & \
                  while ! [ -e trapped ]; do sleep 0.05; done; exit 3";
    let sidecar = start_shell("on_app_exit: restart", script).await;
    let (alone, both) = (sidecar.path("alone"), sidecar.path("both"));
    wait_until("the app is started again", async || alone.exists() || both.exists()).await;
    assert!(!both.exists(), "{}", sidecar.log());
}

#[tokio::test]
async fn with_a_shared_group_the_children_go_on() {
    let mut sidecar = start_shell(
        "app: {process_group: shared}\ndrain: {propagation: 0s}",
        "child 'exec sleep 600' & wait",
    )
    .await;
    let child = wait_for_pid(&sidecar, "child").await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(143));
    assert!(is_running(child));
    kill_process(child, Signal::KILL).unwrap();
}

#[tokio::test]
async fn the_app_has_a_group_of_its_own_unless_its_stdin_is_a_terminal() {
    let is_own = |app: Pid| rustix::process::getpgid(Some(app)).unwrap() == app;
    let sidecar = start_shell(QUICK, "exec sleep 600").await;
    let app = wait_for_pid(&sidecar, "app").await;
    assert!(is_own(app));
    let _ = kill_process(app, Signal::KILL);

    // `script` gives a program a terminal.
    let registry = registry().await;
    let mut plan = SidecarBuilder::new(&registry, QUICK);
    let folder = plan.dir.path().to_string_lossy().into_owned();
    let mut line = vec![env!("CARGO_BIN_EXE_outrigger").to_owned()];
    line.extend(plan.command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    let app = format!("-- sh -c 'cd {folder}; echo $$ > app.tmp; mv app.tmp app; exec sleep 600'");
    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &format!("exec {} {app}", line.join(" ")), "/dev/null"]);
    for (name, value) in plan.command.get_envs() {
        match value {
            Some(value) => terminal.env(name, value),
            None => terminal.env_remove(name),
        };
    }
    terminal.stdin(Stdio::null());
    plan.command = terminal;
    let sidecar = plan.start();
    let app = wait_for_pid(&sidecar, "app").await;
    assert!(!is_own(app), "{}", sidecar.log());
    let _ = kill_process(app, Signal::KILL);
}

#[tokio::test]
async fn process_one_hears_a_signal_that_comes_during_its_start() {
    let Some(mut command) = process_namespace() else { return };
    let registry = registry().await;
    // Without an answer for the declared service the start takes 5 s.
    let plan = SidecarBuilder::new(&registry, &format!("upstreams: [{{service: other}}]\n{QUICK}"));
    registry.shutdown().await;
    let (app, log) = (plan.dir.path().join("started"), plan.dir.path().join("log"));
    let script =
        "(while ! grep -q 'outrigger starts' \"$0\"; do sleep 0.01; done; kill -TERM 1) & exec \"$@\"";
    command.args(["sh", "-c", script]).arg(&log).arg(env!("CARGO_BIN_EXE_outrigger"));
    command.args(plan.command.get_args()).args(["--", "sh", "-c"]);
    command.arg(format!("touch {}; exec sleep 60", app.display()));
    command.stdin(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let status = tokio::task::spawn_blocking(move || command.status().unwrap()).await.unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    assert!(status.code() == Some(0) && !app.exists(), "{status:?} {log}");
    assert!(log.contains("leaving before the app was started"), "{log}");
}
