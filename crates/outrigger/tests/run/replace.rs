//! `run --replace`: a new process takes the place of the running one, and no client notices.

use std::{
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use outrigger_devregistry::DevRegistry;
use outrigger_net::reserve_addr;
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufStream},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{
    RunningSidecar, SidecarBuilder, TAKEN, TEST_TIMEOUT, listed_instances, registry, send_request,
    wait_until, wait_until_listed,
};

/// A local app: it answers each request with 200 and a body of two bytes, `/slow` after a while.
async fn start_app(port: u16) -> JoinSet<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let mut app = JoinSet::new();
    app.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut stream = BufStream::new(stream);
                while let Some(head) = read_head(&mut stream).await {
                    if head.starts_with("GET /slow") {
                        sleep(Duration::from_secs(2)).await;
                    }
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    let sent = stream.write_all(answer.as_bytes()).await;
                    if sent.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    app
}

/// A head with its empty line; `None`: the connection has ended.
async fn read_head(stream: &mut BufStream<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// Sends one request. `Ok`: whether the connection stays open.
async fn exchange(stream: &mut BufStream<TcpStream>, line: &str, more: &str) -> Result<bool, String> {
    let request = format!("{line} HTTP/1.1\r\nHost: orders\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("write: {error}"))?;
    stream.flush().await.map_err(|error| format!("flush: {error}"))?;
    let head = read_head(stream).await.ok_or("no response")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(head);
    }
    let mut body = [0; 2];
    stream.read_exact(&mut body).await.map_err(|error| format!("body: {error}"))?;
    Ok(!head.to_ascii_lowercase().contains("connection: close"))
}

async fn connect(addr: SocketAddr) -> Result<BufStream<TcpStream>, String> {
    TcpStream::connect(addr).await.map(BufStream::new).map_err(|error| format!("connect: {error}"))
}

/// Keep-alive and new connections, and a look at the registry, until it is stopped.
struct Observer {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    failures: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Observer {
    fn start(registry: &Arc<DevRegistry>, outbound: SocketAddr) -> Self {
        let mut this = Self {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            requests: Arc::default(),
            failures: Arc::default(),
        };
        for n in 0..8 {
            let (stop, requests, failures) =
                (this.stop.clone(), this.requests.clone(), this.failures.clone());
            let keeps_alive = n % 2 == 0;
            this.tasks.spawn(async move {
                let mut open = None;
                while !stop.load(SeqCst) {
                    let once = async {
                        let mut stream = match open.take() {
                            Some(stream) => stream,
                            None => connect(outbound).await?,
                        };
                        let more = if keeps_alive { "" } else { "Connection: close\r\n" };
                        let stays = exchange(&mut stream, "GET /", more).await?;
                        open = stays.then_some(stream);
                        Ok::<_, String>(())
                    };
                    match timeout(TEST_TIMEOUT, once).await.unwrap_or_else(|_| Err("time-out".to_owned())) {
                        Ok(()) => drop(requests.fetch_add(1, SeqCst)),
                        Err(error) => failures.lock().unwrap().push(error),
                    }
                    sleep(Duration::from_millis(3)).await;
                }
            });
        }
        let (registry, stop, failures) = (registry.clone(), this.stop.clone(), this.failures.clone());
        this.tasks.spawn(async move {
            while !stop.load(SeqCst) {
                let listed = listed_instances(&registry).await;
                if listed != [("orders-1".to_owned(), "passing".to_owned())] {
                    failures.lock().unwrap().push(format!("listed: {listed:?}"));
                }
                sleep(Duration::from_millis(5)).await;
            }
        });
        this
    }

    /// Waits for this many more requests.
    async fn see_requests(&self, more: usize) {
        let wanted = self.requests.load(SeqCst) + more;
        wait_until("requests are carried", async || {
            self.requests.load(SeqCst) >= wanted || !self.failures.lock().unwrap().is_empty()
        })
        .await;
    }

    async fn stop(mut self) {
        self.stop.store(true, SeqCst);
        while self.tasks.join_next().await.is_some() {}
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} of {:?}: {:?}", failures.len(), self.requests, failures.first());
    }
}

async fn start(more: &str) -> (Arc<DevRegistry>, RunningSidecar, JoinSet<()>) {
    let registry = Arc::new(registry().await);
    let plan = SidecarBuilder::new(&registry, more);
    let app = start_app(plan.port).await;
    let sidecar = plan.start();
    sidecar.wait_until_ready().await;
    wait_until("the app is reached", async || {
        let Ok(mut stream) = connect(sidecar.outbound).await else { return false };
        exchange(&mut stream, "GET /", "").await.is_ok()
    })
    .await;
    (registry, sidecar, app)
}

async fn assert_ends_well(sidecar: &mut RunningSidecar) {
    assert_eq!(sidecar.wait_for_exit().await.code(), Some(0));
    assert!(!sidecar.log().contains("deregistered the app"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_replaced_under_load_again_and_again_and_nothing_fails() {
    let (registry, first, _app) = start("").await;
    let observer = Observer::start(&registry, first.outbound);
    observer.see_requests(100).await;
    let mut running = first;
    for _ in 0..3 {
        let next = running.replace();
        next.wait_for_log(TAKEN).await;
        observer.see_requests(100).await;
        // At once, while the one before may not have ended.
        let mut old = std::mem::replace(&mut running, next);
        assert_ends_well(&mut old).await;
        running.wait_until_ready().await;
        let version = running.get_json("/readyz").await;
        assert_eq!(version["state"], "ready", "the admin side has moved: {version}");
    }
    observer.see_requests(100).await;
    observer.stop().await;
    running.signal(Signal::TERM);
    wait_until_listed(&registry, &[]).await;
    assert_eq!(running.wait_for_exit().await.code(), Some(0));
    assert!(
        !running
            .path("outrigger")
            .read_dir()
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().ends_with(".sock") })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_cannot_start_leaves_the_running_one_as_it_is() {
    let (registry, mut running, _app) = start("").await;
    let observer = Observer::start(&registry, running.outbound);
    // Wrong settings, a port that is taken, and one that ends while it takes over.
    running.edit_settings("service: {", "servize: {");
    assert_eq!(running.replace().wait_for_exit().await.code(), Some(2));
    running.edit_settings("servize: {", "service: {");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = format!("metrics_listen: \"{}\", listen:", taken.local_addr().unwrap());
    running.edit_settings("admin: {listen:", &format!("admin: {{{metrics}"));
    let mut refused = running.replace();
    assert_eq!(refused.wait_for_exit().await.code(), Some(1));
    assert!(refused.log().contains("metrics_listen"), "{}", refused.log());
    running.edit_settings(&metrics, "listen:");
    running.wait_for_log("does not serve: this one goes on").await;

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (from, to) = (registry.addr().to_string(), silent.local_addr().unwrap().to_string());
    running.edit_settings(&from, &to);
    running.edit_settings("outbound:", "upstreams: [{service: payments}]\noutbound:");
    let mut killed = running.replace();
    killed.wait_for_log("taking the listening sockets").await;
    killed.signal(Signal::KILL);
    killed.wait_for_exit().await;
    running.edit_settings(&to, &from);

    observer.see_requests(100).await;
    let next = running.replace();
    next.wait_for_log(TAKEN).await;
    assert_ends_well(&mut running).await;
    observer.see_requests(100).await;
    observer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_end_in_the_old_process() {
    let (_registry, mut running, _app) = start("").await;
    let mut stream = connect(running.outbound).await.unwrap();
    let slow = tokio::spawn(async move { exchange(&mut stream, "GET /slow", "").await });
    wait_until("it is under way", async || {
        let (_, body) = send_request(running.admin, "GET /metrics", "").await.unwrap();
        body.lines().any(|line| line == "outrigger_in_flight{service=\"orders\"} 1")
    })
    .await;
    let next = running.replace();
    next.wait_for_log(TAKEN).await;
    assert!(running.child.try_wait().unwrap().is_none(), "it waits for the request");
    assert_eq!(slow.await.unwrap(), Ok(false), "its response ends the connection, and says so");
    assert_ends_well(&mut running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_are_new_are_opened_and_those_that_are_gone_are_closed() {
    let (_registry, mut running, _app) = start("").await;
    let (old, new) = (running.outbound, reserve_addr());
    running.edit_settings(&old.to_string(), &new.to_string());
    let next = running.replace();
    next.wait_for_log(TAKEN).await;
    assert_ends_well(&mut running).await;
    assert!(connect(old).await.is_err());
    assert!(exchange(&mut connect(new).await.unwrap(), "GET /", "").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_the_new_process_does_not_register_is_withdrawn() {
    let (registry, mut running, _app) = start("").await;
    running.edit_settings("id: orders-1", "id: orders-2");
    let next = running.replace();
    next.wait_for_log(TAKEN).await;
    wait_until_listed(&registry, &[("orders-2", "passing")]).await;
    assert_eq!(running.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn without_a_place_or_beside_an_app_the_reason_is_named() {
    let registry = registry().await;
    let mut plan = SidecarBuilder::new(&registry, "state_dir: off");
    plan.command.arg("--replace");
    let mut refused = plan.start();
    assert_eq!(refused.wait_for_exit().await.code(), Some(2));
    assert!(refused.log().contains("--replace: no state_dir is set"), "{}", refused.log());

    let mut plan = SidecarBuilder::new(&registry, "").with_app(&["true"]);
    plan.command.arg("--replace");
    let mut refused = plan.start();
    assert_eq!(refused.wait_for_exit().await.code(), Some(2));
    assert!(refused.log().contains("--replace"), "{}", refused.log());
}

#[tokio::test]
async fn a_sidecar_that_leaves_is_not_replaced() {
    let registry = registry().await;
    let running = SidecarBuilder::new(&registry, "").start();
    wait_until("it serves", async || send_request(running.admin, "GET /healthz", "").await.is_some()).await;
    send_request(running.admin, "POST /drain", "").await.unwrap();
    let mut refused = running.replace();
    assert_eq!(refused.wait_for_exit().await.code(), Some(1));
    assert!(refused.log().contains("is leaving the registry"), "{}", refused.log());
}

#[tokio::test]
async fn without_a_running_sidecar_it_is_a_usual_start() {
    let registry = registry().await;
    let mut plan = SidecarBuilder::new(&registry, "");
    plan.command.arg("--replace");
    let running = plan.start();
    wait_until("it serves", async || send_request(running.admin, "GET /healthz", "").await.is_some()).await;
    assert!(running.log().contains("no sidecar runs whose place could be taken"), "{}", running.log());
}

/// The status line of an answer by the Unix socket.
async fn ask_api(socket: &Path) -> Result<String, String> {
    let stream = UnixStream::connect(socket).await.map_err(|error| format!("connect: {error}"))?;
    let mut stream = BufReader::new(stream);
    let request = "GET /v1/locks/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("write: {error}"))?;
    let mut line = String::new();
    stream.read_line(&mut line).await.map_err(|error| format!("read: {error}"))?;
    Ok(line.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unix_socket_of_the_api_answers_throughout_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    // Only root may give a file to another group.
    let owner = if rustix::process::geteuid().is_root() { "owner: \":1\", " } else { "" };
    let api = format!("api: {{listen: \"unix:{}\", {owner}mode: 0660}}", socket.display());
    let (_registry, mut running, _app) = start(&api).await;
    let access = || {
        let file = std::fs::metadata(&socket).unwrap();
        (file.mode() & 0o777, file.uid(), file.gid())
    };
    let first = access();
    assert_eq!(first.0, 0o660);
    let stop = CancellationToken::new();
    let (path, until) = (socket.clone(), stop.clone());
    let asking = tokio::spawn(async move {
        let mut answers = 0;
        while !until.is_cancelled() {
            let answer = timeout(TEST_TIMEOUT, ask_api(&path)).await.unwrap();
            assert!(answer.as_ref().is_ok_and(|line| line.starts_with("HTTP/1.1 200")), "{answer:?}");
            answers += 1;
        }
        answers
    });
    for _ in 0..2 {
        let next = running.replace();
        next.wait_for_log(TAKEN).await;
        let mut old = std::mem::replace(&mut running, next);
        assert_ends_well(&mut old).await;
        // The end of the old process has left the file of the new one.
        assert!(ask_api(&socket).await.is_ok());
        assert_eq!(access(), first);
        assert_eq!(folder.path().read_dir().unwrap().count(), 1, "nothing is left beside it");
    }
    stop.cancel();
    assert!(asking.await.unwrap() > 0);
    running.signal(Signal::TERM);
    assert_eq!(running.wait_for_exit().await.code(), Some(0));
    assert!(!socket.exists());
}
