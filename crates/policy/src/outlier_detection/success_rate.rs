//! Compares a success rate with the siblings' rates.

/// How far below its siblings' rate a rate must be.
const MIN_GAP: f64 = 0.3;
/// Of two endpoints: how far below the other's rate a rate must be, in standard errors of the difference. By chance, one
/// comparison of two equal rates in 740 comes out so. Envoy ejects at 1.9 standard deviations, of five hosts or more.
const MIN_STANDARD_ERRORS: f64 = 3.0;

/// An endpoint's attempts in the window.
#[derive(Debug, Clone, Copy)]
pub(super) struct RateSample {
    /// At least one.
    pub(super) ended: u64,
    pub(super) failed: u64,
}

impl RateSample {
    /// The share of successes.
    pub(super) fn rate(self) -> f64 {
        self.succeeded() / self.ended as f64
    }

    fn succeeded(self) -> f64 {
        self.ended.saturating_sub(self.failed) as f64
    }
}

/// Whether `own` is below `min_rate` and well below the rate of the siblings.
///
/// Of several siblings the median counts, because one sibling that is even worse must not make a bad rate look good. The own
/// rate is not part of it: among three endpoints it could be the median itself. Of two endpoints neither is the rule, and one
/// may be worse by chance: the difference must also be greater than chance explains (a z-test of two proportions).
pub(super) fn is_outlier(own: RateSample, min_rate: f64, siblings: &mut [RateSample]) -> bool {
    if own.rate() >= min_rate {
        return false;
    }
    siblings.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
    let (usual, min_gap) = match siblings {
        [] => return false,
        [other] => (other.rate(), MIN_GAP.max(MIN_STANDARD_ERRORS * standard_error(own, *other))),
        [..] => {
            let (low, high) = (siblings[(siblings.len() - 1) / 2], siblings[siblings.len() / 2]);
            ((low.rate() + high.rate()) / 2.0, MIN_GAP)
        }
    };
    // The tolerance is for binary fractions: 0.9 − 0.6 is not exactly 0.3.
    usual - own.rate() >= min_gap - 1e-9
}

/// The standard error of the difference of two rates, if both endpoints had the same one.
fn standard_error(one: RateSample, other: RateSample) -> f64 {
    let (few, many) = (one.ended as f64, other.ended as f64);
    let common = (one.succeeded() + other.succeeded()) / (few + many);
    (common * (1.0 - common) * (few.recip() + many.recip())).sqrt()
}
