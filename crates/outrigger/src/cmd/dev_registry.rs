//! `outrigger dev-registry`: the embedded registry alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};

use super::{
    report::{CommandError, print_line},
    runtime::listen_for_termination,
};
use crate::telemetry::error_chain;

/// Start a registry in memory that speaks Consul's HTTP API, until Ctrl-C
#[derive(Debug, Args)]
#[command(
    long_about = "Start a registry in memory that speaks Consul's HTTP API, until Ctrl-C. For a laptop or a test: \
                  its content is lost when it stops, and it is a single server.",
    after_help = "Example:\n  outrigger dev-registry --listen 127.0.0.1:8500"
)]
pub(super) struct DevRegistryArguments {
    /// Address to listen on; with port 0 the system chooses the port.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8500", value_parser = parse_address)]
    listen: SocketAddr,
}

/// An address; `localhost` stands for 127.0.0.1.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| "not an address with a port; write 127.0.0.1:8500".to_owned())
}

pub(super) async fn run(arguments: DevRegistryArguments) -> Result<(), CommandError> {
    let mut signals = listen_for_termination()?;
    let registry = DevRegistry::bind(arguments.listen, DevRegistryOptions::default()).await.map_err(|error| {
        CommandError::running(format!(
            "the registry cannot listen on {}: {}; stop the process that listens there, or choose another \
             address: --listen 127.0.0.1:0",
            arguments.listen,
            error_chain(&error)
        ))
    })?;
    let addr = registry.addr();
    print_line(format!(
        "A registry in memory listens on http://{addr}. Ctrl-C stops it; its content is lost.\n\n\
         Try, in another terminal:\n  \
         export CONSUL_HTTP_ADDR=http://{addr}\n  \
         outrigger run --service orders --port 8080     registers the app that listens on 8080\n  \
         curl http://{addr}/v1/health/service/orders     shows it"
    ));
    tokio::select! {
        _ = signals.next() => {}
        () = registry.left() => print_line("A client asked the registry to leave (PUT /v1/agent/leave)."),
    }
    tokio::select! {
        () = registry.shutdown() => Ok(()),
        signal = signals.next() => Err(CommandError::running(format!("a second {signal}, exiting at once"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_port() {
        for (text, expected) in [
            ("127.0.0.1:8500", Some("127.0.0.1:8500")),
            ("localhost:0", Some("127.0.0.1:0")),
            ("[::1]:8500", Some("[::1]:8500")),
            ("127.0.0.1", None),
            ("8500", None),
            ("registry.example:8500", None),
        ] {
            assert_eq!(parse_address(text).ok().map(|addr| addr.to_string()).as_deref(), expected, "{text}");
        }
    }
}
