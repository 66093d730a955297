//! Static instances in a YAML file as [`Registry`], for a laptop, a test or a place without Consul.
//!
//! The file is looked at a few times a second while somebody watches, and read again when its time,
//! size or inode changed. A file that cannot be used leaves the last good content in place, and is
//! told once in the log with line and column. Nothing can be registered here, and the datacenter of a
//! query is not looked at. The shape of the file is in `shape`'s documentation and in the manual.

mod raw;
mod shape;
mod table;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use self::table::Table;
use crate::{Answer, Consistency, Cursor, Error, Query, Registry, Watched, resolve::Resolver, stamp::Stamp};

/// How often a watch looks for a change.
const POLL: Duration = Duration::from_millis(250);
/// A look is shared by the watches that would look again within this time.
const FRESH: Duration = Duration::from_millis(100);
/// A longer file than this is not read.
const MAX_FILE: u64 = 16 << 20;
/// The longest wait: nobody is spared anything by a longer one.
const WAIT: Duration = Duration::from_secs(45);

/// A file of static instances.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    names: Resolver,
    // Held for a look or a replacement, never over an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    table: Table,
    /// Of the content that was judged last, good or bad. `None`: there was no file.
    judged: Option<Stamp>,
    looked_at: Instant,
}

impl File {
    /// Reads `path`. A file that is missing or cannot be used is [`Error::File`], whose path is
    /// `FILE:LINE:COLUMN` where a place in it is to blame.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let (stamp, text) = read(&path).map_err(|reason| unusable(&path, reason))?;
        let services = shape::parse(&text).map_err(|wrong| wrong_at(&path, &wrong))?;
        let state = State { table: Table::new(services), judged: Some(stamp), looked_at: Instant::now() };
        Ok(Self { path, names: Resolver::new(), state: Mutex::new(state) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn ask_watch(&self, query: &Query, cursor: Cursor, wait: Duration) -> Watched {
        let until = Instant::now() + wait;
        let service = query.service.to_ascii_lowercase();
        loop {
            self.look().await;
            let now = Instant::now();
            if self.state().table.cursor(&service) != cursor || now >= until {
                return self.answer(&service).await;
            }
            sleep_until(until.min(now + POLL)).await;
        }
    }

    async fn answer(&self, service: &str) -> Watched {
        let (cursor, listed) = {
            let state = self.state();
            (state.table.cursor(service), state.table.listed(service))
        };
        let instances = self.names.resolve(listed).await;
        Watched { instances, cursor, went_back: false, age: None, known_leader: true }
    }

    /// Reads the file again if it is another one than the one that was judged last.
    async fn look(&self) {
        let Some(judged) = self.turn_to_look() else { return };
        let path = self.path.clone();
        let looked = tokio::task::spawn_blocking(move || look(&path, judged)).await;
        // The look itself cannot fail to end but at the end of the process.
        let Ok(Some((stamp, services))) = looked else { return };
        let mut state = self.state();
        if state.judged == stamp {
            // Another watch was here first.
            return;
        }
        state.judged = stamp;
        match services {
            Ok(services) => {
                state.table.replace(services);
                info!(path = %self.path.display(), "static instances read again");
            }
            Err(error) => warn!(%error, "static instances unusable, the last good ones stay"),
        }
    }

    /// The stamp to compare with, unless somebody has just looked.
    fn turn_to_look(&self) -> Option<Option<Stamp>> {
        let now = Instant::now();
        let mut state = self.state();
        if now < state.looked_at + FRESH {
            return None;
        }
        state.looked_at = now;
        Some(state.judged)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry for File {
    fn watch<'a>(
        &'a self,
        query: &'a Query,
        cursor: Cursor,
        _: Consistency,
        wait: Duration,
    ) -> Answer<'a, Watched> {
        Box::pin(async move { Ok(self.ask_watch(query, cursor, wait).await) })
    }

    fn kind(&self) -> &'static str {
        "file"
    }

    fn longest_wait(&self) -> Duration {
        WAIT
    }
}

/// What the file has become, if it is not the one of `judged`.
fn look(path: &Path, judged: Option<Stamp>) -> Option<(Option<Stamp>, Result<shape::Services, Error>)> {
    let stamp = std::fs::metadata(path).ok().as_ref().map(Stamp::from);
    if stamp == judged {
        return None;
    }
    match read(path) {
        Ok((stamp, text)) => Some((Some(stamp), shape::parse(&text).map_err(|wrong| wrong_at(path, &wrong)))),
        Err(reason) => Some((stamp, Err(unusable(path, reason)))),
    }
}

/// The content, and the stamp that it had before it was read: a write in between is seen next time.
fn read(path: &Path) -> Result<(Stamp, String), String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.len() > MAX_FILE {
        return Err(format!("{} bytes are more than the {MAX_FILE} that are read", metadata.len()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok((Stamp::from(&metadata), text))
}

fn unusable(path: &Path, reason: String) -> Error {
    Error::File { path: path.display().to_string(), reason }
}

/// `use services.yaml:3:26: port: ...`.
fn wrong_at(path: &Path, wrong: &shape::Wrong) -> Error {
    let (line, column) = wrong.place();
    Error::File { path: format!("{}:{line}:{column}", path.display()), reason: wrong.what().to_owned() }
}

#[cfg(test)]
mod tests;
