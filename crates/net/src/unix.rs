//! Listening Unix sockets, and the files by which they are found.
//!
//! A socket is made beside its place, with its permissions, and takes the place by a rename: so a client finds the old socket or the new
//! one, and never a socket with other permissions.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use outrigger_config::{FileOwner, SocketAccess};
use rustix::io::Errno;
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
    /// Where it is now: beside its place at first.
    path: PathBuf,
    /// Device and number.
    id: (u64, u64),
}

impl SocketFile {
    /// Moves the socket to its place, where clients find it.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub fn take_place(&mut self) -> io::Result<()> {
        if self.path != self.place {
            fs::rename(&self.path, &self.place)?;
            self.path.clone_from(&self.place);
        }
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_own = |file: fs::Metadata| (file.dev(), file.ino()) == self.id;
        if fs::symlink_metadata(&self.path).is_ok_and(is_own) {
            let _ = fs::remove_file(&self.path);
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
    let mut name = place.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let path = PathBuf::from(name);
    // Of a process with the same number that was cut off.
    let _ = fs::remove_file(&path);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(&path)?)?;
    let made = fs::symlink_metadata(&path)?;
    let file = SocketFile { place: place.to_owned(), path, id: (made.dev(), made.ino()) };
    // Before it listens: until then a connection is refused.
    if let Some(owner) = &access.owner {
        let (user, group) = find_owner(owner)?;
        chown(&file.path, user, group)?;
    }
    fs::set_permissions(&file.path, fs::Permissions::from_mode(access.mode))?;
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
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o640);
        UnixStream::connect(&place).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(bound);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // One that never took its place leaves nothing.
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
