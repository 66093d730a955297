//! The last good answers on disk, for the next start of the process.

mod disk_cache;
mod format;
mod record;
mod state_file;

pub(crate) use disk_cache::CachedAnswer;
pub use disk_cache::DiskCache;
