//! The last good version of each document, in one file: it outlives the process.
//!
//! The content is checked as every document is, whenever it is used, so a file that was changed by hand can do no more than
//! the KV can.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use outrigger_config::{SettingsDocument, file_name_part, read_own_file, replace_own_file};
use outrigger_kv_watch::{Entries, NewestSaver};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// Documents by their names.
pub(crate) type Documents = Entries<SettingsDocument>;

/// Largest file that is read. Documents have 1 MiB, somewhat more while versions change, and JSON writes a character as six bytes at most.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The file. Clones write to the same one.
#[derive(Debug, Clone, Default)]
pub struct DocumentStore(Option<StoredPlace>);

#[derive(Debug, Clone)]
struct StoredPlace {
    path: PathBuf,
    /// Where the documents come from.
    source: String,
}

#[derive(Serialize, Deserialize)]
struct StoredDocuments {
    source: String,
    documents: BTreeMap<String, StoredDocument>,
}

#[derive(Serialize, Deserialize)]
struct StoredDocument {
    index: u64,
    /// Files of earlier versions have none.
    #[serde(default)]
    created: u64,
    text: String,
}

/// Writes the file, which is the same one for every prefix: so what was followed before another prefix is written before.
#[derive(Debug, Clone)]
pub struct DocumentSaver(NewestSaver<(DocumentStore, Documents)>);

impl Default for DocumentSaver {
    fn default() -> Self {
        let save = |(store, documents): &(DocumentStore, Documents)| store.save(documents);
        Self(NewestSaver::new(save, |(store, _), error| {
            let file = store.path().map(|path| path.display().to_string()).unwrap_or_default();
            warn!(file, %error, "the last good documents cannot be saved, a restart would lose them");
        }))
    }
}

impl DocumentSaver {
    pub(crate) fn put(&self, store: &DocumentStore, documents: &Documents) {
        self.0.put((store.clone(), documents.clone()));
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.0.is_failing()
    }

    /// Resolves when everything is saved, or could not be. A disk that hangs makes it wait.
    pub async fn flush(&self) {
        self.0.flush().await;
    }
}

impl DocumentStore {
    /// No file: the last good versions end with the process.
    pub fn none() -> Self {
        Self::default()
    }

    /// The file `documents-NAME.json` in `folder`, which is created when it is first written. `source` identifies the registry and
    /// the prefix: what a file has from another source is not used.
    pub fn at(folder: &Path, name: &str, source: &str) -> Self {
        let path = folder.join(format!("documents-{}.json", file_name_part(name, 100)));
        Self(Some(StoredPlace { path, source: source.to_owned() }))
    }

    /// What the file has. A file that cannot be used causes a warning. Blocks.
    pub(crate) fn load(&self) -> Documents {
        let Some(place) = &self.0 else { return Documents::new() };
        match place.read() {
            Ok(documents) => documents,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Documents::new(),
            Err(error) => {
                warn!(file = %place.path.display(), %error, "the last good documents cannot be read, starting without them");
                Documents::new()
            }
        }
    }

    /// Replaces the content. Blocks.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save(&self, documents: &Documents) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |place| place.write(documents))
    }

    /// The file, for a message.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.0.as_ref().map(|place| place.path.as_path())
    }
}

impl StoredPlace {
    fn read(&self) -> io::Result<Documents> {
        let read = read_own_file(&self.path, MAX_BYTES)?;
        let stored: StoredDocuments = serde_json::from_slice(&read.bytes)?;
        if stored.source != self.source {
            return Ok(Documents::new());
        }
        let document = |(name, StoredDocument { index, created, text }): (String, StoredDocument)| {
            (name.clone(), SettingsDocument { name, index, created, value: text.into_bytes() })
        };
        Ok(stored.documents.into_iter().map(document).collect())
    }

    fn write(&self, documents: &Documents) -> io::Result<()> {
        // A good document is text.
        let document = |one: &SettingsDocument| {
            let text = String::from_utf8(one.value.clone()).ok()?;
            Some((one.name.clone(), StoredDocument { index: one.index, created: one.created, text }))
        };
        let documents = documents.values().filter_map(document).collect();
        let bytes = serde_json::to_vec(&StoredDocuments { source: self.source.clone(), documents })?;
        replace_own_file(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn documents(text: &str) -> Documents {
        let name = "services/orders".to_owned();
        [(name.clone(), SettingsDocument { name, index: 7, created: 5, value: text.as_bytes().to_vec() })]
            .into()
    }

    #[test]
    fn what_was_saved_is_read_by_the_next_run_of_the_same_source() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("not/there");
        let store = |source: &str| DocumentStore::at(&folder, "orders-8080", source);
        assert_eq!(store("a").load(), Documents::new());
        let text = "timeout: \"1s\"\n# é\u{1}\n";
        store("a").save(&documents(text)).unwrap();
        assert_eq!(store("a").load(), documents(text));
        assert_eq!(store("b").load(), Documents::new());
        store("a").save(&Documents::new()).unwrap();
        assert_eq!(store("a").load(), Documents::new());
        let mode = std::fs::metadata(store("a").path().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(DocumentStore::none().load(), Documents::new());
        DocumentStore::none().save(&documents("")).unwrap();
    }

    #[test]
    fn a_damaged_file_or_one_that_others_may_write_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let store = DocumentStore::at(folder.path(), "a/b", "a");
        store.save(&documents("timeout: 1s")).unwrap();
        let path = store.path().unwrap().to_owned();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(store.load(), Documents::new());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(store.load(), documents("timeout: 1s"));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(store.load(), Documents::new());
    }
}
