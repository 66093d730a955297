//! A network namespace that dies under the sidecar: its interfaces are removed, as when the container that owns them is made anew.
//! The test makes the namespace itself.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::Duration,
};

use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use tokio::{net::TcpListener, time::Instant};

use crate::harness::{RunningSidecar, SidecarBuilder, registry, send_request, wait_until};

/// Runs the rest of the test in a namespace, of which it is root.
const ISOLATE: [&str; 2] = ["unshare", "-Urn"];

/// The address of the namespace, and its interfaces: the two ends of a wire.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const BUILD: &str = "ip link set lo up && ip link add v0 type veth peer name v1 && ip address add 10.9.0.1/24 dev v0 && \
                     ip link set v0 up && ip link set v1 up";
const DESTROY: &str = "ip link del v0";

/// As in the documentation.
const EXIT_CODE: i32 = 75;

/// Where programs are found, `ip` among them.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn shell(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).env("PATH", path()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_dead_network_namespace_ends_the_sidecar_with_a_code_of_its_own() {
    let isolated = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(ISOLATE[0]);
        command.arg(ISOLATE[1]).arg(program).args(arguments).stdin(Stdio::null());
        command
    };
    let may = isolated("sh", &["-c", BUILD]).env("PATH", path()).output();
    if !may.as_ref().is_ok_and(|may| may.status.success()) {
        eprintln!("skipped: this machine allows no network namespace with an interface: {may:?}");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let inside = ["network::inside_a_namespace", "--exact", "--ignored", "--nocapture"];
    let ended = isolated(&this.to_string_lossy(), &inside).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

async fn wait_until_lost(sidecar: &RunningSidecar) {
    wait_until("/readyz names the lost network", async || {
        let (status, page) = send_request(sidecar.admin, "GET /readyz", "").await.unwrap();
        status == 503
            && page.contains(
                "the network is lost: every network interface with an address is gone (it was 10.9.0.1)",
            )
    })
    .await;
    let (_, metrics) = send_request(sidecar.admin, "GET /metrics", "").await.unwrap();
    assert!(metrics.lines().any(|line| line == "outrigger_network_lost 1"), "{metrics}");
}

#[tokio::test]
#[ignore = "not a test of its own: the part that runs in a namespace"]
async fn inside_a_namespace() {
    assert!(shell(BUILD));
    let far = || DevRegistry::bind((ADDRESS, 0).into(), DevRegistryOptions::default());
    let (beside, routing, parent) = (far().await.unwrap(), far().await.unwrap(), far().await.unwrap());

    let plan = SidecarBuilder::new(&beside, "");
    let app = TcpListener::bind((Ipv4Addr::LOCALHOST, plan.port)).await.unwrap();
    let app = tokio::spawn(async move {
        loop {
            drop(app.accept().await);
        }
    });
    let mut beside = plan.start();
    let mut routing = SidecarBuilder::new(&routing, "").without_service().start();
    let mut parent = SidecarBuilder::new(&parent, "on_app_exit: restart").with_test_app(&[]).start();
    // Its agent is on loopback, and answers on.
    let near = registry().await;
    let mut unconcerned = SidecarBuilder::new(&near, "").without_service().start();
    for sidecar in [&beside, &routing, &parent, &unconcerned] {
        sidecar.wait_until_ready().await;
    }

    assert!(shell(DESTROY));
    wait_until_lost(&routing).await;
    wait_until_lost(&parent).await;
    for ended in [&mut routing, &mut parent] {
        let code = ended.wait_for_exit().await.code();
        assert_eq!(code, Some(EXIT_CODE), "{}", ended.log());
        assert!(ended.log().contains("the network namespace is dead"), "{}", ended.log());
    }
    let app_lines = parent.app_lines();
    assert!(app_lines.iter().any(|line| line.starts_with("got TERM")), "{app_lines:?}");
    assert_eq!(parent.app_starts(), 1, "{app_lines:?}");

    // These two saw the same, and something answered them.
    for alive in [&mut beside, &mut unconcerned] {
        assert_eq!(alive.child.try_wait().unwrap(), None, "{}", alive.log());
        alive.wait_until_ready().await;
        let (_, metrics) = send_request(alive.admin, "GET /metrics", "").await.unwrap();
        assert!(metrics.lines().any(|line| line == "outrigger_network_lost 0"), "{metrics}");
    }
    let app_ended = Instant::now();
    app.abort();
    assert!(app.await.unwrap_err().is_cancelled());
    wait_until_lost(&beside).await;
    assert_eq!(beside.wait_for_exit().await.code(), Some(EXIT_CODE), "{}", beside.log());
    let silence = app_ended.elapsed();
    assert!(silence >= Duration::from_secs(10), "{silence:?}: less than the time that all must be silent");
    assert_eq!(unconcerned.child.try_wait().unwrap(), None, "{}", unconcerned.log());
    drop(near);
}
