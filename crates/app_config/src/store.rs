//! The last good entries of each prefix, a file each: they outlive the process.

use std::{
    fs::{self, File, FileTimes},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use outrigger_config::{file_name_part, read_own_file, replace_own_file};
use outrigger_registry::KvEntry;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::KvEntries;

/// Largest file that is read or written.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// The files of one sidecar. Clones write to the same ones.
#[derive(Debug, Clone, Default)]
pub struct PrefixStore(Option<Arc<StoredPlace>>);

#[derive(Debug)]
struct StoredPlace {
    folder: PathBuf,
    /// What the names of the files begin with.
    name: String,
    /// Where the entries come from.
    source: String,
    /// The time of day, as the time since 1970.
    unix_time: fn() -> Duration,
}

/// The entries of a prefix from an earlier run.
#[derive(Debug, PartialEq)]
pub(crate) struct StoredPrefix {
    pub(crate) entries: KvEntries,
    pub(crate) index: u64,
    /// How long ago the registry confirmed them.
    pub(crate) age: Duration,
}

#[derive(Serialize, Deserialize)]
struct PrefixFile {
    source: String,
    prefix: String,
    index: u64,
    entries: Vec<StoredEntry>,
}

#[derive(Serialize, Deserialize)]
struct StoredEntry {
    key: String,
    /// Base64.
    value: String,
    flags: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    session: Option<String>,
    lock_index: u64,
    create_index: u64,
    modify_index: u64,
}

impl PrefixStore {
    /// No files: what is known ends with the process.
    pub fn none() -> Self {
        Self::default()
    }

    /// Files `kv-NAME-….json` in `folder`, which is created when one is first written. `source` identifies the registry: what a file has
    /// from another source is not used. `unix_time` is the time of day.
    pub fn at(folder: &Path, name: &str, source: &str, unix_time: fn() -> Duration) -> Self {
        let (folder, name) = (folder.to_owned(), file_name_part(name, 100));
        Self(Some(Arc::new(StoredPlace { folder, name, source: source.to_owned(), unix_time })))
    }

    /// What an earlier run has left of the prefix. A file that cannot be used causes a warning. Blocks.
    pub(crate) fn load(&self, prefix: &str) -> Option<StoredPrefix> {
        let place = self.0.as_ref()?;
        match place.read(prefix) {
            Ok(stored) => stored,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let file = place.path(prefix);
                warn!(file = %file.display(), %error, "the last good entries cannot be read, starting without them");
                None
            }
        }
    }

    /// Replaces what is stored of the prefix, mode 0600. Blocks.
    ///
    /// # Errors
    /// When the file cannot be written, or would be too large.
    pub(crate) fn save(&self, prefix: &str, entries: &KvEntries, index: u64) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |place| place.write(prefix, entries, index))
    }

    /// Notes that the registry has confirmed what is stored. Blocks.
    ///
    /// # Errors
    /// When there is no such file.
    pub(crate) fn confirm(&self, prefix: &str) -> io::Result<()> {
        let Some(place) = &self.0 else { return Ok(()) };
        let file = File::options().write(true).open(place.path(prefix))?;
        file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + (place.unix_time)()))
    }

    /// Removes the files of this sidecar but those of these prefixes. Blocks.
    pub(crate) fn retain(&self, prefixes: &[String]) {
        let Some(place) = &self.0 else { return };
        let kept: Vec<_> = prefixes.iter().map(|prefix| place.path(prefix)).collect();
        let start = place.file_start();
        let Ok(folder) = fs::read_dir(&place.folder) else { return };
        for entry in folder.flatten() {
            let is_ours = entry.file_name().to_str().is_some_and(|name| is_file_of(&start, name));
            if is_ours && !kept.contains(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The file of a prefix, for a message.
    pub(crate) fn path(&self, prefix: &str) -> Option<PathBuf> {
        self.0.as_ref().map(|place| place.path(prefix))
    }
}

/// `START` and sixteen hexadecimal digits: another sidecar's name may begin as this one's does.
fn is_file_of(start: &str, name: &str) -> bool {
    let hash = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(".json"));
    hash.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl StoredPlace {
    fn file_start(&self) -> String {
        format!("kv-{}-", self.name)
    }

    fn path(&self, prefix: &str) -> PathBuf {
        // FNV-1a: unlike the standard library's hash, it is the same with every version of the compiler.
        let hash = prefix.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        self.folder.join(format!("{}{hash:016x}.json", self.file_start()))
    }

    fn read(&self, prefix: &str) -> io::Result<Option<StoredPrefix>> {
        let read = read_own_file(&self.path(prefix), MAX_BYTES)?;
        let file: PrefixFile = serde_json::from_slice(&read.bytes)?;
        if file.source != self.source || file.prefix != prefix {
            return Ok(None);
        }
        let written = read.metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let entries = file.entries.into_iter().map(StoredEntry::into_entry).collect::<Result<_, _>>()?;
        let age = (self.unix_time)().saturating_sub(written);
        Ok(Some(StoredPrefix { entries, index: file.index, age }))
    }

    fn write(&self, prefix: &str, entries: &KvEntries, index: u64) -> io::Result<()> {
        let entries = entries.values().map(|entry| StoredEntry::of(entry)).collect();
        let file = PrefixFile { source: self.source.clone(), prefix: prefix.to_owned(), index, entries };
        let bytes = serde_json::to_vec(&file)?;
        if bytes.len() > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_BYTES} bytes")));
        }
        replace_own_file(&self.path(prefix), &bytes)
    }
}

impl StoredEntry {
    fn of(entry: &KvEntry) -> Self {
        Self {
            key: entry.key.clone(),
            value: BASE64.encode(&entry.value),
            flags: entry.flags,
            session: entry.session.clone(),
            lock_index: entry.lock_index,
            create_index: entry.create_index,
            modify_index: entry.modify_index,
        }
    }

    fn into_entry(self) -> io::Result<(String, Arc<KvEntry>)> {
        let value = BASE64.decode(&self.value).map_err(io::Error::other)?;
        let entry = KvEntry {
            key: self.key.clone(),
            value,
            flags: self.flags,
            session: self.session,
            lock_index: self.lock_index,
            create_index: self.create_index,
            modify_index: self.modify_index,
        };
        Ok((self.key, Arc::new(entry)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn entries(all: &[(&str, &[u8])]) -> KvEntries {
        let entry = |(key, value): &(&str, &[u8])| {
            let entry = KvEntry {
                key: key.to_string(),
                value: value.to_vec(),
                flags: 3,
                session: Some("a-session".into()),
                lock_index: 1,
                create_index: 5,
                modify_index: 7,
            };
            (key.to_string(), Arc::new(entry))
        };
        all.iter().map(entry).collect()
    }

    fn now() -> Duration {
        Duration::from_secs(2_000_000_000)
    }

    #[test]
    fn what_was_saved_is_read_by_the_next_run_of_the_same_source() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("not/there");
        let store = |source: &str| PrefixStore::at(&folder, "orders-8080", source, now);
        assert_eq!(store("a").load("config/a/"), None);
        let kept = entries(&[("config/a/x", b"\xff\x00"), ("config/a/y", b"")]);
        store("a").save("config/a/", &kept, 9).unwrap();
        store("a").confirm("config/a/").unwrap();
        let stored = StoredPrefix { entries: kept, index: 9, age: Duration::ZERO };
        assert_eq!(store("a").load("config/a/"), Some(stored));
        assert_eq!(store("a").load("config/a"), None);
        assert_eq!(store("b").load("config/a/"), None);
        let path = store("a").path("config/a/").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let later = PrefixStore::at(&folder, "orders-8080", "a", || now() + Duration::from_secs(60));
        assert_eq!(later.load("config/a/").unwrap().age, Duration::from_secs(60));
        // A file that others may write is not used.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(store("a").load("config/a/"), None);
    }

    #[test]
    fn the_files_of_prefixes_that_are_not_followed_any_more_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = |name: &str| PrefixStore::at(folder.path(), name, "a", now);
        for prefix in ["a/", "b/"] {
            store("orders").save(prefix, &entries(&[]), 1).unwrap();
            store("orders-2").save(prefix, &entries(&[]), 1).unwrap();
        }
        store("orders").retain(&["b/".to_owned()]);
        assert!(store("orders").load("a/").is_none() && store("orders").load("b/").is_some());
        store("orders").retain(&[]);
        assert!(store("orders").load("b/").is_none());
        assert!(store("orders-2").load("a/").is_some() && store("orders-2").load("b/").is_some());
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        PrefixStore::none().save("a/", &entries(&[]), 1).unwrap();
        PrefixStore::none().confirm("a/").unwrap();
        PrefixStore::none().retain(&[]);
        assert_eq!(PrefixStore::none().load("a/"), None);
    }
}
