//! Requests that come at once.

use tokio::task::JoinSet;

use super::*;

fn of_limit(limit: u32, wait: Duration) -> Acquire {
    Acquire { limit, ..request(wait) }
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_at_once_get_the_free_places_of_a_semaphore() {
    let registry = FakeRegistry::new();
    let sidecars = [manager(&registry), manager(&registry)];
    registry.set_latency(Duration::from_millis(10));
    let mut asked = JoinSet::new();
    for number in 0..14 {
        let manager = sidecars[number % 2].clone();
        asked.spawn(async move { manager.lease(of_limit(10, Duration::ZERO), None, s(30)).await });
    }
    let results = asked.join_all().await;
    let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(refused.len(), 4, "{refused:?}");
    assert!(refused.iter().all(|error| error.reason() == "lock_held"), "{refused:?}");
    assert_eq!(registry.holders("locks/jobs").len(), 10);
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_owner_that_come_at_once_get_one_lease() {
    for (limit, wait) in [(1, Duration::ZERO), (1, s(10)), (3, Duration::ZERO)] {
        let registry = FakeRegistry::new();
        let manager = manager(&registry);
        registry.set_latency(Duration::from_millis(100));
        let mut asked = JoinSet::new();
        for number in 0..6 {
            let manager = manager.clone();
            let wait = if number % 2 == 0 { wait } else { Duration::ZERO };
            asked.spawn(async move { manager.lease(of_limit(limit, wait), Some("a".into()), s(30)).await });
        }
        let leases: Vec<_> = asked.join_all().await.into_iter().map(Result::unwrap).collect();
        assert!(leases.iter().all(|lease| lease.id == leases[0].id), "{leases:?}");
        assert_eq!(registry.holders("locks/jobs").len(), 1);
    }
}

/// The repeat stands behind a request that waits for the lease of its own owner.
#[tokio::test(start_paused = true)]
async fn a_repeat_does_not_wait_behind_a_request_of_another_owner() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let ask = |owner: &str, wait: u64| {
        let (manager, owner) = (manager.clone(), owner.to_owned());
        tokio::spawn(async move { manager.lease(request(s(wait)), Some(owner), s(600)).await })
    };
    let other = manager.hold(request(Duration::ZERO)).await.unwrap();
    let first = ask("a", 60);
    sleep(s(1)).await;
    let behind = ask("b", 600);
    sleep(s(1)).await;
    let repeat = ask("a", 60);
    sleep(s(1)).await;
    other.release().await;
    let at = Instant::now();
    let (first, repeat) = (first.await.unwrap().unwrap(), repeat.await.unwrap().unwrap());
    assert_eq!(first.id, repeat.id);
    assert!(at.elapsed() < s(2), "{:?}", at.elapsed());
    assert!(!behind.is_finished());
    behind.abort();
}

/// The first client is gone when its lock is acquired, and the same owner asks meanwhile.
#[tokio::test(start_paused = true)]
async fn a_lease_of_a_request_that_was_given_up_stays_with_the_repeat_that_was_told_of_it() {
    for millis in (0..400).step_by(10) {
        let registry = FakeRegistry::new();
        let manager = manager(&registry);
        registry.set_latency(Duration::from_millis(100));
        let ask = || {
            let manager = manager.clone();
            tokio::spawn(async move { manager.lease(request(Duration::ZERO), Some("a".into()), s(30)).await })
        };
        let first = ask();
        sleep(Duration::from_millis(50)).await;
        let repeat = ask();
        sleep(Duration::from_millis(millis)).await;
        first.abort();
        let lease = repeat.await.unwrap().unwrap();
        sleep(s(5)).await;
        manager.renew(&name("jobs"), &lease.id).await.unwrap_or_else(|error| panic!("{millis} ms: {error}"));
        assert_eq!(registry.holders("locks/jobs").len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_gives_its_lease_back_and_asks_at_once_gets_the_next() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let ask = || manager.lease(request(Duration::ZERO), Some("a".into()), s(30));
    let first = ask().await.unwrap();
    registry.set_latency(Duration::from_millis(100));
    let jobs = name("jobs");
    let (released, next) = tokio::join!(manager.release(&jobs, &first.id), ask());
    assert_eq!(released, Ok(Released::Now));
    assert!(next.unwrap().token > first.token);
    assert_eq!(manager.renew(&name("jobs"), &first.id).await, Err(LeaseError::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_holders_as_a_look_at_the_lock_does() {
    let registry = FakeRegistry::new();
    let (one, two) = (manager(&registry), manager(&registry));
    let _held = one.hold(request(Duration::ZERO)).await.unwrap();
    for wait in [Duration::ZERO, s(5)] {
        let AcquireError::Held { holders } = two.hold(request(wait)).await.unwrap_err() else {
            panic!("it is held");
        };
        let seen = two.view(&name("jobs")).await.unwrap().holders;
        assert_eq!(holders, seen);
        assert_eq!(holders[0].session.as_ref().unwrap().name, "outrigger: lock jobs of orders-1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_gets_the_lease_of_another_one_leaves_no_session() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    registry.set_latency(Duration::from_millis(20));
    let ask = |wait: u64| {
        let manager = manager.clone();
        tokio::spawn(async move { manager.lease(request(s(wait)), Some("a".into()), s(600)).await })
    };
    let other = manager.hold(request(Duration::ZERO)).await.unwrap();
    let waits = ask(60);
    sleep(s(1)).await;
    assert_eq!(registry.sessions(), 2, "one waits");
    other.release().await;
    // Before the one that waits has its answer.
    let lease = ask(0).await.unwrap().unwrap();
    assert_eq!(waits.await.unwrap().unwrap().id, lease.id);
    sleep(s(5)).await;
    assert_eq!(registry.sessions(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_acquired_and_never_taken_by_its_caller_is_given_back() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    {
        let mut asked = std::pin::pin!(manager.hold(request(Duration::ZERO)));
        let polled = asked.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(polled.is_pending());
        sleep(s(1)).await;
        assert_eq!(registry.holders("locks/jobs").len(), 1, "its answer is on the way");
    }
    sleep(s(1)).await;
    assert_eq!((registry.holders("locks/jobs").len(), registry.sessions()), (0, 0));
}

/// Beyond the locks that are watched, a look is up to two seconds old.
#[tokio::test(start_paused = true)]
async fn a_request_that_waits_does_not_ask_again_and_again_because_of_an_old_look() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let mut watches = Vec::new();
    for number in 0..32 {
        watches.push(manager.watch(&name(&format!("lock-{number}"))).await.unwrap());
    }
    let held = manager.hold(request(Duration::ZERO)).await.unwrap();
    let waits = {
        let manager = manager.clone();
        tokio::spawn(async move { manager.hold(request(s(600))).await.map(|held| held.token()) })
    };
    sleep(s(20)).await;
    let other = self::manager(&registry);
    held.release().await;
    let before = registry.attempts();
    let taken = other.hold(request(s(1))).await;
    sleep(s(20)).await;
    assert!(registry.attempts() - before <= 10, "{} attempts", registry.attempts() - before);
    drop((taken, watches));
    waits.await.unwrap().unwrap();
}
