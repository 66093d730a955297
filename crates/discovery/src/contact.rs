//! Whether the registry answers: what was found last.

use std::time::Instant;

use parking_lot::Mutex;

use crate::{Knowledge, RegistryContact, services::Services};

/// The last contact with the registry.
#[derive(Debug, Default)]
pub(crate) struct ContactState(Mutex<LastContact>);

#[derive(Debug, Default)]
struct LastContact {
    answered_at: Option<Instant>,
    error: Option<String>,
}

impl ContactState {
    pub(crate) fn current(&self, now: Instant) -> RegistryContact {
        let last = self.0.lock();
        RegistryContact {
            answered_ago: last.answered_at.map(|at| now.saturating_duration_since(at)),
            error: last.error.clone(),
        }
    }

    pub(crate) fn record_answer(&self, at: Instant) {
        *self.0.lock() = LastContact { answered_at: Some(at), error: None };
    }

    pub(crate) fn record_error(&self, error: String) {
        self.0.lock().error = Some(error);
    }

    /// Takes over what the watches have found.
    pub(crate) fn copy_from_watches(&self, services: &Services) {
        let rows = services.rows();
        let answered = rows.iter().filter(|row| row.service.snapshot().knowledge == Knowledge::Answered);
        let answered_at = answered.filter_map(|row| row.service.watch_health().confirmed_at).max();
        let error = rows.iter().find_map(|row| row.service.watch_health().error);
        let mut last = self.0.lock();
        last.answered_at = last.answered_at.max(answered_at);
        last.error = error;
    }
}
