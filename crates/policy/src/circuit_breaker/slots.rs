//! The slots of a half-open breaker's probes.

use std::time::{Duration, Instant};

use crate::probe_slot::slot_time;

/// The slots of one half-open period.
#[derive(Debug, Clone, Default)]
pub(super) struct ProbeSlots {
    held: Vec<ProbeSlot>,
    /// The number of the next probe.
    next: u32,
    /// How often slots have passed on without a verdict since a probe succeeded.
    passed: u32,
}

#[derive(Debug, Clone, Copy)]
struct ProbeSlot {
    number: u32,
    since: Instant,
    time: Duration,
}

impl ProbeSlot {
    fn left(&self, now: Instant) -> Duration {
        self.time.saturating_sub(now.saturating_duration_since(self.since))
    }
}

impl ProbeSlots {
    /// Takes one of `most` slots and returns the probe's number. With all of them held, each that has
    /// been held for its time passes on.
    ///
    /// # Errors
    /// When all are held: the time until the first one passes on.
    pub(super) fn take(&mut self, most: u32, now: Instant) -> Result<u32, Duration> {
        let most = most as usize;
        if self.held.len() >= most {
            let before = self.held.len();
            self.held.retain(|slot| !slot.left(now).is_zero());
            if self.held.len() < before {
                self.passed = self.passed.saturating_add(1);
            }
        }
        if self.held.len() >= most {
            return Err(self.held.iter().map(|slot| slot.left(now)).min().unwrap_or_default());
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.held.push(ProbeSlot { number, since: now, time: slot_time(self.passed) });
        Ok(number)
    }

    /// Frees the slot of a probe; false when it has passed on before.
    pub(super) fn free(&mut self, number: u32) -> bool {
        let at = self.held.iter().position(|slot| slot.number == number);
        at.map(|at| self.held.swap_remove(at)).is_some()
    }

    /// A probe has succeeded: the service answers, so the next slots pass on soon again.
    pub(super) fn record_success(&mut self) {
        self.passed = 0;
    }
}
