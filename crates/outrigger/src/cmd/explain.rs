//! `outrigger explain`: what a request would meet, without sending it.

use std::time::Duration;

use clap::Args;
use http::{Method, StatusCode};
use outrigger_config::escape_control;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    admin_client::AdminClient,
    report::{CommandError, print_line},
};

/// Longest wait for the answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest path that is sent to the admin side, which takes 64 KiB.
const MAX_PATH: usize = 60 * 1024;

/// Show what a request would meet: rules, instances, limits, and where each comes from
#[derive(Debug, Args)]
#[command(
    long_about = "Show what a request would meet at the sidecar on this machine: how its name is read, which rule matches and \
                  where that comes from, which instances could be picked and why others could not, its time-outs and retries, \
                  and what would happen without an instance. Nothing is sent, and nothing is counted.",
    after_help = "Example:\n  outrigger explain http://orders/reports/7 -H 'x-user: 12'\n  \
                  outrigger explain localhost:7070/svc/orders/ -X POST --json"
)]
pub(super) struct ExplainArguments {
    /// URL as an app calls it.
    url: String,
    /// A header, as curl has it. May be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The method.
    #[arg(short = 'X', long, visible_alias = "request", value_name = "METHOD", default_value = "GET")]
    method: String,
    /// The page /explain as JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sidecar: AdminClient,
}

impl ExplainArguments {
    /// The page, with its query.
    fn path(&self) -> String {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let headers: String = self.headers.iter().map(|one| format!("&header={}", encode(one))).collect();
        let format = if self.json { "json" } else { "text" };
        format!("/explain?url={}&method={}{headers}&format={format}", encode(&self.url), encode(&self.method))
    }
}

pub(super) async fn run(arguments: ExplainArguments) -> Result<(), CommandError> {
    let sidecar = &arguments.sidecar;
    let path = arguments.path();
    if path.len() > MAX_PATH {
        let what =
            "the URL and the headers have more than 60 KiB, percent-encoded; explain a shorter request";
        return Err(CommandError::with_code(2, what));
    }
    let answer = sidecar.request(&Method::GET, &path, RESPONSE_TIMEOUT).await?;
    let text = String::from_utf8_lossy(answer.body());
    match answer.status() {
        StatusCode::OK if arguments.json => print_line(sidecar.parse_json(&answer)?),
        StatusCode::OK => text.lines().for_each(|line| print_line(escape_control(line))),
        StatusCode::BAD_REQUEST => {
            return Err(CommandError::with_code(2, escape_control(text.trim_end())));
        }
        _ => return Err(sidecar.unexpected(&answer)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_has_every_part_encoded() {
        let arguments = ExplainArguments {
            url: "http://orders/x?a=1&b".into(),
            headers: vec!["x-a: 1&2".into(), "b;".into()],
            method: "P+ST".into(),
            json: false,
            sidecar: AdminClient::default(),
        };
        assert_eq!(
            arguments.path(),
            "/explain?url=http%3A%2F%2Forders%2Fx%3Fa%3D1%26b&method=P%2BST&header=x%2Da%3A%201%262&header=b%3B&format=text"
        );
    }
}
