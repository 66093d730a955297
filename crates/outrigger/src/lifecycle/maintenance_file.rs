//! The reason of maintenance on disk, so that it outlives the process: one small file in `state_dir`, there
//! while the app is to be in maintenance. It knows no registry and no order; [`super::maintenance`] does.
//! It goes by the app's name and port, and moves when a reload gives the app others.

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

/// Where the note of service `name` on `port` is, in `folder`.
pub(crate) fn maintenance_path(folder: &Path, name: &str, port: u16) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    folder.join(format!("maintenance-{name}-{port}"))
}

/// Its one copy, shared.
#[derive(Debug, Clone, Default)]
pub(super) struct MaintenanceFile(Arc<Mutex<Option<PathBuf>>>);

impl MaintenanceFile {
    /// The note at this [`place`]. `None`: nothing is written down.
    pub(super) fn new(place: Option<PathBuf>) -> Self {
        Self(Arc::new(Mutex::new(place)))
    }

    /// What an earlier run left. Blocks: for the start.
    pub(super) fn read(&self) -> Option<String> {
        read_or_warn(self.0.try_lock().ok()?.as_deref()?)
    }

    /// Replaces it; `None` removes it. Asks for the reason when it is its turn: the last writer is right.
    pub(super) async fn write(&self, reason: impl FnOnce() -> Option<String>) {
        let place = self.0.clone().lock_owned().await;
        let reason = reason();
        let written = tokio::task::spawn_blocking(move || {
            if let Some(path) = &*place {
                write_or_warn(path, reason.as_deref());
            }
        });
        // Its failure was told; nothing else depends on it.
        let _ = written.await;
    }

    /// Goes on at another place, and leaves nothing at this one. `reason` hears what an earlier run left
    /// there.
    pub(super) async fn move_to(
        &self,
        to: Option<PathBuf>,
        reason: impl FnOnce(Option<String>) -> Option<String>,
    ) {
        let mut place = self.0.clone().lock_owned().await;
        if *place == to {
            return;
        }
        let there = to.clone();
        let left = tokio::task::spawn_blocking(move || read_or_warn(there.as_deref()?));
        let reason = reason(left.await.ok().flatten());
        let before = std::mem::replace(&mut *place, to);
        let moved = tokio::task::spawn_blocking(move || {
            if let Some(path) = &*place {
                write_or_warn(path, reason.as_deref());
            }
            if let Some(path) = &before {
                write_or_warn(path, None);
            }
        });
        let _ = moved.await;
    }
}

fn read_or_warn(path: &Path) -> Option<String> {
    match read(path) {
        Ok(reason) => Some(reason),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!(file = %path.display(), %error, "cannot read whether the app is in maintenance");
            None
        }
    }
}

fn write_or_warn(path: &Path, reason: Option<&str>) {
    if let Err(error) = write(path, reason) {
        warn!(file = %path.display(), %error, "cannot write down maintenance, a restart will not know it");
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
        let note = || {
            MaintenanceFile::new(Some(maintenance_path(&folder.path().join("not/there/yet"), "a/b", 8080)))
        };
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
        let note = MaintenanceFile::new(None);
        note.write(|| Some("disk".into())).await;
        assert_eq!(note.read(), None);
    }

    #[tokio::test]
    async fn it_moves_with_the_app_and_tells_what_an_earlier_run_left_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Some(maintenance_path(folder.path(), name, 8080));
        let left = |name: &str| MaintenanceFile::new(at(name)).read();
        MaintenanceFile::new(at("payments")).write(|| Some("theirs".into())).await;

        let note = MaintenanceFile::new(None);
        let moved = async |name, expected: Option<&str>, reason: Option<&str>| {
            note.move_to(at(name), |found| {
                assert_eq!(found.as_deref(), expected, "{name}");
                reason.map(str::to_owned)
            })
            .await;
            [left("orders"), left("payments")]
        };
        let are = |notes: [Option<&str>; 2]| notes.map(|note| note.map(str::to_owned));
        assert_eq!(moved("orders", None, Some("disk")).await, are([Some("disk"), Some("theirs")]));
        assert_eq!(moved("payments", Some("theirs"), Some("ours")).await, are([None, Some("ours")]));
        assert_eq!(moved("orders", None, None).await, are([None, None]));
        note.move_to(at("orders"), |_| unreachable!("it is there already")).await;
    }

    #[test]
    fn what_is_no_plain_file_is_no_note_and_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("maintenance-orders-8080")).unwrap();
        assert_eq!(MaintenanceFile::new(Some(maintenance_path(folder.path(), "orders", 8080))).read(), None);
    }
}
