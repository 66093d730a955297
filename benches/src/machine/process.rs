//! Processor time and memory of one process, all its threads together, from `/proc`.

use std::{fs, time::Duration};

use crate::{Error, error::doing};

/// A tick of the times in `/proc`: hundredths of a second on every machine (`USER_HZ`), whatever the
/// kernel's own clock is.
const TICK: Duration = Duration::from_millis(10);

/// Processor time used so far, user and system, by all threads, including ended ones.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration, Error> {
    let [user, system, ..] = times(&pid.to_string())?;
    Ok(user + system)
}

/// The processor time of this process and of the children that it has awaited.
pub(super) fn own_cpu_time() -> Result<Duration, Error> {
    Ok(times("self")?.into_iter().sum())
}

/// User, system, and the same two of awaited children.
fn times(process: &str) -> Result<[Duration; 4], Error> {
    let file = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&file).map_err(doing(format!("read {file}")))?;
    times_of(&text).ok_or_else(|| Error::new(format!("find the times in {file}")))
}

fn times_of(stat: &str) -> Option<[Duration; 4]> {
    // The name, in parentheses, may hold any character; the state is the first field after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map_while(|field| field.parse().ok());
    let mut next = || Some(TICK * ticks.next()?);
    Some([next()?, next()?, next()?, next()?])
}

/// Resident memory, bytes.
///
/// # Errors
/// There is no such process.
pub fn resident(pid: u32) -> Result<u64, Error> {
    let file = format!("/proc/{pid}/status");
    let kib = super::line_of(&file, "VmRSS")
        .and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok())
        .ok_or_else(|| Error::new(format!("find VmRSS in {file}")))?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 7 5 30 20 20 0 4 0 1000";
        assert_eq!(times_of(stat), Some([7, 5, 30, 20].map(|ticks| TICK * ticks)));
        assert_eq!(times_of("42 (cut) S 1"), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident(std::process::id()).unwrap() > 100_000);
    }
}
