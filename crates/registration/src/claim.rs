//! Keeps the place of this process among those that register one id, across a restart: one small file in `state_dir` for each id.
//!
//! Without it, a sidecar that was first would be the later one after its restart, because the one that waited has registered the
//! id meanwhile. The file is locked by the process that uses it, so that of two with one `state_dir` the first alone has it. A
//! process that takes the place of another one gets it as soon as that one has let its registration go.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use outrigger_config::{
    LockError, SmallFile, check_own_folder, create_own_folder, error_chain, file_name_part, lock_file,
};
use outrigger_discovery::unix_time;
use outrigger_registry::Claim;
use tracing::{debug, warn};

/// Most bytes that are read; id and address of the registry are shorter.
const MAX_BYTES: usize = 4096;

/// Most characters of an id in the name of the file; names of files have at most 255 bytes.
const MAX_NAME: usize = 150;

/// Where the place of one id is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPlace {
    path: PathBuf,
    /// What the file has to be of: the id and the registry.
    of: String,
}

impl ClaimPlace {
    /// The place of `id` at `registry`, in `folder`.
    pub fn new(folder: &Path, id: &str, registry: &str) -> Self {
        let name = file_name_part(id, MAX_NAME);
        let line = |text: &str| text.replace(['\n', '\r'], " ");
        Self { path: folder.join(format!("claim-{name}")), of: format!("{} {}", line(id), line(registry)) }
    }
}

/// The file of one process. Dropping it unlocks the file.
#[derive(Debug, Default)]
pub(crate) struct ClaimFile {
    place: Option<ClaimPlace>,
    lock: Option<File>,
    saved: Option<u64>,
}

impl ClaimFile {
    pub(crate) fn new(place: Option<ClaimPlace>) -> Self {
        Self { place, ..Self::default() }
    }

    /// The claim to announce with: that of an earlier run, if no other process uses it.
    pub(crate) async fn load(&mut self) -> Claim {
        if let (Some(place), None) = (self.place.clone(), &self.lock) {
            // An error of the task is the end of the runtime.
            let opened = tokio::task::spawn_blocking(move || open_or_warn(&place)).await;
            (self.lock, self.saved) =
                opened.ok().flatten().map_or((None, None), |(lock, kept)| (Some(lock), kept));
        }
        Claim { since: self.saved, now: u64::try_from(unix_time().as_micros()).unwrap_or(u64::MAX) }
    }

    /// Keeps `since` for the next run. Without the lock, another process keeps its own.
    pub(crate) async fn save(&mut self, since: Option<u64>) {
        let (Some(place), Some(lock), Some(since)) = (self.place.clone(), &self.lock, since) else { return };
        let Some(mut file) = lock.try_clone().ok().filter(|_| self.saved != Some(since)) else { return };
        self.saved = Some(since);
        let written = tokio::task::spawn_blocking(move || {
            if let Err(error) = write(&mut file, since, &place.of) {
                warn!(file = %place.path.display(), %error, "cannot save when the id was registered first");
            }
        });
        let _ = written.await;
    }
}

fn open_or_warn(place: &ClaimPlace) -> Option<(File, Option<u64>)> {
    let file = place.path.display();
    let opened = open(place);
    match &opened {
        Ok(_) => {}
        Err(error @ LockError::InUse { .. }) => {
            debug!(%file, reason = error_chain(error), "another process keeps when the id was registered first");
        }
        Err(error) => warn!(
            %file,
            error = error_chain(error),
            "cannot keep when the id was registered first: after a restart another process with the same id counts as the first"
        ),
    }
    opened.ok()
}

fn open(place: &ClaimPlace) -> Result<(File, Option<u64>), LockError> {
    let path = &place.path;
    let io_error = |doing| move |source| LockError::Io { doing, path: path.clone(), source };
    if let Some(folder) = path.parent() {
        create_own_folder(folder).map_err(io_error("create the folder of"))?;
        check_own_folder(folder).map_err(io_error("use the folder of"))?;
    }
    let lock = lock_file(path)?;
    let (text, _) =
        SmallFile::read_own(path, MAX_BYTES).and_then(SmallFile::into_text).map_err(io_error("read"))?;
    Ok((lock, parse(&text, &place.of)))
}

/// `None`: a file of another id or registry, or one that was cut off.
fn parse(text: &str, of: &str) -> Option<u64> {
    let (since, rest) = text.split_once('\n')?;
    since.parse().ok().filter(|_| rest.strip_suffix('\n') == Some(of))
}

fn write(file: &mut File, since: u64, of: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(format!("{since}\n{of}\n").as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "http://127.0.0.1:8500";

    async fn loaded(place: &ClaimPlace) -> (ClaimFile, Option<u64>) {
        let mut file = ClaimFile::new(Some(place.clone()));
        let since = file.load().await.since;
        (file, since)
    }

    #[tokio::test]
    async fn the_next_run_has_the_claim_of_the_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let place = ClaimPlace::new(&folder.path().join("not/there/yet"), "a/b", AT);
        for (before, now) in [(None, 5), (Some(5), 1_234_567_890_123_456), (Some(1_234_567_890_123_456), 7)] {
            let (mut file, since) = loaded(&place).await;
            assert_eq!(since, before);
            file.save(None).await;
            file.save(Some(now)).await;
            assert_eq!(file.load().await.since, Some(now), "the same process");
        }
    }

    #[tokio::test]
    async fn of_two_processes_with_one_folder_the_first_alone_has_the_claim() {
        let folder = tempfile::tempdir().unwrap();
        let place = ClaimPlace::new(folder.path(), "orders-1", AT);
        let (mut first, _) = loaded(&place).await;
        first.save(Some(5)).await;
        let (mut later, since) = loaded(&place).await;
        assert_eq!(since, None);
        later.save(Some(9)).await;
        drop(first);
        assert_eq!(later.load().await.since, Some(5), "the process that takes its place");
    }

    #[tokio::test]
    async fn another_id_another_registry_and_a_damaged_file_give_none() {
        let folder = tempfile::tempdir().unwrap();
        let place = |id: &str, at: &str| ClaimPlace::new(folder.path(), id, at);
        loaded(&place("a.b", AT)).await.0.save(Some(5)).await;
        assert_eq!(loaded(&place("a_b", AT)).await.1, None, "the name of its file is the same");
        assert_eq!(loaded(&place("a.b", "http://127.0.0.2:8500")).await.1, None);
        assert_eq!(loaded(&place("a.b", AT)).await.1, Some(5));
        for damaged in
            ["", "5", "5\n", "5\na.b", "x\na.b http://127.0.0.1:8500\n", "5\na.b http://127.0.0.1:8500"]
        {
            std::fs::write(folder.path().join("claim-a_b"), damaged).unwrap();
            assert_eq!(loaded(&place("a.b", AT)).await.1, None, "{damaged:?}");
        }
        let long = "x".repeat(1000);
        loaded(&place(&long, AT)).await.0.save(Some(6)).await;
        assert_eq!(loaded(&place(&long, AT)).await.1, Some(6));
    }

    #[tokio::test]
    async fn without_a_folder_that_can_be_used_each_run_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        std::fs::create_dir(folder.path().join("claim-taken")).unwrap();
        let places = [
            None,
            Some(ClaimPlace::new(&folder.path().join("file"), "orders-1", AT)),
            Some(ClaimPlace::new(folder.path(), "taken", AT)),
        ];
        for place in places {
            let mut file = ClaimFile::new(place);
            file.save(Some(5)).await;
            let claim = file.load().await;
            assert_eq!(claim.since, None);
            assert!(claim.now > 1_500_000_000_000_000, "{claim:?}");
        }
    }
}
