//! Documents of the registry's KV: settings of services over those of the file.
//!
//! A document is one key below `PREFIX/settings/`: `defaults`, `services/NAME`, `apps/APP/defaults` or
//! `apps/APP/services/NAME`. Its value is YAML or JSON with keys of `defaults`. What is specific wins over what is general, and then
//! the KV over the file: `apps/APP/services/NAME`, `services/NAME`, the upstream of the file, `apps/APP/defaults`, `defaults`, the
//! defaults of the file. `check` reads each of them with the reader of the file, from the most general to the most
//! specific one, each over the result of those before.
//!
//! A document stands alone. One that is wrong, or that contradicts what is below it, is not used, and its last good version is
//! used instead; the others apply. So the result depends on the documents and their last good versions alone, not on the
//! order in which they came.
//!
//! | module | what it does |
//! |---|---|
//! | `scope` | the key of a document → what it is about |
//! | `allow` | what a document may set |
//! | `seats` | which documents count where not all of them can: two about one service, and too many bytes |
//! | `layers` | accepts documents one at a time, and puts the accepted ones over the settings of the file |

mod allow;
mod layers;
mod parsed;
mod scope;
mod seats;

pub use layers::check_document;

use self::scope::DocumentScope;
use crate::{LoadedConfig, Problem};

/// Largest document.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// Most bytes of all documents of one sidecar.
pub const MAX_DOCUMENTS_BYTES: usize = 1024 * 1024;

/// The part of a key between the prefix and the name of a document.
const SETTINGS: &str = "settings";

/// What every key of a document begins with: `outrigger/settings/`.
pub fn settings_prefix(prefix: &str) -> String {
    format!("{prefix}/{SETTINGS}/")
}

/// The app that the document of this name is for. `None`: every app, or the name is of no document.
pub fn document_app(name: &str) -> Option<&str> {
    DocumentScope::of(name).and_then(|scope| scope.app())
}

/// Whether a key below [`settings_prefix`] is a document.
pub fn is_document(name: &str) -> bool {
    DocumentScope::of(name).is_some()
}

/// One version of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsDocument {
    /// The key below [`settings_prefix`]: `services/orders`.
    pub name: String,
    /// The index of the write that made this version.
    pub index: u64,
    /// The index of the write that made the key, which other versions of the document have too. 0: not known.
    pub created: u64,
    /// The text, which may be wrong.
    pub value: Vec<u8>,
}

/// A document, and its last version that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentVersions {
    /// What the registry has.
    pub current: SettingsDocument,
    /// Used while `current` cannot be.
    pub last_good: Option<SettingsDocument>,
}

/// Settings with documents over them.
#[derive(Debug, Clone, PartialEq)]
pub struct AppliedDocuments {
    /// The settings.
    pub loaded: LoadedConfig,
    /// What became of each document that concerns this sidecar, in the order of their names.
    pub documents: Vec<DocumentResult>,
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentResult {
    /// [`SettingsDocument::name`].
    pub name: String,
    /// The index of the current version.
    pub index: u64,
    /// What became of the current version.
    pub state: DocumentState,
    /// The index of the version in effect: the current one, the last good one, or none.
    pub in_effect: Option<u64>,
    /// The percentage of instances that the current version is for. `None`: all.
    pub rollout: Option<f64>,
    /// Why the current version is refused; empty in the other states.
    pub problems: Vec<Problem>,
    /// What is suspicious in the current version.
    pub warnings: Vec<Problem>,
}

impl DocumentResult {
    /// The service that the document is about. `None`: all.
    pub fn service(&self) -> Option<&str> {
        DocumentScope::of(&self.name).and_then(|scope| scope.service())
    }
}

/// What became of the current version of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentState {
    /// It is in effect.
    Applied,
    /// It is wrong.
    Refused,
    /// Its `rollout` leaves this instance out: the version before it stays.
    NotSelected,
}

impl DocumentState {
    /// Its name in pages and receipts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::NotSelected => "not_selected",
        }
    }
}
