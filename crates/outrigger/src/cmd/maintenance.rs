//! `outrigger maintenance`: takes the app out of service, and back, without stopping anything.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    admin_client::AdminClient,
    report::{CommandError, print_line},
};

/// Longest wait for the answer: above the time that the sidecar gives its registry.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Take the app out of service, and back
#[derive(Debug, Args)]
#[command(
    long_about = "Take the app out of service, and back. Callers stop sending to it once they have heard; it stays \
                  registered, and its own calls go on. It stays so when the registry forgets it or the sidecar is \
                  restarted (with a state_dir), until 'off'. What others order at the registry is seen and kept \
                  like that, too.",
    after_help = "Example:\n  outrigger maintenance on --reason 'disk is being replaced'\n  \
                  outrigger maintenance off"
)]
pub(super) struct MaintenanceArguments {
    #[command(subcommand)]
    command: MaintenanceCommand,
}

#[derive(Debug, Subcommand)]
enum MaintenanceCommand {
    /// Take it out
    On {
        /// Shown to whoever looks: in the registry, and in the sidecar's pages. Consul keeps the first one
        /// until 'off'.
        #[arg(long, value_name = "TEXT", default_value = "outrigger maintenance on")]
        reason: String,
        #[command(flatten)]
        sidecar: AdminClient,
    },
    /// Put it back
    Off {
        #[command(flatten)]
        sidecar: AdminClient,
    },
    /// Say how it stands; the exit code is 0 either way
    Status {
        #[command(flatten)]
        sidecar: AdminClient,
    },
}

pub(super) async fn run(arguments: MaintenanceArguments) -> Result<(), CommandError> {
    let (sidecar, method, path) = match arguments.command {
        MaintenanceCommand::On { reason, sidecar } => {
            let reason = utf8_percent_encode(&reason, NON_ALPHANUMERIC);
            (sidecar, Method::POST, format!("/maintenance?enable=true&reason={reason}"))
        }
        MaintenanceCommand::Off { sidecar } => {
            (sidecar, Method::POST, "/maintenance?enable=false".to_owned())
        }
        MaintenanceCommand::Status { sidecar } => (sidecar, Method::GET, "/maintenance".to_owned()),
    };
    let answer = sidecar.request(&method, &path, RESPONSE_TIMEOUT).await?;
    let page = sidecar.parse_json(&answer)?;
    if answer.status() != StatusCode::OK {
        return Err(CommandError::running(page["error"].as_str().unwrap_or("the order was refused")));
    }
    print_line(describe_maintenance(&page));
    Ok(())
}

fn describe_maintenance(page: &Value) -> String {
    let registration = page["registration"].as_str().unwrap_or("unknown");
    let held = match page["reason"].as_str() {
        Some(reason) => format!("in maintenance: {reason}"),
        None => "not in maintenance".to_owned(),
    };
    let (ordered, error) = (&page["ordered"], page["error"].as_str());
    let more = match (ordered["enable"].as_bool(), error) {
        (Some(true), _) => {
            format!("; ordered and to be carried out: on, {}", ordered["reason"].as_str().unwrap_or("?"))
        }
        (Some(false), _) => "; ordered and to be carried out: off".to_owned(),
        (None, Some(error)) => format!(", as last seen; the registry does not say: {error}"),
        (None, None) => String::new(),
    };
    format!("{held}{more} (registration: {registration})")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn how_it_stands_in_a_sentence() {
        let (on, off) = (json!({"enable": true, "reason": "disk"}), json!({"enable": false}));
        for (reason, ordered, error, sentence_of) in [
            (Some("disk"), Value::Null, None, "in maintenance: disk (registration: registered)"),
            (None, Value::Null, None, "not in maintenance (registration: registered)"),
            (
                None,
                on,
                None,
                "not in maintenance; ordered and to be carried out: on, disk (registration: registered)",
            ),
            (
                Some("disk"),
                off,
                Some("refused"),
                "in maintenance: disk; ordered and to be carried out: off (registration: registered)",
            ),
            (
                Some("disk"),
                Value::Null,
                Some("refused"),
                "in maintenance: disk, as last seen; the registry does not say: refused (registration: registered)",
            ),
        ] {
            let page =
                json!({"reason": reason, "ordered": ordered, "error": error, "registration": "registered"});
            assert_eq!(describe_maintenance(&page), sentence_of);
        }
    }
}
