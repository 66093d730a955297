//! The files that the sidecar writes for the app from the registry's KV: `api.config.files`.
//!
//! | module | its job |
//! |---|---|
//! | `files` | all files of the settings: starts and ends their tasks, and says which are still missing |
//! | `keeper` | one file: waits for content, gathers changes, writes, tells the app |
//! | `source` | the content of a file: a value of the KV, or a part of it as a document |
//! | `writer` | puts a file in place |
//! | `notifier` | tells the app by a request |
//! | `handler` | when the app gets a signal |
//! | `restart` | restarts the app as one step of a rolling deploy; `target` is the sidecar that it acts on |
//! | `metrics` | what is counted |
//!
//! docs/app-configuration.md says what users see of it.

mod files;
mod handler;
mod keeper;
mod metrics;
mod notifier;
mod restart;
mod source;
mod target;
mod writer;

pub use files::FilesError;
pub(crate) use files::{AppFiles, FileSummary, MissingFiles, RestartSummary};
pub(crate) use source::KvContent;
