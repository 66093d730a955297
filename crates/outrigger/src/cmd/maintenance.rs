//! `outrigger maintenance`: takes the app out of service, and back, without stopping anything.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Failure, say, sidecar::Sidecar};

/// Longest wait for the answer: above the time that the sidecar gives its registry.
const ANSWER: Duration = Duration::from_secs(30);

/// Take the app out of service, and back
#[derive(Debug, Args)]
#[command(
    long_about = "Take the app out of service, and back. Callers stop sending to it once they have heard; it stays \
                  registered, and its own calls go on. The sidecar keeps it so when it has to register the app \
                  again, until 'off', or until it leaves the registry.",
    after_help = "Example:\n  outrigger maintenance on --reason 'disk is being replaced'\n  \
                  outrigger maintenance off"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Take it out
    On {
        /// Shown to whoever looks: in the registry, and in the sidecar's pages.
        #[arg(long, value_name = "TEXT", default_value = "outrigger maintenance on")]
        reason: String,
        #[command(flatten)]
        sidecar: Sidecar,
    },
    /// Put it back
    Off {
        #[command(flatten)]
        sidecar: Sidecar,
    },
    /// Say how it stands; the exit code is 0 either way
    Status {
        #[command(flatten)]
        sidecar: Sidecar,
    },
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let (sidecar, method, path) = match arguments.what {
        What::On { reason, sidecar } => {
            let reason = utf8_percent_encode(&reason, NON_ALPHANUMERIC);
            (sidecar, Method::POST, format!("/maintenance?enable=true&reason={reason}"))
        }
        What::Off { sidecar } => (sidecar, Method::POST, "/maintenance?enable=false".to_owned()),
        What::Status { sidecar } => (sidecar, Method::GET, "/maintenance".to_owned()),
    };
    let answer = sidecar.ask(&method, &path, ANSWER).await.map_err(Failure::running)?;
    let page = sidecar.json(&answer)?;
    if answer.status() != StatusCode::OK {
        return Err(Failure::running(page["error"].as_str().unwrap_or("the order was refused")));
    }
    say(sentence(&page));
    Ok(())
}

fn sentence(page: &Value) -> String {
    let registration = page["registration"].as_str().unwrap_or("unknown");
    match page["reason"].as_str() {
        Some(reason) => format!("in maintenance: {reason} (registration: {registration})"),
        None => format!("not in maintenance by this sidecar's order (registration: {registration})"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn how_it_stands_in_a_sentence() {
        let page = |reason: Option<&str>| json!({"reason": reason, "registration": "registered"});
        assert_eq!(sentence(&page(Some("disk"))), "in maintenance: disk (registration: registered)");
        assert!(sentence(&page(None)).starts_with("not in maintenance"));
    }
}
