//! Nothing is left running, however this program ends.
//!
//! The program starts itself a second time: the inner process runs the cases, and its children (agents,
//! sidecars, their apps) inherit a mark in their environment. The outer process waits, and every process that
//! still has the mark when the inner process has ended, even by SIGKILL, is killed by its process id. The
//! inner process ends when its standard input ends.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use outrigger_tests::process;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, sleep},
};

/// The mark. Not `OUTRIGGER_…`: those are kept from the sidecars.
const MARK: &str = "CHAOS_RUN";
/// Longest wait for the inner process after a signal.
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Whether this is the inner process.
pub(crate) fn is_guarded() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Runs the inner process, and kills what is left of it.
pub(crate) fn run() -> ExitCode {
    let mark = format!("{}-{:x}", std::process::id(), fastrand::u64(..));
    let inner = Command::new(std::env::current_exe().expect("this program's own path"))
        .args(std::env::args_os().skip(1))
        .env(MARK, &mark)
        .stdin(Stdio::piped())
        .spawn()
        .expect("start this program again");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ended = runtime.block_on(wait_for_inner(inner));
    let left = kill_leftovers(&mark);
    // After a crash there is nothing to be surprised about.
    match ended {
        Some(code @ 0..=1) if !left.is_empty() => {
            eprintln!("left running, and killed now: {left:#?}");
            ExitCode::from(u8::try_from(code.max(1)).unwrap_or(1))
        }
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::from(1),
    }
}

/// Its exit code; `None` when a signal ended it.
async fn wait_for_inner(mut inner: Child) -> Option<i32> {
    let mut terminate = signal(SignalKind::terminate()).expect("listen for SIGTERM");
    let mut interrupt = signal(SignalKind::interrupt()).expect("listen for SIGINT");
    let mut kill_at: Option<Instant> = None;
    loop {
        match inner.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return status.code(),
            Err(error) => panic!("wait for the runner: {error}"),
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            // A failure means that the process has ended.
            let _ = inner.kill();
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = sleep(POLL_INTERVAL) => continue,
        }
        // The inner process ends when its input ends.
        drop(inner.stdin.take());
        kill_at.get_or_insert(Instant::now() + EXIT_TIMEOUT);
    }
}

/// Kills the processes with the mark, and returns their ids and command lines.
fn kill_leftovers(mark: &str) -> Vec<String> {
    let mark = format!("{MARK}={mark}");
    let mut left = Vec::new();
    // An app may start another while its sidecar is killed.
    for _ in 0..3 {
        let found = processes_with_mark(&mark);
        for pid in &found {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            left.push(format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " ")));
            // It has ended meanwhile when this fails.
            let _ = process::send_signal(*pid, "KILL");
        }
        if found.is_empty() {
            break;
        }
    }
    left
}

fn processes_with_mark(mark: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let carries = |pid: &u32| {
        // The file is empty for a zombie, which needs no signal.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes())
    };
    pids.filter(carries).collect()
}

/// For the inner process: turns true when it must end, after a signal or after the end of the outer process.
pub(crate) fn watch_for_end() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    let by_input = sender.clone();
    std::thread::spawn(move || {
        // Nothing is ever written: it only ends.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        by_input.send_replace(true);
    });
    tokio::spawn(async move {
        let mut terminate = signal(SignalKind::terminate()).expect("listen for SIGTERM");
        let mut interrupt = signal(SignalKind::interrupt()).expect("listen for SIGINT");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = writeln!(std::io::stderr(), "interrupted: everything is stopped");
        sender.send_replace(true);
    });
    receiver
}
