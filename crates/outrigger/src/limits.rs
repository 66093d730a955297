//! How many files this process may open. A sidecar needs one per connection, on both sides. With a limit
//! of 1,024, an app with 10,000 connections gets errors that look like network errors.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// A busy app needs more than this.
const MIN_OPEN_FILES: u64 = 4096;

/// The limits that the process was started with.
static INITIAL: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit to the hard one, holds a few files back for probes, the agent and the admin side, and logs a
/// warning when the limit is low all the same.
pub(crate) fn raise_open_files() {
    let initial = INITIAL.get_or_init(|| getrlimit(Resource::Nofile));
    let raised = Rlimit { current: initial.maximum, maximum: initial.maximum };
    if initial.current != initial.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        debug!(%error, "the limit of open files could not be raised");
    }
    // `None`: no limit, so nothing runs out.
    let Some(limit) = getrlimit(Resource::Nofile).current else { return };
    outrigger_net::hold_back_files(limit);
    if is_low(limit) {
        warn!(
            limit,
            "the limit of open files is low, and each connection needs one: raise it to 65536 \
             (systemd: LimitNOFILE=65536, a shell: ulimit -n 65536, docker: --ulimit nofile=65536)"
        );
    }
}

/// Calls `spawn`, which starts another program, under the soft limit that this process was started with: a program that
/// uses select(2), or closes every number up to the limit, works badly with a high one.
pub(crate) fn with_initial_open_files<T>(spawn: impl FnOnce() -> T) -> T {
    let raised = getrlimit(Resource::Nofile);
    // The hard limit stays, so the soft one can be raised again. An error leaves the limit as it is.
    let lowered = INITIAL.get().filter(|initial| initial.current != raised.current).is_some_and(|initial| {
        let limit = Rlimit { current: initial.current, maximum: raised.maximum };
        setrlimit(Resource::Nofile, limit).is_ok()
    });
    let spawned = spawn();
    if lowered && let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open files could not be raised again");
    }
    spawned
}

fn is_low(limit: u64) -> bool {
    limit < MIN_OPEN_FILES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_low_below_4096() {
        for (limit, expected) in [(128, true), (1024, true), (4095, true), (4096, false), (65_536, false)] {
            assert_eq!(is_low(limit), expected, "{limit}");
        }
    }
}
