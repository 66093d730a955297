//! Follows the entries below one prefix of a registry's KV: one question that waits at the registry for a change.
//!
//! Changes that follow each other are gathered, and what is gone counts for a moment longer, because programs that replace a tree
//! delete it first ([`KvFollower`]). A prefix without keys is asked about now and then, without waiting: such a question would be
//! answered at every write of any key.
//!
//! | module | what it does |
//! |---|---|
//! | `follower` | the question that is under way, and what its answer changes |
//! | `believed` | which entries count, and when they are applied; pure |
//! | `pace` | when the next question is asked; pure |
//! | `saver` | keeps the newest content on disk, without a wait |
//!
//! The crate does not read values, and knows no file: that is for those that follow a prefix.

mod believed;
mod follower;
mod pace;
mod saver;

pub use believed::{DOUBT, Entries, GATHER};
pub use follower::{KvFollower, KvNews, check_rights};
pub use saver::NewestSaver;
