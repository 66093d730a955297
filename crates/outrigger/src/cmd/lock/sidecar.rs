//! A lock that a sidecar holds, by a lease of its API.
//!
//! **Why a lease and not the connection.** The lock of a connection is given back when the connection closes: a killed `outrigger lock` would
//! open it in the moment in which its command is being killed. A lease ends when it is not renewed, and then Consul's lock-delay
//! holds the lock closed. Leases also outlive a sidecar that is started again or replaced.
//!
//! Each renewal is answered with the time for which the lock is certain without another answer. It is counted from before the renewal was
//! sent, on a clock that counts while the machine is suspended. So the loss is told in time, also when the sidecar hangs.

use std::{
    cell::{Cell, RefCell},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use outrigger_locks::BootClock;
use outrigger_registration::http_client;
use serde_json::{Value, json};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

use super::wanted::{NOT_ACQUIRED, NotHeld, SILENT_WAIT, Wanted, say};
use crate::{
    api::read_token,
    cmd::{admin_client::AdminAddress, report::CommandError},
    telemetry::error_chain,
};

/// The longest wait of one request that a sidecar takes.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Longest time for an answer, beside the wait that it was asked for: the sidecar answers 2 s later at the latest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for the end of a lease after the command has ended.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for the answer to a renewal.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two renewals, a third of the certain time at most: an end that the sidecar learns of is told this late.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after an answer that may be another one soon.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Largest answer, bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// The header with the token of the API.
const TOKEN_HEADER: &str = "x-outrigger-token";
const CLOCK: BootClock = BootClock::Kernel;

/// The API of a sidecar.
#[derive(Debug, Clone)]
pub(super) struct SidecarLocks {
    address: ApiAddress,
    token: Option<String>,
    /// The path of a lease that was given out, and is not in use yet.
    unused: RefCell<Option<String>>,
}

#[derive(Debug, Clone)]
enum ApiAddress {
    Tcp(AdminAddress),
    Unix(PathBuf),
}

impl std::fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A lease.
pub(super) struct SidecarLease {
    locks: SidecarLocks,
    /// The path of its requests.
    path: String,
    token: u64,
    /// Until when it is certain.
    certain_until: Cell<Duration>,
    is_lost: Cell<bool>,
}

/// The answer to a renewal.
enum Renewed {
    /// Certain until then; the sidecar drains.
    Until(Duration, bool),
    Lost(String),
    /// Another renewal may be answered.
    Unknown(String),
}

impl SidecarLocks {
    pub(super) fn new(address: &str, token_file: Option<&Path>) -> Result<Self, CommandError> {
        let wrong = |text: String| CommandError::Settings(format!("outrigger: {text}"));
        let address = match address.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => ApiAddress::Unix(path.into()),
            Some(_) => {
                return Err(wrong(format!(
                    "--api: {address:?} has no absolute path; write unix:/run/outrigger/api.sock"
                )));
            }
            None => ApiAddress::Tcp(AdminAddress::parse(address).map_err(|reason| {
                wrong(format!(
                    "--api: {address:?} {reason}; write localhost:7077 or unix:/run/outrigger/api.sock"
                ))
            })?),
        };
        let token = token_file.map(|path| {
            read_token(path).map_err(|error| wrong(format!("--api-token-file {}: {error}", path.display())))
        });
        Ok(Self { address, token: token.transpose()?, unused: RefCell::default() })
    }

    pub(super) async fn acquire(&self, wanted: &Wanted) -> Result<SidecarLease, NotHeld> {
        // The same for each request: a lost answer can be repeated.
        let owner = format!("outrigger-lock-{}-{:032x}", std::process::id(), fastrand::u128(..));
        let path = format!("/v1/locks/{}", wanted.name);
        let began = Instant::now();
        let mut told = None;
        loop {
            let left = wanted.until.map(|until| until.saturating_duration_since(Instant::now()));
            let wait = left.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
            let body = json!({
                "ttl": format!("{}ms", wanted.ttl.as_millis()), "wait": format!("{}ms", wait.as_millis()),
                "owner": owner, "value": wanted.value, "limit": wanted.limit,
            });
            let body = body.to_string();
            let asked = self.send(Method::POST, &path, &body, wait + ANSWER_TIMEOUT);
            let reported = async {
                if told.is_none() && !wait.is_zero() {
                    sleep(SILENT_WAIT.saturating_sub(began.elapsed())).await;
                    say(format_args!(
                        "waiting for the lock {} of the sidecar at {}",
                        wanted.name, self.address
                    ));
                    told = Some(String::new());
                }
                std::future::pending::<std::convert::Infallible>().await
            };
            let answer = tokio::select! {
                answer = asked => answer,
                never = reported => match never {},
            };
            let failure = match answer {
                Ok((StatusCode::CREATED, lease)) => match self.begin(&path, &lease).await {
                    Ok(held) => return Ok(held),
                    Err(why) => NotHeld::impossible(why),
                },
                Ok((status, problem)) => {
                    let reason = problem["reason"].as_str().unwrap_or_default();
                    let detail = problem["detail"].as_str().unwrap_or_default();
                    let why = format!("the sidecar at {} answered {status}: {detail}", self.address);
                    match (status, reason) {
                        (StatusCode::CONFLICT, "lock_held" | "lock_delay") => {
                            NotHeld { code: NOT_ACQUIRED, why: detail.to_owned() }
                        }
                        (StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _)
                            if reason != "token_regressed" =>
                        {
                            NotHeld::impossible(why)
                        }
                        _ => return Err(NotHeld::impossible(why)),
                    }
                }
                Err(error) => NotHeld::impossible(error),
            };
            let left = wanted.until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(failure);
            }
            if told.as_ref() != Some(&failure.why) && began.elapsed() >= SILENT_WAIT {
                say(format_args!("waiting for the lock {}: {}", wanted.name, failure.why));
                told = Some(failure.why);
            }
            sleep(left.unwrap_or(RETRY_PAUSE).min(RETRY_PAUSE)).await;
        }
    }

    /// Begins to keep a lease. The time of its answer began before the wait, so a renewal says until when it is certain.
    async fn begin(&self, path: &str, lease: &Value) -> Result<SidecarLease, String> {
        let (Some(id), Some(token)) = (lease["lease"].as_str(), lease["token"].as_u64()) else {
            return Err(format!(
                "the sidecar at {} answered something that is no lease: {lease}",
                self.address
            ));
        };
        let path = format!("{path}/{id}");
        self.unused.replace(Some(path.clone()));
        let held = SidecarLease {
            locks: self.clone(),
            path,
            token,
            certain_until: Cell::new(Duration::ZERO),
            is_lost: Cell::new(false),
        };
        match held.renew().await {
            Renewed::Until(until, _) => {
                held.certain_until.set(until);
                self.unused.take();
                Ok(held)
            }
            Renewed::Lost(why) | Renewed::Unknown(why) => Err(why),
        }
    }

    /// Gives back what a wait that has ended was given out. The sidecar gives up what it waits for when the connection closes.
    pub(super) async fn end(&self) {
        if let Some(path) = self.unused.take() {
            // It ends with its ttl otherwise.
            let _ = self.send(Method::DELETE, &path, "", ANSWER_TIMEOUT).await;
        }
    }

    /// The status and the JSON of the answer.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &str,
        limit: Duration,
    ) -> Result<(StatusCode, Value), String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!(
                "no sidecar answers at {}: {error}; is it running, and is that its api.listen?",
                self.address
            )
        };
        let build = |host: &str| {
            let request = Request::builder().method(method.clone()).uri(path).header(header::HOST, host);
            let request =
                self.token.iter().fold(request, |request, token| request.header(TOKEN_HEADER, token));
            request.body(Full::<Bytes>::from(body.to_owned())).map_err(|error| failed(&error))
        };
        let answer = match &self.address {
            ApiAddress::Unix(socket) => {
                let exchange = exchange_by_socket(socket, build("localhost")?);
                let answer =
                    timeout(limit, exchange).await.unwrap_or_else(|_| Err("no answer in time".into()));
                answer.map_err(|error| failed(&error))?
            }
            ApiAddress::Tcp(address) => {
                let addrs = address.resolve().await.map_err(|error| failed(&error))?;
                let (until, mut last) = (Instant::now() + limit, Err(failed(&"it has no address")));
                for addr in addrs {
                    let request = build(&addr.to_string())?;
                    let left = until.saturating_duration_since(Instant::now());
                    last = http_client::exchange(addr, request, left)
                        .await
                        .map_err(|error| failed(&error_chain(&error)));
                    if last.is_ok() || Instant::now() >= until {
                        break;
                    }
                }
                last?
            }
        };
        let json = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
        Ok((answer.status(), json))
    }
}

/// One exchange by a Unix socket.
async fn exchange_by_socket(socket: &Path, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
    let stream = UnixStream::connect(socket).await.map_err(|error: io::Error| error.to_string())?;
    let shown = |error: hyper::Error| error_chain(&error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(shown)?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await.map_err(shown)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // The answer may have come with the end of the connection.
        _ = connection => exchange.await,
    }
}

impl SidecarLease {
    pub(super) fn token(&self) -> u64 {
        self.token
    }

    async fn renew(&self) -> Renewed {
        let sent_at = CLOCK.now();
        let path = format!("{}/renew", self.path);
        match self.locks.send(Method::POST, &path, "", RENEWAL_TIMEOUT).await {
            Ok((StatusCode::OK, lease)) => match lease["certain_ms"].as_u64() {
                Some(certain) => {
                    Renewed::Until(sent_at + Duration::from_millis(certain), lease["draining"] == true)
                }
                None => Renewed::Unknown(
                    "the sidecar is too old: its answer does not say for how long the lock is certain".into(),
                ),
            },
            Ok((StatusCode::GONE, problem)) => {
                let detail = problem["detail"].as_str().unwrap_or("the lease is lost");
                // The name of the lock is said with it.
                Renewed::Lost(detail.strip_prefix("the lock is lost: ").unwrap_or(detail).to_owned())
            }
            Ok((status, problem)) => {
                let detail = problem["detail"].as_str().unwrap_or_default();
                Renewed::Unknown(format!("the sidecar at {} answered {status}: {detail}", self.locks.address))
            }
            Err(error) => Renewed::Unknown(error),
        }
    }

    /// Renews the lease until it is lost.
    pub(super) async fn lost(&self) -> String {
        let reason = self.keep().await;
        self.is_lost.set(true);
        reason
    }

    async fn keep(&self) -> String {
        let (mut is_drain_told, mut last_error) = (false, None);
        loop {
            let certain_for = self.certain_until.get().saturating_sub(CLOCK.now());
            let renewal = async {
                sleep(RENEWAL_INTERVAL.min(certain_for / 3)).await;
                self.renew().await
            };
            let renewed = tokio::select! {
                renewed = renewal => renewed,
                () = CLOCK.sleep_until(self.certain_until.get()) => {
                    let why = last_error.unwrap_or_else(|| "the sidecar has not answered in time".to_owned());
                    return format!("it is certain no longer: {why}");
                }
            };
            match renewed {
                Renewed::Until(until, is_draining) => {
                    self.certain_until.set(until);
                    last_error = None;
                    if is_draining && !std::mem::replace(&mut is_drain_told, true) {
                        say("the sidecar stops: the lock is lost when it has stopped");
                    }
                }
                Renewed::Lost(why) => return why,
                Renewed::Unknown(why) => last_error = Some(why),
            }
        }
    }

    pub(super) async fn end(self) -> Result<(), String> {
        if self.is_lost.get() {
            return Ok(());
        }
        match self.locks.send(Method::DELETE, &self.path, "", RELEASE_TIMEOUT).await {
            // Gone: it is lost, so there is nothing to give back.
            Ok((StatusCode::NO_CONTENT | StatusCode::ACCEPTED | StatusCode::GONE, _)) => Ok(()),
            Ok((status, problem)) => Err(format!(
                "the sidecar answered {status}: {}",
                problem["detail"].as_str().unwrap_or_default()
            )),
            Err(error) => Err(error),
        }
    }
}
