//! The probes, against apps on loopback addresses, and what they publish, on a paused clock.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

fn settings(probe: Probe) -> Health {
    Health { probe, timeout: Duration::from_secs(10), ..Health::default() }
}

async fn probe(settings: &Health, port: u16) -> ProbeResult {
    let app = AppFinder::new(AppAddress { port, only: None, registered: None });
    Prober { settings: settings.clone(), app }.probe().await
}

/// An app that answers every request with `status`; bound to `ip`.
async fn app(ip: &str, status: u16) -> Option<(u16, tokio::task::JoinHandle<()>)> {
    let listener = TcpListener::bind((ip, 0)).await.ok()?;
    let port = listener.local_addr().ok()?.port();
    let task = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = socket.read(&mut head).await;
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    Some((port, task))
}

fn result(health: ReportedHealth, detail: &str) -> ProbeResult {
    let kind = (health != ReportedHealth::Passing).then_some(ReasonKind::Refused);
    ProbeResult { health: Some(health), kind, detail: detail.to_owned() }
}

async fn run_every_second<F, Fut>(results: watch::Sender<Option<ReportedHealth>>, probe: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = ProbeResult>,
{
    let state = RegistrationState::new(crate::RegistrationPhase::AwaitingApp, "orders-1");
    probe_repeatedly("orders", Duration::from_secs(1), results, &state, probe).await;
}

#[tokio::test]
async fn the_status_decides_as_in_consul() {
    for (status, health) in [
        (200, ReportedHealth::Passing),
        (204, ReportedHealth::Passing),
        (429, ReportedHealth::Warning),
        // Without a `Location`.
        (302, ReportedHealth::Critical),
        (404, ReportedHealth::Critical),
        (503, ReportedHealth::Critical),
    ] {
        let (port, task) = app("127.0.0.1", status).await.unwrap();
        let finding = probe(&settings(Probe::Http("/healthz".into())), port).await;
        assert_eq!(finding.health, Some(health), "{finding:?}");
        assert!(finding.detail.contains(&status.to_string()), "{finding:?}");
        task.abort();
    }
}

#[tokio::test]
async fn redirects_are_followed_at_most_ten_times_with_the_fields_that_are_configured() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let read = socket.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let target = head.split(' ').nth(1).unwrap_or_default();
            let left: u32 = target.trim_start_matches('/').parse().unwrap_or(0);
            let (status, location) = match left {
                0 => ("204 No Content", String::new()),
                _ => ("302 Found", format!("location: http://app.example/{}\r\n", left - 1)),
            };
            let answer = format!("HTTP/1.1 {status}\r\n{location}content-length: 0\r\n\r\n");
            let _ = socket.write_all(answer.as_bytes()).await;
            seen.lock().unwrap().push(head.to_ascii_lowercase());
        }
    });
    let health = |path: &str| Health {
        host: Some("app.example".into()),
        method: "HEAD".into(),
        headers: [("x-probe".to_owned(), outrigger_config::Secret::new("1"))].into(),
        ..settings(Probe::Http(path.into()))
    };
    for (path, healthy, requests) in [("/0", true, 1), ("/10", true, 11), ("/11", false, 11)] {
        heads.lock().unwrap().clear();
        let finding = probe(&health(path), port).await;
        assert_eq!(finding.health == Some(ReportedHealth::Passing), healthy, "{finding:?}");
        assert_eq!(healthy, !finding.detail.contains("after 10 redirects"), "{finding:?}");
        let heads = heads.lock().unwrap();
        assert_eq!(heads.len(), requests, "{heads:?}");
        let has_fields = |head: &String| {
            head.starts_with("head /")
                && head.contains("host: app.example\r\n")
                && head.contains("x-probe: 1\r\n")
        };
        assert!(heads.iter().all(has_fields), "{heads:?}");
    }
    let finding = probe(&settings(Probe::Http("/1".into())), port).await;
    assert_eq!(finding.health, Some(ReportedHealth::Critical));
    assert!(finding.detail.contains("which is another host"), "{finding:?}");
}

#[tokio::test]
async fn a_long_body_is_no_fault_and_a_method_with_content_states_its_length() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let read = socket.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).to_ascii_lowercase();
            let has_length = head.contains("content-length: 0\r\n");
            let status = if has_length == head.starts_with("get ") { 411 } else { 200 };
            let body = vec![b'x'; 2 * 1024 * 1024];
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = socket.write_all(answer.as_bytes()).await;
            let _ = socket.write_all(&body).await;
        }
    });
    for method in ["GET", "POST", "PUT", "PATCH"] {
        let health = Health { method: method.into(), ..settings(Probe::Http("/".into())) };
        let finding = probe(&health, port).await;
        assert_eq!(finding.health, Some(ReportedHealth::Passing), "{method}: {finding:?}");
    }
}

#[tokio::test]
async fn an_app_on_one_of_the_two_loopback_addresses_is_found() {
    for (ip, other) in [("127.0.0.1", "::1"), ("::1", "127.0.0.1")] {
        // The machine may have no IPv6.
        let Some((mut port, mut task)) = app(ip, 200).await else { continue };
        // The system may choose a port that another program has on the other address.
        while tokio::net::TcpStream::connect((other, port)).await.is_ok() {
            task.abort();
            (port, task) = app(ip, 200).await.unwrap();
        }
        for kind in [Probe::Tcp, Probe::Http("/".into())] {
            let finding = probe(&settings(kind), port).await;
            assert_eq!(finding.health, Some(ReportedHealth::Passing), "{ip}: {finding:?}");
        }
        task.abort();
    }
}

#[tokio::test]
async fn a_closed_port_is_critical_and_says_so() {
    let port = outrigger_net::reserve_addr().port();
    for kind in [Probe::Tcp, Probe::Http("/".into())] {
        let finding = probe(&settings(kind), port).await;
        assert_eq!(finding.health, Some(ReportedHealth::Critical));
        assert!(finding.detail.contains(&format!("127.0.0.1:{port}")), "{finding:?}");
    }
}

#[tokio::test]
async fn an_app_that_listens_on_its_own_address_alone_is_found_and_asked_by_that_name() {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let hosts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = hosts.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let read = socket.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).to_ascii_lowercase();
            let host = head.lines().find_map(|line| line.strip_prefix("host: ").map(str::to_owned));
            seen.lock().unwrap().extend(host);
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let own = || Some("127.0.0.2".to_owned());
    for (only, registered) in [(None, own()), (own(), None), (own(), Some("127.0.0.3".to_owned()))] {
        for kind in [Probe::Tcp, Probe::Http("/".into())] {
            let settings = Health { address: only.clone(), ..settings(kind) };
            let app = AppAddress { port, only: only.clone(), registered: registered.clone() };
            let finding = Prober { settings, app: AppFinder::new(app) }.probe().await;
            assert_eq!(finding.health, Some(ReportedHealth::Passing), "{finding:?}");
            assert!(finding.detail.contains("127.0.0.2"), "{finding:?}");
        }
    }
    assert_eq!(*hosts.lock().unwrap(), vec![format!("127.0.0.2:{port}"); 3]);
    let other = AppAddress { port, only: Some("127.0.0.1".into()), registered: own() };
    let finding = Prober { settings: settings(Probe::Tcp), app: AppFinder::new(other) }.probe().await;
    assert_eq!(finding.health, Some(ReportedHealth::Critical), "health.address alone is asked");
}

#[tokio::test]
async fn an_app_that_accepts_and_never_answers_is_critical_after_the_time_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = Health { timeout: Duration::from_millis(50), ..settings(Probe::Http("/".into())) };
    let finding = probe(&silent, port).await;
    assert_eq!(finding.health, Some(ReportedHealth::Critical));
    assert!(finding.detail.contains("50ms"), "{finding:?}");
}

#[tokio::test(start_paused = true)]
async fn probes_never_overlap_and_slow_ones_follow_each_other() {
    let (results, _keep) = watch::channel(None);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let starts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let task = tokio::spawn(run_every_second(results, {
        let (running, most, starts) = (running.clone(), most.clone(), starts.clone());
        move || {
            let (running, most) = (running.clone(), most.clone());
            starts.lock().unwrap().push(Instant::now());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(5)).await; // slower than the interval
                running.fetch_sub(1, Ordering::SeqCst);
                passing("")
            }
        }
    }));
    tokio::time::sleep(Duration::from_secs(30)).await;
    task.abort();
    assert_eq!(most.load(Ordering::SeqCst), 1);
    let starts = starts.lock().unwrap();
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == Duration::from_secs(5)), "{starts:?}");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_hangs_is_detected_within_the_interval_at_any_time() {
    let settings = Health::default();
    for after in (0..4000).step_by(50).map(Duration::from_millis) {
        let (results, mut received) = watch::channel(None);
        let hangs = Instant::now() + Duration::from_secs(10) + after;
        let limit = settings.timeout;
        let state = RegistrationState::new(crate::RegistrationPhase::AwaitingApp, "orders-1");
        let task = tokio::spawn(async move {
            let pause = probe_pause(settings.interval, limit);
            probe_repeatedly("orders", pause, results, &state, || async move {
                if Instant::now() < hangs {
                    return passing("");
                }
                tokio::time::sleep(limit).await;
                critical(ReasonKind::Silent, "hung")
            })
            .await;
        });
        received.wait_for(|health| *health == Some(ReportedHealth::Critical)).await.unwrap();
        task.abort();
        assert!(hangs.elapsed() <= settings.interval, "{:?} when it hangs after {after:?}", hangs.elapsed());
    }
}

#[test]
fn a_long_time_out_does_not_shorten_the_pause_below_half_the_interval() {
    let seconds = Duration::from_secs;
    for (interval, timeout, expected) in [(10, 1, 9), (10, 5, 5), (10, 9, 5), (2, 2, 1)] {
        assert_eq!(probe_pause(seconds(interval), seconds(timeout)), seconds(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn the_reason_is_the_first_text_of_its_kind_and_gone_with_the_illness() {
    let results = watch::Sender::new(None);
    let state = RegistrationState::new(crate::RegistrationPhase::AwaitingApp, "orders-1");
    let (next, answers) = tokio::sync::mpsc::unbounded_channel();
    let answers = tokio::sync::Mutex::new(answers);
    let task = tokio::spawn({
        let state = state.clone();
        async move {
            let probe = || async { answers.lock().await.recv().await.unwrap() };
            probe_repeatedly("orders", Duration::from_secs(1), results, &state, probe).await;
        }
    });
    let status = ReasonKind::Status;
    for (probed, expected) in [
        (critical(ReasonKind::Refused, "refused 1"), Some("refused 1")),
        (critical(ReasonKind::Refused, "refused 2"), Some("refused 1")),
        (no_news("Too many open files"), Some("refused 1")),
        (critical(ReasonKind::Refused, "refused 3"), Some("refused 1")),
        (critical(status(503), "a\nb"), Some("a\\nb")),
        (critical(status(500), "500"), Some("500")),
        (no_news("unreachable"), Some("500")),
        (passing("well"), None),
        (no_news("unreachable"), None),
        (critical(ReasonKind::Refused, "refused 4"), Some("refused 4")),
    ] {
        next.send(probed.clone()).unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let status = state.current();
        assert_eq!(status.reason.as_ref().map(|reason| &*reason.text), expected, "{probed:?}");
        assert_eq!(status.probe_detail, probed.detail, "the page has the last probe");
    }
    task.abort();
}

#[tokio::test]
async fn each_way_to_fail_has_its_kind() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let closed = outrigger_net::reserve_addr().port();
    let answers = [
        ("HTTP/1.1 503 all is\twell\r\n\r\n".to_owned(), ReasonKind::Status(503)),
        ("HTTP/1.1 429 X\r\n\r\n".into(), ReasonKind::Status(429)),
        ("hello\r\n\r\n".into(), ReasonKind::Broken),
        (String::new(), ReasonKind::Broken),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel".into(), ReasonKind::Broken),
        ("HTTP/1.1 302 X\r\nlocation: https://localhost/\r\n\r\n".into(), ReasonKind::Redirect),
        (format!("HTTP/1.1 302 X\r\nlocation: http://localhost:{closed}/\r\n\r\n"), ReasonKind::Redirect),
        (format!("HTTP/1.1 302 X\r\nlocation: http://{}/\r\n\r\n", "x".repeat(9000)), ReasonKind::Redirect),
    ];
    for (answer, kind) in answers {
        let settings = settings(Probe::Http("/".into()));
        let finding = tokio::join!(probe(&settings, port), async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = socket.read(&mut head).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        });
        assert_eq!(finding.0.kind, Some(kind), "{answer:?}: {finding:?}");
        assert!(finding.0.detail.chars().count() <= 513, "{finding:?}");
    }
    let silent = Health { timeout: Duration::from_millis(50), ..settings(Probe::Http("/".into())) };
    assert_eq!(probe(&silent, port).await.kind, Some(ReasonKind::Silent));
    assert_eq!(probe(&settings(Probe::Tcp), closed).await.kind, Some(ReasonKind::Refused));
}

#[tokio::test(start_paused = true)]
async fn the_health_of_an_app_that_cannot_be_probed_is_unknown_after_a_while_and_stays() {
    let second = Duration::from_secs(1);
    for (pause, known_for) in [(second, 30 * second), (20 * second, 60 * second)] {
        for health in [ReportedHealth::Passing, ReportedHealth::Critical] {
            let (results, received) = watch::channel(None);
            let state = RegistrationState::new(crate::RegistrationPhase::AwaitingApp, "orders-1");
            let can_probe = Arc::new(AtomicBool::new(true));
            let task = tokio::spawn({
                let (state, can_probe) = (state.clone(), can_probe.clone());
                async move {
                    probe_repeatedly("orders", pause, results, &state, || async {
                        match can_probe.load(Ordering::SeqCst) {
                            true => result(health, "well"),
                            false => no_news("Too many open files"),
                        }
                    })
                    .await;
                }
            });
            tokio::time::sleep(100 * second).await;
            assert_eq!(state.current().unprobed, None);
            can_probe.store(false, Ordering::SeqCst);
            tokio::time::sleep(known_for - pause - second / 2).await;
            assert_eq!(state.current().unprobed, None, "{pause:?}");
            tokio::time::sleep(pause + second).await;
            assert_eq!(state.current().unprobed.as_deref(), Some("Too many open files"), "{pause:?}");
            tokio::time::sleep(3600 * second).await;
            assert_eq!(*received.borrow(), Some(health), "the last health stays");
            can_probe.store(true, Ordering::SeqCst);
            tokio::time::sleep(pause + second).await;
            assert_eq!(state.current().unprobed, None);
            task.abort();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_changes_are_published_and_a_sidecar_that_cannot_probe_publishes_none() {
    let (results, mut received) = watch::channel(None);
    let probes = Arc::new(AtomicUsize::new(0));
    let task = tokio::spawn(run_every_second(results, {
        let probes = probes.clone();
        move || {
            let result = match probes.fetch_add(1, Ordering::SeqCst) {
                0..3 => critical(ReasonKind::Refused, ""),
                // The sidecar cannot probe.
                7..9 => no_news(""),
                _ => passing(""),
            };
            async move { result }
        }
    }));
    let mut seen = Vec::new();
    let _ = timeout(Duration::from_secs(60), async {
        while received.changed().await.is_ok() {
            seen.push(*received.borrow_and_update());
        }
    })
    .await;
    task.abort();
    assert_eq!(seen, [Some(ReportedHealth::Critical), Some(ReportedHealth::Passing)]);
    assert!(probes.load(Ordering::SeqCst) > 20);
}
