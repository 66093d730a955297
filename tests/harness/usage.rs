//! What a process has open, and how much of the processors it has used.
#![allow(clippy::expect_used, reason = "a harness fails its test by panicking")]

use std::time::Duration;

/// How many files, sockets among them, a process has open.
///
/// # Panics
/// There is no such process, or no Linux `/proc`.
pub fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("read /proc/PID/fd").count()
}

/// CPU time of a process, user and system, of all its threads. To a hundredth of a second.
///
/// # Panics
/// There is no such process, or no Linux `/proc`.
pub fn cpu_time(pid: u32) -> Duration {
    // USER_HZ is 100 on every Linux: what /proc shows does not depend on the kernel's own clock.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("read /proc/PID/stat");
    // The name may hold blanks and parentheses; what follows its last one does not.
    let (_, rest) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = |nth| rest.split_whitespace().nth(nth).and_then(|text| text.parse().ok());
    let (user, system): (u32, u32) = ticks(11).zip(ticks(12)).expect("utime and stime");
    TICK * (user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_is_counted_and_work_is_seen() {
        let us = std::process::id();
        let held: Vec<_> = (0..50).map(|_| std::fs::File::open("/proc/self/stat").expect("open")).collect();
        // Other tests of this process open and close some meanwhile.
        assert!(open_files(us) > held.len());
        let before = cpu_time(us);
        let mut sum = 0_u64;
        let end = tokio::time::Instant::now() + crate::wait::TIMEOUT;
        while cpu_time(us) < before + Duration::from_millis(50) {
            sum = std::hint::black_box(sum + (0..10_000).sum::<u64>());
            assert!(tokio::time::Instant::now() < end, "no work is seen: {sum}");
        }
    }
}
