//! What `agent/metrics` shows: the requests of the last full interval, as Consul's agent counts them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};

use crate::wire::{agent::SampledValue, response::EmptyObject};

/// Length of an interval, seconds.
const INTERVAL: u32 = 10;

/// The counts and times of requests.
#[derive(Debug, Default)]
pub(crate) struct RequestMetrics(Mutex<Intervals>);

#[derive(Debug, Default)]
struct Intervals {
    last: Option<Interval>,
    current: Interval,
}

/// The metrics of one interval, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interval {
    /// When it began, seconds since 1970.
    begun: u64,
    counters: BTreeMap<String, Aggregate>,
    samples: BTreeMap<String, Aggregate>,
}

/// Some values, summed up.
#[derive(Debug, Clone, Copy, Default)]
struct Aggregate {
    count: u64,
    sum: f64,
    squares: f64,
    min: f64,
    max: f64,
}

impl RequestMetrics {
    /// Counts one more of what has this name.
    pub(crate) fn count(&self, name: String) {
        self.intervals().current.counters.entry(name).or_default().add(1.0);
    }

    /// Keeps how long a request took.
    pub(crate) fn record(&self, name: String, took: Duration) {
        let milliseconds = took.as_secs_f64() * 1000.0;
        self.intervals().current.samples.entry(name).or_default().add(milliseconds);
    }

    /// The last full interval; the current one, if it is the first.
    pub(crate) fn last_interval(&self) -> Interval {
        let intervals = self.intervals();
        intervals.last.as_ref().unwrap_or(&intervals.current).clone()
    }

    /// The intervals, of which the current one is that of now.
    fn intervals(&self) -> MutexGuard<'_, Intervals> {
        let now = unix_seconds();
        let begun = now - now % u64::from(INTERVAL);
        let mut intervals = self.0.lock();
        if begun > intervals.current.begun {
            let next = Interval { begun, ..Interval::default() };
            let ended = std::mem::replace(&mut intervals.current, next);
            // Before the first metric there was no interval.
            intervals.last = Some(ended).filter(|ended| ended.begun > 0);
        }
        intervals
    }
}

impl Interval {
    /// When the interval began, as Go writes a time.
    pub(crate) fn timestamp(&self) -> String {
        let (days, seconds) = (self.begun / 86_400, self.begun % 86_400);
        let (year, month, day) = civil_date(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} +0000 UTC")
    }

    pub(crate) fn counters(&self) -> Vec<SampledValue> {
        self.counters.iter().map(|(name, values)| values.show(name)).collect()
    }

    pub(crate) fn samples(&self) -> Vec<SampledValue> {
        self.samples.iter().map(|(name, values)| values.show(name)).collect()
    }
}

impl Aggregate {
    fn add(&mut self, value: f64) {
        let first = self.count == 0;
        self.count += 1;
        self.sum += value;
        self.squares += value * value;
        self.min = if first { value } else { self.min.min(value) };
        self.max = if first { value } else { self.max.max(value) };
    }

    fn show(&self, name: &str) -> SampledValue {
        #[expect(clippy::cast_precision_loss, reason = "no count is that large")]
        let count = self.count as f64;
        let spread = count * self.squares - self.sum * self.sum;
        let stddev = if self.count < 2 { 0.0 } else { (spread.max(0.0) / (count * (count - 1.0))).sqrt() };
        SampledValue {
            name: name.to_owned(),
            count: self.count,
            rate: self.sum / f64::from(INTERVAL),
            sum: self.sum,
            min: self.min,
            max: self.max,
            mean: if self.count == 0 { 0.0 } else { self.sum / count },
            stddev,
            labels: EmptyObject {},
        }
    }
}

/// The date of a day since 1970, by the Gregorian calendar.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Years begin in March, so that a leap day ends one.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + next_year, month, day)
}

/// Seconds since 1970.
#[allow(clippy::disallowed_methods, reason = "the one place where this crate reads the wall clock")]
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_summed_up() {
        let metrics = RequestMetrics::default();
        for milliseconds in [1, 2, 3, 6] {
            metrics.record("consul.http.GET.v1.agent.self".to_owned(), Duration::from_millis(milliseconds));
        }
        let intervals = metrics.0.lock();
        // The interval may have ended between two of them.
        let intervals = intervals.last.iter().chain([&intervals.current]);
        let samples: Vec<SampledValue> = intervals.flat_map(Interval::samples).collect();
        assert_eq!(samples.iter().map(|sample| sample.count).sum::<u64>(), 4);
        if let [sample] = &*samples {
            assert_eq!((sample.sum, sample.rate, sample.mean), (12.0, 1.2, 3.0));
            assert_eq!((sample.min, sample.max), (1.0, 6.0));
            assert!((sample.stddev - (14.0_f64 / 3.0).sqrt()).abs() < 1e-9, "{}", sample.stddev);
        }
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        let cases = [
            (0, "1970-01-01 00:00:00 +0000 UTC"),
            (951_782_400, "2000-02-29 00:00:00 +0000 UTC"),
            (1_795_991_310, "2026-11-29 22:28:30 +0000 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 +0000 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 +0000 UTC"),
        ];
        for (begun, expected) in cases {
            assert_eq!(Interval { begun, ..Interval::default() }.timestamp(), expected);
        }
    }
}
