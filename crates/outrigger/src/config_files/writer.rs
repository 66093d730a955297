//! Puts a file of the app in place: the whole content or none of it, and never readable for more users than its mode says.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::fs::OFlags;

/// Most links that lead from the path to the file.
const MAX_LINKS: usize = 16;

/// Bits of a mode that settings can name.
const PERMISSIONS: u32 = 0o777;

/// What a write has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteResult {
    /// There is a new content.
    Written,
    /// The file had this content already. Only its mode may have been set.
    Unchanged,
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The folder is missing.
    #[error("the folder {} does not exist: create it, the sidecar creates none for the app", folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// Something else stands at the path.
    #[error("{} is {what}, no regular file: remove it, or name another path", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What stands there.
        what: &'static str,
    },
    /// Another user decides which file would be written.
    #[error("{} is a link of user {owner}: only links of root and of the sidecar's own user are followed", path.display())]
    ForeignLink {
        /// The link.
        path: PathBuf,
        /// The user that owns it.
        owner: u32,
    },
    /// Another user would get what is written.
    #[error("{} is a file of user {owner}, in a folder that every user may write: remove it, or name another folder", path.display())]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// The user that owns it.
        owner: u32,
    },
    /// The links do not lead to a file.
    #[error("{} leads to more than {MAX_LINKS} links", path.display())]
    TooManyLinks {
        /// The path of the settings.
        path: PathBuf,
    },
    /// The owner of the file would change, so that the app could not read it any more.
    #[error(
        "the sidecar cannot keep the owner {owner}:{group} of {}: remove the file, or run the sidecar as that user",
        path.display()
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// The user that owns it.
        owner: u32,
        /// The group that owns it.
        group: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system refuses a call.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was tried, as `create`.
        doing: &'static str,
        /// At which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl WriteError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

/// Writes `content` to `path` with these permissions, unless it is there already. A link at `path` stays: the file that it leads to is
/// replaced, by a rename within its folder. An existing file keeps its owner and its group.
///
/// Blocks: not for a thread of the runtime.
pub(super) fn write_file(path: &Path, mode: u32, content: &[u8]) -> Result<WriteResult, WriteError> {
    let target = follow_links(path)?;
    let before = match fs::symlink_metadata(&target) {
        Ok(found) => {
            check_regular(&target, &found)?;
            check_owner(&target, &found)?;
            Some(found)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(WriteError::io("examine", &target)(error)),
    };
    if let Some(before) = &before
        && let Some(file) = open_with_content(&target, before, content)
    {
        if before.mode() & PERMISSIONS != mode {
            file.set_permissions(fs::Permissions::from_mode(mode))
                .map_err(WriteError::io("set the mode of", &target))?;
        }
        return Ok(WriteResult::Unchanged);
    }
    replace(&target, mode, content, before.as_ref())?;
    Ok(WriteResult::Written)
}

/// The path at which the file is: `path`, or where the links there lead to. It need not exist.
fn follow_links(path: &Path) -> Result<PathBuf, WriteError> {
    let mut target = path.to_owned();
    for _ in 0..=MAX_LINKS {
        match fs::read_link(&target) {
            // Relative to the folder of the link.
            Ok(next) => {
                check_link(&target)?;
                target = target.parent().unwrap_or(Path::new("")).join(next);
            }
            // No link, or nothing at all.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
                let folder = folder_of(&target);
                return match fs::metadata(folder) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        Err(WriteError::NoFolder { folder: folder.to_owned() })
                    }
                    _ => Ok(target),
                };
            }
            Err(error) => return Err(WriteError::io("examine", &target)(error)),
        }
    }
    Err(WriteError::TooManyLinks { path: path.to_owned() })
}

/// In a folder that several users may write, a link of another user could lead to any file of this user.
fn check_link(path: &Path) -> Result<(), WriteError> {
    let link = fs::symlink_metadata(path).map_err(WriteError::io("examine", path))?;
    let owner = link.uid();
    if is_trusted(owner) {
        return Ok(());
    }
    Err(WriteError::ForeignLink { path: path.to_owned(), owner })
}

fn is_trusted(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// A file keeps its owner, so in a folder that every user may write any user could take the content by a file that is there first.
fn check_owner(path: &Path, found: &Metadata) -> Result<(), WriteError> {
    let folder = folder_of(path);
    let folder = fs::metadata(folder).map_err(WriteError::io("examine", folder))?;
    let owner = found.uid();
    if folder.mode() & 0o002 == 0 || is_trusted(owner) || owner == folder.uid() {
        return Ok(());
    }
    Err(WriteError::ForeignFile { path: path.to_owned(), owner })
}

/// The folder of a file, `.` for a bare name.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn check_regular(path: &Path, found: &Metadata) -> Result<(), WriteError> {
    let kind = found.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let what = if kind.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
    Err(WriteError::NotAFile { path: path.to_owned(), what })
}

/// The file at `path`, if it is the one that was `found` there and has this content: another user of the folder may put a link in its
/// place at any time. A file that cannot be read is replaced: the folder decides about that.
fn open_with_content(path: &Path, found: &Metadata, content: &[u8]) -> Option<File> {
    if usize::try_from(found.len()) != Ok(content.len()) {
        return None;
    }
    // Not blocking: a pipe in its place would wait for a writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).ok()?;
    let opened = file.metadata().ok()?;
    if (opened.dev(), opened.ino()) != (found.dev(), found.ino()) {
        return None;
    }
    // One byte more tells that it has grown.
    let mut read = Vec::with_capacity(content.len() + 1);
    (&file).take(content.len() as u64 + 1).read_to_end(&mut read).ok()?;
    (read == content).then_some(file)
}

fn replace(target: &Path, mode: u32, content: &[u8], before: Option<&Metadata>) -> Result<(), WriteError> {
    // Of this process one write at a time, and each process has its own name.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    let temporary = temporary_path(target);
    let _ = fs::remove_file(&temporary);
    let write = || {
        // Created new, so that no link in its place is followed; for the owner alone until the mode is set.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let mut file = file.map_err(WriteError::io("create", &temporary))?;
        if let Some(before) = before {
            keep_owner(target, &file, before)?;
        }
        // The mode of the call above is cut by the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))
            .map_err(WriteError::io("set the mode of", &temporary))?;
        file.write_all(content).map_err(WriteError::io("write", &temporary))?;
        file.sync_all().map_err(WriteError::io("write", &temporary))?;
        remove_leftovers(target, &file);
        fs::rename(&temporary, target).map_err(WriteError::io("rename a new file to", target))
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary); // so that a full disk gets its space back
    })?;
    // The name, too. A folder that cannot be opened for reading has the file all the same.
    if let Ok(folder) = File::open(folder_of(target)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// The end of the name of a file that is not complete.
const TEMPORARY: &str = "outrigger-tmp";
/// A file of this age that is not complete is of a process that was cut off.
const LEFT_AFTER: Duration = Duration::from_secs(60);

/// Hidden, and without the ending of the file: a program that reads every `*.yaml` of the folder does not read it.
fn temporary_path(target: &Path) -> PathBuf {
    target.with_file_name(format!("{}{}.{TEMPORARY}", temporary_prefix(target), std::process::id()))
}

fn temporary_prefix(target: &Path) -> String {
    format!(".{}.", target.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes what processes that were cut off have left. The clock is that of the file system.
fn remove_leftovers(target: &Path, newest: &File) {
    let prefix = temporary_prefix(target);
    let is_temporary = |name: &str| {
        let id = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(TEMPORARY));
        id.and_then(|id| id.strip_suffix('.')).is_some_and(|id| id.parse::<u32>().is_ok())
    };
    let Ok(now) = newest.metadata().and_then(|found| found.modified()) else { return };
    for entry in fs::read_dir(folder_of(target)).into_iter().flatten().flatten() {
        let is_old = || {
            let modified = entry.metadata().and_then(|found| found.modified()).ok()?;
            Some(now.duration_since(modified).ok()? > LEFT_AFTER)
        };
        if entry.file_name().to_str().is_some_and(is_temporary) && is_old() == Some(true) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn keep_owner(target: &Path, file: &File, before: &Metadata) -> Result<(), WriteError> {
    let (owner, group) = (before.uid(), before.gid());
    let own = file.metadata().map_err(WriteError::io("examine", target))?;
    if (own.uid(), own.gid()) == (owner, group) {
        return Ok(());
    }
    fchown(file, Some(owner), Some(group)).map_err(|source| WriteError::Owner {
        path: target.to_owned(),
        owner,
        group,
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, lchown, symlink};

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let all = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_with_its_mode_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.yaml");
        assert_eq!(write_file(&path, 0o600, b"a: 1\n").unwrap(), WriteResult::Written);
        assert_eq!((fs::read(&path).unwrap(), mode_of(&path)), (b"a: 1\n".to_vec(), 0o600));
        let reader = File::open(&path).unwrap();
        let left = |id: u32| folder.path().join(format!(".app.yaml.{id}.outrigger-tmp"));
        fs::write(left(std::process::id()), "cut off").unwrap();
        // Of another process that was cut off, and of one that writes just now.
        let old = File::create(left(1)).unwrap();
        old.set_modified(old.metadata().unwrap().modified().unwrap() - 2 * LEFT_AFTER).unwrap();
        fs::write(left(2), "under way").unwrap();
        assert_eq!(write_file(&path, 0o644, b"a: 2\n").unwrap(), WriteResult::Written);
        assert_eq!((fs::read(&path).unwrap(), mode_of(&path)), (b"a: 2\n".to_vec(), 0o644));
        assert_eq!(io::read_to_string(reader).unwrap(), "a: 1\n", "the open file keeps its content");
        assert_eq!(names_in(folder.path()), [".app.yaml.2.outrigger-tmp", "app.yaml"]);
    }

    #[test]
    fn the_same_content_is_not_written_again_and_a_mode_is_set_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.env");
        write_file(&path, 0o600, b"A=1\n").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert_eq!(write_file(&path, 0o600, b"A=1\n").unwrap(), WriteResult::Unchanged);
        assert_eq!(write_file(&path, 0o640, b"A=1\n").unwrap(), WriteResult::Unchanged);
        assert_eq!((fs::metadata(&path).unwrap().ino(), mode_of(&path)), (inode, 0o640));
        // Changed by hand.
        fs::write(&path, "A=2\n").unwrap();
        assert_eq!(write_file(&path, 0o640, b"A=1\n").unwrap(), WriteResult::Written);
        // An empty value is a content.
        assert_eq!(write_file(&path, 0o640, b"").unwrap(), WriteResult::Written);
        assert_eq!(write_file(&path, 0o640, b"").unwrap(), WriteResult::Unchanged);
    }

    #[test]
    fn what_took_the_place_of_the_file_after_the_look_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "same").unwrap();
        fs::write(at("other"), "same").unwrap();
        let found = fs::metadata(at("file")).unwrap();
        assert!(open_with_content(&at("file"), &found, b"same").is_some());
        assert!(open_with_content(&at("file"), &found, b"else").is_none());
        symlink(at("file"), at("link")).unwrap();
        for place in [at("link"), at("other")] {
            assert!(open_with_content(&place, &found, b"same").is_none(), "{}", place.display());
        }
    }

    #[test]
    fn a_link_stays_and_the_file_behind_it_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("data")).unwrap();
        fs::write(at("data/v1"), "one").unwrap();
        symlink("data/v1", at("to-file")).unwrap();
        symlink("data/new", at("to-nothing")).unwrap();
        symlink(at("to-file"), at("to-link")).unwrap();
        symlink("circle", at("circle")).unwrap();
        symlink("no/such/folder/file", at("to-no-folder")).unwrap();
        symlink("data", at("to-folder")).unwrap();
        for (link, target) in [("to-file", "data/v1"), ("to-nothing", "data/new"), ("to-link", "data/v1")] {
            assert_eq!(write_file(&at(link), 0o600, link.as_bytes()).unwrap(), WriteResult::Written);
            assert_eq!(fs::read_to_string(at(target)).unwrap(), link);
            assert!(fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link}");
        }
        assert!(matches!(write_file(&at("circle"), 0o600, b""), Err(WriteError::TooManyLinks { .. })));
        assert!(matches!(write_file(&at("to-no-folder"), 0o600, b""), Err(WriteError::NoFolder { .. })));
        assert!(matches!(write_file(&at("to-folder"), 0o600, b""), Err(WriteError::NotAFile { .. })));
        // By a link among the folders, too.
        write_file(&at("to-folder/v2"), 0o600, b"two").unwrap();
        assert_eq!(fs::read_to_string(at("data/v2")).unwrap(), "two");
    }

    #[test]
    fn a_link_of_another_user_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("target"), "kept").unwrap();
        symlink("target", at("link")).unwrap();
        // Only root can give a link away.
        if lchown(at("link"), Some(54_321), None).is_ok() {
            let error = write_file(&at("link"), 0o600, b"new").unwrap_err().to_string();
            assert!(error.contains("is a link of user 54321"), "{error}");
            assert_eq!(fs::read_to_string(at("target")).unwrap(), "kept");
        }
    }

    #[test]
    fn a_file_of_another_user_in_a_folder_of_every_user_is_not_filled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.env");
        fs::write(&path, "planted").unwrap();
        // Only root can give a file away.
        if chown(&path, Some(54_321), None).is_ok() {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
            let error = write_file(&path, 0o600, b"new").unwrap_err().to_string();
            assert!(error.contains("app.env is a file of user 54321"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "planted");
            // In a folder of that user, and in one that no other user may write, it keeps its owner.
            chown(folder.path(), Some(54_321), None).unwrap();
            assert_eq!(write_file(&path, 0o600, b"new").unwrap(), WriteResult::Written);
            assert_eq!(fs::metadata(&path).unwrap().uid(), 54_321);
            chown(folder.path(), Some(0), None).unwrap();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(write_file(&path, 0o600, b"newer").unwrap(), WriteResult::Written);
        }
    }

    #[test]
    fn an_error_names_the_path_and_what_to_do_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let missing = write_file(&at("missing/app.yaml"), 0o600, b"").unwrap_err().to_string();
        assert!(missing.contains("missing does not exist: create it"), "{missing}");
        let is_folder = write_file(folder.path(), 0o600, b"").unwrap_err().to_string();
        assert!(is_folder.contains("is a folder, no regular file"), "{is_folder}");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(matches!(write_file(&at("pipe"), 0o600, b"x"), Err(WriteError::NotAFile { .. })));
        fs::write(at("file"), "").unwrap();
        let below_file = write_file(&at("file/app.yaml"), 0o600, b"x").unwrap_err();
        assert!(matches!(below_file, WriteError::Io { .. }), "{below_file}");
        assert_eq!(names_in(folder.path()), ["file", "pipe"]);
    }

    #[test]
    fn an_existing_file_keeps_its_owner_and_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.yaml");
        fs::write(&path, "old").unwrap();
        // Only root can give a file away, and only root can write it as that user.
        if chown(&path, Some(54_321), Some(54_322)).is_ok() {
            write_file(&path, 0o600, b"new").unwrap();
            let after = fs::metadata(&path).unwrap();
            assert_eq!((after.uid(), after.gid()), (54_321, 54_322));
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        }
    }
}
