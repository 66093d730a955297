//! Locks over a registry in memory with a paused clock. The registry behaves as Consul: a session ends twice its time to live after its last
//! renewal, at the earliest after that time, and its locks stay closed for the lock-delay.

mod limits;
mod model;
mod overview;
mod record;
mod registry;
mod together;

use std::time::Duration;

use outrigger_config::LockSettings;
use outrigger_registry::LockKind;
use tokio::time::{Instant, advance, sleep, timeout};

use self::registry::{FakeRegistry, Fault};
use super::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn name(text: &str) -> LockName {
    LockName::parse(text).unwrap()
}

fn request(wait: Duration) -> Acquire {
    let value = b"v".to_vec();
    Acquire { name: name("jobs"), limit: 1, value, wait, session_ttl: s(15), is_internal: false }
}

fn manager_with(
    registry: &FakeRegistry,
    settings: LockSettings,
    folder: Option<&std::path::Path>,
) -> LockManager {
    let clock = BootClock::Tokio(Instant::now());
    LockManager::new(registry.shared(), settings, "orders-1".into(), folder, clock, Default::default())
        .unwrap()
}

fn manager(registry: &FakeRegistry) -> LockManager {
    manager_with(registry, LockSettings::default(), None)
}

/// The end of a hold, and when it was told.
async fn end_of(held: &Held) -> (HoldState, Instant) {
    let mut state = held.state();
    let ended = state.wait_for(|state| *state != HoldState::Held).await.unwrap().clone();
    (ended, Instant::now())
}

fn reason(state: &HoldState) -> &'static str {
    match state {
        HoldState::Lost(reason) => reason.name(),
        HoldState::Held => "held",
        HoldState::Released => "released",
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_has_one_holder_and_passes_to_the_next_within_one_change() {
    let registry = FakeRegistry::new();
    let (one, two) = (manager(&registry), manager(&registry));
    let first = one.hold(request(Duration::ZERO)).await.unwrap();
    let refused = two.hold(request(Duration::ZERO)).await.unwrap_err();
    assert_eq!(refused.reason(), "lock_held");
    let waits = tokio::spawn(async move { two.hold(request(s(600))).await.map(|held| (held.token(), held)) });
    sleep(s(60)).await;
    assert!(!waits.is_finished());
    let (token, since) = (first.token(), Instant::now());
    assert_eq!(first.release().await, Released::Now);
    let (next, _held) = waits.await.unwrap().unwrap();
    assert!(next > token && since.elapsed() < Duration::from_millis(200), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_renewed_for_as_long_as_the_registry_answers_and_ends_with_its_value() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let held = manager.hold(request(Duration::ZERO)).await.unwrap();
    sleep(s(3600)).await;
    assert_eq!(*held.state().borrow(), HoldState::Held);
    assert_eq!(registry.holders("locks/jobs").len(), 1);
    drop(held);
    sleep(s(1)).await;
    assert_eq!(registry.holders("locks/jobs").len(), 0);
    assert_eq!(registry.sessions(), 0, "every session is ended");
    assert_eq!(manager.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_registry_ends_a_hold_before_another_can_acquire_the_lock() {
    for fault in [Fault::Refuses, Fault::Hangs] {
        let registry = FakeRegistry::new();
        let (one, two) = (manager(&registry), manager(&registry));
        let held = one.hold(request(Duration::ZERO)).await.unwrap();
        sleep(s(7)).await;
        registry.fail_client(0, Some(fault));
        let waits = tokio::spawn(async move {
            let held = two.hold(request(s(600))).await;
            (held.map(|held| held.token()), Instant::now())
        });
        let (state, told_at) = end_of(&held).await;
        assert_eq!(reason(&state), "session_expired");
        let (next, acquired_at) = waits.await.unwrap();
        next.unwrap();
        assert!(
            told_at + Duration::from_millis(500) <= acquired_at,
            "{fault:?}: {:?}",
            acquired_at - told_at
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_and_of_a_key_is_told_with_the_next_wake_up() {
    for (what, expected) in
        [("session", "session_invalidated"), ("key", "key_freed"), ("delete", "key_freed")]
    {
        let registry = FakeRegistry::new();
        let manager = manager(&registry);
        let held = manager.hold(request(Duration::ZERO)).await.unwrap();
        sleep(s(60)).await;
        let at = Instant::now();
        match what {
            "session" => registry.invalidate_all(),
            "key" => registry.free("locks/jobs"),
            _ => registry.delete("locks/jobs"),
        }
        let (state, told_at) = end_of(&held).await;
        assert_eq!(reason(&state), expected, "{what}");
        assert!(told_at - at < s(1), "{what}: {:?}", told_at - at);
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_suspended_has_lost_its_locks_when_it_wakes() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let held = manager.hold(request(Duration::ZERO)).await.unwrap();
    sleep(s(1)).await;
    // No task runs in between.
    advance(s(20)).await;
    let (state, told_at) = end_of(&held).await;
    assert_eq!((reason(&state), told_at), ("session_expired", Instant::now()));
}

/// Lets time pass without running a task, as for a process that is stopped.
fn pass_without_running(time: Duration) {
    let since = Instant::now();
    let passes = std::pin::pin!(advance(time));
    let _ = passes.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert_eq!(since.elapsed(), time);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_confirms_no_hold_before_its_loss_is_told() {
    let expired = LossReason::SessionExpired { error: None };
    for (ttl, stopped_for, expected) in [(s(5), s(6), LossReason::LeaseExpired), (s(60), s(60), expired)] {
        let registry = FakeRegistry::new();
        let manager = manager(&registry);
        let lease = manager.lease(request(Duration::ZERO), Some("a".into()), ttl).await.unwrap();
        pass_without_running(stopped_for);
        assert_eq!(manager.held(), 1, "no task has run");
        assert_eq!(manager.renew(&name("jobs"), &lease.id).await, Err(LeaseError::Lost(expected.clone())));
        // It stays lost, and the same owner gets another lease.
        sleep(s(1)).await;
        assert_eq!(manager.renew(&name("jobs"), &lease.id).await, Err(LeaseError::Lost(expected)));
        let again = manager.lease(request(s(60)), Some("a".into()), ttl).await.unwrap();
        assert!(again.token > lease.token);
    }
    let registry = FakeRegistry::new();
    let held = manager(&registry).hold(request(Duration::ZERO)).await.unwrap();
    assert!(held.is_certain());
    pass_without_running(s(14));
    assert_eq!((held.is_certain(), held.state().borrow().clone()), (false, HoldState::Held));
}

#[tokio::test(start_paused = true)]
async fn a_lease_promises_no_more_than_the_session_has_left_while_the_registry_is_silent() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let lease = manager.lease(request(Duration::ZERO), None, s(6)).await.unwrap();
    assert_eq!(lease.ttl, s(6));
    registry.fail_client(0, Some(Fault::Hangs));
    // Its session of 15 s is certain for 13.5 s. Its renewal is due after 5 s, and overdue after 6 s.
    for (pause, promised) in [(5, 6000), (4, 4500), (3, 1500)] {
        sleep(s(pause)).await;
        assert_eq!(
            manager.renew(&name("jobs"), &lease.id).await.unwrap().ttl,
            Duration::from_millis(promised)
        );
    }
    sleep(Duration::from_millis(1500)).await;
    assert!(manager.renew(&name("jobs"), &lease.id).await.is_err());
}

/// An agent that leaves the cluster ends the sessions of its node, and its sidecars hear nothing.
#[tokio::test(start_paused = true)]
async fn a_long_lease_is_told_as_lost_before_another_can_hold_the_lock_although_nothing_is_heard() {
    for ttl in [s(1), s(10), s(30), s(600)] {
        let registry = FakeRegistry::new();
        let (one, two) = (manager(&registry), manager(&registry));
        let lease = one.lease(request(Duration::ZERO), Some("app".into()), ttl).await.unwrap();
        let renewing = {
            let (one, id) = (one.clone(), lease.id.clone());
            tokio::spawn(async move {
                while one.renew(&name("jobs"), &id).await.is_ok() {
                    sleep(Duration::from_millis(300)).await;
                }
                Instant::now()
            })
        };
        registry.fail_client(0, Some(Fault::Hangs));
        registry.invalidate_all();
        let next = two.hold(request(s(3600))).await.unwrap();
        let (_, acquired_at) =
            registry.acquired().into_iter().find(|(token, _)| *token == next.token()).unwrap();
        let told_at = renewing.await.unwrap();
        assert!(told_at <= acquired_at, "a ttl of {ttl:?}: told {:?} late", told_at - acquired_at);
    }
}

#[tokio::test(start_paused = true)]
async fn the_lock_delay_is_told_and_waited_for() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let held = manager.hold(request(Duration::ZERO)).await.unwrap();
    registry.invalidate_all();
    end_of(&held).await;
    let refused = manager.hold(request(Duration::ZERO)).await.unwrap_err();
    assert_eq!(refused.reason(), "lock_delay");
    let at = Instant::now();
    let again = manager.hold(request(s(60))).await.unwrap();
    assert!(at.elapsed() <= s(16) && again.token() > held.token(), "{:?}", at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_leaves_no_lock_and_no_session() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    registry.set_latency(s(1));
    for millis in [0, 500, 1500, 2500, 3500] {
        let acquire = manager.hold(request(s(30)));
        let _ = timeout(Duration::from_millis(millis), acquire).await;
    }
    sleep(s(120)).await;
    assert_eq!((registry.holders("locks/jobs").len(), registry.sessions(), manager.held()), (0, 0, 0));
    assert_eq!(registry.delayed(), 0, "a lock that was given up is not closed for its lock-delay");
}

#[tokio::test(start_paused = true)]
async fn the_same_owner_gets_the_same_lease_and_loses_it_when_it_does_not_renew() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let lease = |owner: &str| manager.lease(request(Duration::ZERO), Some(owner.to_owned()), s(5));
    let first = lease("a").await.unwrap();
    assert_eq!(lease("a").await.unwrap(), first);
    assert_eq!(lease("b").await.unwrap_err().reason(), "lock_held");
    for _ in 0..10 {
        sleep(s(4)).await;
        assert_eq!(manager.renew(&name("jobs"), &first.id).await.unwrap(), first);
    }
    sleep(s(6)).await;
    assert_eq!(
        manager.renew(&name("jobs"), &first.id).await,
        Err(LeaseError::Lost(LossReason::LeaseExpired))
    );
    assert_eq!(
        manager.release(&name("jobs"), &first.id).await,
        Err(LeaseError::Lost(LossReason::LeaseExpired))
    );
    // The registry keeps it closed: the app may still work.
    assert_eq!(lease("b").await.unwrap_err().reason(), "lock_delay");
    assert_eq!(manager.renew(&name("jobs"), "unknown").await, Err(LeaseError::Unknown));
    assert_eq!(manager.renew(&name("other"), &first.id).await, Err(LeaseError::Unknown), "of another lock");
    sleep(s(20)).await;
    let second = lease("b").await.unwrap();
    assert!(second.token > first.token && second.id != first.id);
    assert_eq!(manager.release(&name("jobs"), &second.id).await, Ok(Released::Now));
    lease("c").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_semaphore_has_as_many_holders_as_its_limit() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let of_three = || Acquire { limit: 3, ..request(Duration::ZERO) };
    let held = [manager.hold(of_three()).await.unwrap(), manager.hold(of_three()).await.unwrap()];
    let third = manager.hold(of_three()).await.unwrap();
    assert_eq!(manager.hold(of_three()).await.unwrap_err().reason(), "lock_held");
    assert_eq!(manager.hold(request(Duration::ZERO)).await.unwrap_err().reason(), "lock_kind_mismatch");
    let of_two = Acquire { limit: 2, ..request(Duration::ZERO) };
    assert_eq!(manager.hold(of_two).await.unwrap_err().reason(), "limit_mismatch");
    third.release().await;
    manager.hold(of_three()).await.unwrap();
    assert!(held[0].token() < held[1].token());
    let view = manager.view(&name("jobs")).await.unwrap();
    assert_eq!(view.watched.kind, LockKind::Semaphore { limit: 3 });
}

#[tokio::test(start_paused = true)]
async fn the_limits_of_holds_and_waiters_are_kept() {
    let registry = FakeRegistry::new();
    let settings = LockSettings { max_held: 2, max_waiters: 1, ..LockSettings::default() };
    let manager = manager_with(&registry, settings, None);
    let of = |text: &str| Acquire { name: name(text), ..request(Duration::ZERO) };
    let _held = [manager.hold(of("a")).await.unwrap(), manager.hold(of("b")).await.unwrap()];
    assert_eq!(manager.hold(of("c")).await.unwrap_err().reason(), "too_many_held");
    let waits = {
        let manager = manager.clone();
        tokio::spawn(async move {
            manager.hold(Acquire { wait: s(60), ..request(Duration::ZERO) }).await.map(drop)
        })
    };
    // It fails at once as well: there is no slot.
    assert_eq!(waits.await.unwrap().unwrap_err().reason(), "too_many_held");
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_sidecar_take_their_turns_in_order() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let first = manager.hold(request(Duration::ZERO)).await.unwrap();
    let (order, mut came) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..5 {
        let (manager, order) = (manager.clone(), order.clone());
        tokio::spawn(async move {
            let held = manager.hold(request(s(600))).await.unwrap();
            order.send(number).unwrap();
            sleep(s(1)).await;
            held.release().await;
        });
        sleep(Duration::from_millis(10)).await;
    }
    first.release().await;
    for expected in 0..5 {
        assert_eq!(came.recv().await, Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_refuses_tells_waits_and_loses_what_is_still_held_before_its_session_ends() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    let held = manager.hold(request(Duration::ZERO)).await.unwrap();
    let waits = {
        let manager = manager.clone();
        tokio::spawn(async move {
            manager.hold(Acquire { wait: s(600), ..request(Duration::ZERO) }).await.map(drop)
        })
    };
    sleep(s(1)).await;
    manager.drain();
    assert!(manager.draining().is_cancelled());
    assert_eq!(waits.await.unwrap().unwrap_err().reason(), "draining");
    assert_eq!(manager.hold(request(s(1))).await.unwrap_err().reason(), "draining");
    assert_eq!(*held.state().borrow(), HoldState::Held);
    registry.set_latency(Duration::from_millis(10));
    let ends = tokio::spawn({
        let (manager, mut state) = (manager.clone(), held.state());
        let registry = registry.clone();
        async move {
            let told = async {
                state.wait_for(|state| *state != HoldState::Held).await.map(|_| registry.sessions())
            };
            let (sessions, ()) = tokio::join!(told, manager.shutdown(s(5)));
            sessions.unwrap()
        }
    });
    let sessions = ends.await.unwrap();
    assert!(sessions > 0, "the loss is told while the session lives");
    assert_eq!(*held.state().borrow(), HoldState::Lost(LossReason::Drained));
    assert_eq!((registry.sessions(), registry.delayed()), (0, 1), "ended, not released");
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_leases_and_ends_the_sessions_of_connections() {
    let (registry, folder) = (FakeRegistry::new(), tempfile::tempdir().unwrap());
    // The kernel's clock: times of the record must mean the same to both.
    let open = || {
        LockManager::new(
            registry.shared(),
            LockSettings::default(),
            "orders-1".into(),
            Some(folder.path()),
            BootClock::Kernel,
            Default::default(),
        )
        .unwrap()
    };
    let before = open();
    before.restore().await;
    let lease = before.lease(request(Duration::ZERO), Some("a".into()), s(30)).await.unwrap();
    let by_connection = Acquire { name: name("other"), ..request(Duration::ZERO) };
    let held = before.hold(by_connection).await.unwrap();
    // The process is killed: nothing of it runs any more.
    std::mem::forget(held);
    registry.cut_off();
    let after = open();
    assert_eq!(
        after.renew(&name("jobs"), &lease.id).await,
        Err(LeaseError::Restoring),
        "its record is not read"
    );
    after.restore().await;
    assert_eq!(after.renew(&name("jobs"), &lease.id).await.unwrap().token, lease.token);
    assert_eq!((registry.holders("locks/jobs").len(), registry.holders("locks/other").len()), (1, 0));
    assert_eq!(after.release(&name("jobs"), &lease.id).await, Ok(Released::Now));
    let next = after.lease(request(Duration::ZERO), None, s(30)).await.unwrap();
    assert!(next.token > lease.token);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_lost_its_data_gives_no_lower_token() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    for _ in 0..3 {
        manager.hold(request(Duration::ZERO)).await.unwrap().release().await;
    }
    registry.wipe();
    let refused = manager.hold(request(Duration::ZERO)).await.unwrap_err();
    assert_eq!(refused.reason(), "token_regressed");
    sleep(s(1)).await;
    assert_eq!((registry.holders("locks/jobs").len(), registry.sessions()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_is_waited_for_and_told() {
    let registry = FakeRegistry::new();
    let manager = manager(&registry);
    registry.set_down(true);
    assert_eq!(manager.hold(request(Duration::ZERO)).await.unwrap_err().reason(), "registry_unavailable");
    let waits = {
        let manager = manager.clone();
        tokio::spawn(async move { manager.hold(request(s(60))).await.map(|held| held.token()) })
    };
    sleep(s(20)).await;
    registry.set_down(false);
    waits.await.unwrap().unwrap();
    assert_eq!(
        registry.shared().session_info(&outrigger_registry::SessionId::recorded("no")).await.unwrap(),
        None
    );
}
