//! The limits of a sidecar, and the same owner again.

use super::*;

fn of(text: &str, wait: Duration) -> Acquire {
    Acquire { name: name(text), ..request(wait) }
}

#[tokio::test(start_paused = true)]
async fn an_owner_gets_its_lease_again_whatever_else_would_refuse_it() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let lease =
        |ttl: u64| manager.lease(request(Duration::ZERO), Some("a".to_owned()), Duration::from_secs(ttl));
    let first = lease(20).await.unwrap();
    // Another request of the sidecar has its turn at this lock.
    let waits = {
        let manager = manager.clone();
        tokio::spawn(async move { manager.lease(request(s(600)), Some("b".into()), s(20)).await })
    };
    sleep(s(1)).await;
    let again = lease(30).await.unwrap();
    assert_eq!((&again.id, again.token, again.ttl), (&first.id, first.token, s(20)), "with its first ttl");
    manager.drain();
    assert_eq!(lease(20).await.unwrap().id, first.id, "it is not a new one");
    assert_eq!(waits.await.unwrap().unwrap_err().reason(), "draining");
}

#[tokio::test(start_paused = true)]
async fn only_holds_count_for_max_held_and_only_requests_that_wait_for_max_waiters() {
    let registry = FakeRegistry::new();
    let (other, settings) =
        (manager(&registry), LockSettings { max_held: 2, max_waiters: 3, ..LockSettings::default() });
    let manager = manager_with(&registry, settings, None);
    let mut foreign = Vec::new();
    for text in ["a", "b", "c"] {
        foreign.push(other.hold(of(text, Duration::ZERO)).await.unwrap());
    }
    let waits = ["a", "b", "c"].map(|text| {
        let manager = manager.clone();
        tokio::spawn(async move { manager.hold(of(text, s(600))).await })
    });
    sleep(s(1)).await;
    assert_eq!(manager.overview().waiting.len(), 3, "one more than may be held");
    assert_eq!(manager.hold(of("d", s(1))).await.unwrap_err().reason(), "too_many_waiters");
    // What does not wait is no waiter.
    assert_eq!(manager.hold(of("a", Duration::ZERO)).await.unwrap_err().reason(), "lock_held");
    manager.hold(of("d", Duration::ZERO)).await.unwrap().release().await;
    for held in foreign {
        held.release().await;
    }
    let mut results = Vec::new();
    for wait in waits {
        results.push(wait.await.unwrap());
    }
    let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(matches!(refused[..], [AcquireError::TooManyHeld { limit: 2 }]), "{refused:?}");
    assert_eq!(manager.overview().held.len(), 2);
    sleep(s(5)).await;
    let held: usize = ["a", "b", "c"].iter().map(|n| registry.holders(&format!("locks/{n}")).len()).sum();
    assert_eq!((held, registry.sessions()), (2, 2), "the third was given back");
}

#[tokio::test(start_paused = true)]
async fn a_lock_beyond_the_32_that_are_watched_is_read_every_2_seconds() {
    let registry = FakeRegistry::new();
    let manager = manager_with(&registry, LockSettings { max_held: 40, ..LockSettings::default() }, None);
    let mut held = Vec::new();
    for number in 0..34 {
        held.push(manager.hold(of(&format!("lock-{number}"), Duration::ZERO)).await.unwrap());
    }
    sleep(s(60)).await;
    for (number, at_least, at_most) in [(0, 0, 300), (33, 0, 2600)] {
        let at = Instant::now();
        registry.free(&format!("locks/lock-{number}"));
        let (state, told_at) = end_of(&held[number]).await;
        assert_eq!(reason(&state), "key_freed");
        let millis = (told_at - at).as_millis();
        assert!((at_least..=at_most).contains(&millis), "{number}: {millis} ms");
    }
    let reads = registry.watches();
    sleep(s(20)).await;
    // Two locks are not watched, one of them is free by now and no longer looked at.
    let polled = registry.watches() - reads;
    assert!((6..=12).contains(&polled), "{polled} reads of one lock in 20 s");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_the_registry_that_is_refused_again_and_again_ends_the_wait() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    registry.fail_client(0, Some(Fault::Forbids));
    let at = Instant::now();
    let refused = manager.hold(request(s(3600))).await.unwrap_err();
    assert_eq!(refused.reason(), "registry_unavailable");
    assert!(at.elapsed() > Duration::from_millis(100) && at.elapsed() < s(20), "{:?}", at.elapsed());
}

/// The end of a session may take as long as the registry does not answer.
#[tokio::test(start_paused = true)]
async fn a_lock_that_was_given_back_or_lost_counts_no_longer_although_its_session_lives() {
    let registry = FakeRegistry::new();
    let settings = LockSettings { max_held: 1, ..LockSettings::default() };
    let manager = manager_with(&registry, settings, None);
    registry.set_latency(Duration::from_millis(100));
    for _ in 0..3 {
        let held = manager.hold(of("a", Duration::ZERO)).await.unwrap();
        held.release().await;
        let lease = manager.lease(of("b", Duration::ZERO), None, s(5)).await.unwrap();
        assert_eq!(manager.release(&name("b"), &lease.id).await, Ok(Released::Now));
    }
    let lease = manager.lease(of("c", Duration::ZERO), None, s(1)).await.unwrap();
    sleep(s(1)).await;
    assert!(matches!(
        manager.renew(&name("c"), &lease.id).await,
        Err(LeaseError::Lost(LossReason::LeaseExpired))
    ));
    manager.hold(of("d", Duration::ZERO)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_at_the_end_of_its_wait_while_the_registry_hangs() {
    for (wait, fault) in [(0, Fault::Hangs), (3, Fault::Hangs), (3, Fault::Refuses)] {
        let registry = FakeRegistry::new();
        let manager = manager(&registry);
        registry.fail_client(0, Some(fault));
        let at = Instant::now();
        let asked = (0..3).map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.hold(request(s(wait))).await.map(drop) })
        });
        let asked: Vec<_> = asked.collect();
        for each in asked {
            assert_eq!(each.await.unwrap().unwrap_err().reason(), "registry_unavailable");
        }
        assert!(at.elapsed() >= s(wait) && at.elapsed() <= s(wait + 2), "{wait} s: {:?}", at.elapsed());
    }
    // The text is for people.
    let registry = FakeRegistry::new();
    let silent = manager(&registry);
    registry.fail_client(0, Some(Fault::Hangs));
    let error = silent.hold(request(Duration::from_micros(1_300))).await.unwrap_err();
    assert!(outrigger_config::error_chain(&error).ends_with("no answer to a lock within 2s"), "{error:?}");
    // It hangs after the lock was seen as held.
    let registry = FakeRegistry::new();
    let (one, two) = (manager(&registry), manager(&registry));
    let _held = one.hold(request(Duration::ZERO)).await.unwrap();
    let waits = tokio::spawn(async move {
        let at = Instant::now();
        (two.hold(request(s(40))).await.unwrap_err().reason(), at.elapsed())
    });
    sleep(s(5)).await;
    registry.fail_client(1, Some(Fault::Hangs));
    let (reason, waited) = waits.await.unwrap();
    assert!(reason == "registry_unavailable" && waited <= s(42), "{reason} after {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_given_back_later_while_the_registry_hangs_and_the_app_is_told_so_soon() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let lease = manager.lease(request(Duration::ZERO), None, s(60)).await.unwrap();
    registry.fail_client(0, Some(Fault::Hangs));
    let at = Instant::now();
    assert_eq!(manager.release(&name("jobs"), &lease.id).await, Ok(Released::Later));
    assert_eq!(at.elapsed(), s(2));
    assert_eq!(registry.holders("locks/jobs").len(), 1);
    registry.fail_client(0, None);
    sleep(s(10)).await;
    assert_eq!((registry.holders("locks/jobs").len(), registry.delayed()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_opened_after_the_end_of_its_request_is_ended() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    // The registry opens it after one and a half seconds, and the request ends after two.
    registry.set_latency(s(3));
    let refused = manager.hold(request(Duration::ZERO)).await.unwrap_err();
    assert_eq!((refused.reason(), registry.sessions()), ("registry_unavailable", 1));
    sleep(s(6)).await;
    assert_eq!(registry.sessions(), 0, "before its time to live is over");
}
