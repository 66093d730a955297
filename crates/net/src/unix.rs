//! Listening Unix sockets, and the files by which they are found.
//!
//! A socket is made in a folder of its own beside its place, with its permissions, and takes the place by a rename: so a client finds the
//! old socket or the new one, and never a socket with other permissions. The folder is of this user alone: another user that may write
//! the place cannot put a link to another file where the permissions of the socket are set.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use outrigger_config::{FileOwner, SocketAccess};
use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chmodat, chownat, renameat, statat},
    io::Errno,
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::BACKLOG;

/// A Unix socket that listens.
#[derive(Debug)]
pub struct BoundUnixSocket {
    /// Non-blocking.
    pub socket: UnixListener,
    /// Where it is found.
    pub file: SocketFile,
}

/// The file of a socket. Dropping it removes the file, unless another socket has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    place: PathBuf,
    /// Where it is until it takes its place.
    made_in: Option<OwnFolder>,
    /// Device and number.
    id: (u64, u64),
}

/// The name of a socket in its folder.
const SOCKET: &str = "s";

/// A folder that no other user can enter. Dropping it removes it, with the socket.
#[derive(Debug)]
struct OwnFolder {
    path: PathBuf,
    folder: File,
}

impl OwnFolder {
    /// Makes `PLACE.PID`.
    fn make(place: &Path) -> io::Result<Self> {
        let mut name = place.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let path = PathBuf::from(name);
        // Of a process with the same number that was cut off: also one of a version that made the socket here.
        let _ = fs::remove_file(path.join(SOCKET));
        let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let folder = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&path)?;
        let found = folder.metadata()?;
        if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o077 != 0 {
            let what = format!("another user has replaced the folder {}", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
        Ok(Self { path, folder })
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.folder, SOCKET, AtFlags::empty());
        let _ = fs::remove_dir(&self.path);
    }
}

impl SocketFile {
    /// Moves the socket to its place, where clients find it.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub fn take_place(&mut self) -> io::Result<()> {
        if let Some(made_in) = &self.made_in {
            renameat(&made_in.folder, SOCKET, CWD, &self.place)?;
            self.made_in = None;
        }
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_own = |file: fs::Metadata| (file.dev(), file.ino()) == self.id;
        if self.made_in.is_none() && fs::symlink_metadata(&self.place).is_ok_and(is_own) {
            let _ = fs::remove_file(&self.place);
        }
    }
}

/// A Unix socket for `place` that listens and has not taken its place yet ([`SocketFile::take_place`]). `replaces`: the socket that is
/// there is this program's own, and is replaced although something listens there. A socket that nothing listens at is always replaced.
///
/// # Errors
/// When something else listens there, when the file there is no socket, when the socket cannot be made, or when its owner does not exist.
pub fn bind_unix(place: &Path, access: &SocketAccess, replaces: bool) -> io::Result<BoundUnixSocket> {
    check_place(place, replaces)?;
    let made_in = OwnFolder::make(place)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(made_in.path.join(SOCKET))?)?;
    // By the folder that is open: another one in its place has no such socket.
    let made = statat(&made_in.folder, SOCKET, AtFlags::SYMLINK_NOFOLLOW)?;
    // Before it listens: until then a connection is refused.
    if let Some(owner) = &access.owner {
        let (user, group) = find_owner(owner)?;
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        chownat(&made_in.folder, SOCKET, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    chmodat(&made_in.folder, SOCKET, Mode::from_raw_mode(access.mode), AtFlags::empty())?;
    let file = SocketFile { place: place.to_owned(), made_in: Some(made_in), id: (made.st_dev, made.st_ino) };
    socket.listen(BACKLOG)?;
    Ok(BoundUnixSocket { socket: socket.into(), file })
}

fn check_place(place: &Path, replaces: bool) -> io::Result<()> {
    match fs::symlink_metadata(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
        }
        Ok(_) if replaces => return Ok(()),
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog makes a blocking connect wait.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(place)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(()) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        Err(error) if error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"))
        }
        Err(error) => Err(error),
    }
}

/// The numbers of the owner. `None`: it stays.
fn find_owner(owner: &FileOwner) -> io::Result<(Option<u32>, Option<u32>)> {
    let find = |name: &Option<String>, file: &str, what: &str| {
        let Some(name) = name else { return Ok(None) };
        if let Ok(number) = name.parse() {
            return Ok(Some(number));
        }
        let text = fs::read_to_string(file)?;
        // `name:password:number:…` (passwd(5), group(5)).
        let number = text.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
        });
        let missing =
            || io::Error::new(io::ErrorKind::NotFound, format!("there is no {what} {name} in {file}"));
        number.map(Some).ok_or_else(missing)
    };
    Ok((find(&owner.user, "/etc/passwd", "user")?, find(&owner.group, "/etc/group", "group")?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn access(mode: u32) -> SocketAccess {
        SocketAccess { mode, owner: None }
    }

    #[test]
    fn a_socket_takes_its_place_with_its_permissions_and_is_removed_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("api.sock");
        let mut bound = bind_unix(&place, &access(0o640), false).unwrap();
        assert!(!place.exists());
        bound.file.take_place().unwrap();
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o640);
        UnixStream::connect(&place).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(bound);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // One that never took its place leaves nothing. Until then no other user can reach it, whatever its mode.
        let bound = bind_unix(&place, &access(0o666), false).unwrap();
        let made_in: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(made_in.len(), 1);
        assert_eq!(made_in[0].metadata().unwrap().mode() & 0o7777, 0o700);
        drop(bound);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // What a process with the same number has left is in no way, as a folder and as a socket.
        let left = place.with_file_name(format!("api.sock.{}", std::process::id()));
        fs::create_dir(&left).unwrap();
        drop(UnixListener::bind(left.join(SOCKET)).unwrap());
        drop(bind_unix(&place, &access(0o600), false).unwrap());
        drop(UnixListener::bind(&left).unwrap());
        drop(bind_unix(&place, &access(0o600), false).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_socket_is_replaced_when_nothing_listens_there_or_it_is_our_own() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("api.sock");
        // Left by a process that was killed.
        drop(UnixListener::bind(&place).unwrap());
        assert!(place.exists());
        let mut first = bind_unix(&place, &access(0o600), false).unwrap();
        first.file.take_place().unwrap();
        let taken = bind_unix(&place, &access(0o600), false).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let mut second = bind_unix(&place, &access(0o600), true).unwrap();
        second.file.take_place().unwrap();
        // The file is the second one's.
        drop(first);
        UnixStream::connect(&place).unwrap();
        drop(second);
        assert!(!place.exists());
        fs::write(&place, "a file").unwrap();
        for replaces in [false, true] {
            let refused = bind_unix(&place, &access(0o600), replaces).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read_to_string(&place).unwrap(), "a file");
    }

    #[test]
    fn an_owner_is_a_name_or_a_number_that_exists() {
        let owner = |user: Option<&str>, group: Option<&str>| FileOwner {
            user: user.map(str::to_owned),
            group: group.map(str::to_owned),
        };
        assert_eq!(find_owner(&owner(Some("root"), Some("root"))).unwrap(), (Some(0), Some(0)));
        assert_eq!(find_owner(&owner(Some("1234"), None)).unwrap(), (Some(1234), None));
        assert!(
            find_owner(&owner(None, Some("no-such-group")))
                .unwrap_err()
                .to_string()
                .contains("no-such-group")
        );
    }
}
