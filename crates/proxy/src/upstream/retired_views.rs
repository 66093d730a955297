//! The Views that a newer one has replaced. The writer keeps them until no pick reads them, so that no request drops the last
//! reference, and with it an endpoint per instance.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

/// The time between two checks. A pick holds a View for less.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A View that is held for longer than this is left to its holder (a status page), which then drops it.
const MAX_AGE: Duration = Duration::from_secs(10);

/// Values that were replaced, the oldest first.
#[derive(Debug)]
pub(crate) struct RetiredViews<T> {
    views: VecDeque<(Instant, Arc<T>)>,
    last_check: Instant,
}

impl<T> Default for RetiredViews<T> {
    fn default() -> Self {
        Self { views: VecDeque::new(), last_check: Instant::now() }
    }
}

impl<T> RetiredViews<T> {
    /// Keeps `view`, which readers can no longer load, and drops the ones before it that are not in use. So a service that
    /// changes all the time piles up none.
    pub(crate) fn push(&mut self, view: Arc<T>, now: Instant) {
        self.drop_unused(now);
        self.views.push_back((now, view));
    }

    /// Drops what has no other holder, and what is older than [`MAX_AGE`].
    pub(crate) fn drop_unused(&mut self, now: Instant) {
        // The swap has counted every reader as a holder, and the number of holders only falls.
        self.views
            .retain(|(since, view)| Arc::strong_count(view) > 1 && now.duration_since(*since) < MAX_AGE);
        self.last_check = now;
    }

    /// When to call [`drop_unused`](Self::drop_unused) next; `None`: nothing is kept.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        (!self.views.is_empty()).then(|| self.last_check + CHECK_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_view_is_kept_while_it_is_read_and_no_longer_than_its_age() {
        let mut retired = RetiredViews::default();
        assert_eq!(retired.next_check(), None);
        let begin = Instant::now();
        let read = Arc::new(());
        let unread = Arc::downgrade(&{
            let view = Arc::new(());
            retired.push(view.clone(), begin);
            view
        });
        retired.push(read.clone(), begin);
        assert!(unread.upgrade().is_none(), "dropped with the next change");
        assert_eq!(retired.next_check(), Some(begin + CHECK_INTERVAL));
        retired.drop_unused(begin + MAX_AGE / 2);
        assert_eq!(Arc::strong_count(&read), 2, "it is read");
        retired.drop_unused(begin + MAX_AGE);
        assert_eq!((Arc::strong_count(&read), retired.next_check()), (1, None));
    }
}
