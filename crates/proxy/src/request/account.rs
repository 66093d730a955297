//! The account of one request, from its head to its end: it is counted and logged once, however it ends.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use http::{Method, StatusCode};
use outrigger_registry::InstanceId;
use tokio::time::Instant;
use tracing::info;

use crate::{
    metrics::ServiceSeries, reason::Reason, session::Session, upload::Upload, upstream::bulkhead::Slot,
};

/// Counted and logged when dropped. Without a status at that time, the app disconnected.
#[derive(Debug)]
pub(crate) struct RequestAccount {
    session: Arc<Session>,
    pub(crate) started: Instant,
    /// When the response head was ready.
    pub(crate) answered_at: Option<Instant>,
    /// When the last byte of the response was passed on; `None`: when the account is dropped.
    pub(crate) ended_at: Option<Instant>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) reason: Option<Reason>,
    pub(crate) attempts: u32,
    pub(crate) upload: Option<Upload>,
    /// The place in the service's bulkhead, held to the end.
    pub(crate) slot: Option<Slot>,
    series: Option<Arc<ServiceSeries>>,
    log_entry: Option<Box<AccessLogEntry>>,
}

/// Fields that only the access log needs.
#[derive(Debug)]
struct AccessLogEntry {
    method: Method,
    path: String,
    service: Option<Arc<str>>,
    instance: Option<InstanceId>,
}

impl RequestAccount {
    pub(crate) fn new(session: &Arc<Session>, started: Instant, method: &Method, path: &str) -> Self {
        session.begin();
        let entry = session.listener.settings.load().access_log.then(|| {
            Box::new(AccessLogEntry {
                method: method.clone(),
                path: escape_path(path),
                service: None,
                instance: None,
            })
        });
        Self {
            session: session.clone(),
            started,
            answered_at: None,
            ended_at: None,
            status: None,
            reason: None,
            attempts: 0,
            upload: None,
            slot: None,
            series: None,
            log_entry: entry,
        }
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Whether a part of the app's body has not been read.
    pub(crate) fn has_unread_body(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| !upload.ended())
    }

    /// Begins to count the request for its service.
    pub(crate) fn set_service(&mut self, series: &Arc<ServiceSeries>, label: &Arc<str>) {
        series.in_flight.inc();
        self.series = Some(series.clone());
        if let Some(entry) = &mut self.log_entry {
            entry.service = Some(label.clone());
        }
    }

    pub(crate) fn set_instance(&mut self, id: &InstanceId) {
        if let Some(entry) = &mut self.log_entry {
            entry.instance = Some(id.clone());
        }
    }

    /// Records the response to the app, and when its head was ready.
    pub(crate) fn record_answer(&mut self, status: StatusCode, reason: Option<Reason>) {
        self.answered_at.get_or_insert_with(Instant::now);
        self.status = Some(status);
        self.reason = reason;
    }

    fn log(&self, entry: &AccessLogEntry, status: StatusCode, reason: Option<Reason>, now: Instant) {
        info!(
            target: "outrigger::access",
            method = %entry.method,
            path = %entry.path,
            service = entry.service.as_deref().unwrap_or("-"),
            instance = entry.instance.as_ref().map_or("-", |id| &id.id),
            status = status.as_u16(),
            reason = reason.map_or("-", Reason::label),
            attempts = self.attempts,
            head_ms = self.answered_at.map_or(0.0, |at| to_millis(at - self.started)),
            total_ms = to_millis(now - self.started),
            "request"
        );
    }
}

/// The path with control characters escaped, because logs are shown in terminals.
fn escape_path(path: &str) -> String {
    if path.bytes().all(|byte| byte.is_ascii_graphic()) {
        path.to_owned()
    } else {
        path.escape_default().to_string()
    }
}

fn to_millis(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Drop for RequestAccount {
    fn drop(&mut self) {
        let now = self.ended_at.unwrap_or_else(Instant::now);
        let gone = self.status.is_none();
        if gone && self.reason.is_none() {
            self.reason = Some(Reason::ClientGone);
        }
        let status = self.status.unwrap_or(Reason::ClientGone.status());
        if let Some(series) = &self.series {
            series.record_answer(status);
            if let Some(reason) = self.reason {
                series.record_error(reason);
            }
            series.duration.observe(now.saturating_duration_since(self.started).as_secs_f64());
            series.in_flight.dec();
        } else if let Some(reason) = self.reason {
            self.session.shared.metrics.record_refusal(reason);
        }
        if let Some(entry) = &self.log_entry {
            self.log(entry, status, self.reason, now);
        }
        if let Some(upload) = &self.upload {
            // After an early response, the upload of the app must not go on.
            upload.stop();
            if !upload.ended() {
                self.session.unread_body.store(true, Relaxed);
            }
        }
        self.session.end();
    }
}
