//! `outrigger run`: one sidecar, from its settings to its exit; with `-- app` also the app process.

use std::{convert::Infallible, ffi::OsString, pin::pin, process::ExitCode};

use clap::Args;
use outrigger_config::{ApiListen, Config, Environment, LoadedConfig, Probe, ReachTest, Service};
use outrigger_events::{Event, EventKind};
use outrigger_net::{Inherited, format_host_port};
use tokio::signal::unix::{self, SignalKind};
use tracing::{debug, info, warn};

use super::{
    report::CommandError,
    runtime::{listen_for_termination, run_on_runtime, signal_error},
    settings::SettingsFlags,
};
use crate::{
    App, activation,
    app::{StartFrom, proxy_workers},
    config_files::MissingFiles,
    handover::{self, Endpoint, NoPlace, Place, Predecessor},
    network, process, registry,
    reload::ConfigSource,
    signal::TerminationSignals,
    telemetry::{self, COMMIT, LogControl, VERSION, error_chain},
};

/// Register the local app and carry its requests, until SIGTERM or Ctrl-C
#[derive(Debug, Args)]
#[command(
    long_about = "Register the local app and carry its requests, until SIGTERM or Ctrl-C.\n\nThen it leaves in \
                  order: it stops being ready, deregisters the app, carries requests until callers have learned \
                  of it, closes the listeners and waits for the requests in flight. Without -- APP a second \
                  signal exits at once, with code 1. SIGHUP (or 'outrigger reload') reads the file again.\n\nWith -- APP it starts \
                  the app once it carries requests, stops the app when no caller calls it any more, carries the \
                  app's requests until the app has ended, and exits with the app's code (128 plus the number of \
                  a signal that ended it). TERM, INT and QUIT reach the app at that point; HUP, USR1, USR2, \
                  WINCH, ALRM, VTALRM, PROF, IO, PWR and STKFLT at once; real-time signals are ignored. As \
                  process 1 it collects orphans.\n\nWhen its network namespace is dead (its interfaces were \
                  removed, and nothing answers for 10 s) it exits with code 75, to be started again.",
    after_help = "Example:\n  outrigger run --service orders --port 8080      no file needed\n  \
                  outrigger run -c outrigger.yaml --log debug     flags win over the file\n  \
                  outrigger run                                   only carries requests, registers nothing\n  \
                  outrigger run --service orders --port 8080 -- ./orders --verbose"
)]
pub(super) struct RunArguments {
    #[command(flatten)]
    settings: SettingsFlags,
    /// Take the place of the running sidecar of the same service and port (without a service: of the same outbound port), found in
    /// state_dir: its listening sockets are taken over, so that no connection is refused, and the app stays registered. Without a
    /// running one it is a usual start
    #[arg(long, conflicts_with = "app")]
    replace: bool,
    /// The app to start, and its arguments. Default: the app is started by other means.
    #[arg(last = true, value_name = "APP")]
    app: Vec<OsString>,
}

pub(super) fn run(arguments: &RunArguments) -> Result<ExitCode, CommandError> {
    // Before there is another thread.
    let given = activation::given_sockets().map_err(|error| CommandError::running(error_chain(&error)))?;
    if arguments.replace && given.is_some() {
        let why = "--replace: the listening sockets are those of a process manager (LISTEN_FDS), restart the sidecar instead";
        return Err(CommandError::Settings(format!("outrigger: {why}")));
    }
    let environment = Environment::from_process();
    let loaded = arguments.settings.load(&environment)?;
    let logs = telemetry::init_logging(&loaded.config.log);
    for warning in &loaded.warnings {
        warn!(%warning, "settings");
    }
    let inputs = StartInputs { loaded, source: arguments.settings.config_source(&environment), logs, given };
    if arguments.app.is_empty() {
        run_on_runtime(run_without_app(inputs, arguments.replace))
    } else {
        run_on_runtime(run_with_app(inputs, &arguments.app))
    }
}

/// What a sidecar starts from, and where a reload reads it again.
struct StartInputs {
    loaded: LoadedConfig,
    source: Option<ConfigSource>,
    logs: Option<LogControl>,
    /// The sockets of a process manager.
    given: Option<Inherited>,
}

impl StartInputs {
    /// A start with the sockets of a process manager, where there are some.
    fn start_from_given(&mut self, runs_app: bool) -> StartFrom {
        let inherited = self.given.take().unwrap_or_default();
        StartFrom { inherited, is_after_another: false, runs_app }
    }

    /// The app is not probed before it has started.
    async fn start(self, from: StartFrom) -> Result<App, CommandError> {
        info!(version = VERSION, commit = COMMIT, "outrigger starts");
        let config = self.loaded.config.clone();
        let threads = proxy_workers(config.workers);
        let app = App::start_from(self.loaded, threads, from)
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
async fn run_without_app(mut inputs: StartInputs, replace: bool) -> Result<ExitCode, CommandError> {
    let mut signals = listen_for_termination()?;
    // SIGHUP does not kill the process any more, not even when the terminal closes.
    let mut hangup = unix::signal(SignalKind::hangup()).map_err(signal_error)?;
    let place = Place::of(&inputs.loaded.config);
    let predecessor = if replace { ask_predecessor(&place, &inputs.loaded.config).await? } else { None };
    let (app, endpoint) = match predecessor {
        Some((inherited, predecessor)) => {
            let app = inputs.start(StartFrom { inherited, is_after_another: true, runs_app: false }).await?;
            let endpoint = tokio::select! {
                taken = predecessor.take_place(&app) => {
                    taken.map_err(|error| CommandError::running(error_chain(&error)))?
                }
                signal = signals.next() => {
                    return Err(CommandError::running(format!("{signal}: the earlier sidecar goes on")));
                }
            };
            (app, endpoint)
        }
        None => {
            let from = inputs.start_from_given(false);
            let app = inputs.start(from).await?;
            app.take_place();
            (app, None)
        }
    };
    let network = app.watch_network(true);
    let endpoint = endpoint.or_else(|| listen_for_successor(place));

    let signal = tokio::select! {
        signal = signals.next() => Some(signal),
        () = until_replaced(&app, endpoint) => None,
        () = network.dead() => {
            app.abandon().await;
            return Ok(network::EXIT_CODE.into());
        }
        missing = until_files_missing(&app) => {
            app.shutdown().await;
            return Err(CommandError::running(error_chain(&missing)));
        }
        never = reload_on_hangup(&app, &mut hangup) => match never {},
    };
    let Some(signal) = signal else { return finish_replaced(app, signals).await.map(|()| ExitCode::SUCCESS) };
    info!(signal, "leaving; a second signal exits at once");
    app.events().record(Event::new(EventKind::DrainRequested, signal));
    let leave = async {
        app.drain().await;
        // Not after Ctrl-C: the person at the terminal waits for this process alone.
        if signal == "SIGTERM" {
            let left = app.app_done().await;
            return app.shutdown_within(left).await;
        }
        app.shutdown().await
    };
    tokio::select! {
        stopped = leave => {
            info!(aborted = stopped.aborted, "gone");
            Ok(ExitCode::SUCCESS)
        }
        signal = signals.next() => {
            warn!(signal, "exiting at once, requests in flight are cut off");
            // No wait for a thread.
            std::process::exit(1)
        }
    }
}

/// The listening sockets of the running sidecar, where there is one.
async fn ask_predecessor(
    place: &Result<Place, NoPlace>,
    config: &Config,
) -> Result<Option<(Inherited, Predecessor)>, CommandError> {
    let place =
        place.as_ref().map_err(|error| CommandError::Settings(format!("outrigger: --replace: {error}")))?;
    let asked = handover::ask(place, config).await;
    let asked =
        asked.map_err(|error| CommandError::running(format!("--replace: {}", error_chain(&error))))?;
    if asked.is_none() {
        info!(at = %place.path().display(), "no sidecar runs whose place could be taken, starting without one");
    }
    Ok(asked)
}

/// Where a later `run --replace` finds this process.
fn listen_for_successor(place: Result<Place, NoPlace>) -> Option<Endpoint> {
    match place {
        Ok(place) => place
            .listen()
            .inspect_err(|error| {
                warn!(reason = error_chain(error), "run --replace will not find this sidecar")
            })
            .ok(),
        Err(reason) => {
            debug!(%reason, "run --replace will not find this sidecar");
            None
        }
    }
}

/// Resolves when another process has taken the place of this one.
async fn until_replaced(app: &App, endpoint: Option<Endpoint>) {
    match endpoint {
        Some(endpoint) => handover::until_taken_over(app, endpoint).await,
        None => std::future::pending().await,
    }
}

/// Ends after another process has taken the place of this one. A signal may be meant for that one.
async fn finish_replaced(app: App, mut signals: TerminationSignals) -> Result<(), CommandError> {
    let mut finish = pin!(app.finish_handed_over());
    let mut is_told = false;
    loop {
        tokio::select! {
            stopped = &mut finish => {
                info!(aborted = stopped.aborted, "gone");
                return Ok(());
            }
            signal = signals.next() => {
                if std::mem::replace(&mut is_told, true) {
                    warn!(signal, "exiting at once, requests in flight are cut off");
                    std::process::exit(1)
                }
                info!(signal, "ending with the last request already; a second signal exits at once");
            }
        }
    }
}

/// Resolves when files that the app cannot start without are not written in time.
async fn until_files_missing(app: &App) -> MissingFiles {
    match app.files_written().await {
        Ok(()) => std::future::pending().await,
        Err(missing) => missing,
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
async fn run_with_app(mut inputs: StartInputs, command: &[OsString]) -> Result<ExitCode, CommandError> {
    // Before the start, so that no signal is lost meanwhile.
    let caught = process::CaughtSignals::catch().map_err(signal_error)?;
    let is_token_chosen = inputs.loaded.origins.is_set("app.consul_token");
    let from = inputs.start_from_given(true);
    let app = inputs.start(from).await?;
    // Its answers say nothing of the network.
    let network = app.watch_network(false);
    process::warn_of_inherited_token(&app.config(), is_token_chosen);
    let code = process::supervise(&app, command, caught, &network).await;
    if network.is_dead() {
        app.abandon().await;
        return Ok(code.into());
    }
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

/// Whether the registered address is tested.
fn describe_reach(service: &Service) -> String {
    match (service.health.reach, &service.address) {
        (ReachTest::Off, _) => "not tested: health.reach is off".to_owned(),
        (ReachTest::Warn | ReachTest::Require, None) => {
            "not tested: service.address is not set, so the agent's own address is registered".to_owned()
        }
        (policy @ (ReachTest::Warn | ReachTest::Require), Some(address)) => {
            format!("{} at {}", policy.as_str(), format_host_port(address, service.port))
        }
    }
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
        info!(%addr, "admin side: /metrics /healthz /readyz /services /config /events /locks /maintenance /reload /drain");
    }
    for addr in app.metrics_addrs() {
        info!(%addr, "metrics and health for the network");
    }
    for addr in app.dns_addrs() {
        info!(%addr, answer = config.dns.answer.as_str(), "answering the names of services by DNS");
    }
    let api = "API for the app: /v1/kv /v1/config /v1/locks /v1/leader";
    for addr in app.api_addrs() {
        info!(%addr, "{api}");
    }
    if let Some(ApiListen::Unix(path)) = &config.api.listen {
        info!(path = %path.display(), "{api}");
    }
    info!(at = registry::location(&config.registry), "registry");
    if config.services.is_empty() {
        info!("no service is configured: nothing is registered");
    }
    // One for each service, unless the registry is a file.
    let registrations = app.registrations();
    for (n, service) in config.services.iter().enumerate() {
        let probe = match &service.health.probe {
            Probe::Tcp => "tcp".to_owned(),
            Probe::Http(path) => format!("GET {path}"),
        };
        match registrations.get(n) {
            None => warn!(
                service = service.name,
                "the app is not registered: the registry is a file of static instances"
            ),
            Some(registration) => info!(
                service = service.name,
                port = service.port,
                probe,
                reach = describe_reach(service),
                id = registration.status.id,
                "the app is registered once it is healthy"
            ),
        }
    }
}
