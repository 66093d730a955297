//! How many files this process may open. A sidecar needs one per connection, on both sides. With a limit
//! of 1,024, an app with 10,000 connections gets errors that look like network errors.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    process::{Child, Command},
    sync::OnceLock,
};

#[cfg(target_os = "linux")]
use rustix::process::{Pid, prlimit};
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

/// Starts another program under the soft limit that this process was started with: a program that uses select(2), or closes
/// every number up to the limit, works badly with a high one.
pub(crate) fn spawn_with_initial_open_files(command: &mut Command) -> io::Result<Child> {
    match INITIAL.get() {
        Some(initial) => spawn_with_open_files(command, initial.current),
        None => command.spawn(),
    }
}

/// Starts `command` under the soft limit `soft`. `None`: no limit.
fn spawn_with_open_files(command: &mut Command, soft: Option<u64>) -> io::Result<Child> {
    let raised = getrlimit(Resource::Nofile);
    // The hard limit stays, so this process can raise its own soft one again.
    let lowered = Rlimit { current: soft, maximum: raised.maximum };
    if lowered.current == raised.current {
        return command.spawn();
    }
    if !has_room(soft) {
        return spawn_and_lower(command, lowered);
    }
    // An error leaves the limit as it is.
    let is_lowered = setrlimit(Resource::Nofile, lowered).is_ok();
    let spawned = command.spawn();
    if is_lowered && let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open files could not be raised again");
    }
    spawned
}

/// Lowers the limit of the started program alone, after its start: for a moment it has the limit of this process. The limit
/// belongs to the whole process, so with many open files a lower one would fail each accept and connect meanwhile.
fn spawn_and_lower(command: &mut Command, lowered: Rlimit) -> io::Result<Child> {
    let child = command.spawn()?;
    #[cfg(target_os = "linux")]
    if let Err(error) = prlimit(Some(Pid::from_child(&child)), Resource::Nofile, lowered) {
        debug!(%error, "the app keeps the sidecar's limit of open files");
    }
    #[cfg(not(target_os = "linux"))]
    debug!(?lowered, "the app keeps the sidecar's limit of open files");
    Ok(child)
}

/// Whether this process can work under the limit `soft` for a moment: less than half of it is in use. A new file gets the lowest
/// free number.
fn has_room(soft: Option<u64>) -> bool {
    let Some(soft) = soft else { return true };
    let free = File::open("/").map(|file| file.as_raw_fd());
    free.is_ok_and(|number| u64::try_from(number).is_ok_and(|number| number < soft / 2))
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

    #[cfg(target_os = "linux")]
    #[test]
    fn a_program_gets_the_lower_limit_also_while_this_process_needs_more_files() {
        const ALONE: &str = "OUTRIGGER_TEST_ALONE";
        // In a process of its own: other tests open and close files meanwhile.
        if std::env::var_os(ALONE).is_none() {
            let name =
                "limits::tests::a_program_gets_the_lower_limit_also_while_this_process_needs_more_files";
            let mut test = Command::new(std::env::current_exe().unwrap());
            let ended = test.args([name, "--exact"]).env(ALONE, "1").output().unwrap();
            let text = String::from_utf8_lossy(&ended.stdout);
            assert!(ended.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        let own = getrlimit(Resource::Nofile);
        assert!(has_room(own.current) && has_room(None));
        // As many as are open: this process could open none under such a limit.
        let _held: Vec<_> = (0..16).map(|_| File::open("/").unwrap()).collect();
        let soft = u64::try_from(File::open("/").unwrap().as_raw_fd()).unwrap();
        assert!(!has_room(Some(soft)));
        let mut child =
            spawn_with_open_files(Command::new("cat").stdin(std::process::Stdio::piped()), Some(soft))
                .unwrap();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().nth(3), Some(&*soft.to_string()), "{files}");
        assert_eq!(getrlimit(Resource::Nofile).current, own.current);
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
