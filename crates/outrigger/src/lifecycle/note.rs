//! The reason of maintenance on disk, so that it outlives the process: one small file in `state_dir`, there
//! while the app is to be in maintenance. It knows no registry and no order; [`super::maintenance`] does.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::Mutex;
use tracing::warn;

/// Longest text that is read; a reason is shorter.
const MAX_BYTES: u64 = 4096;

/// Where it is written down; nowhere without a folder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Note(Option<Arc<Mutex<PathBuf>>>);

impl Note {
    /// The note of service `name` on `port`, in `folder`.
    pub(crate) fn new(folder: Option<&Path>, name: &str, port: u16) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = name.chars().map(plain).collect();
        Self(folder.map(|folder| Arc::new(Mutex::new(folder.join(format!("maintenance-{name}-{port}"))))))
    }

    /// What an earlier run left. Blocks: for the start.
    pub(crate) fn read(&self) -> Option<String> {
        let path = self.0.as_ref()?.try_lock().ok()?;
        match read(&path) {
            Ok(reason) => Some(reason),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(file = %path.display(), %error, "cannot read whether the app is in maintenance");
                None
            }
        }
    }

    /// Replaces it; `None` removes it. Asks for the reason when it is its turn: the last writer is right.
    pub(crate) async fn write(&self, reason: impl FnOnce() -> Option<String>) {
        let Some(note) = &self.0 else { return };
        let path = note.clone().lock_owned().await;
        let reason = reason();
        let written = tokio::task::spawn_blocking(move || {
            write(&path, reason.as_deref()).inspect_err(|error| {
                warn!(file = %path.display(), %error, "cannot write down maintenance, a restart will not know it");
            })
        });
        // Its failure was told; nothing else depends on it.
        let _ = written.await;
    }
}

fn read(path: &Path) -> io::Result<String> {
    // Looked at before it is opened: a FIFO would not open until somebody writes.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Whole or not at all.
fn write(path: &Path, reason: Option<&str>) -> io::Result<()> {
    let Some(reason) = reason else {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let temporary = path.with_extension("tmp");
    let _ = fs::remove_file(&temporary); // of a run that was cut off
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(reason.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_one_run_writes_down_the_next_one_reads_until_it_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let note = || Note::new(Some(&folder.path().join("not/there/yet")), "a/b", 8080);
        assert_eq!(note().read(), None);
        for reason in ["disk", "a new\ndisk"] {
            note().write(|| Some(reason.into())).await;
            assert_eq!(note().read().as_deref(), Some(reason));
        }
        note().write(|| None).await;
        note().write(|| None).await;
        assert_eq!(note().read(), None);
    }

    #[tokio::test]
    async fn without_a_folder_nothing_is_kept_and_nothing_fails() {
        let note = Note::new(None, "orders", 8080);
        note.write(|| Some("disk".into())).await;
        assert_eq!(note.read(), None);
    }

    #[test]
    fn what_is_no_plain_file_is_no_note_and_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("maintenance-orders-8080")).unwrap();
        assert_eq!(Note::new(Some(folder.path()), "orders", 8080).read(), None);
    }
}
