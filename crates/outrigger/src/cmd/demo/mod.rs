//! `outrigger demo`: a registry, four instances and a sidecar in one process, and what happens to a
//! steady stream of requests while instances die, come and change.
//!
//! | module | its job |
//! |---|---|
//! | `instance` | a small HTTP server that can be killed |
//! | `traffic` | the app: sends by service name, counts every answer |
//! | `story` | what happens when, and what was seen of it |
//! | `screen` | the table, or plain lines |
//!
//! The requests are GETs: what the sidecar promises without a word in the settings is that no
//! request fails that a safe retry could have saved.

mod instance;
mod screen;
mod story;
mod traffic;

use std::{
    io::IsTerminal,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::Args;
use outrigger_config::{
    Balance, Config, ConsulAddress, ConsulSettings, Environment, Listen, LogFormat, Origins, Policy,
    Registry, Upstream,
};
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use tokio::time::timeout;

use self::{
    instance::SERVICE,
    screen::Screen,
    story::{Ending, Story},
};
use super::{Failure, duration, say};
use crate::{
    App,
    app::workers,
    signal::Signals,
    telemetry::{self, causes},
};

/// Shortest demo: each act takes a third.
const SHORTEST: Duration = Duration::from_secs(3);

/// Longest wait for the sidecar to know the instances.
const READY: Duration = Duration::from_secs(10);

/// Watch a sidecar at work: instances die, come and change, and no request fails
#[derive(Debug, Args)]
#[command(
    long_about = "Watch a sidecar at work, with nothing else installed: a registry in memory, four small HTTP \
                  instances of the service 'orders', a sidecar, and a steady stream of requests by name. One \
                  instance is killed, one is added, one changes its weight. The exit code is 1 if any request \
                  failed.",
    after_help = "Example:\n  outrigger demo --stay\n  curl -H 'Host: orders' localhost:7070/      in another terminal"
)]
pub(super) struct Arguments {
    /// Keep everything up afterwards, until Ctrl-C.
    #[arg(long)]
    stay: bool,
    /// How long the requests go on; 3s at least.
    #[arg(long, value_name = "DURATION", default_value = "12s", value_parser = length)]
    duration: Duration,
    /// Plain lines instead of a table.
    #[arg(long)]
    plain: bool,
}

fn length(text: &str) -> Result<Duration, String> {
    let length = duration(text)?;
    if length >= SHORTEST { Ok(length) } else { Err("too short for the story: 3s at least".to_owned()) }
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let table = !arguments.plain && std::io::stdout().is_terminal();
    quiet();
    let mut signals =
        Signals::listen().map_err(|error| Failure::running(format!("listen to signals: {error}")))?;
    let registry =
        DevRegistry::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), DevRegistryOptions::default())
            .await
            .map_err(|error| Failure::running(format!("start the registry: {}", causes(&error))))?;
    let app = sidecar(registry.addr())?;
    let outbound = first(&app.outbound_addrs())?;
    introduce(&app, registry.addr(), outbound);

    let mut story = Story::begin(registry.addr()).await.map_err(Failure::Running)?;
    if timeout(READY, app.ready()).await.is_err() {
        return Err(Failure::running(format!("the sidecar was not ready within {READY:?}")));
    }
    let mut screen = Screen::new(table);
    let ending = tokio::select! {
        ending = story.play(&app, outbound, arguments.duration, &mut screen) => ending,
        signal = signals.next() => Err(format!("stopped by {signal} before the end")),
    };
    drop(screen);
    if let Ok(ending) = &ending {
        say(ending);
        next(&app, outbound, arguments.stay);
        if arguments.stay {
            signals.next().await;
        }
    }
    let end = async {
        app.shutdown().await;
        drop(story);
        registry.shutdown().await;
    };
    tokio::select! {
        () = end => judge(ending),
        signal = signals.next() => Err(Failure::running(format!("a second {signal}, exiting at once"))),
    }
}

fn judge(ending: Result<Ending, String>) -> Result<(), Failure> {
    match ending {
        Ok(ending) if ending.is_good() => Ok(()),
        Ok(ending) => Err(Failure::Running(ending.verdict())),
        Err(why) => Err(Failure::Running(why)),
    }
}

/// The table is the log, unless somebody asks for more.
fn quiet() {
    let environment = Environment::from_process();
    let mut log = Config::default().log;
    log.level =
        environment.get("OUTRIGGER_LOG").filter(|level| !level.is_empty()).unwrap_or("off").to_owned();
    log.format = LogFormat::Text;
    telemetry::log(&log);
}

/// A sidecar on the usual ports, or on free ones where those are taken.
fn sidecar(registry: SocketAddr) -> Result<App, Failure> {
    let mut config = settings(registry);
    let start = |config: &Config| App::start(config.clone(), &Origins::default(), workers(config.workers));
    let started = match start(&config) {
        Err(error) if error.is_about_a_port() => {
            say(format!("{}\n(the demo takes free ports instead)\n", causes(&error)));
            config.outbound.listen = Listen::localhost(0);
            config.admin.listen = Listen::localhost(0);
            start(&config)
        }
        started => started,
    };
    started.map_err(|error| Failure::Running(causes(&error)))
}

fn settings(registry: SocketAddr) -> Config {
    let address = ConsulAddress { tls: false, host: registry.ip().to_string(), port: registry.port() };
    let policy = Policy { balance: Balance::Weighted, ..Policy::default() };
    let orders = Upstream {
        service: SERVICE.to_owned(),
        listen: None,
        tags: Vec::new(),
        datacenter: None,
        policy: policy.clone(),
    };
    Config {
        registry: Registry::Consul(ConsulSettings { address, ..ConsulSettings::default() }),
        defaults: policy,
        upstreams: vec![orders],
        ..Config::default()
    }
}

fn first(addrs: &[SocketAddr]) -> Result<SocketAddr, Failure> {
    addrs.first().copied().ok_or_else(|| Failure::running("the sidecar listens nowhere"))
}

fn introduce(app: &App, registry: SocketAddr, outbound: SocketAddr) {
    let admin = app.admin_addr().map_or_else(String::new, |addr| addr.to_string());
    say(format!(
        "A registry in memory at http://{registry}, a sidecar at http://{outbound} (admin: http://{admin}), and four\n\
         instances of '{SERVICE}', one of weight 3. An app sends GETs with 'Host: {SERVICE}' to the sidecar.\n"
    ));
}

/// What to try: against this demo while it stays up, else against the next one.
fn next(app: &App, outbound: SocketAddr, stay: bool) {
    let (heading, port, admin) = if stay {
        let admin = app.admin_addr().map_or(0, |addr| addr.port());
        ("All of it stays up until Ctrl-C. Try, in another terminal:", outbound.port(), admin)
    } else {
        let usual = Config::default();
        let (port, admin) = (usual.outbound.listen.port, usual.admin.listen.port);
        ("Try next: outrigger demo --stay, and then in another terminal:", port, admin)
    };
    say(format!(
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
    fn a_demo_is_long_enough_for_its_story() {
        assert_eq!(length("12s"), Ok(Duration::from_secs(12)));
        assert!(length("2s").unwrap_err().contains("3s"));
        assert!(length("soon").is_err());
    }

    #[test]
    fn the_service_is_declared_and_weighted() {
        let config = settings(SocketAddr::from((Ipv4Addr::LOCALHOST, 8500)));
        assert_eq!(config.upstreams[0].service, "orders");
        assert_eq!(config.upstreams[0].policy.balance, Balance::Weighted);
        assert_eq!(config.service, None);
    }
}
