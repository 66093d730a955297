//! The settings of locks.

use std::time::Duration;

/// The settings of locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockSettings {
    /// What the paths of all locks begin with, without a slash at the end: lock `jobs` is the key `locks/jobs/.lock` in Consul.
    /// Default `locks`.
    pub prefix: String,
    /// Most locks that are held at once. Default 256.
    pub max_held: usize,
    /// Most requests that wait for a lock at once. Default 1024.
    pub max_waiters: usize,
    /// For how long a lock stays closed after the registry ended the session of its holder: the time that a holder without
    /// news has to stop. Default 15 s, which is Consul's.
    pub lock_delay: Duration,
    /// A session ends with the node of the agent: other nodes that do not see it for one round of gossip free its locks. Default false.
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
