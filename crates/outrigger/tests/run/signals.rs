//! Which signals to the sidecar reach the app.

use rustix::process::Signal;

use crate::harness::{SidecarBuilder, registry, wait_until};

#[tokio::test]
async fn signals_for_the_app_are_passed_on_at_once() {
    let registry = registry().await;
    let mut sidecar = SidecarBuilder::new(&registry, "").with_test_app(&[]).start();
    sidecar.wait_for_app_line("started").await;
    for (signal, line) in [
        (Signal::HUP, "got HUP"),
        (Signal::USR1, "got USR1"),
        (Signal::USR2, "got USR2"),
        (Signal::WINCH, "got WINCH"),
        (Signal::ALARM, "got ALRM"),
        (Signal::VTALARM, "got VTALRM"),
        (Signal::PROF, "got PROF"),
        (Signal::IO, "got IO"),
        (Signal::POWER, "got PWR"),
    ] {
        sidecar.signal(signal);
        sidecar.wait_for_app_line(line).await;
    }
    assert!(sidecar.child.try_wait().unwrap().is_none(), "none of them ends it");
}

#[tokio::test]
async fn a_real_time_signal_ends_neither_process_and_is_named_in_the_log() {
    let registry = registry().await;
    let mut sidecar = SidecarBuilder::new(&registry, "").with_test_app(&[]).start();
    sidecar.wait_for_app_line("started").await;
    for number in [36, 60] {
        // By a shell, because the system call would need `unsafe`.
        let kill = format!("kill -{number} {}", sidecar.child.id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
    wait_until("both are named", async || sidecar.log().matches("a real-time signal cannot").count() == 2)
        .await;
    sidecar.signal(Signal::USR1);
    sidecar.wait_for_app_line("got USR1").await;
    assert!(sidecar.child.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn the_app_gets_the_signal_that_asked_the_sidecar_to_leave() {
    for (signal, line) in [(Signal::TERM, "got TERM"), (Signal::INT, "got INT"), (Signal::QUIT, "got QUIT")] {
        let registry = registry().await;
        let mut plan = SidecarBuilder::new(&registry, "drain: {propagation: 0s}").with_test_app(&[]);
        // In another process group, so that no terminal counts as the sender of the signal.
        std::os::unix::process::CommandExt::process_group(&mut plan.command, 0);
        let mut sidecar = plan.start();
        sidecar.wait_until_ready().await;
        sidecar.signal(signal);
        assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
        let app = sidecar.app_lines();
        let got: Vec<_> = app.iter().filter(|line| line.starts_with("got ")).collect();
        assert_eq!(got, [line], "once");
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_wait_for_callers_and_the_app_is_still_deregistered() {
    let registry = registry().await;
    let mut sidecar = SidecarBuilder::new(&registry, "drain: {propagation: 5m}").with_test_app(&[]).start();
    sidecar.wait_until_ready().await;
    sidecar.signal(Signal::TERM);
    wait_until("it waits for callers", async || sidecar.get_json("/drain").await["phase"] == "propagating")
        .await;
    assert!(!sidecar.app_lines().iter().any(|line| line.starts_with("got")), "{:?}", sidecar.app_lines());
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
    assert!(sidecar.app_lines().contains(&"stop: not listed".to_owned()), "{:?}", sidecar.app_lines());
}
