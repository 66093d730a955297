//! `outrigger demo`: a registry, four instances and a sidecar in one process, and a steady stream of requests
//! while one instance is killed, one is added and one changes its weight.
//!
//! | module | its job |
//! |---|---|
//! | `instance` | a small HTTP server that can be killed |
//! | `traffic` | the app: sends requests by service name, counts every answer |
//! | `scenario` | the steps and their times, and the result |
//! | `screen` | the table, or plain lines |
//!
//! The requests are GETs, because with default settings the sidecar retries only safe requests.

mod instance;
mod scenario;
mod screen;
mod traffic;

use std::{
    io::IsTerminal,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::Args;
use outrigger_config::{
    Balance, Config, ConsulAddress, ConsulSettings, Environment, Listen, LogFormat, Policy, Registry,
    Upstream, parse_duration,
};
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use tokio::time::timeout;

use self::{
    instance::SERVICE,
    scenario::{DemoResult, Scenario},
    screen::Screen,
};
use super::{
    report::{CommandError, print_line},
    runtime::listen_for_termination,
};
use crate::{
    App,
    app::proxy_workers,
    telemetry::{self, error_chain},
};

/// Shortest demo that has time for every step.
const MIN_LENGTH: Duration = Duration::from_secs(3);

/// Longest wait for the sidecar to know the instances.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Watch a sidecar at work: instances are killed, added and changed, and no request fails
#[derive(Debug, Args)]
#[command(
    long_about = "Watch a sidecar at work, with nothing else installed: a registry in memory, four small HTTP \
                  instances of the service 'orders', a sidecar, and a steady stream of requests by name. One \
                  instance is killed, one is added, one changes its weight. The exit code is 1 if any request \
                  failed.",
    after_help = "Example:\n  outrigger demo --stay\n  curl -H 'Host: orders' localhost:7070/      in another terminal"
)]
pub(super) struct DemoArguments {
    /// Keep everything running afterwards, until Ctrl-C.
    #[arg(long)]
    stay: bool,
    /// Length of the demo; 3s at least.
    #[arg(long, value_name = "DURATION", default_value = "12s", value_parser = parse_length)]
    duration: Duration,
    /// Plain lines instead of a table.
    #[arg(long)]
    plain: bool,
}

fn parse_length(text: &str) -> Result<Duration, String> {
    let length = parse_duration(text)?;
    if length >= MIN_LENGTH { Ok(length) } else { Err("too short for the demo: 3s at least".to_owned()) }
}

pub(super) async fn run(arguments: DemoArguments) -> Result<(), CommandError> {
    let table = !arguments.plain && std::io::stdout().is_terminal();
    init_quiet_logging();
    let mut signals = listen_for_termination()?;
    let registry =
        DevRegistry::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), DevRegistryOptions::default())
            .await
            .map_err(|error| CommandError::running(format!("start the registry: {}", error_chain(&error))))?;
    let app = start_sidecar(registry.addr()).await?;
    let outbound = first_addr(&app.outbound_addrs())?;
    print_introduction(&app, registry.addr(), outbound);

    let mut scenario = Scenario::start(registry.addr()).await.map_err(CommandError::Running)?;
    if timeout(READY_TIMEOUT, app.ready()).await.is_err() {
        return Err(CommandError::running(format!("the sidecar was not ready within {READY_TIMEOUT:?}")));
    }
    let mut screen = Screen::new(table);
    let result = tokio::select! {
        result = scenario.run(&app, outbound, arguments.duration, &mut screen) => result,
        signal = signals.next() => Err(format!("stopped by {signal} before the end")),
    };
    drop(screen);
    if let Ok(result) = &result {
        print_line(result);
        print_next_steps(&app, outbound, arguments.stay);
        if arguments.stay {
            signals.next().await;
        }
    }
    let end = async {
        app.shutdown().await;
        drop(scenario);
        registry.shutdown().await;
    };
    tokio::select! {
        () = end => check_result(result),
        signal = signals.next() => Err(CommandError::running(format!("a second {signal}, exiting at once"))),
    }
}

fn check_result(result: Result<DemoResult, String>) -> Result<(), CommandError> {
    match result {
        Ok(result) if result.is_success() => Ok(()),
        Ok(result) => Err(CommandError::Running(result.failure_text())),
        Err(why) => Err(CommandError::Running(why)),
    }
}

/// Logs nothing, unless OUTRIGGER_LOG sets a filter: the table shows what happens.
fn init_quiet_logging() {
    let environment = Environment::from_process();
    let mut log = Config::default().log;
    log.level =
        environment.get("OUTRIGGER_LOG").filter(|level| !level.is_empty()).unwrap_or("off").to_owned();
    log.format = LogFormat::Text;
    telemetry::init_logging(&log);
}

/// A sidecar on the default ports, or on free ports where those are taken.
async fn start_sidecar(registry: SocketAddr) -> Result<App, CommandError> {
    let mut config = demo_config(registry);
    let start = async |config: &Config| App::start(config.clone(), proxy_workers(config.workers)).await;
    let started = match start(&config).await {
        Err(error) if error.is_bind_error() => {
            print_line(format!("{}\n(the demo uses free ports instead)\n", error_chain(&error)));
            config.outbound.listen = Listen::localhost(0);
            config.admin.listen = Listen::localhost(0);
            start(&config).await
        }
        started => started,
    };
    started.map_err(|error| CommandError::Running(error_chain(&error)))
}

fn demo_config(registry: SocketAddr) -> Config {
    let address = ConsulAddress { tls: false, host: registry.ip().to_string(), port: registry.port() };
    let policy = Policy { balance: Balance::Weighted, ..Policy::default() };
    let orders = Upstream {
        service: SERVICE.to_owned(),
        listen: None,
        protocol: outrigger_config::Protocol::default(),
        tls: None,
        tcp: outrigger_config::TcpSettings::default(),
        hosts: Vec::new(),
        tags: Vec::new(),
        datacenter: None,
        policy: policy.clone(),
        traffic: outrigger_config::TrafficRules::default(),
    };
    Config {
        registry: Registry::Consul(ConsulSettings { address, ..ConsulSettings::default() }),
        defaults: policy,
        upstreams: vec![orders],
        ..Config::default()
    }
}

fn first_addr(addrs: &[SocketAddr]) -> Result<SocketAddr, CommandError> {
    addrs.first().copied().ok_or_else(|| CommandError::running("the sidecar has no listener"))
}

fn print_introduction(app: &App, registry: SocketAddr, outbound: SocketAddr) {
    let admin = app.admin_addr().map_or_else(String::new, |addr| addr.to_string());
    print_line(format!(
        "A registry in memory at http://{registry}, a sidecar at http://{outbound} (admin: http://{admin}), and four\n\
         instances of '{SERVICE}', one of weight 3. An app sends GETs with 'Host: {SERVICE}' to the sidecar.\n"
    ));
}

/// Prints commands to try: against this demo while it runs, else against the next one.
fn print_next_steps(app: &App, outbound: SocketAddr, stay: bool) {
    let (heading, port, admin) = if stay {
        let admin = app.admin_addr().map_or(0, |addr| addr.port());
        ("Everything keeps running until Ctrl-C. Try, in another terminal:", outbound.port(), admin)
    } else {
        let usual = Config::default();
        let (port, admin) = (usual.outbound.listen.port, usual.admin.listen.port);
        ("Try next: outrigger demo --stay, and then in another terminal:", port, admin)
    };
    print_line(format!(
        "\n{heading}\n  \
         curl -H 'Host: {SERVICE}' localhost:{port}/\n  \
         curl localhost:{admin}/metrics\n  \
         curl 'localhost:{admin}/services?format=text'"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_has_a_minimum_length() {
        assert_eq!(parse_length("12s"), Ok(Duration::from_secs(12)));
        assert!(parse_length("2s").unwrap_err().contains("3s"));
        assert!(parse_length("soon").is_err());
    }

    #[test]
    fn the_service_is_declared_and_weighted() {
        let config = demo_config(SocketAddr::from((Ipv4Addr::LOCALHOST, 8500)));
        assert_eq!(config.upstreams[0].service, "orders");
        assert_eq!(config.upstreams[0].policy.balance, Balance::Weighted);
        assert_eq!(config.services, []);
    }
}
