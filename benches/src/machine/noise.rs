//! How much of the machine's processor time other processes used during a measurement.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::process::{cpu_time, own_cpu_time};
use crate::{Error, clock, error::doing};

/// As in `process.rs`.
const TICK: Duration = Duration::from_millis(10);

/// A running measurement of the noise.
#[derive(Debug)]
pub struct Noise<'a> {
    /// Processes of the bench that run during all of it.
    pids: &'a [u32],
    cores: usize,
    began: Instant,
    machine: Duration,
    ours: Duration,
}

impl<'a> Noise<'a> {
    /// Begins. `pids` are processes of the bench that run until the end. Child processes that are started
    /// and awaited in between count as the bench's in any case.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn begin(pids: &'a [u32]) -> Result<Self, Error> {
        let (cores, machine) = machine_busy()?;
        Ok(Self { pids, cores, began: clock::now(), machine, ours: ours(pids)? })
    }

    /// The share of the machine that other processes had since the beginning, 0 to 1. Other guests of a
    /// hypervisor count as far as the kernel sees them (steal).
    ///
    /// # Errors
    /// One of the `pids` has ended.
    pub fn end(self) -> Result<f64, Error> {
        let (_, machine) = machine_busy()?;
        let others =
            (machine.saturating_sub(self.machine)).saturating_sub(ours(self.pids)?.saturating_sub(self.ours));
        let all = (clock::now() - self.began).as_secs_f64() * self.cores as f64;
        Ok((others.as_secs_f64() / all).clamp(0.0, 1.0))
    }
}

fn ours(pids: &[u32]) -> Result<Duration, Error> {
    pids.iter().try_fold(own_cpu_time()?, |sum, &pid| Ok(sum + cpu_time(pid)?))
}

/// The number of cores, and the sum of their busy times.
fn machine_busy() -> Result<(usize, Duration), Error> {
    let text = fs::read_to_string("/proc/stat").map_err(doing("read /proc/stat"))?;
    busy_of(&text).ok_or_else(|| Error::new("find the times in /proc/stat"))
}

fn busy_of(stat: &str) -> Option<(usize, Duration)> {
    let mut lines = stat.lines().take_while(|line| line.starts_with("cpu"));
    let all: Vec<u32> =
        lines.next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; the later fields are part of these.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = all[..] else { return None };
    let ticks = [user, nice, system, irq, softirq, steal].into_iter().sum::<u32>();
    Some((lines.count(), TICK * ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_idle_and_waiting_for_disks() {
        let stat = "cpu  10 1 20 900 500 3 4 2 7 7\ncpu0 5 0 10 450 0 0 0 0 0 0\ncpu1 5 1 10 450 0 0 0 0 0 0\nintr 1\n";
        assert_eq!(busy_of(stat), Some((2, TICK * 40)));
        assert_eq!(busy_of("intr 1"), None);
    }
}
