//! The output of `outrigger demo`, `--help`, `--version` and `check`.

use std::time::Duration;

use outrigger_net::reserve_addr;
use outrigger_tests::{consul::http, process::run_outrigger, wait};

#[tokio::test]
async fn the_demo_kills_an_instance_and_no_request_fails() {
    let demo = run_outrigger(&["demo", "--plain", "--duration", "6s"]).await;
    let output = String::from_utf8_lossy(&demo.stdout).into_owned();
    assert!(demo.status.success(), "{output}\n{}", String::from_utf8_lossy(&demo.stderr));
    for expected in
        ["0 failed", "is killed", "is added", "gets weight", "curl -H 'Host: orders'", "after the kill"]
    {
        assert!(output.contains(expected), "{expected:?} in\n{output}");
    }
}

#[tokio::test]
async fn the_help_of_every_command_has_an_example_and_the_version_is_printed() {
    for command in ["run", "check", "drain", "dev-registry", "demo"] {
        let help = run_outrigger(&[command, "--help"]).await;
        let output = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(help.status.success() && output.contains("Example"), "{command}: {output}");
    }
    let version = run_outrigger(&["--version"]).await;
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("outrigger "), "{version:?}");
}

#[tokio::test]
async fn check_reports_every_problem_of_a_file_and_exits_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.yaml");
    std::fs::write(
        &file,
        "upstreams:\n  - service: orders\n    timeoutt: 2s\n    connect_timeout: 5 parsecs\n",
    )
    .unwrap();
    let check = run_outrigger(&["check", "-c", &file.display().to_string()]).await;
    let output = [check.stdout, check.stderr].concat();
    let output = String::from_utf8_lossy(&output).into_owned();
    assert_eq!(check.status.code(), Some(2), "{output}");
    assert!(output.contains("bad.yaml:3:5") && output.contains("timeoutt"), "{output}");
    assert!(output.contains("bad.yaml:4:") && output.contains("connect_timeout"), "{output}");
}

#[tokio::test]
async fn a_dev_registry_that_is_asked_to_leave_exits_with_0() {
    let addr = reserve_addr();
    let listen = addr.to_string();
    let arguments = ["dev-registry", "--listen", &listen];
    let leave = wait::until("the registry takes the request", Duration::from_secs(10), async || {
        http::put(addr, "/v1/agent/leave", "").await.is_ok_and(|answer| answer.status() == 200)
    });
    let (registry, ()) = tokio::join!(run_outrigger(&arguments), leave);
    let output = String::from_utf8_lossy(&registry.stdout).into_owned();
    assert!(registry.status.success() && output.contains("asked the registry to leave"), "{output}");
}
