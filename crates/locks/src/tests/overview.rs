//! What an operator sees: holders here and elsewhere, requests that wait and why, and the metrics.

use outrigger_events::Events;

use super::*;

fn metrics_of(manager: &LockManager) -> prometheus::Registry {
    let metrics = prometheus::Registry::new();
    manager.register_metrics(&metrics).unwrap();
    metrics
}

fn text(metrics: &prometheus::Registry) -> String {
    prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap()
}

fn has(metrics: &prometheus::Registry, line: &str) {
    let text = text(metrics);
    assert!(text.lines().any(|each| each == line), "no {line} in\n{text}");
}

#[tokio::test(start_paused = true)]
async fn a_holder_elsewhere_is_known_for_as_long_as_it_was_seen_without_a_break() {
    let registry = FakeRegistry::new();
    let (one, two) = (manager(&registry), manager(&registry));
    let held = one.hold(request(Duration::ZERO)).await.unwrap();
    sleep(s(100)).await;
    let first = two.view(&name("jobs")).await.unwrap().holders.remove(0);
    assert_eq!((first.seen_for, first.held_for), (Duration::ZERO, None), "nothing was known before");
    sleep(s(7)).await;
    let refused = two.hold(request(Duration::ZERO)).await.unwrap_err();
    let AcquireError::Held { holders } = refused else { panic!("{refused:?}") };
    assert_eq!((holders.len(), holders[0].seen_for, &*holders[0].holder.value), (1, s(7), &b"v"[..]));
    let own = one.view(&name("jobs")).await.unwrap().holders.remove(0);
    assert!(own.is_here() && own.held_for.unwrap() >= s(107), "{own:?}");
    // Another holder.
    held.release().await;
    let _held = one.hold(request(Duration::ZERO)).await.unwrap();
    let next = two.view(&name("jobs")).await.unwrap().holders.remove(0);
    assert_eq!(next.seen_for, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_sessions_of_many_holders_are_asked_about_together() {
    let registry = FakeRegistry::new();
    let (one, two) = (manager(&registry), manager(&registry));
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(one.hold(Acquire { limit: 6, ..request(Duration::ZERO) }).await.unwrap());
    }
    registry.set_latency(Duration::from_millis(500));
    let at = Instant::now();
    let holders = two.view(&name("jobs")).await.unwrap().holders;
    let named = holders.iter().filter(|known| known.session.is_some()).count();
    assert_eq!(
        (holders.len(), named, at.elapsed()),
        (6, 6, s(1)),
        "one look at the lock, and one at the sessions"
    );
    // A session that does not answer costs the names alone.
    let three = manager(&registry);
    registry.set_latency(Duration::from_millis(1500));
    let at = Instant::now();
    let holders = three.view(&name("jobs")).await.unwrap().holders;
    assert!(holders.len() == 6 && holders.iter().all(|known| known.session.is_none()), "{holders:?}");
    assert_eq!(at.elapsed(), s(2));
    // The lock itself is waited for as long, too.
    registry.set_latency(s(5));
    let at = Instant::now();
    assert_eq!(three.view(&name("jobs")).await.unwrap_err().label(), "timeout");
    assert!(three.watch(&name("jobs")).await.is_err());
    assert_eq!(at.elapsed(), s(4));
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_the_present_state_once_and_then_the_changes() {
    let registry = FakeRegistry::new();
    let (one, two) = (manager(&registry), manager(&registry));
    let held = one.hold(request(Duration::ZERO)).await.unwrap();
    let (first, mut watch) = two.watch(&name("jobs")).await.unwrap();
    assert!(first.holders.len() == 1 && first.holders[0].session.is_some(), "{first:?}");
    assert!(timeout(s(100), watch.changed()).await.is_err(), "nothing has changed");
    held.release().await;
    timeout(s(1), watch.changed()).await.unwrap();
    assert_eq!(watch.tell().await.holders, []);
    assert!(timeout(s(100), watch.changed()).await.is_err());
    registry.fail_client(1, Some(Fault::Forbids));
    assert!(two.watch(&name("jobs")).await.is_err(), "the registry refuses");
}

#[tokio::test(start_paused = true)]
async fn a_watch_says_why_the_registry_does_not_answer_and_asks_once_for_all() {
    let registry = FakeRegistry::new();
    let (one, two) = (manager(&registry), manager(&registry));
    let held = one.hold(request(Duration::ZERO)).await.unwrap();
    let (_, watch) = two.watch(&name("jobs")).await.unwrap();
    let (_, mut other) = two.watch(&name("jobs")).await.unwrap();
    sleep(s(1)).await;
    for (fault, words) in [
        (Fault::Hangs, "no answer within 2s"),
        (Fault::Refuses, "No cluster leader"),
        (Fault::Forbids, "403"),
    ] {
        registry.fail_client(1, Some(fault));
        let at = Instant::now();
        let (first, second) = tokio::join!(watch.check(), other.check());
        assert!(first.as_ref().is_some_and(|why| why.contains(words)) && first == second, "{first:?}");
        assert!(at.elapsed() <= s(2), "{:?}", at.elapsed());
        sleep(s(5)).await;
    }
    // The watch itself pauses after its failures: the answer is newer.
    held.release().await;
    registry.fail_client(1, None);
    assert_eq!(watch.check().await, None);
    timeout(Duration::from_millis(1), other.changed()).await.unwrap();
    assert_eq!(other.tell().await.holders, []);
}

#[tokio::test(start_paused = true)]
async fn the_overview_says_what_is_held_what_waits_and_why() {
    let registry = FakeRegistry::new();
    let (one, two) = (manager(&registry), manager(&registry));
    let held = one.hold(request(Duration::ZERO)).await.unwrap();
    let other = Acquire { name: name("other"), limit: 3, ..request(Duration::ZERO) };
    let lease = two.lease(other, Some("w".into()), s(40)).await.unwrap();
    let waits = {
        let two = two.clone();
        tokio::spawn(async move { two.lease(request(s(600)), Some("x".into()), s(20)).await.map(drop) })
    };
    sleep(s(3)).await;
    let overview = two.overview();
    let row = &overview.held[0];
    assert_eq!((row.name.as_str(), row.limit, row.token), ("other", 3, lease.token));
    assert_eq!((row.held_for, row.lease.as_ref().unwrap().expires_in), (s(3), s(37)));
    assert_eq!(row.lease.as_ref().unwrap().owner.as_deref(), Some("w"));
    let waiter = &overview.waiting[0];
    assert_eq!((waiter.waiting.name.as_str(), waiter.waited), ("jobs", s(3)));
    assert_eq!(waiter.waiting.owner.as_deref(), Some("x"));
    assert_eq!(waiter.waiting.last_failure.as_ref().unwrap().0, "lock_held");
    registry.fail_client(1, Some(Fault::Refuses));
    held.release().await;
    sleep(s(31)).await;
    let failure = two.overview().waiting[0].waiting.last_failure.clone().unwrap();
    assert!(failure.0 == "registry_unavailable" && failure.1.contains("No cluster leader"), "{failure:?}");
    waits.abort();
    sleep(s(1)).await;
    assert_eq!(two.overview().waiting, []);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_certain_for_as_long_as_its_session_and_no_longer_than_its_ttl() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let lease = manager.lease(request(Duration::ZERO), None, s(30)).await.unwrap();
    // A session of 30 s, less a tenth.
    assert_eq!(lease.certain_for, s(27));
    sleep(s(12)).await;
    // It was renewed after 10 s.
    assert_eq!(manager.renew(&name("jobs"), &lease.id).await.unwrap().certain_for, s(25));
    registry.fail_client(0, Some(Fault::Refuses));
    sleep(s(20)).await;
    assert_eq!(manager.renew(&name("jobs"), &lease.id).await.unwrap().certain_for, s(5));
    sleep(s(6)).await;
    assert!(matches!(
        manager.renew(&name("jobs"), &lease.id).await,
        Err(LeaseError::Lost(LossReason::SessionExpired { .. }))
    ));
}

#[tokio::test(start_paused = true)]
async fn what_happens_to_locks_is_counted_without_their_names() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let metrics = metrics_of(&manager);
    assert_eq!(text(&metrics), "", "no series before the first request");
    let held = manager.hold(request(Duration::ZERO)).await.unwrap();
    let lease =
        manager.lease(Acquire { name: name("b"), ..request(Duration::ZERO) }, None, s(20)).await.unwrap();
    has(&metrics, "outrigger_locks_held{by=\"connection\"} 1");
    has(&metrics, "outrigger_locks_held{by=\"lease\"} 1");
    has(&metrics, "outrigger_locks_acquired_total 2");
    manager.hold(request(Duration::ZERO)).await.unwrap_err();
    has(&metrics, "outrigger_lock_failures_total{reason=\"lock_held\"} 1");
    let waits = {
        let manager = manager.clone();
        tokio::spawn(async move { manager.hold(request(s(600))).await })
    };
    sleep(s(3)).await;
    has(&metrics, "outrigger_lock_waiters 1");
    held.release().await;
    let next = waits.await.unwrap().unwrap();
    has(&metrics, "outrigger_locks_released_total 1");
    has(&metrics, "outrigger_lock_wait_seconds_bucket{le=\"2.5\"} 2");
    has(&metrics, "outrigger_lock_wait_seconds_count 3");
    let given_up = manager.hold(request(s(600)));
    let _ = timeout(s(1), given_up).await;
    sleep(s(1)).await;
    has(&metrics, "outrigger_lock_failures_total{reason=\"given_up\"} 1");
    registry.free("locks/jobs");
    end_of(&next).await;
    has(&metrics, "outrigger_locks_lost_total{reason=\"key_freed\"} 1");
    has(&metrics, "outrigger_locks_lost_total{reason=\"drained\"} 0");
    assert!(!text(&metrics).contains("jobs"));
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn the_events_are_those_of_the_app_s_locks_alone() {
    let registry = FakeRegistry::new();
    let (events, clock) = (Events::default(), BootClock::Tokio(Instant::now()));
    let (settings, locks) = (LockSettings::default(), registry.shared());
    let manager = LockManager::new(locks, settings, "orders-1".into(), None, clock, events.clone()).unwrap();
    for (text, is_internal) in [("outrigger/restart/orders", true), ("jobs", false)] {
        let request = Acquire { name: name(text), is_internal, ..request(Duration::ZERO) };
        let held = manager.hold(request).await.unwrap();
        registry.free(&format!("locks/{text}"));
        end_of(&held).await;
    }
    let page = serde_json::to_value(events.page(&Default::default(), None, 10)).unwrap();
    let told: Vec<_> = page["events"].as_array().unwrap().iter().map(|event| &event["kind"]).collect();
    assert_eq!(told, ["lock_acquired", "lock_lost"], "{page}");
    assert!(page["events"][0]["reason"].as_str().unwrap().starts_with("jobs "), "{page}");
}

#[test]
fn the_lists_of_reasons_are_whole() {
    let error = || outrigger_registry::Error::Malformed { request: String::new(), reason: String::new() };
    let kind = LockKind::Foreign;
    for error in [
        AcquireError::Held { holders: Vec::new() },
        AcquireError::LockDelay { longest: s(1) },
        AcquireError::LimitMismatch { limit: 2 },
        AcquireError::KindMismatch { kind },
        AcquireError::Registry(error()),
        AcquireError::TokenRegressed { token: 1, seen: 2 },
        AcquireError::Restoring,
        AcquireError::HandedOver,
        AcquireError::Draining,
        AcquireError::TooManyHeld { limit: 1 },
        AcquireError::TooManyWaiters { limit: 1 },
    ] {
        assert!(AcquireError::REASONS.contains(&error.reason()), "{error:?}");
    }
    for reason in [
        LossReason::SessionExpired { error: None },
        LossReason::SessionInvalidated,
        LossReason::KeyFreed,
        LossReason::LeaseExpired,
        LossReason::Drained,
    ] {
        assert!(LossReason::NAMES.contains(&reason.name()), "{reason:?}");
    }
}
