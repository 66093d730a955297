//! The folder of this program's own files, and the locks in it: what several processes of one user share.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno};

use crate::{SmallFile, check_own_folder};

/// Only this user may read and write the folder: its files decide where the app's requests go.
const FOLDER_MODE: u32 = 0o700;
/// The same for a file.
const FILE_MODE: u32 = 0o600;
/// Opening a pipe does not wait for its other end, and a link is not followed.
const LOCK_FLAGS: OFlags = OFlags::NONBLOCK.union(OFlags::NOFOLLOW);

/// Creates `folder` with mode 0700, and the folders above it, where they do not exist.
///
/// # Errors
/// When one of them cannot be created.
pub fn create_own_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)
}

/// `text`, which may hold any character, as a part of the name of a file: its first `most` characters, with `_` in place of each one
/// but ASCII letters and digits, `-` and `_`.
///
/// ```
/// # use outrigger_config::file_name_part;
/// assert_eq!(file_name_part("team/orders-1_ü.x", 15), "team_orders-1__");
/// ```
pub fn file_name_part(text: &str, most: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    text.chars().take(most).map(plain).collect()
}

/// Reads a file of this program's own of at most `limit` bytes: no other user could have put it there.
///
/// # Errors
/// As [`SmallFile::read_own`]; also when [`check_own_folder`] refuses the folder.
pub fn read_own_file(path: &Path, limit: usize) -> io::Result<SmallFile> {
    let read = SmallFile::read_own(path, limit)?;
    check_folder_of(path)?;
    Ok(read)
}

/// Writes a file of this program's own with mode 0600: the whole content or nothing. Creates the folder as
/// [`create_own_folder`] does.
///
/// # Errors
/// When the folder cannot be created or is not this program's own, or the file cannot be written.
pub fn replace_own_file(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        create_own_folder(folder)?;
    }
    check_folder_of(path)?;
    let temporary = path.with_extension("tmp");
    let _ = fs::remove_file(&temporary); // of a run that was cut off
    let write = || {
        // Created new, so that no link in its place is followed.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary); // so that a full disk gets its space back
    })
}

/// That the folder of the file is this program's own.
fn check_folder_of(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    check_own_folder(folder)
        .map_err(|error| io::Error::new(error.kind(), format!("the folder {}: {error}", folder.display())))
}

/// Why a file is not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The system refuses a call.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was tried, as `open`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a link, a pipe or another thing.
    #[error("{} is no regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Another process has locked it.
    #[error("{} is locked by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

/// Locks the file at `path` for this process, and creates it with mode 0600 where it does not exist. The lock ends with the last
/// copy of the returned file.
///
/// # Errors
/// When another process holds the lock, or the file cannot be used.
pub fn lock_file(path: &Path) -> Result<File, LockError> {
    let io_error = |doing| move |source| LockError::Io { doing, path: path.to_owned(), source };
    let not_a_file = || LockError::NotAFile { path: path.to_owned() };
    // Read and write, because a pipe can be opened that way without its other end, and is then refused.
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(FILE_MODE)
        .custom_flags(LOCK_FLAGS.bits().cast_signed())
        .open(path)
        .map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::LOOP) => not_a_file(),
            _ => io_error("open")(error),
        })?;
    if !lock.metadata().map_err(io_error("read the metadata of"))?.is_file() {
        return Err(not_a_file());
    }
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(LockError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io_error("lock")(error)),
    }
}
