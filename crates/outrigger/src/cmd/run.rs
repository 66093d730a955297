//! `outrigger run`: one sidecar, from its settings to its exit; with `-- app` the app's life, too.

use std::{convert::Infallible, ffi::OsString, process::ExitCode};

use clap::Args;
use outrigger_config::{AwaitApp, Config, Environment, LoadedConfig, Origins, Probe};
use outrigger_proxy::Workers;
use tracing::{error, info, warn};

use super::{
    report::CommandError,
    runtime::{listen_for_termination, run_on_runtime, signal_error},
    settings::SettingsFlags,
};
use crate::{
    App, StartError,
    app::proxy_workers,
    process::{self, AppExit},
    registry,
    reload::ConfigSource,
    signal::Hangup,
    telemetry::{self, COMMIT, LogControl, VERSION, error_chain},
};

/// Register the local app and carry its requests, until SIGTERM or Ctrl-C
#[derive(Debug, Args)]
#[command(
    long_about = "Register the local app and carry its requests, until SIGTERM or Ctrl-C.\n\nThen it leaves in \
                  order: readiness fails, the registry is told, outbound goes on until callers have heard, \
                  listeners close, requests in flight end. A second signal exits at once, with code 1. SIGHUP (or \
                  'outrigger reload') has the file read again.\n\nWith -- \
                  APP it starts the app once requests are carried, stops it when no caller calls it any more, \
                  keeps outbound open until it has ended, and exits with its code (128 and the signal, where \
                  one ended it). TERM, INT and QUIT reach the app in that order; HUP, USR1, USR2, WINCH, ALRM, \
                  VTALRM, PROF, IO, PWR and STKFLT at once; real-time signals are ignored. As process 1 it collects orphans.",
    after_help = "Example:\n  outrigger run --service orders --port 8080      no file needed\n  \
                  outrigger run -c outrigger.yaml --log debug     flags win over the file\n  \
                  outrigger run                                   only carries requests, registers nothing\n  \
                  outrigger run --service orders --port 8080 -- ./orders --verbose"
)]
pub(super) struct RunArguments {
    #[command(flatten)]
    settings: SettingsFlags,
    /// The app to start, and its arguments. Default: somebody else starts it.
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
    let from = StartInputs { loaded, source: arguments.settings.config_source(&environment), logs };
    if arguments.app.is_empty() {
        run_on_runtime(run_without_app(from)).map(|()| ExitCode::SUCCESS)
    } else {
        run_on_runtime(run_with_app(from, &arguments.app))
    }
}

/// What a sidecar is started from, and where a reload reads it again.
struct StartInputs {
    loaded: LoadedConfig,
    source: Option<ConfigSource>,
    logs: Option<LogControl>,
}

impl StartInputs {
    fn start(
        self,
        start: impl FnOnce(Config, &Origins, Workers) -> Result<App, StartError>,
    ) -> Result<App, CommandError> {
        info!(version = VERSION, commit = COMMIT, "outrigger starts");
        let LoadedConfig { config, origins, .. } = self.loaded;
        let threads = proxy_workers(config.workers);
        let app = start(config.clone(), &origins, threads)
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

/// Beside an app that somebody else starts.
async fn run_without_app(from: StartInputs) -> Result<(), CommandError> {
    let mut signals = listen_for_termination()?;
    let mut hangup = Hangup::listen().map_err(signal_error)?;
    let app = from.start(App::start)?;

    let signal = tokio::select! {
        signal = signals.next() => signal,
        never = reload_on_hangup(&app, &mut hangup) => match never {},
    };
    info!(signal, "leaving; a second signal exits at once");
    let leave = async {
        app.drain().await;
        // Ctrl-C is a person, who waits for nothing but this.
        if signal == "SIGTERM" && should_await_app(app.config().drain.await_app) {
            app.app_port_closed().await;
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
            // At once: no thread is waited for.
            std::process::exit(1)
        }
    }
}

/// Reads the settings again at each SIGHUP. What comes of it is logged.
async fn reload_on_hangup(app: &App, hangup: &mut Hangup) -> Infallible {
    loop {
        hangup.next().await;
        info!(signal = "SIGHUP", "asked to reload");
        let _ = app.reload().await;
    }
}

/// `auto`: as process 1 it has a container of its own, and the app's is being stopped like it.
fn should_await_app(setting: AwaitApp) -> bool {
    match setting {
        AwaitApp::On => true,
        AwaitApp::Off => false,
        AwaitApp::Auto => std::process::id() == 1,
    }
}

/// Around an app of its own: started after the sidecar, ended before it.
async fn run_with_app(from: StartInputs, command: &[OsString]) -> Result<ExitCode, CommandError> {
    let app = from.start(App::start_before_app)?;
    let ended = process::supervise(&app, command).await.map_err(signal_error)?;
    app.skip_waits();
    let code = match ended {
        AppExit::Code(code) => code,
        AppExit::SpawnFailed(error) => {
            error!(error = error_chain(&error), "the app could not be started");
            error.exit_code()
        }
    };
    // Only now: it hears nothing of the signals before.
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

/// One line per fact that somebody who starts it wants to know.
fn log_start(app: &App, config: &Config) {
    for addr in app.outbound_addrs() {
        info!(%addr, "carrying requests");
    }
    for (service, addr) in app.upstream_addrs() {
        info!(service, %addr, "carrying requests to one service");
    }
    for addr in app.admin_addrs() {
        info!(%addr, "admin side: /metrics /healthz /readyz /services /config /reload /drain");
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
