//! `outrigger drain`: asks the sidecar on this machine to leave the registry, for a pre-stop hook.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, Response, StatusCode};
use outrigger_config::{format_duration, parse_duration};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    admin_client::{AdminClient, AdminError},
    report::{CommandError, print_line},
};

/// Longest wait for one answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two requests with `--wait`.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Leave the registry, keep carrying requests, report when it is safe to stop
#[derive(Debug, Args)]
#[command(
    long_about = "Ask the sidecar on this machine to leave the registry and to go on carrying requests.\n\nMeant for \
                  the pre-stop hook of the app: with --wait it returns when no caller sends requests to the app \
                  any more, so that the app may be stopped.",
    after_help = "Example:\n  outrigger drain --wait && kill -TERM $APP_PID"
)]
pub(super) struct DrainArguments {
    /// Return only when it is safe to stop the app.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    sidecar: AdminClient,
    /// Longest wait with --wait; then the exit code is 1.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
}

pub(super) async fn run(arguments: DrainArguments) -> Result<(), CommandError> {
    let DrainArguments { wait, sidecar, timeout } = arguments;
    let until = Instant::now() + timeout;
    let answer = sidecar.request(&Method::POST, "/drain", RESPONSE_TIMEOUT).await?;
    let mut status = read_status(&sidecar, &answer)?;
    if !wait {
        print_line(&status);
        return Ok(());
    }
    while status["safe_to_stop"] != true {
        if Instant::now() >= until {
            let (after, phase) = (format_duration(timeout), status["phase"].as_str().unwrap_or("unknown"));
            return Err(CommandError::running(format!(
                "not safe to stop after {after} (phase: {phase}); --timeout sets a longer wait"
            )));
        }
        sleep(POLL_INTERVAL).await;
        match sidecar.request(&Method::GET, "/drain", RESPONSE_TIMEOUT).await {
            Ok(answer) => status = read_status(&sidecar, &answer)?,
            // The sidecar has exited meanwhile: nothing is registered and nothing is carried.
            Err(AdminError::NoAnswer { refused: true, .. }) => {
                print_line("the sidecar is gone");
                return Ok(());
            }
            // The sidecar is stopping, or busy: the next answer decides.
            Err(error) => tracing::debug!(%error, "no answer, asking again"),
        }
    }
    print_line("safe to stop");
    Ok(())
}

fn read_status(sidecar: &AdminClient, answer: &Response<Bytes>) -> Result<Value, CommandError> {
    match answer.status() {
        StatusCode::OK | StatusCode::ACCEPTED => sidecar.parse_json(answer),
        _ => Err(sidecar.unexpected(answer)),
    }
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

    /// An admin side that is safe to stop from the `safe_after`th request on.
    fn test_sidecar(safe_after: usize) -> (String, AdminServer) {
        let asked = Arc::new(AtomicUsize::new(0));
        let page = move || {
            let safe = asked.fetch_add(1, Ordering::SeqCst) >= safe_after;
            async move { Json(json!({"phase": "propagating", "safe_to_stop": safe})) }
        };
        let router = Router::new().route("/drain", post(page.clone()).get(page));
        let thread = tokio::runtime::Handle::current();
        let bound = BoundListeners::bind_for_test(&outrigger_config::Listen::localhost(0), &thread).unwrap();
        let server = AdminServer::start(bound, router, crate::admin::ServerLimits::PAGES);
        (format!("localhost:{}", server.addrs[0].port()), server)
    }

    async fn drain(admin: &str, wait: bool, timeout: Duration) -> Result<(), CommandError> {
        run(DrainArguments { wait, sidecar: AdminClient::at(admin), timeout }).await
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn without_wait_it_returns_after_one_answer() {
        let (admin, _server) = test_sidecar(usize::MAX);
        drain(&admin, false, Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn with_wait_it_returns_when_it_is_safe() {
        let (admin, _server) = test_sidecar(3);
        drain(&admin, true, LONG).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_closes_without_an_answer_is_asked_again() {
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
    async fn a_missing_sidecar_is_an_error_that_names_the_flag() {
        let (admin, server) = test_sidecar(0);
        server.stop().await;
        let failure = drain(&admin, true, LONG).await.unwrap_err();
        assert!(failure.to_string().contains("--admin"), "{failure}");
        let failure = drain("nowhere", true, LONG).await.unwrap_err();
        assert!(failure.to_string().contains("--admin: \"nowhere\" has no port"), "{failure}");
        let (_, server) = test_sidecar(0);
        drain(&format!("http://127.0.0.1:{}/", server.addrs[0].port()), false, LONG).await.unwrap();
    }
}
