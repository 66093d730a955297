//! Reads the small files that settings name: the settings themselves, a token, certificates, static instances, the saved
//! state. A pipe, a device or a folder in a file's place is an error, and neither blocks the reader nor fills its memory.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::{fs::OFlags, process::geteuid};

/// The content of a file, and what the system says of it.
#[derive(Debug)]
pub struct SmallFile {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Of the file that was read, from before it was read.
    pub metadata: Metadata,
}

impl SmallFile {
    /// Reads a regular file of at most `limit` bytes. Links are followed, because Kubernetes mounts files as links.
    ///
    /// # Errors
    /// When it cannot be read, is no regular file, or is larger.
    pub fn read(path: &Path, limit: usize) -> io::Result<Self> {
        // Checked before it is opened too: opening some devices has an effect.
        check_regular(&std::fs::metadata(path)?)?;
        Self::read_open(&open(path, OFlags::empty())?, limit)
    }

    /// As [`SmallFile::read`], for a file that this program wrote itself: no link is followed, the owner is this user or
    /// root, and no other user may write it.
    ///
    /// # Errors
    /// As [`SmallFile::read`]; also when `path` is a link, or another user owns the file or may write it. The kind of these
    /// errors is [`io::ErrorKind::Other`].
    pub fn read_own(path: &Path, limit: usize) -> io::Result<Self> {
        let named = std::fs::symlink_metadata(path)?;
        check_regular(&named)?;
        let file = open(path, OFlags::NOFOLLOW)?;
        let metadata = file.metadata()?;
        check_owner(&metadata)?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o022 != 0 {
            return Err(io::Error::other(format!("others may write it (mode {mode:03o})")));
        }
        Self::read_open(&file, limit)
    }

    /// [`SmallFile::read`] as text.
    ///
    /// # Errors
    /// Also when it is not UTF-8.
    pub fn read_text(path: &Path, limit: usize) -> io::Result<(String, Metadata)> {
        Self::read(path, limit)?.into_text()
    }

    /// The content as text.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn into_text(self) -> io::Result<(String, Metadata)> {
        let text = String::from_utf8(self.bytes).map_err(|_| io::Error::other("it is not UTF-8"))?;
        Ok((text, self.metadata))
    }

    fn read_open(file: &File, limit: usize) -> io::Result<Self> {
        let metadata = file.metadata()?;
        check_regular(&metadata)?;
        let longest = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = Vec::new();
        file.take(longest).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it has more than {limit} bytes, the most that are read"),
            ));
        }
        Ok(Self { bytes, metadata })
    }
}

/// Opens without waiting for the other end of a pipe, and without making a terminal the controlling one.
fn open(path: &Path, more: OFlags) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | more;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(number) if number == rustix::io::Errno::LOOP.raw_os_error() => io::Error::other("it is a link"),
        _ => error,
    })
}

/// That `file` is a regular file.
///
/// # Errors
/// When it is not; the text says what it is.
pub fn check_regular(file: &Metadata) -> io::Result<()> {
    let kind = file.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_symlink() {
        "a link"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::other(format!("it is {what}, not a regular file")))
}

/// That this user or root owns `file`, so that no other user decides what is in it.
fn check_owner(file: &Metadata) -> io::Result<()> {
    let own = geteuid().as_raw();
    match file.uid() {
        0 => Ok(()),
        uid if uid == own => Ok(()),
        uid => Err(io::Error::other(format!("user {uid} owns it, not user {own}"))),
    }
}

/// That no other user can put a file of its own into `folder`: this user or root owns it, and where it is this user's, others
/// may not write it, or may not replace the files of each other (the sticky bit, as of `/tmp`). A folder of root that all may
/// write is what Kubernetes gives (`emptyDir`).
///
/// # Errors
/// When another user can; also when `folder` is no folder or cannot be examined.
pub fn check_own_folder(folder: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(folder)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    check_owner(&metadata)?;
    match is_open_to_others(metadata.uid(), geteuid().as_raw(), metadata.mode()) {
        false => Ok(()),
        true => {
            let mode = metadata.mode() & 0o7777;
            Err(io::Error::other(format!("others may replace its files (mode {mode:03o}): chmod o-w")))
        }
    }
}

fn is_open_to_others(owner: u32, own: u32, mode: u32) -> bool {
    owner == own && mode & 0o002 != 0 && mode & 0o1000 == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const LIMIT: usize = 10;

    fn text_of(read: io::Result<SmallFile>) -> Result<String, String> {
        let text = read.and_then(SmallFile::into_text);
        text.map(|(text, _)| text).map_err(|error| error.to_string())
    }

    /// A folder with one of each kind of file.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("good"), "0123456789").unwrap();
        std::fs::write(at("large"), "0123456789x").unwrap();
        std::fs::write(at("latin"), [0xe9]).unwrap();
        for name in ["good", "large", "latin"] {
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        symlink(at("good"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        symlink(at("circle"), at("circle")).unwrap();
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        symlink(at("pipe"), at("link-to-pipe")).unwrap();
        symlink("/dev/zero", at("link-to-zero")).unwrap();
        std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        folder
    }

    #[test]
    fn only_a_regular_file_within_the_limit_is_read_and_nothing_blocks() {
        let folder = folder();
        let read = |name: &str| text_of(SmallFile::read(&folder.path().join(name), LIMIT));
        assert_eq!(read("good").as_deref(), Ok("0123456789"));
        assert_eq!(read("link").as_deref(), Ok("0123456789"), "links are followed");
        for (name, why) in [
            ("large", "more than 10 bytes"),
            ("latin", "not UTF-8"),
            ("missing", "No such file"),
            ("dangling", "No such file"),
            ("circle", ""),
            ("pipe", "a pipe"),
            ("link-to-pipe", "a pipe"),
            ("link-to-zero", "a device"),
            ("socket", "a socket"),
            (".", "a folder"),
        ] {
            let error = read(name).unwrap_err();
            assert!(error.contains(why), "{name}: {error}");
        }
        for device in ["/dev/zero", "/dev/null", "/dev/tty"] {
            assert!(SmallFile::read(Path::new(device), LIMIT).is_err(), "{device}");
        }
    }

    #[test]
    fn an_own_file_is_no_link_and_no_other_user_may_write_it() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        let read = |name: &str| text_of(SmallFile::read_own(&path(name), LIMIT));
        assert_eq!(read("good").as_deref(), Ok("0123456789"));
        for (name, why) in
            [("link", "a link"), ("pipe", "a pipe"), ("link-to-zero", "a link"), ("large", "10")]
        {
            let error = read(name).unwrap_err();
            assert!(error.contains(why), "{name}: {error}");
        }
        for mode in [0o620, 0o602, 0o666] {
            std::fs::set_permissions(path("good"), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read("good"), Err(format!("others may write it (mode {mode:03o})")));
        }
    }

    #[test]
    fn this_user_and_root_are_the_only_owners() {
        let folder = folder();
        let path = folder.path().join("good");
        check_owner(&std::fs::metadata(&path).unwrap()).unwrap();
        check_owner(&std::fs::metadata("/").unwrap()).unwrap();
        // Only root can give a file away.
        if std::os::unix::fs::chown(&path, Some(54_321), None).is_ok() {
            let error = SmallFile::read_own(&path, LIMIT).unwrap_err().to_string();
            assert!(error.contains("user 54321 owns it"), "{error}");
        }
    }

    #[test]
    fn a_folder_in_which_others_may_replace_files_is_refused() {
        for (owner, own, mode, expected) in [
            (1000, 1000, 0o700, false),
            (1000, 1000, 0o775, false),
            (1000, 1000, 0o777, true),
            (1000, 1000, 0o1777, false),
            (0, 0, 0o777, true),
            // An `emptyDir`.
            (0, 65_532, 0o777, false),
        ] {
            assert_eq!(is_open_to_others(owner, own, mode), expected, "{owner} {own} {mode:o}");
        }
        let folder = folder();
        check_own_folder(folder.path()).unwrap();
        assert!(check_own_folder(&folder.path().join("good")).is_err());
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = check_own_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("mode 777"), "{error}");
    }

    /// What `/proc` shows has no length before it is read.
    #[test]
    fn a_file_of_the_kernel_is_read() {
        let (text, _) = SmallFile::read_text(Path::new("/proc/self/comm"), 64).unwrap();
        assert!(!text.is_empty());
    }
}
