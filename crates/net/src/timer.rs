//! A timer that is armed late.
//!
//! Nearly every request ends long before its time-out. Setting a runtime timer for each and taking it
//! away again costs more than the time-out is worth, so one timer per app connection stays armed at
//! some earlier request's deadline: when it rings too early it is set to the deadline that counts.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    task::coop::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// One reusable timer. Rings never before the deadline asked for, and at most once per call after.
#[derive(Debug)]
pub struct LazyTimer {
    sleep: Pin<Box<Sleep>>,
    registered: bool,
}

impl LazyTimer {
    /// A timer that is not armed.
    #[expect(clippy::new_without_default, reason = "it takes a runtime")]
    pub fn new() -> Self {
        // Far enough never to ring by itself; the first use moves it.
        let far = Instant::now() + Duration::from_secs(86_400);
        Self { sleep: Box::pin(sleep_until(far)), registered: false }
    }

    /// Ready once `deadline` has passed. Must be polled from one task only.
    pub fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.registered && !self.sleep.is_elapsed() && self.sleep.deadline() <= deadline {
            return Poll::Pending;
        }
        if self.registered && self.sleep.is_elapsed() && Instant::now() >= deadline {
            return Poll::Ready(());
        }
        if self.sleep.deadline() > deadline || self.sleep.is_elapsed() || !self.registered {
            self.sleep.as_mut().reset(deadline);
        }
        self.registered = true;
        // Without a budget: a timer that is not polled for want of one is not armed either.
        pin!(unconstrained(self.sleep.as_mut())).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rings_at_the_deadline_also_when_armed_for_an_earlier_one() {
        let mut timer = LazyTimer::new();
        let start = Instant::now();
        let early = start + Duration::from_secs(1);
        let late = start + Duration::from_secs(3);
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(early, cx).is_pending())).await);
        poll_fn(|cx| timer.poll_until(late, cx)).await;
        assert!(Instant::now() >= late);
        assert!(Instant::now() < late + Duration::from_millis(50));
    }

    #[tokio::test(start_paused = true)]
    async fn rings_also_when_it_was_armed_with_the_tasks_budget_used_up() {
        let mut timer = LazyTimer::new();
        let at = Instant::now() + Duration::from_secs(1);
        let mut burnt = false;
        let rung = poll_fn(|cx| {
            while !burnt && pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
            burnt = true;
            timer.poll_until(at, cx)
        });
        tokio::time::timeout(Duration::from_secs(5), rung).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn rings_for_a_deadline_earlier_than_the_armed_one() {
        let mut timer = LazyTimer::new();
        let start = Instant::now();
        let late = start + Duration::from_secs(30);
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(late, cx).is_pending())).await);
        poll_fn(|cx| timer.poll_until(start + Duration::from_secs(1), cx)).await;
        assert!(Instant::now() < start + Duration::from_secs(2));
    }
}
