//! What reaches the app of what the sidecar is sent.

use rustix::process::Signal;

use crate::harness::{SidecarBuilder, registry, wait_until};

#[tokio::test]
async fn signals_that_mean_something_to_the_app_are_passed_on_at_once() {
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
async fn a_real_time_signal_ends_neither_and_is_named_in_the_log() {
    let registry = registry().await;
    let mut sidecar = SidecarBuilder::new(&registry, "").with_test_app(&[]).start();
    sidecar.wait_for_app_line("started").await;
    for number in [36, 60] {
        // The shell's own: the call itself would need `unsafe`.
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
async fn the_signal_that_asks_to_leave_is_the_one_that_the_app_gets() {
    for (signal, line) in [(Signal::TERM, "got TERM"), (Signal::INT, "got INT"), (Signal::QUIT, "got QUIT")] {
        let registry = registry().await;
        let mut plan = SidecarBuilder::new(&registry, "drain: {propagation: 0s}").with_test_app(&[]);
        // Away from a terminal that the tests may be run at: its Ctrl-C is another story.
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
async fn a_second_signal_waits_for_callers_no_longer_and_still_leaves_the_registry() {
    let registry = registry().await;
    let mut sidecar = SidecarBuilder::new(&registry, "drain: {propagation: 5m}").with_test_app(&[]).start();
    sidecar.wait_until_ready().await;
    sidecar.signal(Signal::TERM);
    wait_until("callers are waited for", async || sidecar.get_json("/drain").await["phase"] == "propagating")
        .await;
    assert!(!sidecar.app_lines().iter().any(|line| line.starts_with("got")), "{:?}", sidecar.app_lines());
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
    assert!(sidecar.app_lines().contains(&"stop: not listed".to_owned()), "{:?}", sidecar.app_lines());
}
