//! Two services beside one sidecar: the API port and the admin port of one app.

use std::sync::Arc;

use outrigger_devregistry::DevRegistry;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;

use crate::harness::{
    RunningSidecar, SidecarBuilder, TAKEN, listed_instances_of, registry, send_request, wait_until,
    wait_until_listed_of,
};

const SERVICES: [(&str, &str); 2] = [("orders", "orders-1"), ("orders-admin", "orders-admin-1")];

async fn wait_until_both_are(registry: &DevRegistry, status: &str) {
    for (service, id) in SERVICES {
        wait_until_listed_of(registry, service, &[(id, status)]).await;
    }
}

async fn wait_until_both_have_left(registry: &DevRegistry) {
    for (service, _) in SERVICES {
        wait_until_listed_of(registry, service, &[]).await;
    }
}

/// The state of each registration, by its service.
async fn states(sidecar: &RunningSidecar) -> Vec<(String, String)> {
    let page = sidecar.get_json("/readyz").await;
    let all = page["registrations"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    all.iter().map(|one| (text(&one["service"]), text(&one["state"]))).collect()
}

async fn start_app(settings: &str) -> (Arc<DevRegistry>, RunningSidecar) {
    let registry = Arc::new(registry().await);
    let (plan, _) = SidecarBuilder::new(&registry, settings).with_admin_service();
    let sidecar = plan.with_test_app(&[]).start();
    sidecar.wait_until_ready().await;
    wait_until_both_are(&registry, "passing").await;
    (registry, sidecar)
}

#[tokio::test]
async fn both_are_withdrawn_before_the_app_is_told_to_end() {
    let (registry, mut sidecar) = start_app("drain: {propagation: 0s}").await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
    let lines = sidecar.app_lines();
    let at = |line: &str| lines.iter().position(|one| one == line);
    assert!(at("got TERM") < at("stop: not listed") && at("stop: not listed").is_some(), "{lines:?}");
    assert!(at("stop: orders-admin not listed").is_some(), "{lines:?}");
    wait_until_both_have_left(&registry).await;
}

#[tokio::test]
async fn both_leave_at_once_when_the_app_is_killed() {
    let (registry, mut sidecar) = start_app("drain: {propagation: 5m}").await;
    kill_process(sidecar.app_pid().unwrap(), Signal::KILL).unwrap();
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(137));
    wait_until_both_have_left(&registry).await;
}

#[tokio::test]
async fn both_come_back_with_an_app_that_is_started_again() {
    let (registry, mut sidecar) = start_app("on_app_exit: restart").await;
    kill_process(sidecar.app_pid().unwrap(), Signal::KILL).unwrap();
    wait_until("it is started again", async || sidecar.app_starts() == 2).await;
    sidecar.wait_until_ready().await;
    wait_until_both_are(&registry, "passing").await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
    wait_until_both_have_left(&registry).await;
}

#[tokio::test]
async fn both_are_critical_at_once_while_the_app_waits_for_its_restart() {
    let registry = Arc::new(registry().await);
    let (mut plan, admin_port) = SidecarBuilder::new(&registry, "on_app_exit: restart").with_admin_service();
    let path = plan.dir.path().join("outrigger.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    // One probe an hour: only the end of the app itself can cause the report.
    std::fs::write(&path, text.replace("interval: 100ms", "interval: 1h")).unwrap();
    let folder = plan.dir.path().to_owned();
    let (api_port, pid_file) = (plan.port, folder.join("pid"));
    plan.command.env("PID_FILE", &pid_file);
    let script = "echo $$ > $PID_FILE.tmp; mv $PID_FILE.tmp $PID_FILE; exec sleep 60";
    let _sidecar = plan.with_app(&["sh", "-c", script]).start();
    let api = TcpListener::bind(("127.0.0.1", api_port)).await.unwrap();
    let admin = TcpListener::bind(("127.0.0.1", admin_port)).await.unwrap();
    wait_until_both_are(&registry, "passing").await;
    drop((api, admin));
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    wait_until_both_are(&registry, "critical").await;
}

/// Two listeners stand for the app; `run --replace` is not offered beside an app.
async fn start_beside_listeners() -> (Arc<DevRegistry>, RunningSidecar, [TcpListener; 2]) {
    let registry = Arc::new(registry().await);
    let (plan, admin_port) = SidecarBuilder::new(&registry, "").with_admin_service();
    let api = TcpListener::bind(("127.0.0.1", plan.port)).await.unwrap();
    let admin = TcpListener::bind(("127.0.0.1", admin_port)).await.unwrap();
    let sidecar = plan.start();
    sidecar.wait_until_ready().await;
    wait_until_both_are(&registry, "passing").await;
    (registry, sidecar, [api, admin])
}

/// Replaces `old`, and waits for its end. `steady`: services that stay listed and passing all the time.
async fn replace(registry: &Arc<DevRegistry>, old: &mut RunningSidecar, steady: &[(&str, &str)]) {
    let next = old.replace();
    let mut old = std::mem::replace(old, next);
    let mut ended = None;
    wait_until("the earlier sidecar ends", async || {
        for (service, id) in steady {
            let listed = listed_instances_of(registry, service).await;
            assert_eq!(listed, [((*id).to_owned(), "passing".to_owned())], "{service}");
        }
        ended = old.child.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    assert_eq!(ended.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_replacement_keeps_both_registrations() {
    let (registry, mut running, _app) = start_beside_listeners().await;
    for _ in 0..2 {
        replace(&registry, &mut running, &SERVICES).await;
        running.wait_for_log(TAKEN).await;
        running.wait_until_ready().await;
        let expected = SERVICES.map(|(service, _)| (service.to_owned(), "registered".to_owned()));
        wait_until("both are registered", async || states(&running).await == expected).await;
    }
    running.signal(Signal::TERM);
    assert_eq!(running.wait_for_exit().await.code(), Some(0));
    wait_until_both_have_left(&registry).await;
}

#[tokio::test]
async fn a_replacement_finds_the_running_sidecar_when_its_list_has_another_order() {
    let (registry, mut running, _app) = start_beside_listeners().await;
    let text = std::fs::read_to_string(running.path("outrigger.yaml")).unwrap();
    let items: Vec<_> = text.lines().filter(|line| line.starts_with("- ")).collect();
    let (list, swapped) = (items.join("\n"), [items[1], items[0]].join("\n"));
    running.edit_settings(&list, &swapped);
    replace(&registry, &mut running, &SERVICES).await;
    running.wait_for_log(TAKEN).await;
    // And back: the place has moved with the process.
    running.edit_settings(&swapped, &list);
    replace(&registry, &mut running, &SERVICES).await;
    running.wait_for_log(TAKEN).await;
}

#[tokio::test]
async fn a_replacement_withdraws_the_service_that_it_lacks_and_adds_the_new_one() {
    let (registry, mut running, _app) = start_beside_listeners().await;
    let text = std::fs::read_to_string(running.path("outrigger.yaml")).unwrap();
    for at in [1, 0] {
        // First without the second service, then, with both again, without the first one.
        let item = format!("{}\n", text.lines().filter(|line| line.starts_with("- ")).nth(at).unwrap());
        running.edit_settings(&item, "");
        replace(&registry, &mut running, &SERVICES[1 - at..][..1]).await;
        running.wait_for_log(TAKEN).await;
        wait_until_listed_of(&registry, SERVICES[at].0, &[]).await;
        std::fs::write(running.path("outrigger.yaml"), &text).unwrap();
        replace(&registry, &mut running, &SERVICES[1 - at..][..1]).await;
        running.wait_for_log(TAKEN).await;
        wait_until_both_are(&registry, "passing").await;
    }
}

#[tokio::test]
async fn maintenance_of_one_outlives_a_replacement() {
    let (registry, mut running, _app) = start_beside_listeners().await;
    let asked = "POST /maintenance?enable=true&service=orders-admin";
    assert_eq!(send_request(running.admin, asked, "").await.unwrap().0, 200);
    wait_until_listed_of(&registry, "orders-admin", &[("orders-admin-1", "critical")]).await;
    replace(&registry, &mut running, &SERVICES[..1]).await;
    running.wait_for_log(TAKEN).await;
    wait_until_listed_of(&registry, "orders-admin", &[("orders-admin-1", "critical")]).await;
    let page = running.get_json("/maintenance").await;
    let of = |service: &str| {
        page["services"].as_array().unwrap().iter().find(|one| one["service"] == service).unwrap().clone()
    };
    assert_eq!(of("orders-admin")["enabled"], true, "{page}");
    assert_eq!(of("orders")["enabled"], false, "{page}");
    let asked = "POST /maintenance?enable=false&service=orders-admin";
    assert_eq!(send_request(running.admin, asked, "").await.unwrap().0, 200);
    wait_until_both_are(&registry, "passing").await;
}
