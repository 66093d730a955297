//! A sidecar that has few files.

use std::process::Command;

use tokio::net::{TcpListener, TcpStream};

use crate::harness::{SidecarBuilder, registry, send_request, wait_until, wait_until_listed};

/// The sidecar's command, run under these limits of open files.
fn with_file_limits(mut sidecar: SidecarBuilder, soft: u32, hard: u32) -> SidecarBuilder {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("ulimit -Sn {soft}; ulimit -Hn {hard}; exec \"$0\" \"$@\""));
    shell.arg(sidecar.command.get_program()).args(sidecar.command.get_args());
    for (name, value) in sidecar.command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(std::process::Stdio::null());
    sidecar.command = shell;
    sidecar
}

#[tokio::test]
async fn app_connections_that_use_up_all_files_leave_some_to_probes_agent_and_admin() {
    let registry = registry().await;
    let sidecar = with_file_limits(SidecarBuilder::new(&registry, ""), 128, 128).start();
    let app = TcpListener::bind(("127.0.0.1", sidecar.port)).await.unwrap();
    wait_until_listed(&registry, &[("orders-1", "passing")]).await;

    let mut connections = Vec::new();
    for _ in 0..150 {
        connections.push(TcpStream::connect(sidecar.outbound).await.unwrap());
    }
    wait_until("the sidecar is out of files", async || sidecar.log().contains("out of files")).await;
    drop(app);
    wait_until_listed(&registry, &[("orders-1", "critical")]).await;
    // That it has ended is seen by probes, and so is its return. Without files for probes it would stay critical.
    let app = TcpListener::bind(("127.0.0.1", sidecar.port)).await.unwrap();
    wait_until_listed(&registry, &[("orders-1", "passing")]).await;
    let (status, _) = send_request(sidecar.admin, "GET /healthz", "").await.unwrap();
    assert_eq!(status, 200);
    assert!(!sidecar.log().contains("cannot be probed"), "the probes have files of their own");

    // The connections that wait are served once there are files.
    let last = connections.pop().unwrap();
    drop(connections);
    last.writable().await.unwrap();
    last.try_write(b"GET /svc/unknown/ HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    wait_until("the last connection is served", async || {
        let mut head = [0; 12];
        last.peek(&mut head).await.is_ok_and(|read| read > 0)
    })
    .await;
    drop(app);
}

#[tokio::test]
async fn the_sidecar_raises_its_limit_of_files_and_the_app_gets_the_one_from_before() {
    let registry = registry().await;
    let sidecar = SidecarBuilder::new(&registry, "");
    let seen = sidecar.dir.path().join("seen");
    let script = format!("ulimit -Sn > {0}.tmp; mv {0}.tmp {0}; exec sleep 60", seen.display());
    let sidecar = with_file_limits(sidecar, 200, 300).with_app(&["sh", "-c", &script]).start();
    wait_until("the app has started", async || seen.exists()).await;
    assert_eq!(std::fs::read_to_string(&seen).unwrap().trim(), "200");
    let (_, metrics) = send_request(sidecar.admin, "GET /metrics", "").await.unwrap();
    assert!(metrics.lines().any(|line| line == "process_max_fds 300"), "{metrics}");
}
