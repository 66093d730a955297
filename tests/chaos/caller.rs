//! The binary under test, as a caller beside the app.

use std::{net::SocketAddr, time::Duration};

use outrigger_tests::{process::Process, scrape::Scrape, wait};
use tempfile::TempDir;
use tokio::time::Instant;

/// Longest wait until a table is confirmed again: the longest pause of a watch is 30 s.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(60);

/// A sidecar that only routes. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct CallerSidecar {
    /// The process.
    pub(crate) process: Process,
    _state: TempDir,
}

impl CallerSidecar {
    /// Starts a sidecar that asks the Consul agent at `consul` and calls `service`, with the defaults and `settings`
    /// (lines of YAML). Waits until it is ready.
    pub(crate) async fn start(consul: SocketAddr, service: &str, settings: &str) -> Self {
        let state = tempfile::Builder::new().prefix("chaos-state-").tempdir().expect("a directory");
        let process = Process::run(&format!(
            "registry: {{consul: {{address: \"http://{consul}\"}}}}\nstate_dir: {:?}\n\
             upstreams: [{{service: {service}}}]\n{settings}\n",
            state.path()
        ))
        .await;
        process.wait_ready().await;
        Self { process, _state: state }
    }

    /// Where the app sends its requests.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.process.outbound()
    }

    /// Its metrics now.
    pub(crate) async fn metrics(&self) -> Scrape {
        Scrape::parse(&self.process.admin_get("/metrics").await.text())
    }

    /// Retries so far.
    pub(crate) async fn retried(&self) -> f64 {
        self.metrics().await.sum("outrigger_retries_total", &[("why", "again")])
    }
}

/// Waits until the registry has confirmed the process's table after `since`.
pub(crate) async fn wait_confirmed(process: &Process, since: Instant) {
    wait::until("the table is confirmed again", CONFIRM_TIMEOUT, async || {
        let page = process.admin_get("/services").await.json();
        let watch = &page["services"][0]["registry"];
        let heard = watch["heard_ago_ms"].as_u64().unwrap_or(u64::MAX);
        watch["error"].is_null() && u128::from(heard) < since.elapsed().as_millis()
    })
    .await;
}
