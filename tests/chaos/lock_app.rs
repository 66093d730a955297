//! An app that wants a lock again and again, through the API of its sidecar, as a program without a library does.
//!
//! It follows docs/locks.md: it stops when a loss is told, when the connection that holds the lock ends or is silent for
//! [`SILENCE_LIMIT`], and when its lease was not renewed within the time that the last answer promised.

use std::{io, net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use outrigger_tests::consul::{Consul, http::exchange};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    process::Command,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    lock_audit::HoldEnd,
    lock_log::{ContendedLock, HoldNumber, LockLog},
};

/// The time to live of the session of a connection: Consul's shortest.
pub(crate) const SESSION_TTL: Duration = Duration::from_secs(10);
/// The time to live of a lease.
const LEASE_TTL: Duration = Duration::from_secs(6);
/// An app that hears nothing on its connection for so long has lost the lock: the sidecar sends a comment every 5 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// How long a request for a lock waits.
const WAIT: Duration = Duration::from_secs(5);
/// Longest wait for the answer to such a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
/// Pause between two writes to the store.
const WRITE_INTERVAL: Duration = Duration::from_millis(40);
/// Pause before a renewal that failed is sent again.
const RENEW_AGAIN: Duration = Duration::from_millis(200);
/// How long an app that has given up a silent connection listens to it: until its sidecar runs again.
const LISTEN_ON: Duration = Duration::from_secs(60);

/// The holder that is Consul's own program.
pub(crate) const CONSUL_LOCK: &str = "consul lock";

/// What the case wants of all apps.
#[derive(Debug, Clone, Default)]
pub(crate) struct AppOrders {
    /// These apps do not give these locks back.
    pub(crate) keep: Vec<(String, ContendedLock)>,
    /// All give their locks back and end.
    pub(crate) stop: bool,
}

/// How an app holds its locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldBy {
    /// By its connection.
    Connection,
    /// By a lease that it renews.
    Lease,
}

/// An app and one lock.
#[derive(Debug)]
pub(crate) struct LockApp {
    pub(crate) name: String,
    pub(crate) by: HeldBy,
    /// It gives the lock back when the sidecar says that it drains.
    pub(crate) heeds_drain: bool,
    /// The API of its sidecar.
    pub(crate) api: SocketAddr,
    pub(crate) lock: ContendedLock,
    pub(crate) log: Arc<LockLog>,
    pub(crate) orders: watch::Receiver<AppOrders>,
}

/// What came of a line on the connection that holds a lock.
enum Heard {
    Lost,
    Draining,
    Other,
}

impl LockApp {
    /// Runs until it is told to stop.
    pub(crate) async fn run(self) {
        while !self.orders.borrow().stop {
            let asked = self.log.now();
            let ended = match self.by {
                HeldBy::Connection => self.hold_by_connection(asked).await,
                HeldBy::Lease => self.hold_by_lease(asked).await,
            };
            if let Err(reason) = ended {
                self.log.count_refusal(&reason);
                sleep(random_between(100, 400)).await;
            }
            sleep(random_between(30, 400)).await;
        }
    }

    /// Whether the lock is to be given back now, where it was to be held until `until`.
    fn is_done(&self, until: Instant) -> bool {
        let orders = self.orders.borrow();
        let is_kept = orders.keep.iter().any(|(name, lock)| *name == self.name && *lock == self.lock);
        orders.stop || (Instant::now() >= until && !is_kept)
    }

    fn write(&self, token: u64) {
        if self.lock.limit == 1 {
            self.log.write_to_store(&self.name, token);
        }
    }

    /// Returns after the hold.
    ///
    /// # Errors
    /// Why there was none.
    async fn hold_by_connection(&self, asked: Duration) -> Result<(), String> {
        let acquired = timeout(ANSWER_TIMEOUT, self.acquire_by_connection());
        let (mut lines, token) = acquired.await.map_err(|_| "no_answer".to_owned())??;
        let number = self.log.begin(self.lock, &self.name, Some(token), asked);
        let until = Instant::now() + random_between(50, 300);
        let mut heard_at = Instant::now();
        let end = loop {
            self.write(token);
            tokio::select! {
                line = lines.next_line() => match line {
                    Ok(Some(line)) => {
                        heard_at = Instant::now();
                        match judge_line(&line) {
                            Heard::Lost => {
                                let placeholder = HoldEnd::Told(String::new());
                                // At once: its reason follows.
                                self.log.end(self.lock, number, placeholder);
                                let how = HoldEnd::Told(read_reason(&mut lines).await);
                                self.log.correct_end(self.lock, number, how);
                                return Ok(());
                            }
                            Heard::Draining if self.heeds_drain => break HoldEnd::Released,
                            Heard::Draining | Heard::Other => {}
                        }
                    }
                    Ok(None) | Err(_) => break HoldEnd::Cut,
                },
                () = sleep_until(heard_at + SILENCE_LIMIT) => break HoldEnd::Silent,
                () = sleep(WRITE_INTERVAL) => {}
            }
            if self.is_done(until) {
                break HoldEnd::Released;
            }
        };
        let is_silent = end == HoldEnd::Silent;
        self.log.end(self.lock, number, end);
        if is_silent {
            self.listen_on(lines).await;
        }
        Ok(())
    }

    /// The connection, and the token.
    async fn acquire_by_connection(&self) -> Result<(Lines<BufReader<TcpStream>>, u64), String> {
        let broken = |error: io::Error| format!("connection: {}", error.kind());
        let mut stream = TcpStream::connect(self.api).await.map_err(broken)?;
        let ContendedLock { name, limit } = self.lock;
        let (ttl, wait) = (SESSION_TTL.as_secs(), WAIT.as_secs());
        let request = format!(
            "POST /v1/locks/{name}/hold?wait={wait}s&ttl={ttl}s&limit={limit}&value={} HTTP/1.1\r\n\
             Host: localhost\r\nContent-Length: 0\r\n\r\n",
            self.name
        );
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        let mut lines = BufReader::new(stream).lines();
        let mut is_acquired = false;
        while let Some(line) = lines.next_line().await.map_err(broken)? {
            is_acquired |= line == "event: acquired";
            if let Some(reason) = line.strip_prefix("x-outrigger-error: ") {
                return Err(reason.to_owned());
            }
            if let Some(data) = line.strip_prefix("data: ").filter(|_| is_acquired) {
                let data: Value = serde_json::from_str(data).unwrap_or_default();
                let token = data["token"].as_u64().ok_or_else(|| format!("no token in {data}"))?;
                return Ok((lines, token));
            }
        }
        Err("connection: ended".to_owned())
    }

    /// A sidecar that runs again after the app has given it up must tell the loss before anything else.
    async fn listen_on(&self, mut lines: Lines<BufReader<TcpStream>>) {
        let first_word = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("event: ") || line.starts_with(':') {
                    return Some(line);
                }
            }
            None
        };
        match timeout(LISTEN_ON, first_word).await {
            Ok(Some(line)) if line != "event: lost" => {
                self.log.note_anomaly(format!("{}: {line:?} of a hold that was lost", self.name));
            }
            Ok(_) => {}
            Err(_) => self.log.note_anomaly(format!("{}: the sidecar stays silent", self.name)),
        }
    }

    /// Returns after the hold.
    ///
    /// # Errors
    /// Why there was none.
    async fn hold_by_lease(&self, asked: Duration) -> Result<(), String> {
        let ContendedLock { name, limit } = self.lock;
        let body = json!({
            "ttl": format!("{}s", LEASE_TTL.as_secs()), "owner": self.name, "value": self.name,
            "wait": format!("{}s", WAIT.as_secs()), "limit": limit,
        });
        let path = format!("/v1/locks/{name}");
        let (status, lease) = self.send(Method::POST, &path, &body.to_string(), ANSWER_TIMEOUT).await?;
        let (Some(id), Some(token)) = (lease["lease"].as_str(), lease["token"].as_u64()) else {
            return Err(lease["reason"].as_str().unwrap_or(status.as_str()).to_owned());
        };
        let number = self.log.begin(self.lock, &self.name, Some(token), asked);
        let path = format!("{path}/{id}");
        let end = self.keep_lease(&path, token, number).await;
        let is_released = end == HoldEnd::Released;
        self.log.end(self.lock, number, end);
        if is_released {
            // A sidecar that does not answer frees the lock when the lease is over.
            let _ = self.send(Method::DELETE, &path, "", SESSION_TTL).await;
        }
        Ok(())
    }

    /// Renews the lease at `path` until it is to be given back, or lost.
    async fn keep_lease(&self, path: &str, token: u64, number: HoldNumber) -> HoldEnd {
        let until = Instant::now() + random_between(50, 300);
        let mut deadline = Instant::now() + LEASE_TTL;
        let renew_path = format!("{path}/renew");
        // At once, because the answer may have been under way for long.
        let mut renew_at = Instant::now();
        loop {
            self.write(token);
            let now = Instant::now();
            if now >= deadline {
                return HoldEnd::LeaseOver;
            }
            if self.is_done(until) {
                return HoldEnd::Released;
            }
            if now >= renew_at {
                let renewal = self.send(Method::POST, &renew_path, "", deadline - now);
                match renewal.await {
                    Ok((StatusCode::OK, answer)) => {
                        self.log.note_renewal(self.lock, number);
                        let promised = Duration::from_millis(answer["ttl_ms"].as_u64().unwrap_or_default());
                        deadline = now + promised;
                        renew_at = now + promised / 3;
                    }
                    Ok((StatusCode::GONE, answer)) => {
                        return HoldEnd::Told(answer["loss"].as_str().unwrap_or_default().to_owned());
                    }
                    Ok(_) | Err(_) => renew_at = now + RENEW_AGAIN,
                }
            } else {
                sleep(WRITE_INTERVAL).await;
            }
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &str,
        limit: Duration,
    ) -> Result<(StatusCode, Value), String> {
        let request =
            Request::builder().method(method).uri(path).body(Bytes::copy_from_slice(body.as_bytes()));
        let request = request.map_err(|error| error.to_string())?;
        let answer = exchange(self.api, request, limit).await;
        let answer = answer.map_err(|error| format!("connection: {}", error.kind()))?;
        Ok((answer.status(), serde_json::from_slice(answer.body()).unwrap_or_default()))
    }
}

fn judge_line(line: &str) -> Heard {
    match line {
        "event: lost" => Heard::Lost,
        "event: draining" => Heard::Draining,
        _ => Heard::Other,
    }
}

/// The reason in the next line of data.
async fn read_reason(lines: &mut Lines<BufReader<TcpStream>>) -> String {
    let read = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(data) = line.strip_prefix("data: ") {
                let data: Value = serde_json::from_str(data).unwrap_or_default();
                return data["reason"].as_str().map(str::to_owned);
            }
        }
        None
    };
    timeout(WAIT, read).await.ok().flatten().unwrap_or_else(|| "without a reason".to_owned())
}

/// `consul lock` with a short child, again and again: a contender that knows nothing of sidecars. `agent` is a URL.
pub(crate) async fn run_consul_lock(
    agent: String,
    lock: ContendedLock,
    log: Arc<LockLog>,
    orders: watch::Receiver<AppOrders>,
) {
    let Ok(program) = Consul::find() else { return };
    while !orders.borrow().stop {
        let asked = log.now();
        let child = Command::new(&program)
            .args(["lock", "-http-addr", &agent, "-n", &lock.limit.to_string()])
            .args([&format!("locks/{}", lock.name), "echo held; sleep 0.3; echo done"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(mut child) = child else { return log.note_anomaly("consul lock cannot be started".into()) };
        let Some(output) = child.stdout.take() else { return };
        let mut lines = BufReader::new(output).lines();
        let mut held = None;
        while let Ok(Some(line)) = lines.next_line().await {
            match (line.as_str(), held) {
                ("held", _) => held = Some(log.begin(lock, CONSUL_LOCK, None, asked)),
                ("done", Some(number)) => {
                    log.end(lock, number, HoldEnd::Released);
                    held = None;
                }
                _ => {}
            }
        }
        if let Some(number) = held {
            log.end(lock, number, HoldEnd::Cut);
        }
        // It has closed its output, so it ends.
        let _ = timeout(ANSWER_TIMEOUT, child.wait()).await;
        sleep(random_between(500, 1500)).await;
    }
}

fn random_between(least: u64, most: u64) -> Duration {
    Duration::from_millis(fastrand::u64(least..=most))
}
