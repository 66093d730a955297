//! Wall times of calls one after the other.

use crate::{Error, clock, stats::Samples};

/// Milliseconds of `rounds` calls of `once`, after one that is not counted.
pub(super) async fn timed(
    rounds: usize,
    mut once: impl AsyncFnMut(usize) -> Result<(), Error>,
) -> Result<Samples, Error> {
    once(0).await?;
    let mut samples = Vec::new();
    for round in 1..=rounds {
        let start = clock::now();
        once(round).await?;
        samples.push((clock::now() - start).as_secs_f64() * 1e3);
    }
    Ok(Samples::new(samples))
}
