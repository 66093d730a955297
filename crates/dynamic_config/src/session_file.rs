//! The sessions of the receipt, on disk: a process that was killed could not end its own, so the next one does.

use std::{
    io,
    path::{Path, PathBuf},
};

use outrigger_config::{file_name_part, read_own_file, replace_own_file};
use outrigger_registry::SessionId;
use tracing::debug;

/// Largest file that is read. An id has 36 bytes.
const MAX_BYTES: usize = 64 * 1024;

/// The file.
#[derive(Debug, Clone, Default)]
pub struct SessionFile(Option<PathBuf>);

impl SessionFile {
    /// No file: the next process waits for the end of the session.
    pub fn none() -> Self {
        Self::default()
    }

    /// The file `receipt-NAME.json` in `folder`, which is created when it is first written.
    pub fn at(folder: &Path, name: &str) -> Self {
        Self(Some(folder.join(format!("receipt-{}.json", file_name_part(name, 100)))))
    }

    /// The sessions that it has.
    pub(crate) async fn load(&self) -> Vec<SessionId> {
        let Some(path) = self.0.clone() else { return Vec::new() };
        let read = move || -> io::Result<Vec<String>> {
            Ok(serde_json::from_slice(&read_own_file(&path, MAX_BYTES)?.bytes)?)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(ids)) => ids.into_iter().map(SessionId::recorded).collect(),
            Ok(Err(error)) => {
                debug!(%error, "the session of an earlier receipt is not known");
                Vec::new()
            }
            // A runtime that stops runs no new task.
            Err(_) => Vec::new(),
        }
    }

    /// Replaces what it has.
    pub(crate) async fn save(&self, ids: &[SessionId]) {
        let Some(path) = self.0.clone() else { return };
        let ids: Vec<_> = ids.iter().map(|id| id.as_str().to_owned()).collect();
        let write = move || replace_own_file(&path, &serde_json::to_vec(&ids)?);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            debug!(%error, "the session of the receipt cannot be saved");
        }
    }
}
