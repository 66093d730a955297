//! Several workers, each a thread with its own runtime, act as one sidecar.

use std::time::Duration;

use outrigger_proxy::Workers;
use outrigger_tests::{
    client::Client,
    instance::{Instance, Kill},
    load::{Load, LoadPlan},
    sidecar::{Services, Sidecar},
};

async fn three() -> [Instance; 3] {
    [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_differ_by_no_more_than_the_number_of_workers() {
    let all = three().await;
    let services = Services::of("orders", &[&all[0], &all[1], &all[2]]);
    let sidecar = Sidecar::start_on(Workers::Threads(2), "", &services).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(sidecar.client().await);
    }
    for _ in 0..30 {
        for client in &mut clients {
            assert_eq!(client.get("orders", "/").await.status, 200);
        }
    }
    let counts = all.each_ref().map(Instance::count);
    assert_eq!(counts.iter().sum::<usize>(), 300);
    assert!(counts.iter().all(|count| count.abs_diff(100) <= 2), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_and_changes_under_traffic_cost_no_request_on_any_worker() {
    let all = three().await;
    let services = Services::of("orders", &[&all[0], &all[1], &all[2]]);
    let sidecar = Sidecar::start_on(Workers::Threads(3), "", &services).await;
    let plan = LoadPlan { connections: 24, ..LoadPlan::get("orders").methods(&["GET", "PUT", "DELETE"]) };
    let load = Load::start(sidecar.addr(), plan);
    for _ in 0..3 {
        load.wait_successes(500).await;
        all[0].kill(Kill::Reset).await;
        load.wait_successes(500).await;
        all[0].listen_again().await;
        sidecar.write_services(&Services::of("orders", &[&all[0], &all[2]]));
        load.wait_successes(500).await;
        sidecar.write_services(&services);
    }
    load.stop().await.assert_clean(4500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_every_worker_and_closes_idle_connections() {
    let all = three().await;
    let services = Services::of("orders", &[&all[0]]);
    let sidecar = Sidecar::start_on(Workers::Threads(2), "", &services).await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..6 {
        let mut client = sidecar.client().await;
        assert_eq!(client.get("orders", "/").await.status, 200);
        clients.push(client);
    }
    let addr = sidecar.addr();
    assert_eq!(sidecar.stop(Duration::from_secs(5)).await, 0);
    for client in &mut clients {
        client.wait_closed().await;
    }
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    outrigger_tests::wait::until_true("connections to the instance are closed", || all[0].open() == 0).await;
}
