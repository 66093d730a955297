//! `outrigger maintenance`: takes the app out of service, and back, without a stop.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use outrigger_config::escape_control;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    admin_client::AdminClient,
    report::{CommandError, print_line},
};

/// Longest wait for the answer: above the sidecar's own timeout for the registry.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Take the app out of service, and back
#[derive(Debug, Args)]
#[command(
    long_about = "Take the app out of service, and back. Callers stop sending requests to it once they learn of it. The \
                  app stays registered, and its own calls go on. Maintenance lasts until 'off', also when the \
                  registry forgets the app or the sidecar restarts (with a state_dir). The same holds for \
                  maintenance that is ordered at the registry itself.",
    after_help = "Example:\n  outrigger maintenance on --reason 'disk is being replaced'\n  \
                  outrigger maintenance off"
)]
pub(super) struct MaintenanceArguments {
    #[command(subcommand)]
    command: MaintenanceCommand,
}

#[derive(Debug, Subcommand)]
enum MaintenanceCommand {
    /// Take the app out of service
    On {
        #[command(flatten)]
        service: ServiceChoice,
        /// Reason, shown in the registry and on the sidecar's pages. Consul keeps the first reason until 'off'.
        #[arg(long, value_name = "TEXT", default_value = "outrigger maintenance on")]
        reason: String,
        #[command(flatten)]
        sidecar: AdminClient,
    },
    /// Put the app back into service
    Off {
        #[command(flatten)]
        service: ServiceChoice,
        #[command(flatten)]
        sidecar: AdminClient,
    },
    /// Print whether the app is in maintenance; the exit code is 0 either way
    Status {
        #[command(flatten)]
        sidecar: AdminClient,
    },
}

#[derive(Debug, Args)]
struct ServiceChoice {
    /// Name or id of the service, where the sidecar has several. Without it: all of them.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

impl ServiceChoice {
    /// The end of a query.
    fn to_query(&self) -> String {
        let encode = |name| utf8_percent_encode(name, NON_ALPHANUMERIC);
        self.service.as_deref().map(|name| format!("&service={}", encode(name))).unwrap_or_default()
    }
}

pub(super) async fn run(arguments: MaintenanceArguments) -> Result<(), CommandError> {
    let (sidecar, method, path) = match arguments.command {
        MaintenanceCommand::On { service, reason, sidecar } => {
            let (reason, service) = (utf8_percent_encode(&reason, NON_ALPHANUMERIC), service.to_query());
            (sidecar, Method::POST, format!("/maintenance?enable=true&reason={reason}{service}"))
        }
        MaintenanceCommand::Off { service, sidecar } => {
            (sidecar, Method::POST, format!("/maintenance?enable=false{}", service.to_query()))
        }
        MaintenanceCommand::Status { sidecar } => (sidecar, Method::GET, "/maintenance".to_owned()),
    };
    let answer = sidecar.request(&method, &path, RESPONSE_TIMEOUT).await?;
    let page = sidecar.parse_json(&answer)?;
    if answer.status() != StatusCode::OK {
        return Err(CommandError::running(page["error"].as_str().unwrap_or("the request was refused")));
    }
    describe_page(&page).iter().for_each(print_line);
    Ok(())
}

/// A line for each service; where there are several, it begins with the name.
fn describe_page(page: &Value) -> Vec<String> {
    let error = page["error"].as_str();
    match page["services"].as_array().map_or(&[][..], Vec::as_slice) {
        [] => vec!["nothing is registered by this sidecar".to_owned()],
        [only] => vec![describe_maintenance(only, error)],
        several => several
            .iter()
            .map(|one| {
                let name = escape_control(one["service"].as_str().unwrap_or("?"));
                format!("{name}: {}", describe_maintenance(one, error))
            })
            .collect(),
    }
}

fn describe_maintenance(page: &Value, error: Option<&str>) -> String {
    let registration = page["registration"].as_str().unwrap_or("unknown");
    let current = match page["reason"].as_str() {
        Some(reason) => format!("in maintenance: {reason}"),
        None => "not in maintenance".to_owned(),
    };
    let ordered = &page["ordered"];
    let pending = match (ordered["enable"].as_bool(), error) {
        (Some(true), _) => {
            format!("; ordered, not yet in effect: on, {}", ordered["reason"].as_str().unwrap_or("?"))
        }
        (Some(false), _) => "; ordered, not yet in effect: off".to_owned(),
        (None, Some(error)) => format!(" (as last seen; the registry does not answer: {error})"),
        (None, None) => String::new(),
    };
    // A reason may come from another client of the registry.
    escape_control(&format!("{current}{pending} (registration: {registration})")).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_state_is_printed_as_one_line() {
        let (on, off) = (json!({"enable": true, "reason": "disk"}), json!({"enable": false}));
        for (reason, ordered, error, expected) in [
            (Some("disk"), Value::Null, None, "in maintenance: disk (registration: registered)"),
            (None, Value::Null, None, "not in maintenance (registration: registered)"),
            (Some("a\nb"), Value::Null, None, "in maintenance: a\\nb (registration: registered)"),
            (
                None,
                on,
                None,
                "not in maintenance; ordered, not yet in effect: on, disk (registration: registered)",
            ),
            (
                Some("disk"),
                off,
                Some("refused"),
                "in maintenance: disk; ordered, not yet in effect: off (registration: registered)",
            ),
            (
                Some("disk"),
                Value::Null,
                Some("refused"),
                "in maintenance: disk (as last seen; the registry does not answer: refused) (registration: registered)",
            ),
        ] {
            let page = json!({"service": "orders", "reason": reason, "ordered": ordered, "registration": "registered"});
            assert_eq!(describe_page(&json!({"services": [page], "error": error})), [expected]);
        }
    }

    #[test]
    fn of_several_services_each_has_its_line() {
        let one = |name, reason: Option<&str>| json!({"service": name, "reason": reason, "registration": "registered"});
        let page = json!({"services": [one("orders", None), one("orders-admin", Some("disk"))]});
        assert_eq!(
            describe_page(&page),
            [
                "orders: not in maintenance (registration: registered)",
                "orders-admin: in maintenance: disk (registration: registered)"
            ]
        );
        assert_eq!(describe_page(&json!({"services": []})), ["nothing is registered by this sidecar"]);
    }
}
