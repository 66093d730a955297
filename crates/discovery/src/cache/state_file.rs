//! The state file: one process holds it, a write replaces it as a whole or not at all, and a file that
//! cannot be used is renamed.
//!
//! Everything here blocks. The callers are the start of the process and `spawn_blocking`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use outrigger_config::{
    LockError, SmallFile, check_own_folder, create_own_folder, error_chain, file_name_part, lock_file,
};
use outrigger_net::is_own_shortage;
use outrigger_registry::{Instance, Query, chain::Chain};
use tracing::{debug, info, warn};

use super::{
    format::{self, ContentError},
    record::ServiceRecord,
};

/// Largest file that is read or written.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Only this user may read and write it: its content decides where the app's requests go.
const FILE_MODE: u32 = 0o600;

/// The file and what was last written to it.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    registry: String,
    /// Locked while this process uses the file.
    _lock: Option<File>,
    written: Option<Vec<WrittenContent>>,
    failing: bool,
}

/// The parts of a record that are worth a write when they change.
#[derive(Debug, PartialEq)]
struct WrittenContent {
    query: Query,
    instances: Arc<[Instance]>,
    presumed_gone: Option<Arc<[Instance]>>,
    chain: Option<Arc<Chain>>,
}

impl WrittenContent {
    fn of(record: &ServiceRecord) -> Self {
        let lost = record.presumed_gone.as_ref().map(|lost| lost.instances.clone());
        Self {
            query: record.query.clone(),
            instances: record.instances.clone(),
            presumed_gone: lost,
            chain: record.chain.as_ref().map(|one| one.chain.clone()),
        }
    }
}

/// Why the file cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateFileError {
    #[error("{doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("the folder {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is in use by another sidecar; give each a state_dir of its own", path.display())]
    InUse { path: PathBuf },
    #[error("{size} bytes are more than the limit of {MAX_BYTES}")]
    TooLarge { size: usize },
    #[error("encode the state file")]
    Json(#[from] serde_json::Error),
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateFileError {
    let path = path.to_owned();
    move |source| StateFileError::Io { doing, path, source }
}

impl StateFile {
    /// Creates the folder and locks the file, without reading it.
    pub(super) fn open(folder: &Path, name: &str, registry: &str) -> Result<Self, StateFileError> {
        create_own_folder(folder).map_err(io_error("create the folder", folder))?;
        check_own_folder(folder)
            .map_err(|source| StateFileError::Folder { path: folder.to_owned(), source })?;
        let path = state_path(folder, name);
        let lock = lock_file(&with_suffix(&path, ".lock")).map_err(|error| match error {
            LockError::Io { doing, path, source } => StateFileError::Io { doing, path, source },
            LockError::NotAFile { path } => StateFileError::NotAFile { path },
            LockError::InUse { .. } => StateFileError::InUse { path: path.clone() },
        })?;
        Ok(Self { path, registry: registry.to_owned(), _lock: Some(lock), written: None, failing: false })
    }

    /// The records of a file that could not be locked because of `error`, where it can still be read: the
    /// records from before a disk became read-only are still good.
    pub(super) fn read_unlocked(
        folder: &Path,
        name: &str,
        registry: &str,
        error: &StateFileError,
        (unix_now, max_age): (Duration, Duration),
    ) -> Vec<ServiceRecord> {
        let StateFileError::Io { .. } = error else { return Vec::new() };
        Self::read_of_another(folder, name, registry, (unix_now, max_age))
    }

    /// The records of a file that another process writes: a write replaces it as a whole.
    pub(super) fn read_of_another(
        folder: &Path,
        name: &str,
        registry: &str,
        (unix_now, max_age): (Duration, Duration),
    ) -> Vec<ServiceRecord> {
        let path = state_path(folder, name);
        let file = Self { path, registry: registry.to_owned(), _lock: None, written: None, failing: false };
        match file.read() {
            Ok(records) => file.retain_usable(records.unwrap_or_default(), unix_now, max_age),
            Err(bad) => {
                warn!(file = %file.path.display(), reason = %bad, "the state file cannot be used, starting without it");
                Vec::new()
            }
        }
    }

    /// The records that are not older than `max_age` at `unix_now`. Renames a file that cannot be used.
    pub(super) fn load(&mut self, unix_now: Duration, max_age: Duration) -> Vec<ServiceRecord> {
        match self.read() {
            Ok(records) => self.retain_usable(records.unwrap_or_default(), unix_now, max_age),
            Err(bad) => {
                self.set_aside(&bad);
                Vec::new()
            }
        }
    }

    fn retain_usable(
        &self,
        mut records: Vec<ServiceRecord>,
        unix_now: Duration,
        max_age: Duration,
    ) -> Vec<ServiceRecord> {
        let all = records.len();
        records.retain(|record| {
            let is_known = record.lists_any(unix_now) || record.chain.is_some();
            is_known && !record.is_expired(unix_now, max_age)
        });
        let dropped = all - records.len();
        if dropped > 0 {
            info!(file = %self.path.display(), services = dropped, "some of what was known before is too old to be used");
        }
        records
    }

    fn read(&self) -> Result<Option<Vec<ServiceRecord>>, ContentError> {
        let bytes = match SmallFile::read_own(&self.path, MAX_BYTES) {
            Ok(read) => read.bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Other => {
                return Err(ContentError::Foreign(error.to_string()));
            }
            // Not the content: this process may not read what is not its own, or is out of files.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied || is_own_shortage(&error) => {
                return Err(ContentError::Unread(error.to_string()));
            }
            Err(error) => return Err(ContentError::Damaged(error.to_string())),
        };
        format::decode(&self.registry, &bytes).map(Some)
    }

    fn set_aside(&self, bad: &ContentError) {
        let aside = with_suffix(&self.path, &format!(".bad-{}", bad.label()));
        let (file, reason) = (self.path.display(), bad.to_string());
        if let ContentError::Unread(_) = bad {
            warn!(%file, reason, "starting without the state file");
            return;
        }
        match std::fs::rename(&self.path, &aside) {
            Ok(()) => {
                warn!(%file, reason, aside = %aside.display(), "the state file cannot be used, starting without it")
            }
            Err(error) => {
                warn!(%file, reason, %error, "the state file cannot be used nor set aside, starting without it")
            }
        }
    }

    /// Replaces the file when content has changed; with `refresh` also when only ages have. Returns whether
    /// the file is current. Of consecutive failures only the first is logged as a warning.
    pub(super) fn save(&mut self, records: Vec<ServiceRecord>, refresh: bool) -> bool {
        let content: Vec<_> = records.iter().map(WrittenContent::of).collect();
        let same = match &self.written {
            Some(written) => *written == content,
            None => content.is_empty(), // nothing to write yet
        };
        if same && (!refresh || content.is_empty()) {
            return true;
        }
        let written = self.write_atomically(&records);
        let is_new = written.is_err() && !self.failing;
        self.failing = written.is_err();
        match written {
            Ok(bytes) => {
                debug!(file = %self.path.display(), services = content.len(), bytes, "wrote the state file");
                self.written = Some(content);
            }
            Err(error) if is_new => {
                let reason = error_chain(&error);
                warn!(reason, "the state file cannot be written, a restart would lose the last answers");
            }
            Err(error) => debug!(reason = error_chain(&error), "the state file cannot be written"),
        }
        !self.failing
    }

    /// Writes a temporary file, syncs it, and renames it over the file.
    fn write_atomically(&self, records: &[ServiceRecord]) -> Result<usize, StateFileError> {
        let bytes = format::encode(&self.registry, records)?;
        if bytes.len() > MAX_BYTES {
            return Err(StateFileError::TooLarge { size: bytes.len() });
        }
        let temporary = with_suffix(&self.path, ".tmp");
        self.write_new(&temporary, &bytes).inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary); // so that a full disk gets its space back
        })?;
        std::fs::rename(&temporary, &self.path).map_err(io_error("replace", &self.path))?;
        if let Some(folder) = self.path.parent() {
            // The rename is durable once the folder is synced.
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))?;
        }
        Ok(bytes.len())
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), StateFileError> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", path)(error));
            }
            _ => {}
        }
        // Created new, so that no link in its place is followed and the mode is `FILE_MODE`.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)
            .map_err(io_error("create", path))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error("write", path))
    }
}

/// The path of the file.
pub(super) fn state_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{}.state", file_name_part(name, 100)))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
