//! `outrigger run`: one sidecar, from its settings to its exit.

use clap::Args;
use outrigger_config::{Config, Environment, Loaded, Probe};
use tracing::{info, warn};

use super::{Failure, on_runtime, settings::Settings};
use crate::{
    App,
    app::workers,
    registry,
    signal::Signals,
    telemetry::{self, COMMIT, VERSION, causes},
};

/// Register the local app and carry its requests, until SIGTERM or Ctrl-C
#[derive(Debug, Args)]
#[command(
    long_about = "Register the local app and carry its requests, until SIGTERM or Ctrl-C.\n\nThen it leaves in \
                  order: readiness fails, the registry is told, outbound goes on until callers have heard, \
                  listeners close, requests in flight end. A second signal exits at once, with code 1.",
    after_help = "Example:\n  outrigger run --service orders --port 8080      no file needed\n  \
                  outrigger run -c outrigger.yaml --log debug     flags win over the file\n  \
                  outrigger run                                   only carries requests, registers nothing"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let loaded = arguments.settings.load(&Environment::of_process())?;
    telemetry::log(&loaded.config.log);
    for warning in &loaded.warnings {
        warn!(%warning, "settings");
    }
    on_runtime(live(loaded))
}

async fn live(Loaded { config, origins, .. }: Loaded) -> Result<(), Failure> {
    let mut signals =
        Signals::listen().map_err(|error| Failure::running(format!("listen to signals: {error}")))?;
    info!(version = VERSION, commit = COMMIT, "outrigger starts");
    let threads = workers(config.workers);
    let app =
        App::start(config.clone(), &origins, threads).map_err(|error| Failure::running(causes(&error)))?;
    announce(&app, &config);

    let signal = signals.next().await;
    info!(signal, "leaving; a second signal exits at once");
    tokio::select! {
        stopped = app.shutdown() => {
            info!(aborted = stopped.aborted, "gone");
            Ok(())
        }
        signal = signals.next() => {
            warn!(signal, "exiting at once, requests in flight are cut off");
            // At once: no thread is waited for.
            std::process::exit(1)
        }
    }
}

/// One line per fact that somebody who starts it wants to know.
fn announce(app: &App, config: &Config) {
    for addr in app.outbound_addrs() {
        info!(%addr, "carrying requests");
    }
    for (service, addr) in app.upstream_addrs() {
        info!(service, %addr, "carrying requests to one service");
    }
    for addr in app.admin_addrs() {
        info!(%addr, "admin side: /metrics /healthz /readyz /services /config /drain");
    }
    for addr in app.metrics_addrs() {
        info!(%addr, "metrics and health for the network");
    }
    info!(at = registry::place(&config.registry), "registry");
    match &config.service {
        Some(service) => {
            let probe = match &service.health.probe {
                Probe::Tcp => "tcp".to_owned(),
                Probe::Http(path) => format!("GET {path}"),
            };
            if matches!(config.registry, outrigger_config::Registry::File(_)) {
                warn!(service = service.name, "nothing is registered in a file of static instances");
            } else {
                info!(
                    service = service.name,
                    port = service.port,
                    probe,
                    id = app.registration().id,
                    "the app is registered once it is healthy"
                );
            }
        }
        None => info!("no service is configured: nothing is registered"),
    }
}
