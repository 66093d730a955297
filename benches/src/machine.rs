//! The machine, and the load of other processes on it. Reads Linux's `/proc`.

mod noise;
mod process;

use std::{fs, process::Command};

use crate::{Error, error::doing};

pub use noise::Noise;
pub use process::{cpu_time, resident};

/// The machine of the measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    cores: usize,
    cpu: String,
    kernel: String,
    memory_gib: u64,
    commit: String,
}

impl Machine {
    /// This machine. Facts that cannot be read are `unknown`.
    pub fn detect() -> Self {
        let cpu = line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into());
        let memory = line_of("/proc/meminfo", "MemTotal").and_then(|text| {
            let kib: u64 = text.split_whitespace().next()?.parse().ok()?;
            Some(kib.div_ceil(1 << 20))
        });
        Self {
            cores: cores().map_or(0, |cores| cores.len()),
            cpu,
            kernel: first_line_of("uname", &["-sr"]),
            memory_gib: memory.unwrap_or(0),
            commit: first_line_of("git", &["describe", "--always", "--dirty", "--exclude", "*"]),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cores, cpu, kernel, memory_gib, commit } = self;
        write!(f, "{cores} × {cpu}, {memory_gib} GiB, {kernel}, commit {commit}")
    }
}

/// Running and runnable tasks, on average over the last minute.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// The cores that this process may run on.
///
/// # Errors
/// `/proc` does not hold it.
pub fn cores() -> Result<Vec<usize>, Error> {
    let list = line_of("/proc/self/status", "Cpus_allowed_list")
        .ok_or_else(|| Error::new("find the list of cores in /proc/self/status"))?;
    Ok(core_list(&list))
}

/// `0-2,5` → 0, 1, 2, 5.
fn core_list(text: &str) -> Vec<usize> {
    let ranges = text.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    });
    ranges.flatten().collect()
}

/// Most files that this process, and those it starts, may have open.
///
/// # Errors
/// `/proc` does not hold it.
pub fn file_limit() -> Result<usize, Error> {
    let limits = fs::read_to_string("/proc/self/limits").map_err(doing("read /proc/self/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    match soft {
        Some("unlimited") => Ok(usize::MAX),
        Some(soft) => soft.parse().map_err(doing("read the limit of open files")),
        None => Err(Error::new("find the limit of open files in /proc/self/limits")),
    }
}

/// The value of `key` in a file of lines `key: value`.
fn line_of(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key).then(|| value.trim().to_owned())
    })
}

/// The first line that a command prints to stdout or stderr; `unknown` when it cannot be run.
pub(crate) fn first_line_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let printed = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let printed = String::from_utf8_lossy(&printed);
    printed.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_hold_ranges_and_single_cores() {
        for (text, cores) in [("0-1", vec![0, 1]), ("3", vec![3]), ("0-2,5", vec![0, 1, 2, 5])] {
            assert_eq!(core_list(text), cores, "{text}");
        }
    }

    #[test]
    fn this_machine_has_a_core_and_a_file_to_open() {
        assert!(!cores().unwrap().is_empty());
        assert!(file_limit().unwrap() > 3);
    }
}
