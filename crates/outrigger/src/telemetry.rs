//! Log lines on stderr, and the metrics of the process as a whole.
//!
//! Each part registers its own metrics beside these; no metric is global.

use std::io::IsTerminal;

pub use outrigger_config::error_chain;
use outrigger_config::{Log, LogFormat};
use prometheus::register_int_gauge_vec_with_registry;
use tracing::warn;
use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, ParseError, Targets},
    reload,
    util::SubscriberInitExt,
};

use crate::{log_format, log_writer::LogWriter};

/// The version, as in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of the build, or `unknown`.
pub const COMMIT: &str = env!("OUTRIGGER_COMMIT");

/// Changes the log filter of the running process.
#[derive(Debug, Clone)]
pub struct LogControl {
    filter: reload::Handle<Targets, Registry>,
    lines: LogWriter,
}

impl LogControl {
    /// Sets the filter. A filter that does not parse changes nothing and is logged.
    pub fn set_level(&self, level: &str) {
        let Ok(filter) = parse_filter(level) else {
            return warn!(filter = level, "log.level is no valid filter, logging as before");
        };
        if let Err(error) = self.filter.reload(filter) {
            warn!(%error, "log.level could not be changed");
        }
    }

    /// Registers the count of lost lines.
    ///
    /// # Errors
    /// When the metric is registered there already.
    pub fn register_metrics(&self, metrics: &prometheus::Registry) -> Result<(), prometheus::Error> {
        metrics.register(Box::new(self.lines.lost_lines()))
    }
}

/// Starts to log to stderr. A second call in one process (tests) changes nothing and gives `None`.
pub fn init_logging(settings: &Log) -> Option<LogControl> {
    let (filter, wrong) = match parse_filter(&settings.level) {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(LevelFilter::INFO), Some(error)),
    };
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let to = LogWriter::stderr().ok()?;
    let (filter, handle) = reload::Layer::new(filter);
    log_format::subscriber(filter, json, std::io::stderr().is_terminal(), to.clone()).try_init().ok()?;
    if let Some(error) = wrong {
        warn!(filter = settings.level, %error, "log.level is no valid filter, logging at info");
    }
    Some(LogControl { filter: handle, lines: to })
}

/// The filter of `log.level`: levels, and levels of modules (`warn,outrigger_proxy=debug`). An empty one logs errors.
///
/// `Targets` instead of `EnvFilter`: no filter here names a field of a span, for which `EnvFilter` brings a regex engine.
fn parse_filter(level: &str) -> Result<Targets, ParseError> {
    let parts: Vec<&str> = level.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Ok(Targets::new().with_default(LevelFilter::ERROR));
    }
    parts.join(",").parse()
}

/// A metrics registry with the metrics of the process.
///
/// # Errors
/// Never in practice: when two metrics have one name.
pub fn new_metrics_registry() -> Result<prometheus::Registry, prometheus::Error> {
    let metrics = prometheus::Registry::new();
    let build = register_int_gauge_vec_with_registry!(
        "outrigger_build_info",
        "Version and commit of this process; always 1.",
        &["version", "commit"],
        metrics
    )?;
    build.with_label_values(&[VERSION, COMMIT]).set(1);
    #[cfg(target_os = "linux")]
    metrics.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn text(metrics: &prometheus::Registry) -> String {
        prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap()
    }

    #[test]
    fn the_metrics_show_version_and_commit() {
        let text = text(&new_metrics_registry().unwrap());
        let line = format!("outrigger_build_info{{commit=\"{COMMIT}\",version=\"{VERSION}\"}} 1");
        assert!(text.contains(&line), "{line} in\n{text}");
        assert!(!COMMIT.is_empty());
    }

    #[test]
    fn a_level_holds_for_every_module_that_has_none_of_its_own() {
        let shown = |level: &str| {
            let filter = parse_filter(level).unwrap();
            [("outrigger_proxy::request", Level::DEBUG), ("hyper", Level::INFO), ("hyper", Level::ERROR)]
                .map(|(target, level)| filter.would_enable(target, &level))
        };
        assert_eq!(shown("warn,outrigger_proxy=debug"), [true, false, true]);
        assert_eq!(shown(" INFO , outrigger_proxy=off,"), [false, true, true]);
        assert_eq!(shown("outrigger_proxy"), [true, false, false]);
        assert_eq!(shown("off"), [false; 3]);
        assert_eq!(shown(""), [false, false, true]);
        assert!(parse_filter("outrigger_proxy=loud").is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_metrics_are_registered() {
        let text = text(&new_metrics_registry().unwrap());
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"] {
            assert!(text.contains(name), "{name} in\n{text}");
        }
    }
}
