//! Medians and percentiles of a few samples.

use std::fmt;

/// Samples in one unit, sorted.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Sorts the samples and drops NaN.
    pub fn new(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut samples: Vec<f64> = samples.into_iter().filter(|sample| !sample.is_nan()).collect();
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }

    /// The number of samples.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that at least `share` of all do not exceed (nearest rank); NaN without samples.
    pub fn percentile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        let last = self.0.len().saturating_sub(1);
        self.0.get(rank.saturating_sub(1).min(last)).copied().unwrap_or(f64::NAN)
    }

    /// The middle sample; of an even number, the lower of the two.
    pub fn median(&self) -> f64 {
        self.percentile(0.5)
    }

    /// The least sample; NaN without samples.
    pub fn min(&self) -> f64 {
        self.percentile(0.0)
    }

    /// The greatest sample; NaN without samples.
    pub fn max(&self) -> f64 {
        self.percentile(1.0)
    }

    /// The first quartile, the median and the third quartile.
    pub fn quartiles(&self) -> [f64; 3] {
        [0.25, 0.5, 0.75].map(|share| self.percentile(share))
    }

    /// `median (first quartile to third quartile)`; the figure alone when there is one sample.
    pub fn middle(&self) -> String {
        let [first, median, third] = self.quartiles().map(ThreeDigits);
        if self.count() == 1 { median.to_string() } else { format!("{median} ({first} to {third})") }
    }

    /// `median (min to max)`.
    pub fn spread(&self) -> String {
        format!("{} ({} to {})", ThreeDigits(self.median()), ThreeDigits(self.min()), ThreeDigits(self.max()))
    }
}

/// The ratios of two lists with one sample per round, each within its round, so that other load affects both.
pub fn ratios(ours: &[f64], theirs: &[f64]) -> Samples {
    Samples::new(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
}

/// A figure with about three significant digits.
#[derive(Debug, Clone, Copy)]
pub struct ThreeDigits(pub f64);

impl fmt::Display for ThreeDigits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            size if size >= 100.0 => 0,
            size if size >= 10.0 => 1,
            _ => 2,
        };
        write!(f, "{:.digits$}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let hundred = Samples::new((1..=100).rev().map(f64::from));
        let cases = [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)];
        for (share, expected) in cases {
            assert_eq!(hundred.percentile(share), expected, "{share}");
        }
    }

    #[test]
    fn the_quartiles_of_nine_are_the_third_and_the_seventh() {
        let nine = Samples::new((1..=9).map(f64::from));
        assert_eq!(nine.quartiles(), [3.0, 5.0, 7.0]);
        assert_eq!(nine.middle(), "5.00 (3.00 to 7.00)");
        assert_eq!(Samples::new([2.0]).middle(), "2.00");
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        assert_eq!(ratios(&[10.0, 40.0], &[10.0, 20.0]), Samples::new([1.0, 2.0]));
    }

    #[test]
    fn the_median_of_no_samples_is_nan() {
        assert!(Samples::new([f64::NAN]).median().is_nan());
    }

    #[test]
    fn a_figure_has_three_significant_digits() {
        let shown = [0.123_4, 1.234, 12.34, 123.4, 12_340.0].map(|figure| ThreeDigits(figure).to_string());
        assert_eq!(shown, ["0.12", "1.23", "12.3", "123", "12340"]);
    }
}
