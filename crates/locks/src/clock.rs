//! A clock that counts while the machine is suspended (`CLOCK_BOOTTIME`): a session expires at the registry while this machine sleeps.

use std::{fs, time::Duration};

use rustix::{
    fs::Timespec,
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, clock_gettime, timerfd_create,
        timerfd_settime,
    },
};
use tokio::net::unix::pipe::Receiver;

/// How often the time is looked at where the kernel gives no timer: it is short of file descriptors.
const FALLBACK_INTERVAL: Duration = Duration::from_millis(200);

/// Where the time comes from. Times are durations since the machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootClock {
    /// `CLOCK_BOOTTIME`.
    Kernel,
    /// tokio's clock, counted from this moment, which a test can pause.
    Tokio(tokio::time::Instant),
}

impl BootClock {
    /// The time now.
    pub fn now(self) -> Duration {
        match self {
            Self::Kernel => {
                let now = clock_gettime(ClockId::Boottime);
                let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
                Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
            }
            Self::Tokio(start) => start.elapsed(),
        }
    }

    /// Resolves at `time`; right after the machine wakes where that passed while it was suspended.
    pub async fn sleep_until(self, time: Duration) {
        match self {
            Self::Kernel => {
                if kernel_sleep_until(time).await.is_err() {
                    while self.now() < time {
                        let left = time.saturating_sub(self.now());
                        tokio::time::sleep(left.min(FALLBACK_INTERVAL)).await;
                    }
                }
            }
            Self::Tokio(start) => tokio::time::sleep_until(start + time).await,
        }
    }
}

async fn kernel_sleep_until(time: Duration) -> std::io::Result<()> {
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    // A time of zero would turn the timer off.
    let it_value = Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().max(1).into() };
    let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
    // tokio has no type for a timer. Like a pipe it is readable when there is something to read.
    Receiver::from_owned_fd_unchecked(timer)?.readable().await
}

/// A text that is another one after each start of the machine, so that a time that was written down is known to be of this start.
/// Empty where the kernel does not say it: no time that was written down is used then.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_s_timer_fires_at_its_time_and_not_before() {
        let clock = BootClock::Kernel;
        let at = clock.now() + Duration::from_millis(30);
        tokio::time::timeout(Duration::from_secs(20), clock.sleep_until(at)).await.unwrap();
        assert!(clock.now() >= at);
        // A time that is over.
        tokio::time::timeout(Duration::from_secs(20), clock.sleep_until(Duration::ZERO)).await.unwrap();
    }

    #[test]
    fn the_start_of_the_machine_has_a_name() {
        assert_eq!(boot_id().len(), 36);
        assert_eq!(boot_id(), boot_id());
    }
}
