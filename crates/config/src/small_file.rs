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

    /// As [`SmallFile::read`], for a file that this program wrote itself: no link is followed, and [`check_own_folder`]'s
    /// rule holds for the file.
    ///
    /// # Errors
    /// As [`SmallFile::read`]; also when `path` is a link, or another user owns the file or may write it. The kind of these
    /// errors is [`io::ErrorKind::Other`].
    pub fn read_own(path: &Path, limit: usize) -> io::Result<Self> {
        // Checked before it is opened too: a file of another user may be one that this user cannot open.
        let named = std::fs::symlink_metadata(path)?;
        check_regular(&named)?;
        check_own(&named)?;
        let file = open(path, OFlags::NOFOLLOW)?;
        check_own(&file.metadata()?)?;
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
fn check_regular(file: &Metadata) -> io::Result<()> {
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

/// That this program's files in `folder` are its own: this user or root owns the folder, and not every user may write it.
/// One rule for the folder and for each file ([`SmallFile::read_own`]); members of the group may write both, because the
/// administrator chooses them (a volume with an `fsGroup` in Kubernetes is writable for its group, and so are its files).
///
/// Every user may write a folder that has the sticky bit (`/tmp`), or that root owns (an `emptyDir` of Kubernetes is root's
/// and has mode 0777). There another user can remove a file or put one of its own in its place, which is not read because of
/// its owner.
///
/// # Errors
/// When another user owns the folder or may write it; also when `folder` is no folder or cannot be examined.
pub fn check_own_folder(folder: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(folder)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    check_own(&metadata)
}

fn check_own(file: &Metadata) -> io::Result<()> {
    Ownership::of(file).check(geteuid().as_raw())
}

/// What decides which users determine the content of a file or folder.
#[derive(Debug, Clone, Copy)]
struct Ownership {
    owner: u32,
    mode: u32,
    is_folder: bool,
}

impl Ownership {
    fn of(file: &Metadata) -> Self {
        Self { owner: file.uid(), mode: file.mode() & 0o7777, is_folder: file.is_dir() }
    }

    /// The rule of [`check_own_folder`] for user `own`.
    fn check(self, own: u32) -> io::Result<()> {
        let Self { owner, mode, is_folder } = self;
        if owner != 0 && owner != own {
            return Err(io::Error::other(format!("user {owner} owns it, not user {own}")));
        }
        let is_shared_folder = is_folder && (owner == 0 || mode & 0o1000 != 0);
        if mode & 0o002 != 0 && !is_shared_folder {
            return Err(io::Error::other(format!("every user may write it (mode {mode:03o}): chmod o-w")));
        }
        Ok(())
    }
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
        for (mode, is_read) in [(0o640, true), (0o660, true), (0o602, false), (0o666, false)] {
            std::fs::set_permissions(path("good"), std::fs::Permissions::from_mode(mode)).unwrap();
            let expected = match is_read {
                true => Ok("0123456789".to_owned()),
                false => Err(format!("every user may write it (mode {mode:03o}): chmod o-w")),
            };
            assert_eq!(read("good"), expected);
        }
    }

    #[test]
    fn a_file_of_another_user_is_refused_for_its_owner() {
        let folder = folder();
        let path = folder.path().join("good");
        // Only root can give a file away.
        if std::os::unix::fs::chown(&path, Some(54_321), None).is_ok() {
            let error = SmallFile::read_own(&path, LIMIT).unwrap_err().to_string();
            assert!(error.contains("user 54321 owns it"), "{error}");
        }
    }

    #[test]
    fn one_rule_holds_for_files_and_folders() {
        const SIDECAR: u32 = 65_532;
        let check = |(owner, mode, is_folder): (u32, u32, bool), own| {
            Ownership { owner, mode, is_folder }.check(own).is_ok()
        };
        for own in [0, SIDECAR] {
            for (ownership, expected) in [
                ((own, 0o700, true), true),
                ((own, 0o600, false), true),
                ((0, 0o644, false), true),
                // An `emptyDir`, and one with an `fsGroup`.
                ((0, 0o777, true), true),
                ((0, 0o2777, true), true),
                // Another volume with an `fsGroup`: Kubernetes lets the group write what is in it.
                ((0, 0o2775, true), true),
                ((own, 0o2775, true), true),
                ((own, 0o660, false), true),
                // `/tmp`.
                ((0, 0o1777, true), true),
                ((own, 0o1777, true), true),
                // Every user may change the content.
                ((own, 0o602, false), false),
                ((own, 0o666, false), false),
                ((0, 0o666, false), false),
                // The owner may, whatever the mode says.
                ((1000, 0o700, true), false),
                ((1000, 0o1777, true), false),
                ((1000, 0o600, false), false),
            ] {
                assert_eq!(check(ownership, own), expected, "{ownership:?} for {own}");
            }
        }
        assert!(!check((SIDECAR, 0o777, true), SIDECAR), "its owner opened it to every user");
        let folder = folder();
        check_own_folder(folder.path()).unwrap();
        check_own_folder(Path::new("/")).unwrap();
        assert!(check_own_folder(&folder.path().join("good")).is_err());
    }

    /// What `/proc` shows has no length before it is read.
    #[test]
    fn a_file_of_the_kernel_is_read() {
        let (text, _) = SmallFile::read_text(Path::new("/proc/self/comm"), 64).unwrap();
        assert!(!text.is_empty());
    }
}
