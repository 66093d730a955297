//! Several workers, each a thread with its own runtime, act as one sidecar.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_proxy::Workers;
use outrigger_tests::{
    client::Client,
    instance::{Answer, Instance, Kill},
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

/// The median of the times of 201 GETs, and the time that 99 % of them were below.
async fn time_gets(client: &mut Client) -> [Duration; 2] {
    let mut times = Vec::new();
    for _ in 0..201 {
        let begun = Instant::now();
        assert_eq!(client.get("orders", "/get").await.status, 200);
        times.push(begun.elapsed());
    }
    times.sort();
    [times[100], times[198]]
}

/// GETs beside `pump`, which `moved` counts, on the one worker. The client, the instance and the pump's ends share the processors
/// with the worker, and a debug build is slow: the quietest of a few rounds counts, and a worker that starves the GETs has none.
async fn assert_quick_beside_pump(name: &str, client: &mut Client, moved: impl Fn() -> u64) {
    let mut quietest = [Duration::MAX; 2];
    for _ in 0..10 {
        let before = moved();
        let round = time_gets(client).await;
        assert!(moved() > before, "the {name} has not gone on");
        quietest = quietest.min(round);
        if quietest[0] < Duration::from_millis(5) && quietest[1] < Duration::from_millis(50) {
            println!("beside an endless {name}: median {:?}, 99 % below {:?}", quietest[0], quietest[1]);
            return;
        }
    }
    panic!("beside an endless {name}: {quietest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_endless_upload_leaves_the_other_connections_of_its_worker_their_turn() {
    let instance = Instance::start("a").await;
    let sidecar = Sidecar::start_on(Workers::Threads(1), "", &Services::of("orders", &[&instance])).await;
    let mut client = sidecar.client().await;
    let mut uploader = sidecar.client().await;
    let upload = tokio::spawn(async move {
        uploader.send("POST /up HTTP/1.1\r\nHost: orders\r\nContent-Length: 1000000000000\r\n\r\n").await;
        let _ = uploader.send_pattern(1_000_000_000_000).await;
    });
    instance.wait_requests(1).await;
    let upload_seen = instance.first_with_method("POST");
    assert_quick_beside_pump("upload", &mut client, || upload_seen.body_len()).await;
    upload.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_endless_download_in_large_chunks_leaves_the_other_connections_of_its_worker_their_turn() {
    let instance = Instance::scripted("a", |request| match request.target() {
        "/down" => Answer::chunked_pattern(1_000_000_000_000, 1024 * 1024),
        _ => Answer::ok("ok"),
    })
    .await;
    let sidecar = Sidecar::start_on(Workers::Threads(1), "", &Services::of("orders", &[&instance])).await;
    let mut client = sidecar.client().await;
    let mut reader = sidecar.client().await;
    let read = Arc::new(AtomicU64::new(0));
    let counted = read.clone();
    let download = tokio::spawn(async move {
        reader.send("GET /down HTTP/1.1\r\nHost: orders\r\n\r\n").await;
        while reader.wire.fill().await == Ok(true) {
            counted.fetch_add(reader.wire.take_buffered().len() as u64, Relaxed);
        }
    });
    instance.wait_requests(1).await;
    assert_quick_beside_pump("download", &mut client, || read.load(Relaxed)).await;
    download.abort();
}
