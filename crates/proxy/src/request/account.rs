//! The account of one request, from its head to its end: it is counted and logged once, however it ends.

use std::sync::Arc;

use outrigger_http1::Head;
use outrigger_registry::InstanceId;
use tokio::time::Instant;
use tracing::info;

use crate::{
    metrics::cells::{Block, ServiceCells, WorkerCells},
    reason::Reason,
    upstream::bulkhead::Slot,
};

/// Counted and logged when dropped. Without a status at that time, the app disconnected.
#[derive(Debug)]
pub(crate) struct RequestAccount<'r> {
    worker_cells: &'r Block<WorkerCells>,
    /// When the head was accepted.
    pub(crate) started: Instant,
    /// When the response head was ready.
    pub(crate) answered_at: Option<Instant>,
    /// When the last byte of the response was passed on; `None`: when the account is dropped.
    pub(crate) ended_at: Option<Instant>,
    /// The status that the app got.
    pub(crate) status: Option<u16>,
    /// Why the sidecar answered itself, or why the response ended early.
    pub(crate) reason: Option<Reason>,
    /// Attempts that were begun.
    pub(crate) attempts: u32,
    /// The place in the service's bulkhead, held to the end.
    pub(crate) slot: Option<Slot>,
    /// The worker's cells of the service.
    service_cells: Option<&'r Block<ServiceCells>>,
    log_entry: Option<Box<AccessLogEntry>>,
}

/// Fields that only the access log needs.
#[derive(Debug)]
struct AccessLogEntry {
    method: String,
    path: String,
    service: Option<Arc<str>>,
    instance: Option<InstanceId>,
}

impl<'r> RequestAccount<'r> {
    /// Begins an account. `is_logged`: the access log gets an entry of the request.
    pub(crate) fn new(
        worker_cells: &'r Block<WorkerCells>,
        is_logged: bool,
        started: Instant,
        head: &Head,
    ) -> Self {
        worker_cells.inc(&worker_cells.in_flight);
        let entry = is_logged.then(|| {
            let target = head.target();
            let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
            Box::new(AccessLogEntry {
                // Control characters are escaped, because logs are shown in terminals.
                method: head.method().escape_ascii().to_string(),
                path: target[..end].escape_ascii().to_string(),
                service: None,
                instance: None,
            })
        });
        Self {
            worker_cells,
            started,
            answered_at: None,
            ended_at: None,
            status: None,
            reason: None,
            attempts: 0,
            slot: None,
            service_cells: None,
            log_entry: entry,
        }
    }

    /// Begins to count the request for its service.
    pub(crate) fn set_service(&mut self, cells: &'r Block<ServiceCells>, label: &Arc<str>) {
        cells.inc(&cells.in_flight);
        self.service_cells = Some(cells);
        if let Some(entry) = &mut self.log_entry {
            entry.service = Some(label.clone());
        }
    }

    /// Notes the instance of the attempt, for the access log.
    pub(crate) fn set_instance(&mut self, id: &InstanceId) {
        if let Some(entry) = &mut self.log_entry {
            entry.instance = Some(id.clone());
        }
    }

    /// Records the response to the app, and when its head was ready.
    pub(crate) fn record_answer(&mut self, status: u16, reason: Option<Reason>, now: Instant) {
        self.answered_at.get_or_insert(now);
        self.status = Some(status);
        self.reason = reason;
    }

    fn log(&self, entry: &AccessLogEntry, status: u16, reason: Option<Reason>, now: Instant) {
        info!(
            target: "outrigger::access",
            method = %entry.method,
            path = %entry.path,
            service = entry.service.as_deref().unwrap_or("-"),
            instance = entry.instance.as_ref().map_or("-", |id| &id.id),
            status,
            reason = reason.map_or("-", Reason::label),
            attempts = self.attempts,
            head_ms = self.answered_at.map_or(0.0, |at| to_millis(at - self.started)),
            total_ms = to_millis(now - self.started),
            "request"
        );
    }
}

fn to_millis(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Drop for RequestAccount<'_> {
    fn drop(&mut self) {
        let now = self.ended_at.unwrap_or_else(Instant::now);
        if self.status.is_none() && self.reason.is_none() {
            self.reason = Some(Reason::ClientGone);
        }
        let status = self.status.unwrap_or_else(|| Reason::ClientGone.status());
        if let Some(cells) = self.service_cells {
            cells.record_answer(status);
            if let Some(reason) = self.reason {
                cells.record_error(reason);
            }
            cells.record_duration(now.saturating_duration_since(self.started));
            cells.dec(&cells.in_flight);
        } else if let Some(reason) = self.reason {
            self.worker_cells.record_refusal(reason);
        }
        if let Some(entry) = &self.log_entry {
            self.log(entry, status, self.reason, now);
        }
        self.worker_cells.dec(&self.worker_cells.in_flight);
    }
}
