//! What the app asks on localhost beside its requests: its configuration, locks, semaphores and leader election.

use std::{fmt, path::PathBuf, time::Duration};

use super::AppConfigSettings;
use crate::Listen;

/// The API for the local app.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Api {
    /// Where it is served. Absent, the default: it is not. `localhost:7077` is the customary address.
    pub listen: Option<ApiListen>,
    /// The mode and the owner of a Unix socket.
    pub socket: SocketAccess,
    /// A file with a secret that every request must have in the header `x-outrigger-token`. Absent: whatever reaches `listen` may
    /// use the API. Read again when it changes.
    pub token_file: Option<PathBuf>,
    /// The app's configuration.
    pub config: AppConfigSettings,
    /// The locks. Needs a restart.
    pub locks: LockSettings,
}

/// Where the API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiListen {
    /// An address.
    Tcp(Listen),
    /// A Unix socket at this absolute path.
    Unix(PathBuf),
}

impl ApiListen {
    /// The address, where it is one.
    pub fn tcp(&self) -> Option<&Listen> {
        match self {
            Self::Tcp(listen) => Some(listen),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for ApiListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listen) => listen.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Which processes may connect to a Unix socket: those that may write the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketAccess {
    /// Its permissions. Default 0600, range 0–0777.
    pub mode: u32,
    /// Its owner. Absent: the user of the sidecar.
    pub owner: Option<FileOwner>,
}

impl Default for SocketAccess {
    fn default() -> Self {
        Self { mode: 0o600, owner: None }
    }
}

/// `user:group`, `user`, or `:group`; names or numbers. Displays as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOwner {
    /// The user. Absent: it stays.
    pub user: Option<String>,
    /// The group. Absent: it stays.
    pub group: Option<String>,
}

impl fmt::Display for FileOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.as_deref().unwrap_or_default())?;
        self.group.as_ref().map_or(Ok(()), |group| write!(f, ":{group}"))
    }
}

/// The settings of locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockSettings {
    /// What the paths of all locks begin with, without a slash at either end: with `locks`, the default, lock `jobs` is the key
    /// `locks/jobs/.lock` in Consul, as for `consul lock locks/jobs`.
    pub prefix: String,
    /// Most locks that are held at once. Default 256, range 1–10000.
    pub max_held: usize,
    /// Most requests that wait for a lock at once. Default 1024, range 1–100000.
    pub max_waiters: usize,
    /// For how long the registry keeps a lock closed after it ended the session of the holder: the time that a holder
    /// without news has to stop. Range 1s–60s, beyond which Consul takes 60 s. Absent (the default): as long as the session
    /// lives without news, and at least 15 s, which is Consul's own.
    pub lock_delay: Option<Duration>,
    /// A session also ends with the node of the agent: one round of gossip in which the other nodes do not see it frees its locks. Default
    /// false.
    pub ends_with_node: bool,
}

impl Default for LockSettings {
    fn default() -> Self {
        Self {
            prefix: "locks".into(),
            max_held: 256,
            max_waiters: 1024,
            lock_delay: None,
            ends_with_node: false,
        }
    }
}
