//! Detects a changed file without reading it.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

/// A value that changes when the file is written, replaced, or a symbolic link to it is moved.
///
/// It includes the time of the last status change, because tools that copy a file may set its modification
/// time back, and no tool can set the status change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileVersion {
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
