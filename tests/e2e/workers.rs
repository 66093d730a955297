//! Several workers, each a thread with its own runtime, act as one sidecar.

use std::time::Duration;

use outrigger_proxy::Workers;
use outrigger_tests::{
    client::Client,
    instance::{Instance, Kill},
    load::{Load, LoadPlan},
    sidecar::{Services, Sidecar},
};
use tokio::time::Instant;

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

/// The median time of a GET.
async fn median_get(client: &mut Client) -> Duration {
    let mut times = Vec::new();
    for _ in 0..101 {
        let begun = Instant::now();
        assert_eq!(client.get("orders", "/get").await.status, 200);
        times.push(begun.elapsed());
    }
    times.sort();
    times[50]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_endless_upload_leaves_the_other_connections_of_its_worker_their_turn() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::start_on(Workers::Threads(1), "", &Services::of("orders", &[&instance])).await;
    let mut client = sidecar.client().await;
    let alone = median_get(&mut client).await;
    let mut uploader = sidecar.client().await;
    let upload = tokio::spawn(async move {
        uploader.send("POST /up HTTP/1.1\r\nHost: orders\r\nContent-Length: 1000000000000\r\n\r\n").await;
        let _ = uploader.send_pattern(1_000_000_000_000).await;
    });
    instance.wait_requests(102).await;
    let received = || instance.first_with_method("POST").body().len;
    let before = received();
    let beside = median_get(&mut client).await;
    assert!(received() > before, "the upload has not gone on");
    upload.abort();
    // A worker that moves one upload for as long as there is some of it would answer no GET at all. The bound leaves room for the
    // client, the instance and the upload of this test, which share their threads.
    assert!(beside < Duration::from_millis(50) + 10 * alone, "{beside:?} beside the upload, {alone:?} alone");
}
