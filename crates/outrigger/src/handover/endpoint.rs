//! The Unix socket at which a running sidecar is found, in `state_dir`. One process listens there: the one that holds the lock. The
//! lock and the listener move with the listening sockets, so that there is always exactly one.
//!
//! The socket is named after the first service. With several services the others are symbolic links to it, so that a process with
//! the list in another order, or without one of the services, finds it too.

use std::{
    fs::{File, Permissions, set_permissions},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, PermissionsExt as _, symlink},
        },
    },
    path::{Path, PathBuf},
};

use outrigger_config::{Config, LockError, check_own_folder, create_own_folder, lock_file};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use crate::registry;

const FILE_MODE: u32 = 0o600;
/// Processes that wait for their turn.
const BACKLOG: i32 = 16;
/// Longest path of a Unix socket on Linux, bytes (`sun_path`, unix(7)).
const MAX_PATH: usize = 107;

/// Why a sidecar with these settings is not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoPlace {
    #[error("no state_dir is set, and it is off or the environment names no folder: set state_dir")]
    NoFolder,
    #[error(
        "outbound.listen has port 0 and no service is set: set one of them, so that the next run finds this one"
    )]
    NoName,
    #[error("the path {} has {length} bytes, and a Unix socket's at most {MAX_PATH}: set a shorter state_dir", path.display())]
    TooLong { path: PathBuf, length: usize },
}

/// Why a sidecar cannot listen at its place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("{doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is in use by another sidecar; give each a state_dir of its own", path.display())]
    InUse { path: PathBuf },
    #[error("{} is of another kind than expected; remove it", path.display())]
    Foreign { path: PathBuf },
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EndpointError {
    let path = path.to_owned();
    move |source| EndpointError::Io { doing, path, source }
}

/// Where a sidecar with some settings is found.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    folder: PathBuf,
    path: PathBuf,
    /// The paths for the services behind the first one.
    links: Vec<PathBuf>,
}

impl Place {
    /// The place of a sidecar with one of the services, at the same port, or without a service, with the same outbound port.
    pub(crate) fn of(config: &Config) -> Result<Self, NoPlace> {
        let folder = config.state_dir.clone().ok_or(NoPlace::NoFolder)?;
        Self::named(folder, registry::run_names(config))
    }

    fn named(folder: PathBuf, names: Vec<String>) -> Result<Self, NoPlace> {
        if names.is_empty() {
            return Err(NoPlace::NoName);
        }
        let paths = names.into_iter().map(|name| {
            let path = folder.join(format!("replace-{name}.sock"));
            let length = path.as_os_str().as_bytes().len();
            if length > MAX_PATH { Err(NoPlace::TooLong { path, length }) } else { Ok(path) }
        });
        let mut links = paths.collect::<Result<Vec<_>, _>>()?;
        let path = links.remove(0);
        links.retain(|link| *link != path);
        Ok(Self { folder, path, links })
    }

    /// The path of the socket.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A connection to the sidecar that listens here, and the path of its socket. `None`: there is none.
    pub(super) async fn connect(&self) -> io::Result<Option<(UnixStream, PathBuf)>> {
        for path in std::iter::once(&self.path).chain(&self.links) {
            match UnixStream::connect(path).await {
                Ok(stream) => {
                    let linked = path.read_link().map(|name| self.folder.join(name));
                    return Ok(Some((stream, linked.unwrap_or_else(|_| path.clone()))));
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Listens here. Replaces the socket that a killed process has left.
    ///
    /// # Errors
    /// When another process listens here, or the folder cannot be used.
    pub(crate) fn listen(&self) -> Result<Endpoint, EndpointError> {
        create_own_folder(&self.folder).map_err(io_error("create the folder", &self.folder))?;
        check_own_folder(&self.folder).map_err(io_error("use the folder", &self.folder))?;
        let lock = self.lock()?;
        let path = &self.path;
        match path.symlink_metadata() {
            // The link of a sidecar that is named after another service, and has this one too.
            Ok(found) if found.is_symlink() && is_live(path) => {
                return Err(EndpointError::InUse { path: path.clone() });
            }
            Ok(found) if found.file_type().is_socket() || found.is_symlink() => {
                std::fs::remove_file(path).map_err(io_error("remove", path))?;
            }
            Ok(_) => return Err(EndpointError::Foreign { path: path.clone() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("read the metadata of", path)(error)),
        }
        let listener = self.bind().map_err(io_error("listen on", path))?;
        let endpoint = Endpoint { listener, lock, path: path.clone(), place: self.clone(), is_own: true };
        endpoint.set_links(&self.wanted_links(path));
        Ok(endpoint)
    }

    /// The paths at which there is a link to the socket at `path`.
    fn wanted_links(&self, path: &Path) -> Vec<&Path> {
        let all = std::iter::once(&self.path).chain(&self.links).map(PathBuf::as_path);
        all.filter(|one| *one != path).collect()
    }

    fn lock(&self) -> Result<File, EndpointError> {
        let mut path = self.path.clone().into_os_string();
        path.push(".lock");
        lock_file(Path::new(&path)).map_err(|error| match error {
            LockError::Io { doing, path, source } => EndpointError::Io { doing, path, source },
            LockError::NotAFile { path } => EndpointError::Foreign { path },
            LockError::InUse { .. } => EndpointError::InUse { path: self.path.clone() },
        })
    }

    fn bind(&self) -> io::Result<UnixListener> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(&self.path)?)?;
        // Before it listens: nothing can connect meanwhile.
        set_permissions(&self.path, Permissions::from_mode(FILE_MODE))?;
        listen(&socket, BACKLOG)?;
        UnixListener::from_std(socket.into())
    }
}

/// Whether a process listens at `path`.
fn is_live(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

/// The socket of a running sidecar. Dropping it removes the file and its links, unless they are another process's.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: UnixListener,
    lock: File,
    /// The path of the socket: that of its first process.
    path: PathBuf,
    place: Place,
    /// Whether this process is the one that listens.
    is_own: bool,
}

impl Endpoint {
    /// The endpoint at `place`, at which another process listens until [`Endpoint::take`].
    /// `path`: that of the socket.
    pub(super) fn from_files(
        place: &Place,
        path: PathBuf,
        listener: OwnedFd,
        lock: OwnedFd,
    ) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Self { listener, lock: lock.into(), path, place: place.clone(), is_own: false })
    }

    /// This process listens from now on.
    pub(super) fn take(mut self) -> Self {
        self.is_own = true;
        self.set_links(&self.place.wanted_links(&self.path));
        self
    }

    /// Makes the links at `wanted`, and removes every other one to this socket.
    fn set_links(&self, wanted: &[&Path]) {
        let Some(name) = self.path.file_name() else { return };
        let leads_here = |path: &Path| path.read_link().is_ok_and(|to| to.as_os_str() == name);
        let entries = std::fs::read_dir(&self.place.folder).into_iter().flatten().flatten();
        for found in entries.map(|entry| entry.path()) {
            if leads_here(&found) && !wanted.contains(&found.as_path()) {
                // One that stays leads to nothing, or to this sidecar all the same.
                let _ = std::fs::remove_file(found);
            }
        }
        for link in wanted {
            if leads_here(link) {
                continue;
            }
            // What a killed process has left. The socket of a running sidecar stays.
            if link.symlink_metadata().is_ok() && !is_live(link) {
                let _ = std::fs::remove_file(link);
            }
            if let Err(error) = symlink(name, link) {
                warn!(path = %link.display(), %error, "run --replace will not find this sidecar by this path");
            }
        }
    }

    /// What another process needs for the same endpoint.
    pub(super) fn files(&self) -> [BorrowedFd<'_>; 2] {
        [self.listener.as_fd(), self.lock.as_fd()]
    }

    /// The next connection. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    /// Closes it here; another process listens on.
    pub(super) fn leave(mut self) {
        self.is_own = false;
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.is_own {
            // The lock is still held.
            self.set_links(&[]);
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn place(folder: &Path) -> Place {
        let config = Config { state_dir: Some(folder.to_owned()), ..Config::default() };
        Place::of(&config).unwrap()
    }

    #[tokio::test]
    async fn one_process_listens_and_the_file_is_for_its_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(&folder.path().join("new"));
        assert!(place.connect().await.unwrap().is_none());
        let endpoint = place.listen().unwrap();
        assert_eq!(place.path().symlink_metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(place.folder.metadata().unwrap().mode() & 0o777, 0o700);
        assert!(place.connect().await.unwrap().is_some());
        assert!(matches!(place.listen(), Err(EndpointError::InUse { .. })));
        drop(endpoint);
        assert!(!place.path().exists() && place.connect().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_socket_of_a_killed_process_is_replaced_and_another_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let killed = std::os::unix::net::UnixListener::bind(place.path()).unwrap();
        drop(killed);
        assert!(place.path().exists() && place.connect().await.unwrap().is_none());
        drop(place.listen().unwrap());
        std::fs::write(place.path(), "mine").unwrap();
        assert!(matches!(place.listen(), Err(EndpointError::Foreign { .. })));
        assert_eq!(std::fs::read_to_string(place.path()).unwrap(), "mine");
    }

    #[tokio::test]
    async fn an_endpoint_that_was_left_to_another_process_stays() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let old = place.listen().unwrap();
        let files = || old.files().map(|file| file.try_clone_to_owned().unwrap());
        let [listener, lock] = files();
        let path = || place.path.clone();
        drop(Endpoint::from_files(&place, path(), listener, lock).unwrap());
        assert!(place.path().exists(), "a process that ends before it has taken the place");
        let [listener, lock] = files();
        let new = Endpoint::from_files(&place, path(), listener, lock).unwrap().take();
        old.leave();
        let (accepted, connected) = tokio::join!(new.accept(), place.connect());
        assert!(accepted.is_ok() && connected.unwrap().is_some());
        assert!(matches!(place.listen(), Err(EndpointError::InUse { .. })), "the lock has moved, too");
        drop(new);
        assert!(!place.path().exists());
        place.listen().unwrap();
    }

    fn place_of(folder: &Path, services: &[&str]) -> Place {
        let names = services.iter().map(|name| format!("{name}-80")).collect();
        Place::named(folder.to_owned(), names).unwrap()
    }

    #[tokio::test]
    async fn each_service_leads_to_the_socket_and_no_other_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let at = |services: &[&str]| place_of(folder.path(), services);
        let finds = async |services: &[&str]| at(services).connect().await.unwrap().map(|(_, path)| path);
        // A link and a socket that a killed process has left.
        symlink("replace-gone-80.sock", folder.path().join("replace-a-80.sock")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(folder.path().join("replace-b-80.sock")).unwrap());
        let old = at(&["a", "b"]).listen().unwrap();
        let socket = Some(folder.path().join("replace-a-80.sock"));
        for services in [&["a", "b"][..], &["b", "a"], &["b"], &["a"], &["new", "b"]] {
            assert_eq!(finds(services).await, socket, "{services:?}");
        }
        assert_eq!(finds(&["new"]).await, None);
        assert!(matches!(at(&["b"]).listen(), Err(EndpointError::InUse { .. })));

        let [listener, lock] = old.files().map(|file| file.try_clone_to_owned().unwrap());
        let new = Endpoint::from_files(&at(&["b", "c"]), socket.clone().unwrap(), listener, lock).unwrap();
        let new = new.take();
        old.leave();
        for services in [&["b"][..], &["c"], &["c", "b"]] {
            assert_eq!(finds(services).await, socket, "{services:?}");
        }
        drop(new);
        let left = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().ends_with(".sock")).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn settings_without_a_place_say_which_key_is_missing() {
        let config = Config { state_dir: None, ..Config::default() };
        assert!(Place::of(&config).unwrap_err().to_string().contains("set state_dir"));
        let mut config = Config { state_dir: Some("/s".into()), ..Config::default() };
        assert_eq!(Place::of(&config).unwrap().path(), Path::new("/s/replace-7070.sock"));
        config.outbound.listen.port = 0;
        assert!(Place::of(&config).unwrap_err().to_string().contains("outbound.listen"));
        let config = Config { state_dir: Some(format!("/{}", "s".repeat(90)).into()), ..Config::default() };
        let error = Place::of(&config).unwrap_err().to_string();
        assert!(error.contains("state_dir") && error.contains("109 bytes"), "{error}");
    }
}
