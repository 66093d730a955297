//! The clocks: wall time, and the processor time of a thread.
//!
//! A thread's processor time advances only while the thread runs, so other programs on the machine
//! change it only through the processor's caches.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The current wall time.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Processor time that the calling thread has used so far, user and system.
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither part is ever negative for this clock.
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// How long an operation took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed {
    /// Processor time of the thread that ran it.
    pub cpu: Duration,
    /// Wall time.
    pub wall: Duration,
}

/// A moment on both clocks of one thread.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    cpu: Duration,
    wall: Instant,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self { wall: now(), cpu: thread_cpu() }
    }

    /// The time since the start. Must be called on the same thread.
    pub fn elapsed(self) -> Elapsed {
        Elapsed { cpu: thread_cpu().saturating_sub(self.cpu), wall: now() - self.wall }
    }
}
