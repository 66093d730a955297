//! Tells whether a file is still the one that was read, without reading it.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

/// What changes when a file is written, replaced or pointed elsewhere.
///
/// The time of the last status change is in it because tools that copy a file may set its
/// modification time back, and nothing can set this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileVersion {
    modified: (i64, i64),
    changed: (i64, i64),
    len: u64,
    device: u64,
    inode: u64,
}

impl From<&Metadata> for FileVersion {
    fn from(file: &Metadata) -> Self {
        Self {
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
            len: file.len(),
            device: file.dev(),
            inode: file.ino(),
        }
    }
}
