//! The output of a first try of Outrigger.

use outrigger_tests::process::run_outrigger;

#[tokio::test]
async fn the_demo_kills_an_instance_and_no_request_fails() {
    let demo = run_outrigger(&["demo", "--plain", "--duration", "6s"]).await;
    let said = String::from_utf8_lossy(&demo.stdout).into_owned();
    assert!(demo.status.success(), "{said}\n{}", String::from_utf8_lossy(&demo.stderr));
    for expected in
        ["0 failed", "is killed", "is added", "gets weight", "curl -H 'Host: orders'", "after the kill"]
    {
        assert!(said.contains(expected), "{expected:?} in\n{said}");
    }
}

#[tokio::test]
async fn every_command_helps_with_an_example_and_says_its_version() {
    for command in ["run", "check", "drain", "dev-registry", "demo"] {
        let help = run_outrigger(&[command, "--help"]).await;
        let said = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(help.status.success() && said.contains("Example"), "{command}: {said}");
    }
    let version = run_outrigger(&["--version"]).await;
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("outrigger "), "{version:?}");
}

#[tokio::test]
async fn a_file_with_mistakes_is_refused_with_each_of_them_and_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.yaml");
    std::fs::write(
        &file,
        "upstreams:\n  - service: orders\n    timeoutt: 2s\n    connect_timeout: 5 parsecs\n",
    )
    .unwrap();
    let check = run_outrigger(&["check", "-c", &file.display().to_string()]).await;
    let said = [check.stdout, check.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(check.status.code(), Some(2), "{said}");
    assert!(said.contains("bad.yaml:3:5") && said.contains("timeoutt"), "{said}");
    assert!(said.contains("bad.yaml:4:") && said.contains("connect_timeout"), "{said}");
}
