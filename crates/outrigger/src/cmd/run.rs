//! `outrigger run`: one sidecar, from its settings to its exit; with `-- app` also the app process.

use std::{convert::Infallible, ffi::OsString, process::ExitCode};

use clap::Args;
use outrigger_config::{Config, Environment, LoadedConfig, Origins, Probe};
use outrigger_proxy::Workers;
use tokio::signal::unix::{self, SignalKind};
use tracing::{info, warn};

use super::{
    report::CommandError,
    runtime::{listen_for_termination, run_on_runtime, signal_error},
    settings::SettingsFlags,
};
use crate::{
    App, StartError,
    app::proxy_workers,
    process, registry,
    reload::ConfigSource,
    telemetry::{self, COMMIT, LogControl, VERSION, error_chain},
};

/// Register the local app and carry its requests, until SIGTERM or Ctrl-C
#[derive(Debug, Args)]
#[command(
    long_about = "Register the local app and carry its requests, until SIGTERM or Ctrl-C.\n\nThen it leaves in \
                  order: it stops being ready, deregisters the app, carries requests until callers have learned \
                  of it, closes the listeners and waits for the requests in flight. A second signal exits at \
                  once, with code 1. SIGHUP (or 'outrigger reload') reads the file again.\n\nWith -- APP it starts \
                  the app once it carries requests, stops the app when no caller calls it any more, carries the \
                  app's requests until the app has ended, and exits with the app's code (128 plus the number of \
                  a signal that ended it). TERM, INT and QUIT reach the app at that point; HUP, USR1, USR2, \
                  WINCH, ALRM, VTALRM, PROF, IO, PWR and STKFLT at once; real-time signals are ignored. As \
                  process 1 it collects orphans.",
    after_help = "Example:\n  outrigger run --service orders --port 8080      no file needed\n  \
                  outrigger run -c outrigger.yaml --log debug     flags win over the file\n  \
                  outrigger run                                   only carries requests, registers nothing\n  \
                  outrigger run --service orders --port 8080 -- ./orders --verbose"
)]
pub(super) struct RunArguments {
    #[command(flatten)]
    settings: SettingsFlags,
    /// The app to start, and its arguments. Default: the app is started by other means.
    #[arg(last = true, value_name = "APP")]
    app: Vec<OsString>,
}

pub(super) fn run(arguments: &RunArguments) -> Result<ExitCode, CommandError> {
    let environment = Environment::from_process();
    let loaded = arguments.settings.load(&environment)?;
    let logs = telemetry::init_logging(&loaded.config.log);
    for warning in &loaded.warnings {
        warn!(%warning, "settings");
    }
    let inputs = StartInputs { loaded, source: arguments.settings.config_source(&environment), logs };
    if arguments.app.is_empty() {
        run_on_runtime(run_without_app(inputs)).map(|()| ExitCode::SUCCESS)
    } else {
        run_on_runtime(run_with_app(inputs, &arguments.app))
    }
}

/// What a sidecar starts from, and where a reload reads it again.
struct StartInputs {
    loaded: LoadedConfig,
    source: Option<ConfigSource>,
    logs: Option<LogControl>,
}

impl StartInputs {
    async fn start(
        self,
        start: impl AsyncFnOnce(Config, &Origins, Workers) -> Result<App, StartError>,
    ) -> Result<App, CommandError> {
        info!(version = VERSION, commit = COMMIT, "outrigger starts");
        let LoadedConfig { config, origins, .. } = self.loaded;
        let threads = proxy_workers(config.workers);
        let app = start(config.clone(), &origins, threads)
            .await
            .map_err(|error| CommandError::running(error_chain(&error)))?;
        if let Some(logs) = &self.logs {
            logs.register_metrics(app.metrics())
                .map_err(|error| CommandError::running(error_chain(&error)))?;
        }
        if let Some(source) = self.source {
            app.set_reload_source(source, self.logs);
        }
        log_start(&app, &config);
        Ok(app)
    }
}

/// Runs a sidecar for an app that is started by other means.
async fn run_without_app(inputs: StartInputs) -> Result<(), CommandError> {
    let mut signals = listen_for_termination()?;
    // SIGHUP does not kill the process any more, not even when the terminal closes.
    let mut hangup = unix::signal(SignalKind::hangup()).map_err(signal_error)?;
    let app = inputs.start(App::start).await?;

    let signal = tokio::select! {
        signal = signals.next() => signal,
        never = reload_on_hangup(&app, &mut hangup) => match never {},
    };
    info!(signal, "leaving; a second signal exits at once");
    let leave = async {
        app.drain().await;
        // Not after Ctrl-C: the person at the terminal waits for this process alone.
        if signal == "SIGTERM" {
            app.app_done().await;
        }
        app.shutdown().await
    };
    tokio::select! {
        stopped = leave => {
            info!(aborted = stopped.aborted, "gone");
            Ok(())
        }
        signal = signals.next() => {
            warn!(signal, "exiting at once, requests in flight are cut off");
            // No wait for a thread.
            std::process::exit(1)
        }
    }
}

/// Reads the settings again at each SIGHUP. The reload logs its result.
async fn reload_on_hangup(app: &App, hangup: &mut unix::Signal) -> Infallible {
    while hangup.recv().await.is_some() {
        info!(signal = "SIGHUP", "reload requested");
        let _ = app.reload().await;
    }
    std::future::pending().await // unreachable while the runtime lives
}

/// Runs a sidecar and its app: the app starts after the sidecar and ends before it.
async fn run_with_app(inputs: StartInputs, command: &[OsString]) -> Result<ExitCode, CommandError> {
    // Before the start, so that no signal is lost meanwhile.
    let caught = process::CaughtSignals::catch().map_err(signal_error)?;
    let is_token_chosen = inputs.loaded.origins.is_set("app.consul_token");
    let app = inputs.start(App::start_before_app).await?;
    process::warn_of_inherited_token(&app.config(), is_token_chosen);
    let code = process::supervise(&app, command, caught).await;
    app.skip_waits();
    // Only now, so that a signal from before does not count.
    let mut signals = listen_for_termination()?;
    tokio::select! {
        stopped = app.shutdown() => info!(aborted = stopped.aborted, code, "gone"),
        signal = signals.next() => {
            warn!(signal, "exiting at once");
            std::process::exit(code.into())
        }
    }
    Ok(code.into())
}

/// Logs the addresses, the registry and the registration, one line each.
fn log_start(app: &App, config: &Config) {
    for addr in app.outbound_addrs() {
        info!(%addr, "carrying requests");
    }
    for (service, addr) in app.upstream_addrs() {
        info!(service, %addr, "carrying requests to one service");
    }
    for addr in app.admin_addrs() {
        info!(%addr, "admin side: /metrics /healthz /readyz /services /config /maintenance /reload /drain");
    }
    for addr in app.metrics_addrs() {
        info!(%addr, "metrics and health for the network");
    }
    info!(at = registry::location(&config.registry), "registry");
    match &config.service {
        Some(service) => {
            let probe = match &service.health.probe {
                Probe::Tcp => "tcp".to_owned(),
                Probe::Http(path) => format!("GET {path}"),
            };
            if matches!(config.registry, outrigger_config::Registry::File(_)) {
                warn!(
                    service = service.name,
                    "the app is not registered: the registry is a file of static instances"
                );
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
