//! Every metric of the data path: `cells` holds what requests count, `families` sums it for a scrape; `collector` has what is
//! read from the clusters. docs/metrics.md lists the metrics with their labels.
//!
//! A cluster gets the cells of its service when it is made, so that a request looks none up. The series of a
//! service are shared, because the service may return while requests of its earlier cluster are in flight;
//! the last holder removes them. Service names that never had an instance share the label `(unknown)`.

pub(crate) mod cells;
pub(crate) mod collector;
pub(crate) mod families;
pub(crate) mod labels;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use prometheus::{GaugeVec, Opts};

use crate::reason::Reason;
use cells::{PerWorker, ServiceCells, WorkerCells};
use labels::HedgeResult;

/// The label of service names that never had an instance.
const UNKNOWN_SERVICE: &str = "(unknown)";

/// The metrics that requests count.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) workers: PerWorker<WorkerCells>,
    threads: usize,
    lag: GaugeVec,
    /// The holders of each service's series.
    services: Mutex<HashMap<String, Weak<ServiceSeries>>>,
}

impl Metrics {
    /// For workers on `threads` threads of their own, or with 0 for one on the caller's runtime.
    ///
    /// # Errors
    /// When the name of a metric is invalid.
    pub(crate) fn new(threads: usize) -> Result<Arc<Self>, prometheus::Error> {
        let lag = GaugeVec::new(
            Opts::new("outrigger_worker_lag_seconds", "Seconds by which the worker's last tick was late."),
            &["worker"],
        )?;
        let workers = PerWorker::new(threads);
        Ok(Arc::new(Self { workers, threads, lag, services: Mutex::default() }))
    }

    /// The series of a service; `None`: those of the names that never had an instance.
    pub(crate) fn service_series(self: &Arc<Self>, service: Option<&str>) -> Arc<ServiceSeries> {
        let name = service.unwrap_or(UNKNOWN_SERVICE);
        let mut services = self.services.lock();
        if let Some(shared) = services.get(name).and_then(Weak::upgrade) {
            return shared;
        }
        let cells = PerWorker::new(self.threads);
        let made = Arc::new(ServiceSeries { name: name.to_owned(), owner: self.clone(), cells });
        services.insert(name.to_owned(), Arc::downgrade(&made));
        made
    }

    /// The series of every service. The lock is released before one is dropped: its last holder takes it.
    fn services(&self) -> Vec<Arc<ServiceSeries>> {
        self.services.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// The gauge of how late a worker's tick was, in seconds.
    pub(crate) fn worker_lag(&self, worker: usize) -> prometheus::Gauge {
        self.lag.with_label_values(&[&worker.to_string()])
    }
}

/// The series of one service, until its last holder is dropped.
#[derive(Debug)]
pub(crate) struct ServiceSeries {
    name: String,
    owner: Arc<Metrics>,
    pub(crate) cells: PerWorker<ServiceCells>,
}

impl ServiceSeries {
    /// Responses, retries and failed requests, for the status page.
    pub(crate) fn totals(&self) -> (u64, u64, u64) {
        let responses = self.cells.codes().into_iter().map(|(_, count)| count).sum();
        // A disconnect of the app is not a failed request.
        let failures = Reason::ALL.into_iter().filter(|reason| *reason != Reason::ClientGone);
        let failures = failures.map(|reason| self.errors(reason)).sum();
        (responses, self.cells.sum(|cells| &cells.retried), failures)
    }

    /// Requests that were sent to a second instance too, because the first one was stalled.
    pub(crate) fn beside_stalled(&self) -> u64 {
        let made = [HedgeResult::Won, HedgeResult::Lost, HedgeResult::Failed];
        made.into_iter().map(|result| self.cells.sum(|cells| &cells.stalled[result as usize])).sum()
    }

    /// Requests and tunnels in flight.
    pub(crate) fn in_flight(&self) -> u64 {
        self.cells.sum(|cells| &cells.in_flight)
    }

    /// Whether a connection of a TCP listener was ever carried.
    pub(crate) fn has_tcp(&self) -> bool {
        let sum = |cell: fn(&ServiceCells) -> &cells::Cell| self.cells.sum(cell);
        sum(|cells| &cells.tcp_open) > 0
            || (0..labels::TcpResult::LABELS.len()).any(|at| self.cells.sum(|cells| &cells.tcp_ended[at]) > 0)
    }

    /// Requests that ended for `reason`.
    pub(crate) fn errors(&self, reason: Reason) -> u64 {
        self.cells.sum(|cells| &cells.errors[reason as usize])
    }
}

impl Drop for ServiceSeries {
    fn drop(&mut self) {
        // The name may have new holders.
        let mut services = self.owner.services.lock();
        if services.get(&self.name).is_some_and(|shared| shared.strong_count() == 0) {
            services.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests;
