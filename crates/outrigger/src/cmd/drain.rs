//! `outrigger drain`: asks the sidecar on this machine to leave the registry; for a pre-stop hook.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::{CommandError, duration, print_line};
use crate::{http_client, telemetry::error_chain};

/// Longest wait for one answer of the sidecar.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two questions with `--wait`.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Leave the registry, keep carrying requests, say when it is safe to stop
#[derive(Debug, Args)]
#[command(
    long_about = "Ask the sidecar on this machine to leave the registry and to go on carrying requests.\n\nMeant for \
                  the pre-stop hook of the app: with --wait it returns when no caller sends the app anything any \
                  more, so that the app may be stopped.",
    after_help = "Example:\n  outrigger drain --wait && kill -TERM $APP_PID"
)]
pub(super) struct DrainArguments {
    /// Return only when it is safe to stop the app.
    #[arg(long)]
    wait: bool,
    /// Where the sidecar's admin side listens.
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:7079")]
    admin: String,
    /// Longest wait for that; then the exit code is 1.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

pub(super) async fn run(arguments: DrainArguments) -> Result<(), CommandError> {
    let until = Instant::now() + arguments.timeout;
    let (addr, mut status) = begin_drain(&arguments.admin).await?;
    if !arguments.wait {
        print_line(&status);
        return Ok(());
    }
    loop {
        if status["safe_to_stop"] == true {
            print_line("safe to stop");
            return Ok(());
        }
        if Instant::now() >= until {
            let phase = status["phase"].as_str().unwrap_or("unknown").to_owned();
            return Err(CommandError::running(format!(
                "not safe to stop after {:?} (phase: {phase}); give it more with --timeout",
                arguments.timeout
            )));
        }
        sleep(POLL_INTERVAL).await;
        let answer =
            http_client::exchange(addr, request(&Method::GET, &arguments.admin)?, RESPONSE_TIMEOUT).await;
        match answer {
            Ok(answer) => status = read(&arguments.admin, &answer)?,
            // It has exited meanwhile: nothing is registered and nothing is carried.
            Err(http_client::Error::Connect { .. }) => {
                print_line("the sidecar is gone");
                return Ok(());
            }
            // It is stopping, or busy: the next question tells.
            Err(error) => tracing::debug!(error = error_chain(&error), "no answer, asking again"),
        }
    }
}

/// `POST /drain` at the first address that answers.
async fn begin_drain(admin: &str) -> Result<(SocketAddr, Value), CommandError> {
    let found = timeout(RESPONSE_TIMEOUT, tokio::net::lookup_host(admin)).await;
    let found = found.unwrap_or_else(|_| Err(io::Error::other("the name is not resolved in time")));
    let addrs = found.map_err(|error| {
        CommandError::running(format!(
            "{admin} is no address of an admin side: {error}; write --admin localhost:7079"
        ))
    })?;
    let mut refused = "it has no address".to_owned();
    for addr in addrs {
        match http_client::exchange(addr, request(&Method::POST, admin)?, RESPONSE_TIMEOUT).await {
            Ok(answer) => return Ok((addr, read(admin, &answer)?)),
            Err(error) => refused = error_chain(&error),
        }
    }
    Err(unreachable(admin, &refused))
}

fn unreachable(admin: &str, why: &str) -> CommandError {
    CommandError::running(format!(
        "no sidecar answers at {admin}: {why}; is it running, and is its admin.listen the address after --admin?"
    ))
}

fn request(method: &Method, admin: &str) -> Result<Request<Full<Bytes>>, CommandError> {
    Request::builder()
        .method(method)
        .uri("/drain")
        .header("host", admin)
        .header("x-outrigger-admin", "1")
        .body(Full::default())
        .map_err(|_| CommandError::running(format!("{admin} is no address; write --admin localhost:7079")))
}

fn read(admin: &str, answer: &Response<Bytes>) -> Result<Value, CommandError> {
    let text = String::from_utf8_lossy(answer.body());
    if !matches!(answer.status(), StatusCode::OK | StatusCode::ACCEPTED) {
        let status = answer.status();
        return Err(CommandError::running(format!("{admin} answered {status}: {}", text.trim())));
    }
    serde_json::from_str(&text).map_err(|_| {
        CommandError::running(format!("{admin} is no admin side of a sidecar: it answered {text:.100}"))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{Json, Router, routing::post};
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::admin::{AdminServer, BoundListeners};

    /// An admin side that is safe to stop at the `safe_after`th question.
    fn test_sidecar(safe_after: usize) -> (String, AdminServer) {
        let asked = Arc::new(AtomicUsize::new(0));
        let page = move || {
            let safe = asked.fetch_add(1, Ordering::SeqCst) >= safe_after;
            async move { Json(json!({"phase": "propagating", "safe_to_stop": safe})) }
        };
        let router = Router::new().route("/drain", post(page.clone()).get(page));
        let bound = BoundListeners::bind("test", &outrigger_config::Listen::localhost(0)).unwrap();
        let server = AdminServer::start(bound, router);
        (format!("localhost:{}", server.addrs()[0].port()), server)
    }

    async fn drain(admin: &str, wait: bool, timeout: Duration) -> Result<(), CommandError> {
        run(DrainArguments { wait, admin: admin.into(), timeout }).await
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn without_wait_it_asks_and_returns() {
        let (admin, _server) = test_sidecar(usize::MAX);
        drain(&admin, false, Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn with_wait_it_returns_when_it_is_safe() {
        let (admin, _server) = test_sidecar(3);
        drain(&admin, true, LONG).await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_while_waiting_is_asked_for_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = listener.local_addr().unwrap().to_string();
        let stopping = tokio::spawn(async move {
            for answer in [r#"{"phase":"closing","safe_to_stop":false}"#, "", r#"{"safe_to_stop":true}"#] {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = [0; 4096];
                let _ = socket.read(&mut head).await.unwrap();
                if !answer.is_empty() {
                    let length = answer.len();
                    let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}");
                    socket.write_all(text.as_bytes()).await.unwrap();
                }
            }
        });
        drain(&admin, true, LONG).await.unwrap();
        stopping.await.unwrap();
    }

    #[tokio::test]
    async fn the_wait_is_bounded() {
        let (admin, _server) = test_sidecar(usize::MAX);
        let failure = drain(&admin, true, Duration::from_millis(300)).await.unwrap_err();
        assert!(failure.to_string().contains("propagating"), "{failure}");
    }

    #[tokio::test]
    async fn nobody_there_says_what_to_look_at() {
        let (admin, server) = test_sidecar(0);
        server.stop().await;
        let failure = drain(&admin, true, LONG).await.unwrap_err();
        assert!(failure.to_string().contains("--admin"), "{failure}");
        let failure = drain("nowhere", true, LONG).await.unwrap_err();
        assert!(failure.to_string().contains("--admin localhost:7079"), "{failure}");
    }
}
