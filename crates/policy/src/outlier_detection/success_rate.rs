//! Whether a success rate is low for the company it is in.

/// How far below its siblings' median a rate must be.
const MIN_GAP: f64 = 0.3;
/// Fewest siblings with a rate of their own: with itself, three.
const MIN_SIBLINGS: usize = 2;

/// Whether `own_rate` is below `min_rate` and well below the median of `siblings`.
///
/// The median, since one that is worse still must not make a bad one look good; the own rate is not in
/// it, since with three it would be.
pub(super) fn is_outlier(own_rate: f64, min_rate: f64, siblings: &mut [f64]) -> bool {
    if own_rate >= min_rate || siblings.len() < MIN_SIBLINGS {
        return false;
    }
    siblings.sort_by(f64::total_cmp);
    let (low, high) = (siblings[(siblings.len() - 1) / 2], siblings[siblings.len() / 2]);
    // A hair of tolerance: 0.9 − 0.6 is not 0.3 in binary.
    (low + high) / 2.0 - own_rate >= MIN_GAP - 1e-9
}
