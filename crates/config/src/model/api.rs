//! What the app asks on localhost beside its requests: its configuration, locks, semaphores and leader election.

use std::{path::PathBuf, time::Duration};

use super::AppConfigSettings;
use crate::Listen;

/// The API for the local app.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Api {
    /// Where it is served. Absent, the default: it is not. `localhost:7077` is the customary address.
    pub listen: Option<Listen>,
    /// A file with a secret that every request must have in the header `x-outrigger-token`. Absent: whatever reaches `listen` may
    /// use the API. Read again when it changes.
    pub token_file: Option<PathBuf>,
    /// The app's configuration.
    pub config: AppConfigSettings,
    /// The locks. Needs a restart.
    pub locks: LockSettings,
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
    /// without news has to stop. Default 15s, which is Consul's; range 1s–60s, beyond which Consul takes 60 s.
    pub lock_delay: Duration,
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
            lock_delay: Duration::from_secs(15),
            ends_with_node: false,
        }
    }
}
