//! Blocking queries: a reader that has seen an index waits until its topic is past it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{server::Shared, store::Topic, wire::duration::Span};

/// How long a query blocks unless the client says otherwise.
const DEFAULT: Duration = Duration::from_secs(300);
/// The longest that a client may ask for; more is taken as this.
const LONGEST: Duration = Duration::from_secs(600);
/// Up to one part in this many is added at random, so that a crowd does not come back at once.
const JITTER_PART: u32 = 16;

/// How long a query with this `wait` parameter blocks at the longest, jitter included. Nothing,
/// zero and less all mean the default.
pub(crate) fn patience(wait: Option<Span>) -> Duration {
    let wait = wait.and_then(Span::positive).unwrap_or(DEFAULT).min(LONGEST);
    wait + (wait / JITTER_PART).mul_f64(fastrand::f64())
}

/// Returns when `topic` is past `index`, after `patience`, or when the registry stops: a return
/// promises nothing. An index above the topic's blocks to the end even when the topic changes, as
/// the real one does. 0 does not block.
pub(crate) async fn until_past(shared: &Shared, topic: &Topic, index: u64, patience: Duration) {
    // Before the first look, so that no change falls between.
    let mut changes = shared.changes();
    let mut seen = shared.read(|store| store.mark(topic));
    if index == 0 || seen.index > index {
        return;
    }
    let end = Instant::now() + patience;
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = sleep_until(end) => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        let now = shared.read(|store| store.mark(topic));
        if now.wake != seen.wake && now.index > index {
            return;
        }
        seen = now;
    }
}

/// Returns when `changed` says so of the state, after `patience`, or when the registry stops.
pub(crate) async fn until(
    shared: &Shared,
    patience: Duration,
    mut changed: impl FnMut(&crate::store::Store) -> bool,
) {
    let mut changes = shared.changes();
    let end = Instant::now() + patience;
    while !shared.read(&mut changed) {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = sleep_until(end) => return,
            told = changes.changed() => if told.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_the_wait_and_at_most_a_sixteenth_more() {
        let cases = [
            (None, DEFAULT),
            (Some(Span(0)), DEFAULT),
            (Some(Span(-1_000_000_000)), DEFAULT),
            (Some(Span(1_000_000_000)), Duration::from_secs(1)),
            (Some(Span(900_000_000_000)), LONGEST),
        ];
        for (wait, least) in cases {
            for _ in 0..100 {
                let patience = patience(wait);
                assert!(
                    patience >= least && patience <= least + least / JITTER_PART,
                    "{wait:?}: {patience:?}"
                );
            }
        }
    }
}
