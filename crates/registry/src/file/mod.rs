//! Static instances in a YAML file as [`Registry`], for a laptop, a test or an environment without Consul.
//!
//! While a watch waits, the file is checked several times a second, and read again when its time, size or
//! inode has changed. A file that cannot be used leaves the last good content in use; the error is logged
//! once, with line and column. Nothing can be registered, and the datacenter of a query is ignored. The
//! shape of the file is described in `shape` and in the manual.

mod raw;
mod shape;
mod table;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use outrigger_config::{FileVersion, SmallFile};
use outrigger_net::is_own_shortage;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use self::table::ServiceTable;
use crate::{
    AnswerFuture, Consistency, Cursor, Error, Instance, LookupFuture, Query, Registry, WatchAnswer,
    resolve::Resolver,
};

/// How often a watch checks for a change.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Watches that would check again within this time share one check.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Largest file that is read, bytes.
const MAX_FILE_BYTES: usize = 16 << 20;
/// The longest wait: a longer one would save nothing.
const MAX_WAIT: Duration = Duration::from_secs(45);

/// A file of static instances.
#[derive(Debug)]
pub struct FileRegistry {
    path: PathBuf,
    resolver: Resolver,
    // Locked for a check or a replacement, never over an await.
    state: Mutex<FileState>,
}

#[derive(Debug)]
struct FileState {
    table: ServiceTable,
    /// The version of the content that was last parsed, good or bad. `None`: there was no file.
    last_read: Option<FileVersion>,
    checked_at: Instant,
}

impl FileRegistry {
    /// Reads `path`. A file that is missing or cannot be used is [`Error::File`]; its path is
    /// `FILE:LINE:COLUMN` where a place in the file is wrong.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let (stamp, text) = read_file(&path).map_err(|error| file_error(&path, error.to_string()))?;
        let services = shape::parse(&text).map_err(|wrong| file_error_at(&path, wrong))?;
        let state = FileState {
            table: ServiceTable::new(services),
            last_read: Some(stamp),
            checked_at: Instant::now(),
        };
        Ok(Self { path, resolver: Resolver::new(), state: Mutex::new(state) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn wait_for_change(&self, query: &Query, cursor: Cursor, wait: Duration) -> WatchAnswer {
        let until = Instant::now() + wait;
        let service = query.service.to_ascii_lowercase();
        loop {
            self.refresh().await;
            let now = Instant::now();
            if self.state.lock().table.cursor(&service) != cursor || now >= until {
                return self.current_answer(&service).await;
            }
            sleep_until(until.min(now + POLL_INTERVAL)).await;
        }
    }

    async fn current_answer(&self, service: &str) -> WatchAnswer {
        let (cursor, listed) = {
            let state = self.state.lock();
            (state.table.cursor(service), state.table.instances(service))
        };
        let instances = self.resolver.resolve(listed).await;
        WatchAnswer { instances, cursor, index_went_back: false, age: None, known_leader: true }
    }

    /// Reads the file again if its version is not the last parsed one.
    async fn refresh(&self) {
        let Some(judged) = self.begin_check() else { return };
        let path = self.path.clone();
        let looked = tokio::task::spawn_blocking(move || read_if_changed(&path, judged)).await;
        // The check cannot fail, except at the end of the process.
        let Ok(Some((stamp, services))) = looked else { return };
        let mut state = self.state.lock();
        if state.last_read == stamp {
            // Another watch was first.
            return;
        }
        state.last_read = stamp;
        match services {
            Ok(services) => {
                state.table.replace(services);
                info!(path = %self.path.display(), "static instances read again");
            }
            Err(error) => {
                warn!(%error, "the file of static instances cannot be used, keeping the last good content")
            }
        }
    }

    /// The version to compare with, unless another watch has just checked.
    fn begin_check(&self) -> Option<Option<FileVersion>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if now < state.checked_at + MIN_CHECK_INTERVAL {
            return None;
        }
        state.checked_at = now;
        Some(state.last_read)
    }
}

impl Registry for FileRegistry {
    fn watch<'a>(
        &'a self,
        query: &'a Query,
        cursor: Cursor,
        _: Consistency,
        wait: Duration,
    ) -> AnswerFuture<'a, WatchAnswer> {
        Box::pin(async move { Ok(self.wait_for_change(query, cursor, wait).await) })
    }

    fn look_up_again<'a>(&'a self, instances: &'a [Instance]) -> LookupFuture<'a> {
        Box::pin(self.resolver.resolve_again(instances))
    }

    fn longest_wait(&self) -> Duration {
        MAX_WAIT
    }
}

/// The new content, if the file does not have the version `judged`.
fn read_if_changed(
    path: &Path,
    judged: Option<FileVersion>,
) -> Option<(Option<FileVersion>, Result<shape::StaticServices, Error>)> {
    let stamp = std::fs::metadata(path).ok().as_ref().map(FileVersion::from);
    if stamp == judged {
        return None;
    }
    match read_file(path) {
        Ok((stamp, text)) => {
            Some((Some(stamp), shape::parse(&text).map_err(|wrong| file_error_at(path, wrong))))
        }
        // No fault of the file: the next check reads it again.
        Err(error) if is_own_shortage(&error) => None,
        Err(error) => Some((stamp, Err(file_error(path, error.to_string())))),
    }
}

/// The content, and the version that the file had before it was read: a write in between is found by the
/// next check.
fn read_file(path: &Path) -> io::Result<(FileVersion, String)> {
    let (text, metadata) = SmallFile::read_text(path, MAX_FILE_BYTES)?;
    Ok((FileVersion::from(&metadata), text))
}

fn file_error(path: &Path, reason: String) -> Error {
    Error::File { path: path.display().to_string(), reason }
}

/// `use services.yaml:3:26: port: ...`.
fn file_error_at(path: &Path, wrong: shape::FileProblem) -> Error {
    let shape::FileProblem { line, column, reason } = wrong;
    Error::File { path: format!("{}:{line}:{column}", path.display()), reason }
}

#[cfg(test)]
mod tests;
