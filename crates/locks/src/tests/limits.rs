//! The limits of a sidecar, the same owner again, and the record across a restart.

use super::*;

fn of(text: &str, wait: Duration) -> Acquire {
    Acquire { name: name(text), ..request(wait) }
}

/// A manager over the record in `folder`, on the kernel's clock: times of the record must mean the same to each.
fn recorded(registry: &FakeRegistry, folder: &std::path::Path) -> LockManager {
    let (settings, clock) = (LockSettings::default(), BootClock::Kernel);
    LockManager::new(registry.shared(), settings, "orders-1".into(), Some(folder), clock, Default::default())
        .unwrap()
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
async fn a_token_that_is_lower_than_one_of_an_earlier_process_is_not_given() {
    let (registry, folder) = (FakeRegistry::new(), tempfile::tempdir().unwrap());
    let before = recorded(&registry, folder.path());
    before.restore().await;
    for _ in 0..3 {
        before.hold(request(Duration::ZERO)).await.unwrap().release().await;
    }
    registry.wipe();
    let after = recorded(&registry, folder.path());
    after.restore().await;
    assert_eq!(after.hold(request(Duration::ZERO)).await.unwrap_err().reason(), "token_regressed");
    after.hold(of("other", Duration::ZERO)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_owner_of_a_lease_that_is_being_taken_over_is_told_to_ask_again() {
    let (registry, folder) = (FakeRegistry::new(), tempfile::tempdir().unwrap());
    let before = recorded(&registry, folder.path());
    before.restore().await;
    let lease = before.lease(request(Duration::ZERO), Some("a".into()), s(30)).await.unwrap();
    registry.cut_off();
    let after = recorded(&registry, folder.path());
    let again = |owner: &str| after.lease(request(Duration::ZERO), Some(owner.to_owned()), s(30));
    assert_eq!(again("a").await.unwrap_err().reason(), "restoring");
    after.restore().await;
    assert_eq!(again("a").await.unwrap().id, lease.id);
    assert_eq!(again("b").await.unwrap_err().reason(), "lock_held");
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
