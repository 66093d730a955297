//! What the process says of itself: log lines on stderr, and the metrics that belong to no part of it.
//!
//! | metric | labels | what it says |
//! |---|---|---|
//! | `outrigger_build_info` | `version`, `commit` | always 1 |
//! | `process_*` | – | CPU, memory, open files, threads |
//!
//! Each part registers its own metrics beside these; nothing here is global.

use std::io::IsTerminal;

pub use outrigger_config::error_chain;
use outrigger_config::{Log, LogFormat};
use prometheus::{IntGaugeVec, Opts};
use tracing::warn;
use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::log_writer::LogWriter;

/// This version, as in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from; `unknown` where the build could not tell.
pub const COMMIT: &str = env!("OUTRIGGER_COMMIT");

/// Changes what is logged, while it is.
#[derive(Debug, Clone)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    lines: LogWriter,
}

impl LogControl {
    /// Logs what this filter lets through from now on.
    pub fn set_level(&self, level: &str) {
        let Ok(filter) = EnvFilter::try_new(level) else {
            return warn!(filter = level, "log.level is no filter, logging as before");
        };
        if let Err(error) = self.filter.reload(filter) {
            warn!(%error, "log.level could not be changed");
        }
    }

    /// Registers how many lines were lost.
    ///
    /// # Errors
    /// When they are registered there already.
    pub fn register_metrics(&self, metrics: &prometheus::Registry) -> Result<(), prometheus::Error> {
        metrics.register(Box::new(self.lines.lost_lines()))
    }
}

/// Starts to log to stderr. A second call in one process (tests) changes nothing: `None`.
pub fn init_logging(settings: &Log) -> Option<LogControl> {
    let (filter, wrong) = match EnvFilter::try_new(&settings.level) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let to = LogWriter::stderr().ok()?;
    let lines = fmt::layer().with_writer(to.clone());
    let (filter, handle) = reload::Layer::new(filter);
    let subscriber = tracing_subscriber::registry().with(filter);
    let started = if json {
        subscriber.with(lines.json().flatten_event(true)).try_init()
    } else {
        subscriber.with(lines.with_target(false).with_ansi(std::io::stderr().is_terminal())).try_init()
    };
    started.ok()?;
    if let Some(error) = wrong {
        warn!(filter = settings.level, %error, "log.level is no filter, logging at info");
    }
    Some(LogControl { filter: handle, lines: to })
}

/// Seconds since 1970: for people, and for metrics that are moments.
#[allow(clippy::disallowed_methods, reason = "the one place where this crate reads the wall clock")]
pub(crate) fn unix_time() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// A metrics registry with what every process has.
///
/// # Errors
/// Never in practice: when two metrics have one name.
pub fn new_metrics_registry() -> Result<prometheus::Registry, prometheus::Error> {
    let metrics = prometheus::Registry::new();
    let build = IntGaugeVec::new(
        Opts::new("outrigger_build_info", "Version and commit of this process; always 1."),
        &["version", "commit"],
    )?;
    build.with_label_values(&[VERSION, COMMIT]).set(1);
    metrics.register(Box::new(build))?;
    #[cfg(target_os = "linux")]
    metrics.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &prometheus::Registry) -> String {
        prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap()
    }

    #[test]
    fn every_process_says_what_it_was_built_from() {
        let text = text(&new_metrics_registry().unwrap());
        let line = format!("outrigger_build_info{{commit=\"{COMMIT}\",version=\"{VERSION}\"}} 1");
        assert!(text.contains(&line), "{line} in\n{text}");
        assert!(!COMMIT.is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn process_metrics_are_there() {
        let text = text(&new_metrics_registry().unwrap());
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"] {
            assert!(text.contains(name), "{name} in\n{text}");
        }
    }
}
