//! Requests that wait for a permit while others give theirs back. A request that is never woken is a deadlock, which loom reports.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
};

use loom::{
    future::block_on,
    thread::{self, JoinHandle},
};

use crate::{
    check,
    pool::{PermitTurn, Permits},
    sync::AtomicUsize,
};

const MANY: usize = 8;

/// `most` permits, all in use.
fn all_used(most: usize) -> Arc<Permits> {
    let permits = Arc::new(Permits::new(most));
    assert!((0..most).all(|_| permits.try_take()));
    permits
}

fn spawn<T: 'static>(permits: &Arc<Permits>, run: impl FnOnce(&Permits) -> T + 'static) -> JoinHandle<T> {
    let permits = Arc::clone(permits);
    thread::spawn(move || run(&permits))
}

/// Takes a permit, waiting if it must, and gives it back.
fn use_one(permits: &Permits, most: usize) {
    block_on(permits.wait(MANY).unwrap());
    assert!((1..=most).contains(&permits.used()));
    permits.give_back();
}

/// Whether the turn has not come. The request waits on without being woken.
fn is_pending(turn: &mut PermitTurn<'_>) -> bool {
    block_on(poll_fn(|cx| Poll::Ready(Pin::new(&mut *turn).poll(cx).is_pending())))
}

fn assert_all_free(permits: &Permits, most: usize) {
    assert_eq!(permits.used(), 0);
    assert!((0..most).all(|_| permits.try_take()), "no request waits");
    assert!(!permits.try_take());
}

#[test]
fn a_request_that_waits_gets_the_permit_that_is_given_back() {
    check(|| {
        let permits = all_used(1);
        let waiting = spawn(&permits, |permits| use_one(permits, 1));
        permits.give_back();
        waiting.join().unwrap();
        assert_all_free(&permits, 1);
    });
}

#[test]
fn two_that_wait_both_get_one_also_when_two_are_given_back_at_once() {
    for most in [1, 2] {
        check(move || {
            let permits = all_used(most);
            let waiting = [(); 2].map(|()| spawn(&permits, move |permits| use_one(permits, most)));
            (0..most).for_each(|_| permits.give_back());
            waiting.into_iter().for_each(|one| one.join().unwrap());
            assert_all_free(&permits, most);
        });
    }
}

#[test]
fn two_permits_that_are_given_back_at_the_same_time_wake_two_that_wait() {
    check(|| {
        let permits = all_used(2);
        let mut turns = [(); 2].map(|()| permits.wait(MANY).unwrap());
        assert!(turns.iter_mut().all(is_pending));
        let other = spawn(&permits, Permits::give_back);
        permits.give_back();
        other.join().unwrap();
        turns.into_iter().for_each(block_on);
        assert_eq!(permits.used(), 2);
    });
}

#[test]
fn permits_are_taken_up_to_the_limit_and_no_further() {
    check(|| {
        let (permits, held) = (Arc::new(Permits::new(1)), Arc::new(AtomicUsize::new(0)));
        let use_one = |held: Arc<AtomicUsize>| {
            move |permits: &Permits| {
                if !permits.try_take() {
                    block_on(permits.wait(MANY).unwrap());
                }
                assert_eq!(held.fetch_add(1, Relaxed), 0, "another request holds the only permit");
                held.fetch_sub(1, Relaxed);
                permits.give_back();
            }
        };
        let other = spawn(&permits, use_one(Arc::clone(&held)));
        use_one(held)(&permits);
        other.join().unwrap();
        assert_all_free(&permits, 1);
    });
}

#[test]
fn one_that_stops_waiting_passes_its_turn_on() {
    check(|| {
        let permits = all_used(1);
        // Its app leaves before or after it was given the permit.
        let gone = spawn(&permits, |permits| drop(permits.wait(MANY)));
        let waiting = spawn(&permits, |permits| use_one(permits, 1));
        permits.give_back();
        gone.join().unwrap();
        waiting.join().unwrap();
        assert_all_free(&permits, 1);
    });
}

#[test]
fn a_limit_that_is_raised_reaches_a_request_that_begins_to_wait() {
    check(|| {
        let permits = all_used(1);
        let waiting = spawn(&permits, |permits| use_one(permits, 2));
        permits.set_most(2);
        waiting.join().unwrap();
        assert_eq!((permits.used(), permits.most()), (1, 2));
    });
}

#[test]
fn a_request_that_comes_does_not_overtake_one_that_waits() {
    check(|| {
        let permits = all_used(1);
        let mut turn = permits.wait(MANY).unwrap();
        assert!(is_pending(&mut turn));
        let newcomer = spawn(&permits, |permits| {
            let is_taken = permits.try_take();
            let mut late = permits.wait(MANY).unwrap();
            is_taken || !is_pending(&mut late)
        });
        permits.give_back();
        assert!(!newcomer.join().unwrap(), "it was served before the one that waits");
        block_on(turn);
        assert_eq!(permits.used(), 1);
    });
}

#[test]
fn those_that_wait_are_served_in_the_order_of_their_arrival() {
    check(|| {
        let permits = all_used(2);
        let mut turns = [(); 3].map(|()| permits.wait(MANY).unwrap());
        let other = spawn(&permits, Permits::give_back);
        permits.give_back();
        other.join().unwrap();
        assert_eq!(turns.each_mut().map(is_pending), [false, false, true]);
        assert!(!permits.try_take());
    });
}

#[test]
fn no_more_requests_wait_than_allowed() {
    check(|| {
        let permits = all_used(1);
        let other = spawn(&permits, |permits| permits.wait(1).is_some());
        // The other one may have left again by then.
        let own = permits.wait(1);
        let (is_own, is_other) = (own.is_some(), other.join().unwrap());
        assert!(is_own || is_other);
        drop(own);
        assert!(permits.wait(1).is_some(), "one that was refused holds no place");
    });
}
