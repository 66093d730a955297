//! Follows the documents of a registry's KV that set how services are called ([`outrigger_config::SettingsDocument`]).
//!
//! One question for all of them waits at the registry for a change ([`DocumentFollower`], over `outrigger-kv-watch`, which gathers
//! changes and doubts removals). What it learns goes to the caller, which puts the documents over its settings and
//! returns what became of each. The last good version of each document stays in a file ([`DocumentStore`]), so that a
//! restart without the registry, or with a wrong document in it, keeps what was in effect.
//!
//! | module | what it does |
//! |---|---|
//! | `follower` | the loop: asks, applies, stores |
//! | `store` | the last good versions, on disk |
//! | `receipt` | what a sidecar says of the documents that concern it, and where |
//! | `receipt_writer` | keeps that in the KV, under a session |
//! | `session_file` | the sessions of the receipt, for the next process |
//! | `versions` | documents, their earlier versions and the receipts, for an operator |
//! | `spread` | which sidecars have applied which documents, by their receipts; pure |
//!
//! The crate does not read documents: `outrigger-config` does.

mod follower;
mod receipt;
mod receipt_writer;
mod session_file;
mod spread;
mod store;
mod versions;

pub use follower::{AppliedResults, DocumentFollower, FirstAnswer, FollowedDocuments, FollowerSignals};
pub use receipt::{ROUTER, Receipt, ReceiptEntry, ReceiptState, receipt_key, receipts_prefix};
pub use receipt_writer::{PlacedReceipt, ReceiptWrite, ReceiptWriter};
pub use session_file::SessionFile;
pub use spread::{
    DocumentSpread, SidecarSpread, SpreadResult, SpreadState, removal_of, spread_of, spread_result,
};
pub use store::{DocumentSaver, DocumentStore};
pub use versions::{
    DocumentVersionStore, EarlierVersion, FoundReceipt, KEPT_VERSIONS, MARK, NextVersion, Replaced,
};
