//! Keeps the maintenance reason on disk across a restart: one small file in `state_dir`, present while the app is to
//! be in maintenance. The file is named by the app's name and port, and moves when a reload changes them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use outrigger_config::{SmallFile, file_name_part, read_own_file, replace_own_file};
use tokio::sync::Mutex;
use tracing::warn;

/// Most bytes that are read; a reason is shorter.
const MAX_BYTES: usize = 4096;

/// The path of the file for service `name` on `port`, in `folder`.
pub fn maintenance_path(folder: &Path, name: &str, port: u16) -> PathBuf {
    let name = file_name_part(name, usize::MAX);
    folder.join(format!("maintenance-{name}-{port}"))
}

/// The file; without a path nothing is kept. Clones share the path.
#[derive(Debug, Clone, Default)]
pub(crate) struct MaintenanceFile(Arc<Mutex<Option<PathBuf>>>);

impl MaintenanceFile {
    /// The file at `path`.
    #[cfg(test)]
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(Some(path))))
    }

    /// The reason that is saved.
    #[cfg(test)]
    pub(crate) fn read(&self) -> Option<String> {
        read_or_warn(self.0.try_lock().ok()?.as_deref()?)
    }

    /// Replaces the file; `None` removes it. `reason` is called under the lock, so that the last writer has the
    /// newest reason.
    pub(crate) async fn write(&self, reason: impl FnOnce() -> Option<String>) {
        let path = self.0.clone().lock_owned().await;
        let reason = reason();
        let written = tokio::task::spawn_blocking(move || {
            if let Some(path) = &*path {
                write_or_warn(path, reason.as_deref());
            }
        });
        // A failure was logged.
        let _ = written.await;
    }

    /// Moves to another path, and removes the file at the old one. `reason` gets what an earlier run saved at the new
    /// path.
    pub(crate) async fn move_to(
        &self,
        to: Option<PathBuf>,
        reason: impl FnOnce(Option<String>) -> Option<String>,
    ) {
        let mut path = self.0.clone().lock_owned().await;
        if *path == to {
            return;
        }
        let new = to.clone();
        let left = tokio::task::spawn_blocking(move || read_or_warn(new.as_deref()?));
        let reason = reason(left.await.ok().flatten());
        let before = std::mem::replace(&mut *path, to);
        let moved = tokio::task::spawn_blocking(move || {
            if let Some(path) = &*path {
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
        warn!(file = %path.display(), %error, "cannot save the maintenance reason, a restart will not restore maintenance");
    }
}

fn read(path: &Path) -> io::Result<String> {
    read_own_file(path, MAX_BYTES).and_then(SmallFile::into_text).map(|(text, _)| text)
}

/// Writes the whole file or nothing.
fn write(path: &Path, reason: Option<&str>) -> io::Result<()> {
    let Some(reason) = reason else {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    replace_own_file(path, reason.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_run_reads_the_reason_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file =
            || MaintenanceFile::at(maintenance_path(&folder.path().join("not/there/yet"), "a/b", 8080));
        assert_eq!(file().read(), None);
        for reason in ["disk", "a new\ndisk"] {
            file().write(|| Some(reason.into())).await;
            assert_eq!(file().read().as_deref(), Some(reason));
        }
        file().write(|| None).await;
        file().write(|| None).await;
        assert_eq!(file().read(), None);
    }

    #[tokio::test]
    async fn without_a_folder_nothing_is_kept_and_nothing_fails() {
        let file = MaintenanceFile::default();
        file.write(|| Some("disk".into())).await;
        assert_eq!(file.read(), None);
    }

    #[tokio::test]
    async fn a_move_passes_on_the_reason_that_an_earlier_run_saved_at_the_new_path() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| maintenance_path(folder.path(), name, 8080);
        let left = |name: &str| MaintenanceFile::at(at(name)).read();
        MaintenanceFile::at(at("payments")).write(|| Some("theirs".into())).await;

        let file = MaintenanceFile::default();
        let moved = async |name, expected: Option<&str>, reason: Option<&str>| {
            file.move_to(Some(at(name)), |found| {
                assert_eq!(found.as_deref(), expected, "{name}");
                reason.map(str::to_owned)
            })
            .await;
            [left("orders"), left("payments")]
        };
        let are = |reasons: [Option<&str>; 2]| reasons.map(|reason| reason.map(str::to_owned));
        assert_eq!(moved("orders", None, Some("disk")).await, are([Some("disk"), Some("theirs")]));
        assert_eq!(moved("payments", Some("theirs"), Some("ours")).await, are([None, Some("ours")]));
        assert_eq!(moved("orders", None, None).await, are([None, None]));
        file.move_to(Some(at("orders")), |_| unreachable!("the path is the same")).await;
    }

    #[test]
    fn a_link_a_pipe_or_what_others_may_write_is_no_reason() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};

        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| maintenance_path(folder.path(), name, 8080);
        fs::write(path("open"), "disk").unwrap();
        fs::set_permissions(path("open"), fs::Permissions::from_mode(0o666)).unwrap();
        symlink(path("open"), path("link")).unwrap();
        symlink("/dev/zero", path("zero")).unwrap();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for name in ["open", "link", "zero", "pipe"] {
            assert_eq!(MaintenanceFile::at(path(name)).read(), None, "{name}");
        }
        fs::set_permissions(path("open"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(MaintenanceFile::at(path("open")).read().as_deref(), Some("disk"));
    }

    #[test]
    fn a_folder_of_another_user_holds_no_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = maintenance_path(folder.path(), "orders", 8080);
        write(&path, Some("disk")).unwrap();
        assert_eq!(read(&path).unwrap(), "disk");
        // Only root can give a folder away.
        if std::os::unix::fs::chown(folder.path(), Some(54_321), None).is_ok() {
            for result in [read(&path).map(|_| ()), write(&path, Some("a new disk"))] {
                let error = result.unwrap_err().to_string();
                assert!(error.contains("the folder") && error.contains("user 54321 owns it"), "{error}");
            }
            write(&path, None).unwrap();
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_directory_at_the_path_is_no_reason() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("maintenance-orders-8080")).unwrap();
        assert_eq!(MaintenanceFile::at(maintenance_path(folder.path(), "orders", 8080)).read(), None);
    }
}
