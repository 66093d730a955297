//! Compares a success rate with the siblings' rates.

/// How far below its siblings' median a rate must be.
const MIN_GAP: f64 = 0.3;
/// Fewest siblings with a rate; with the endpoint itself, three.
const MIN_SIBLINGS: usize = 2;

/// Whether `own_rate` is below `min_rate` and well below the median of `siblings`.
///
/// The median, because one sibling that is even worse must not make a bad rate look good. The own rate is
/// not part of it: among three endpoints it could be the median itself.
pub(super) fn is_outlier(own_rate: f64, min_rate: f64, siblings: &mut [f64]) -> bool {
    if own_rate >= min_rate || siblings.len() < MIN_SIBLINGS {
        return false;
    }
    siblings.sort_by(f64::total_cmp);
    let (low, high) = (siblings[(siblings.len() - 1) / 2], siblings[siblings.len() / 2]);
    // The tolerance is for binary fractions: 0.9 − 0.6 is not exactly 0.3.
    (low + high) / 2.0 - own_rate >= MIN_GAP - 1e-9
}
