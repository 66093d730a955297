//! `outrigger wait`: waits until the sidecar on this machine carries requests, before the app starts.

use std::time::Duration;

use clap::Args;
use http::Method;
use outrigger_config::{format_duration, parse_duration};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    admin_client::{AdminClient, AdminError},
    report::{CommandError, print_line},
};

/// Pause between two requests.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Longest wait for one answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Wait until the sidecar on this machine carries requests
#[derive(Debug, Args)]
#[command(
    long_about = "Wait until the sidecar on this machine carries requests: it has bound its ports, and the registry \
                  has answered for every declared service (or 5 s have passed).\n\nMeant for the start of an app \
                  with its sidecar in another container. A sidecar that registers the app is ready only after the \
                  app is healthy, so --registered is for what starts after the app.",
    after_help = "Example:\n  outrigger wait --timeout 30s && exec ./orders"
)]
pub(super) struct WaitArguments {
    /// Wait until every service of the app is registered and healthy: until /readyz answers 200.
    #[arg(long)]
    registered: bool,
    #[command(flatten)]
    sidecar: AdminClient,
    /// Longest wait; then the exit code is 1.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub(super) timeout: Duration,
}

/// What an answer of `/readyz` means.
#[derive(Debug, PartialEq, Eq)]
enum ReadinessCheck {
    Ready,
    /// Not yet, and why.
    Pending(String),
    /// Never again, and why.
    Never(&'static str),
}

pub(super) async fn run(arguments: WaitArguments) -> Result<(), CommandError> {
    let until = Instant::now() + arguments.timeout;
    loop {
        let limit = RESPONSE_TIMEOUT.min(until.saturating_duration_since(Instant::now()).max(POLL_INTERVAL));
        let check = match arguments.sidecar.request(&Method::GET, "/readyz", limit).await {
            Ok(answer) => classify_readiness(&arguments.sidecar.parse_json(&answer)?, arguments.registered),
            Err(error @ (AdminError::Address { .. } | AdminError::NotUtf8)) => return Err(error.into()),
            Err(error @ AdminError::NoAnswer { .. }) => ReadinessCheck::Pending(error.to_string()),
        };
        match check {
            ReadinessCheck::Ready => {
                print_line("ready");
                return Ok(());
            }
            ReadinessCheck::Never(why) => return Err(CommandError::running(why)),
            ReadinessCheck::Pending(why) if Instant::now() >= until => {
                let after = format_duration(arguments.timeout);
                return Err(CommandError::running(format!("not ready after {after}: {why}")));
            }
            ReadinessCheck::Pending(_) => sleep(POLL_INTERVAL).await,
        }
    }
}

fn classify_readiness(page: &Value, registered: bool) -> ReadinessCheck {
    // A process that has given an id up is ready, and its app is not registered.
    let registrations = page["registrations"].as_array().into_iter().flatten();
    let conflicts: Vec<_> = registrations
        .filter(|one| registered && one["state"] == "conflict")
        .map(|one| one["conflict"].as_str().unwrap_or("another process has the id"))
        .collect();
    if !conflicts.is_empty() {
        return ReadinessCheck::Pending(conflicts.join("; "));
    }
    if page["ready"] == true {
        return ReadinessCheck::Ready;
    }
    let missing: Vec<_> =
        page["missing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let missing = match missing.as_slice() {
        [] => "its answer names nothing that is missing".to_owned(),
        several => several.join("; "),
    };
    match page["state"].as_str() {
        Some("waiting" | "registered") if !registered => ReadinessCheck::Ready,
        Some("draining" | "gone") => {
            ReadinessCheck::Never("the sidecar is draining: it will not be ready again")
        }
        _ => ReadinessCheck::Pending(missing),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sidecar_is_ready_when_it_routes_and_with_registered_when_its_page_says_so() {
        let wait = || ReadinessCheck::Pending("x".into());
        let never = || ReadinessCheck::Never("the sidecar is draining: it will not be ready again");
        for (state, carries, registered) in [
            ("starting", wait(), wait()),
            ("learning", wait(), wait()),
            ("waiting", ReadinessCheck::Ready, wait()),
            ("registered", ReadinessCheck::Ready, wait()),
            ("ready", ReadinessCheck::Ready, ReadinessCheck::Ready),
            ("draining", never(), never()),
            ("gone", never(), never()),
        ] {
            let page = json!({"ready": state == "ready", "state": state, "missing": ["x"]});
            assert_eq!(classify_readiness(&page, false), carries, "{state}");
            assert_eq!(classify_readiness(&page, true), registered, "{state}");
        }
        let conflict =
            json!({"service": "orders", "state": "conflict", "conflict": "another process registers id a"});
        let page = json!({"ready": true, "state": "ready", "registrations": [conflict]});
        assert_eq!(classify_readiness(&page, false), ReadinessCheck::Ready);
        let pending = ReadinessCheck::Pending("another process registers id a".into());
        assert_eq!(classify_readiness(&page, true), pending);
    }

    async fn wait(admin: std::net::SocketAddr, limit: Duration) -> Result<(), CommandError> {
        run(WaitArguments { registered: false, sidecar: AdminClient::at(admin), timeout: limit }).await
    }

    #[tokio::test]
    async fn the_wait_for_a_missing_sidecar_is_bounded() {
        let failure =
            wait(outrigger_net::reserve_addr(), Duration::from_millis(300)).await.unwrap_err().to_string();
        assert!(failure.contains("300ms") && failure.contains("--admin"), "{failure}");
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_used_is_not_waited_for() {
        let sidecar = AdminClient::at("https://localhost:7079");
        let long = Duration::from_secs(600);
        let failure = run(WaitArguments { registered: false, sidecar, timeout: long }).await.unwrap_err();
        assert!(matches!(&failure, CommandError::Settings(text) if text.contains("no TLS")), "{failure}");
    }

    #[tokio::test]
    async fn an_answer_of_another_server_is_an_error() {
        let (listen, thread) = (outrigger_config::Listen::localhost(0), tokio::runtime::Handle::current());
        let bound = crate::admin::BoundListeners::bind_for_test(&listen, &thread).unwrap();
        let page = axum::routing::get(|| async { "hello" });
        let router = axum::Router::new().route("/readyz", page);
        let server = crate::admin::AdminServer::start(bound, router, crate::admin::ServerLimits::PAGES);
        let failure = wait(server.addrs[0], Duration::from_secs(20)).await.unwrap_err().to_string();
        assert!(failure.contains("hello"), "{failure}");
    }
}
