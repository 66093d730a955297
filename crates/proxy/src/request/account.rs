//! One request's account: begun with its head, closed once, by whichever door it leaves.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use http::{Method, StatusCode};
use outrigger_registry::InstanceId;
use tokio::time::Instant;
use tracing::info;

use crate::{
    metrics::ServiceSeries, reason::Reason, session::Session, upload::Upload, upstream::bulkhead::Slot,
};

/// Counted and logged when dropped. Without a status by then, the app went away.
#[derive(Debug)]
pub(crate) struct RequestAccount {
    session: Arc<Session>,
    pub(crate) started: Instant,
    /// Head accepted to response head.
    pub(crate) answered_at: Option<Instant>,
    /// The last byte of the answer, where somebody has read the clock for it.
    pub(crate) ended_at: Option<Instant>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) reason: Option<Reason>,
    pub(crate) attempts: u32,
    pub(crate) upload: Option<Upload>,
    /// Its place in the service's bulkhead, held to the end.
    pub(crate) slot: Option<Slot>,
    series: Option<Arc<ServiceSeries>>,
    log_entry: Option<Box<AccessLogEntry>>,
}

/// What only the access log needs.
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

    /// Whether some of the app's body has not been read.
    pub(crate) fn has_unread_body(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| !upload.ended())
    }

    /// The service is known now.
    pub(crate) fn set_service(&mut self, series: &Arc<ServiceSeries>, label: &Arc<str>) {
        series.in_flight.inc();
        self.series = Some(series.clone());
        if let Some(entry) = &mut self.log_entry {
            entry.service = Some(label.clone());
        }
    }

    /// Another instance is tried.
    pub(crate) fn set_instance(&mut self, id: &InstanceId) {
        if let Some(entry) = &mut self.log_entry {
            entry.instance = Some(id.clone());
        }
    }

    /// The app gets this status.
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

/// A path as a terminal may see it.
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
            // An instance that answered early must not keep the app's upload going.
            upload.stop();
            if !upload.ended() {
                self.session.unread_body.store(true, Relaxed);
            }
        }
        self.session.end();
    }
}
