//! How much memory a process holds.
#![allow(clippy::expect_used, reason = "a harness fails its test by panicking")]

/// Resident memory (`VmRSS`) of a process, bytes; our own without a `pid`.
///
/// # Panics
/// There is no such process, or no Linux `/proc`.
pub fn resident_memory(pid: Option<u32>) -> u64 {
    let of = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let status = std::fs::read_to_string(format!("/proc/{of}/status")).expect("read /proc/PID/status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS line");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("VmRSS in kB");
    kib * 1024
}
