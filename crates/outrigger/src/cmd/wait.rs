//! `outrigger wait`: until a sidecar of its own process carries requests; before the app starts.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Failure, duration, say, sidecar::Sidecar};

/// Pause between two questions.
const POLL: Duration = Duration::from_millis(100);

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Wait until the sidecar on this machine carries requests
#[derive(Debug, Args)]
#[command(
    long_about = "Wait until the sidecar on this machine carries requests: it has bound its ports, and the registry \
                  has answered for every declared service (or did not within 5 s).\n\nMeant for the start of an app \
                  whose sidecar is in a container of its own. Where the sidecar registers the app it is not ready \
                  before the app is, so that --registered is for those who come after the app.",
    after_help = "Example:\n  outrigger wait --timeout 30s && exec ./orders"
)]
pub(super) struct Arguments {
    /// Also until the app is registered and well: until /readyz says 200.
    #[arg(long)]
    registered: bool,
    #[command(flatten)]
    sidecar: Sidecar,
    /// Longest wait; then the exit code is 1.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

/// What a look at `/readyz` says.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Ready,
    /// Not yet, because.
    Wait(String),
    /// Never again, because.
    Never(&'static str),
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let until = Instant::now() + arguments.timeout;
    loop {
        let limit = ANSWER.min(until.saturating_duration_since(Instant::now()).max(POLL));
        let look = match arguments.sidecar.ask(&Method::GET, "/readyz", limit).await {
            Ok(answer) => judge(&arguments.sidecar.json(&answer)?, arguments.registered),
            Err(why) => Look::Wait(why),
        };
        match look {
            Look::Ready => {
                say("ready");
                return Ok(());
            }
            Look::Never(why) => return Err(Failure::running(why)),
            Look::Wait(why) if Instant::now() >= until => {
                return Err(Failure::running(format!("not ready after {:?}: {why}", arguments.timeout)));
            }
            Look::Wait(_) => sleep(POLL).await,
        }
    }
}

fn judge(page: &Value, registered: bool) -> Look {
    if page["ready"] == true {
        return Look::Ready;
    }
    let missing = page["missing"][0].as_str().unwrap_or("it does not say what is missing").to_owned();
    match page["state"].as_str() {
        Some("waiting" | "registered") if !registered => Look::Ready,
        Some("draining" | "gone") => Look::Never("the sidecar is draining: it will not be ready again"),
        _ => Look::Wait(missing),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_carries_requests_is_ready_and_with_registered_it_has_to_say_so() {
        let wait = || Look::Wait("x".into());
        let never = || Look::Never("the sidecar is draining: it will not be ready again");
        for (state, carries, registered) in [
            ("starting", wait(), wait()),
            ("learning", wait(), wait()),
            ("waiting", Look::Ready, wait()),
            ("registered", Look::Ready, wait()),
            ("ready", Look::Ready, Look::Ready),
            ("draining", never(), never()),
            ("gone", never(), never()),
        ] {
            let page = json!({"ready": state == "ready", "state": state, "missing": ["x"]});
            assert_eq!(judge(&page, false), carries, "{state}");
            assert_eq!(judge(&page, true), registered, "{state}");
        }
    }

    async fn wait(admin: std::net::SocketAddr, limit: Duration) -> Result<(), Failure> {
        run(Arguments { registered: false, sidecar: Sidecar::at(admin), timeout: limit }).await
    }

    #[tokio::test]
    async fn nobody_there_is_waited_for_and_not_for_ever() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = free.local_addr().unwrap();
        drop(free);
        let failure = wait(addr, Duration::from_millis(300)).await.unwrap_err().to_string();
        assert!(failure.contains("300ms") && failure.contains("--admin"), "{failure}");
    }

    #[tokio::test]
    async fn something_else_at_that_address_is_no_sidecar() {
        let bound = crate::admin::Bound::bind("test", &outrigger_config::Listen::localhost(0)).unwrap();
        let page = axum::routing::get(|| async { "hello" });
        let server = crate::admin::Server::start(bound, axum::Router::new().route("/readyz", page));
        let failure = wait(server.addrs()[0], Duration::from_secs(20)).await.unwrap_err().to_string();
        assert!(failure.contains("hello"), "{failure}");
    }
}
