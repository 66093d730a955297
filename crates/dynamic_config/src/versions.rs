//! Documents and their earlier versions, for an operator. Consul keeps one version of a key, so each write here also keeps the one
//! that it replaces, below `PREFIX/history/`: a change can be reverted, and no watcher of settings is woken by it.

use std::{sync::Arc, time::Duration};

use outrigger_config::{MAX_DOCUMENT_BYTES, SettingsDocument, settings_prefix};
use outrigger_kv_watch::check_rights;
use outrigger_registry::{
    AnswerFuture, Consistency, Cursor, Error, Kv, KvAnswer, KvChange, KvEntry, KvScope,
};

use crate::{Receipt, receipts_prefix};

/// How many earlier versions of a document are kept.
pub const KEPT_VERSIONS: usize = 10;

/// The key below `PREFIX/settings/` that keeps the prefix from being empty, and is no document.
pub const MARK: &str = ".outrigger";
const MARK_TEXT: &str =
    "This key keeps the prefix from being empty, so that sidecars wait for a change of it.\n";

/// The part of a key between the prefix and the name of a document.
const HISTORY: &str = "history";

/// Longest wait for a connection to read.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Consul takes 64 changes together; two of them are the document and the version before it.
const MAX_REMOVED: usize = 60;

/// An earlier version of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlierVersion {
    /// The index of the write that made it.
    pub index: u64,
    /// Its text.
    pub value: Vec<u8>,
    /// The flags of its key, which are of those that write it beside this program.
    pub flags: u64,
    /// When it was replaced, Unix seconds.
    pub replaced_at: u64,
}

/// What is to be the present version of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextVersion<'a> {
    /// Its text.
    pub value: &'a [u8],
    /// The flags of its key. `None`: those of the version that it replaces stay.
    pub flags: Option<u64>,
}

/// The end of [`DocumentVersionStore::replace`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// It is written.
    Written {
        /// The index of the new version. After a removal, 0.
        index: u64,
        /// The earlier version can be reverted to. `false`: there was none, or it is too large for a document.
        keeps_earlier: bool,
    },
    /// Another program has written the document since it was read. Nothing is changed.
    Conflict,
}

/// A receipt that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundReceipt {
    /// The service in its key; [`ROUTER`](crate::ROUTER) for a sidecar without one.
    pub service: String,
    /// The id of the instance.
    pub id: String,
    /// What it says. An error: why it cannot be read.
    pub receipt: Result<Receipt, String>,
}

/// The documents, their earlier versions and the receipts below one prefix.
#[derive(Debug, Clone)]
pub struct DocumentVersionStore {
    kv: Arc<dyn Kv>,
    prefix: String,
}

impl DocumentVersionStore {
    /// `prefix` is `dynamic_config.prefix`. Asks nothing yet.
    pub fn new(kv: Arc<dyn Kv>, prefix: &str) -> Self {
        Self { kv, prefix: prefix.to_owned() }
    }

    /// The whole key of a document.
    pub fn key_of(&self, name: &str) -> String {
        settings_prefix(&self.prefix) + name
    }

    /// Writes a key below the prefix of the documents that is no document, so that it is never empty. `false`: it was there.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn init(&self) -> Result<bool, Error> {
        self.kv.put_kv(&self.key_of(MARK), MARK_TEXT.as_bytes(), 0, Some(0)).await
    }

    /// Every key below the prefix of the documents.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn documents(&self) -> Result<Vec<SettingsDocument>, Error> {
        let prefix = settings_prefix(&self.prefix);
        let entries = self.read_below(&prefix).await?;
        let document = |entry: KvEntry| {
            let name = entry.key.strip_prefix(&prefix)?.to_owned();
            Some(document_of(name, entry))
        };
        Ok(entries.into_iter().filter_map(document).collect())
    }

    /// One document. `None`: there is none.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn document(&self, name: &str) -> Result<Option<SettingsDocument>, Error> {
        let entry = self.read_key(&self.key_of(name)).await?;
        Ok(entry.map(|entry| document_of(name.to_owned(), entry)))
    }

    /// The earlier versions of a document, the newest first.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn earlier_versions(&self, name: &str) -> Result<Vec<EarlierVersion>, Error> {
        let prefix = self.history_prefix(name);
        let entries = self.read_below(&prefix).await?;
        let version = |entry: KvEntry| {
            let (index, flags) = parse_version(entry.key.strip_prefix(&prefix)?)?;
            Some(EarlierVersion { index, flags, value: entry.value, replaced_at: entry.flags })
        };
        let mut versions: Vec<_> = entries.into_iter().filter_map(version).collect();
        versions.sort_by_key(|version| std::cmp::Reverse(version.index));
        Ok(versions)
    }

    /// Writes a document, or removes it (`next: None`), and keeps `current` as its earlier version: both, or nothing. `current` is what was
    /// read; where that is no longer in place, nothing is changed. `now`: Unix seconds.
    ///
    /// # Errors
    /// When the registry cannot be asked. The write may have been made.
    pub async fn replace(
        &self,
        name: &str,
        current: Option<&SettingsDocument>,
        next: Option<NextVersion<'_>>,
        now: u64,
    ) -> Result<Replaced, Error> {
        let key = self.key_of(name);
        let at = Some(current.map_or(0, |current| current.index));
        let flags_now = match current {
            Some(_) => self.read_key(&key).await?.map_or(0, |entry| entry.flags),
            None => 0,
        };
        let mut changes = match (next, current) {
            (Some(NextVersion { value, flags }), _) => {
                vec![KvChange::Put { key: &key, value, flags: flags.unwrap_or(flags_now), at }]
            }
            (None, Some(_)) => vec![KvChange::Delete { key: &key, at }],
            (None, None) => return Ok(Replaced::Written { index: 0, keeps_earlier: false }),
        };
        // A larger one was never in effect, and would not fit into the transaction.
        let kept = current.filter(|current| current.value.len() <= MAX_DOCUMENT_BYTES);
        let kept_key = kept.map(|kept| self.history_key(name, kept.index, flags_now)).unwrap_or_default();
        let mut removed = Vec::new();
        if let Some(kept) = kept {
            changes.push(KvChange::Put { key: &kept_key, value: &kept.value, flags: now, at: None });
            let others = self.earlier_versions(name).await?.into_iter().filter(|one| one.index != kept.index);
            let old = others.skip(KEPT_VERSIONS - 1);
            removed.extend(old.map(|one| self.history_key(name, one.index, one.flags)));
        }
        changes.extend(removed.iter().take(MAX_REMOVED).map(|key| KvChange::Delete { key, at: None }));
        if let Some(index) = self.kv.change_kv(&changes).await? {
            let index = if next.is_none() { 0 } else { index };
            return Ok(Replaced::Written { index, keeps_earlier: kept.is_some() });
        }
        // Where the connection broke, the first attempt may have been made.
        let found = self.document(name).await?;
        let is_ours = found.as_ref().map(|found| found.value.as_slice()) == next.map(|next| next.value);
        Ok(match is_ours {
            true => {
                let index = found.map_or(0, |found| found.index);
                Replaced::Written { index, keeps_earlier: kept.is_some() }
            }
            false => Replaced::Conflict,
        })
    }

    /// Every receipt: at once with [`Cursor::START`], else when one may have changed, or after about `wait`.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn receipts(
        &self,
        cursor: Cursor,
        wait: Duration,
    ) -> Result<(Vec<FoundReceipt>, Cursor), Error> {
        let prefix = receipts_prefix(&self.prefix);
        let answer = self.kv.watch_kv(KvScope::Prefix(&prefix), cursor, Consistency::Default, wait).await?;
        if answer.entries.is_empty() {
            check_rights(&*self.kv, &prefix, READ_WITHIN).await?;
        }
        let receipt = |entry: KvEntry| {
            let (service, id) = entry.key.strip_prefix(&prefix)?.split_once('/')?;
            let receipt = serde_json::from_slice(&entry.value).map_err(|error| error.to_string());
            Some(FoundReceipt { service: service.to_owned(), id: id.to_owned(), receipt })
        };
        Ok((answer.entries.into_iter().filter_map(receipt).collect(), answer.cursor))
    }

    /// Every entry below a prefix.
    async fn read_below(&self, prefix: &str) -> Result<Vec<KvEntry>, Error> {
        let entries = self.ask(KvScope::Prefix(prefix)).await?.entries;
        if entries.is_empty() {
            check_rights(&*self.kv, prefix, READ_WITHIN).await?;
        }
        Ok(entries)
    }

    async fn read_key(&self, key: &str) -> Result<Option<KvEntry>, Error> {
        Ok(self.ask(KvScope::Key(key)).await?.entries.into_iter().next())
    }

    fn ask<'a>(&'a self, scope: KvScope<'a>) -> AnswerFuture<'a, KvAnswer> {
        // A server that was restarted has earlier entries while it reads its log.
        self.kv.watch_kv(scope, Cursor::START, Consistency::Consistent, READ_WITHIN)
    }

    fn history_prefix(&self, name: &str) -> String {
        format!("{}/{HISTORY}/{name}/", self.prefix)
    }

    fn history_key(&self, name: &str, index: u64, flags: u64) -> String {
        let flags = if flags == 0 { String::new() } else { format!("+{flags}") };
        format!("{}{index}{flags}", self.history_prefix(name))
    }
}

/// `INDEX`, or `INDEX+FLAGS`. The flags of the key itself say when the version was replaced.
fn parse_version(text: &str) -> Option<(u64, u64)> {
    match text.split_once('+') {
        Some((index, flags)) => Some((index.parse().ok()?, flags.parse().ok()?)),
        None => Some((text.parse().ok()?, 0)),
    }
}

fn document_of(name: String, entry: KvEntry) -> SettingsDocument {
    SettingsDocument { name, index: entry.modify_index, created: entry.create_index, value: entry.value }
}
