//! What is counted of a connection, and its line in the access log.

use std::{net::SocketAddr, sync::Arc};

use outrigger_registry::InstanceId;
use tokio::time::Instant;
use tracing::{debug, info};

use super::route::TcpRoute;
use crate::{
    context::{ConnectionInfo, WorkerContext},
    metrics::{
        cells::{Block, ServiceCells},
        labels::TcpResult,
    },
    reason::{Reason, Refusal},
    request::app::to_millis,
    upstream::{
        cluster::{Cluster, ClusterSettings},
        endpoint::Endpoint,
    },
};

/// Counted and logged when dropped. Dropped before it is complete, it is of a connection that the stop of the sidecar ended, or a panic.
#[derive(Debug)]
pub(super) struct TcpAccount {
    worker: Arc<WorkerContext>,
    /// Of the service that the connection is counted for.
    settings: Arc<ClusterSettings>,
    service: Arc<str>,
    peer: SocketAddr,
    pub(super) started: Instant,
    connected_at: Option<Instant>,
    /// Attempts that were begun.
    pub(super) attempts: u32,
    /// Bytes that the instance and the app have taken.
    bytes: (u64, u64),
    result: Option<TcpResult>,
    refusal: Option<Refusal>,
    log_entry: Option<Box<TcpLogEntry>>,
}

/// Fields that only the access log needs.
#[derive(Debug, Default)]
struct TcpLogEntry {
    subset: Option<Arc<str>>,
    instance: Option<InstanceId>,
    failover: Option<Arc<str>>,
}

impl TcpAccount {
    /// Begins an account. `own`: the service of the listener. `is_logged`: the access log gets a line of the connection.
    pub(super) fn new(info: &ConnectionInfo, own: &Cluster, is_logged: bool) -> Self {
        let account = Self {
            worker: info.worker.clone(),
            settings: own.view.load().settings.clone(),
            service: own.label.clone(),
            peer: info.peer,
            started: Instant::now(),
            connected_at: None,
            attempts: 0,
            bytes: (0, 0),
            result: None,
            refusal: None,
            log_entry: is_logged.then(Box::default),
        };
        let worker = account.worker.cells();
        worker.inc(&worker.in_flight);
        let cells = account.cells();
        cells.inc(&cells.in_flight);
        account
    }

    fn cells(&self) -> &Block<ServiceCells> {
        self.settings.cells(self.worker.index)
    }

    /// Counts the connection for the service that its route leads to.
    pub(super) fn set_service(&mut self, route: &TcpRoute) {
        let cells = self.cells();
        cells.dec(&cells.in_flight);
        self.settings = route.settings.clone();
        self.service = route.cluster.label.clone();
        let cells = self.cells();
        cells.inc(&cells.in_flight);
        if let Some(entry) = &mut self.log_entry {
            entry.subset = route.subset().map(|subset| subset.name().clone()).filter(|name| !name.is_empty());
        }
    }

    /// Counts an attempt at an endpoint.
    pub(super) fn count_attempt(&mut self, route: &TcpRoute, endpoint: &Endpoint) {
        self.attempts += 1;
        if let Some(entry) = &mut self.log_entry {
            entry.instance = Some(endpoint.id.clone());
            entry.failover = route.target_of(endpoint).map(|_| endpoint.service.clone());
        }
    }

    /// The connection to the instance was made.
    pub(super) fn set_connected(&mut self, now: Instant) {
        self.connected_at = Some(now);
        let cells = self.cells();
        cells.inc(&cells.tcp_open);
    }

    /// Notes how many bytes the instance and the app have taken so far.
    pub(super) fn note_bytes(&mut self, to_instance: u64, to_app: u64) {
        let (up, down) = (to_instance - self.bytes.0, to_app - self.bytes.1);
        if up + down > 0 {
            self.bytes = (to_instance, to_app);
            self.cells().record_tcp_bytes(up, down);
        }
    }

    /// The connection has ended by itself.
    pub(super) fn complete(&mut self, result: TcpResult) {
        self.result = Some(result);
    }

    /// There is no connection to an instance.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.result = Some(TcpResult::Refused);
        self.refusal = Some(refusal);
    }

    fn log(&self, entry: &TcpLogEntry, result: TcpResult, reason: Option<Reason>, now: Instant) {
        let instance = entry.instance.as_ref();
        info!(
            target: "outrigger::access",
            peer = %self.peer,
            service = &*self.service,
            subset = entry.subset.as_deref().unwrap_or("-"),
            instance = instance.map_or("-", |id| &id.id),
            failover = entry.failover.as_deref().unwrap_or("-"),
            node = instance.map_or("-", |id| &id.node),
            result = result.label(),
            reason = reason.map_or("-", Reason::label),
            detail = self.refusal.as_ref().map_or("-", |refusal| &refusal.detail),
            attempts = self.attempts,
            bytes_to_instance = self.bytes.0,
            bytes_to_app = self.bytes.1,
            connect_ms = self.connected_at.map_or(0.0, |at| to_millis(at - self.started)),
            total_ms = to_millis(now - self.started),
            "connection"
        );
    }
}

impl Drop for TcpAccount {
    fn drop(&mut self) {
        let now = Instant::now();
        let (result, reason) = match (self.result, &self.refusal) {
            (Some(result), refusal) => (result, refusal.as_ref().map(|refusal| refusal.reason)),
            (None, _) if std::thread::panicking() => (TcpResult::Broken, Some(Reason::Internal)),
            (None, _) => (TcpResult::Drained, Some(Reason::Drained)),
        };
        let cells = self.cells();
        cells.record_tcp_end(result, now - self.started);
        if let Some(reason) = reason {
            cells.record_error(reason);
        }
        if self.connected_at.is_some() {
            cells.dec(&cells.tcp_open);
        }
        cells.dec(&cells.in_flight);
        let worker = self.worker.cells();
        worker.dec(&worker.in_flight);
        match (&self.log_entry, &self.refusal) {
            (Some(entry), _) => self.log(entry, result, reason, now),
            (None, Some(Refusal { reason, detail, .. })) => {
                debug!(peer = %self.peer, service = &*self.service, reason = reason.label(), detail, "connection refused");
            }
            (None, None) => {}
        }
    }
}
