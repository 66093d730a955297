//! Whose time: the wall's, or a thread's own.
//!
//! A thread's processor time goes on only while it runs, so other programs on the machine hardly
//! change it; they still do through the caches.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Now, on the wall's clock.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Processor time that the calling thread has used so far, user and system.
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is ever negative for this clock.
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What something took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed {
    /// Processor time of the thread that did it.
    pub cpu: Duration,
    /// Time on the wall's clock.
    pub wall: Duration,
}

/// A moment on both clocks of one thread.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    cpu: Duration,
    wall: Instant,
}

impl Stopwatch {
    /// This moment.
    pub fn start() -> Self {
        Self { wall: now(), cpu: thread_cpu() }
    }

    /// Since then; to be asked on the same thread.
    pub fn elapsed(self) -> Elapsed {
        Elapsed { cpu: thread_cpu().saturating_sub(self.cpu), wall: now() - self.wall }
    }
}
