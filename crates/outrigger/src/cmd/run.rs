//! `outrigger run`: one sidecar, from its settings to its exit; with `-- app` the app's life, too.

use std::{convert::Infallible, ffi::OsString, io, process::ExitCode};

use clap::Args;
use outrigger_config::{AwaitApp, Config, Environment, LoadedConfig, Origins, Probe};
use outrigger_proxy::Workers;
use tracing::{error, info, warn};

use super::{Failure, on_runtime, settings::Settings};
use crate::{
    App, StartError,
    app::workers,
    child::{self, Supervised},
    registry,
    reload::Source,
    signal::{Hangup, Signals},
    telemetry::{self, COMMIT, Logs, VERSION, causes},
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
pub(super) struct Arguments {
    #[command(flatten)]
    settings: Settings,
    /// The app to start, and its arguments. Default: somebody else starts it.
    #[arg(last = true, value_name = "APP")]
    app: Vec<OsString>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let environment = Environment::from_process();
    let loaded = arguments.settings.load(&environment)?;
    let logs = telemetry::log(&loaded.config.log);
    for warning in &loaded.warnings {
        warn!(%warning, "settings");
    }
    let from = From { loaded, source: arguments.settings.source(&environment), logs };
    if arguments.app.is_empty() {
        on_runtime(beside(from)).map(|()| ExitCode::SUCCESS)
    } else {
        on_runtime(around(from, &arguments.app))
    }
}

/// What a sidecar is started from, and where a reload reads it again.
struct From {
    loaded: LoadedConfig,
    source: Option<Source>,
    logs: Option<Logs>,
}

impl From {
    fn start(
        self,
        start: impl FnOnce(Config, &Origins, Workers) -> Result<App, StartError>,
    ) -> Result<App, Failure> {
        info!(version = VERSION, commit = COMMIT, "outrigger starts");
        let LoadedConfig { config, origins, .. } = self.loaded;
        let threads = workers(config.workers);
        let app =
            start(config.clone(), &origins, threads).map_err(|error| Failure::running(causes(&error)))?;
        if let Some(logs) = &self.logs {
            logs.observe(app.metrics()).map_err(|error| Failure::running(causes(&error)))?;
        }
        if let Some(source) = self.source {
            app.reload_from(source, self.logs);
        }
        announce(&app, &config);
        Ok(app)
    }
}

/// Beside an app that somebody else starts.
async fn beside(from: From) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(no_signals)?;
    let mut hangup = Hangup::listen().map_err(no_signals)?;
    let app = from.start(App::start)?;

    let signal = tokio::select! {
        signal = signals.next() => signal,
        never = reloads(&app, &mut hangup) => match never {},
    };
    info!(signal, "leaving; a second signal exits at once");
    let leave = async {
        app.drain().await;
        // Ctrl-C is a person, who waits for nothing but this.
        if signal == "SIGTERM" && awaits_app(app.config().drain.await_app) {
            app.app_closed().await;
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
async fn reloads(app: &App, hangup: &mut Hangup) -> Infallible {
    loop {
        hangup.next().await;
        info!(signal = "SIGHUP", "asked to reload");
        let _ = app.reload().await;
    }
}

fn no_signals(error: io::Error) -> Failure {
    Failure::running(format!("listen to signals: {error}"))
}

/// `auto`: as process 1 it has a container of its own, and the app's is being stopped like it.
fn awaits_app(setting: AwaitApp) -> bool {
    match setting {
        AwaitApp::On => true,
        AwaitApp::Off => false,
        AwaitApp::Auto => std::process::id() == 1,
    }
}

/// Around an app of its own: started after the sidecar, ended before it.
async fn around(from: From, command: &[OsString]) -> Result<ExitCode, Failure> {
    let app = from.start(App::start_first)?;
    let ended = child::supervise(&app, command).await.map_err(no_signals)?;
    app.hurry();
    let code = match ended {
        Supervised::Ended(code) => code,
        Supervised::NotStarted(error) => {
            error!(error = causes(&error), "the app could not be started");
            error.exit_code()
        }
    };
    // Only now: it hears nothing of the signals before.
    let mut signals = Signals::listen().map_err(no_signals)?;
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
fn announce(app: &App, config: &Config) {
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
