//! The record across a restart, a kill and a hand-over to another process.

use super::*;

/// Managers over one record, on one clock: times of the record must mean the same to each.
struct Processes {
    registry: FakeRegistry,
    folder: tempfile::TempDir,
    clock: BootClock,
}

impl Processes {
    fn new() -> Self {
        let clock = BootClock::Tokio(Instant::now());
        Self { registry: FakeRegistry::new(), folder: tempfile::tempdir().unwrap(), clock }
    }

    fn open(&self) -> LockManager {
        let (registry, settings) = (self.registry.shared(), LockSettings::default());
        let folder = Some(self.folder.path());
        LockManager::new(registry, settings, "orders-1".into(), folder, self.clock, Default::default())
            .unwrap()
    }

    async fn start(&self) -> LockManager {
        let manager = self.open();
        manager.restore().await;
        manager
    }
}

async fn lease(manager: &LockManager, text: &str, ttl: u64) -> Result<Lease, AcquireError> {
    let request = Acquire { name: name(text), ..request(Duration::ZERO) };
    manager.lease(request, Some("a".to_owned()), s(ttl)).await
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_lower_than_one_of_an_earlier_process_is_not_given() {
    let processes = Processes::new();
    let before = processes.start().await;
    for _ in 0..3 {
        before.hold(request(Duration::ZERO)).await.unwrap().release().await;
    }
    processes.registry.wipe();
    let after = processes.start().await;
    assert_eq!(after.hold(request(Duration::ZERO)).await.unwrap_err().reason(), "token_regressed");
    after.hold(Acquire { name: name("other"), ..request(Duration::ZERO) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_owner_of_a_lease_that_is_being_taken_over_is_told_to_ask_again() {
    let processes = Processes::new();
    let before = processes.start().await;
    let lease = before.lease(request(Duration::ZERO), Some("a".into()), s(30)).await.unwrap();
    processes.registry.cut_off();
    let after = processes.open();
    let again = |owner: &str| after.lease(request(Duration::ZERO), Some(owner.to_owned()), s(30));
    assert_eq!(again("a").await.unwrap_err().reason(), "restoring");
    after.restore().await;
    assert_eq!(again("a").await.unwrap().id, lease.id);
    assert_eq!(again("b").await.unwrap_err().reason(), "lock_held");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_first_read_of_the_record_and_drops_nothing_of_it() {
    let processes = Processes::new();
    let first = processes.open();
    // Nothing is there.
    let (held, ()) = tokio::join!(first.hold(request(Duration::ZERO)), async {
        sleep(s(1)).await;
        first.restore().await;
    });
    held.unwrap().release().await;
    let kept = lease(&first, "kept", 30).await.unwrap();
    processes.registry.cut_off();
    let second = processes.open();
    let (other, ()) = tokio::join!(lease(&second, "other", 30), async {
        sleep(s(1)).await;
        second.restore().await;
    });
    other.unwrap();
    assert_eq!(second.renew(&name("kept"), &kept.id).await.unwrap().token, kept.token);
    // It is never read.
    let third = processes.open();
    assert_eq!(lease(&third, "third", 30).await.unwrap_err().reason(), "restoring");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_renewed_for_longer_than_its_first_ttl_outlives_a_killed_process() {
    let processes = Processes::new();
    let before = processes.start().await;
    let first = lease(&before, "jobs", 5).await.unwrap();
    for _ in 0..10 {
        sleep(s(4)).await;
        before.renew(&name("jobs"), &first.id).await.unwrap();
    }
    processes.registry.cut_off();
    let after = processes.start().await;
    assert_eq!(after.renew(&name("jobs"), &first.id).await.unwrap().token, first.token);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_acquired_while_its_process_was_killed_is_that_of_its_owner() {
    let processes = Processes::new();
    let before = processes.start().await;
    processes.registry.set_latency(s(1));
    let asks = tokio::spawn(async move { lease(&before, "jobs", 30).await });
    // The session is opened in one second, and the lock acquired half a second later. Its answer is lost.
    wait_until(|| !processes.registry.holders("locks/jobs").is_empty()).await;
    processes.registry.cut_off();
    asks.abort();
    processes.registry.set_latency(Duration::ZERO);
    let after = processes.start().await;
    let again = lease(&after, "jobs", 30).await.unwrap();
    assert_eq!(again.token, processes.registry.acquired()[0].0);
    after.renew(&name("jobs"), &again.id).await.unwrap();
    assert_eq!(processes.registry.holders("locks/jobs").len(), 1);
}

async fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_says_its_true_loss_also_after_a_restart() {
    let processes = Processes::new();
    let before = processes.start().await;
    let expired = lease(&before, "expired", 2).await.unwrap();
    let given_back = lease(&before, "back", 30).await.unwrap();
    before.release(&name("back"), &given_back.id).await.unwrap();
    sleep(s(100)).await;
    let ended = lease(&before, "ended", 30).await.unwrap();
    let drained = lease(&before, "drained", 30).await.unwrap();
    let check = async |manager: &LockManager, text: &str, id: &str| match manager.renew(&name(text), id).await
    {
        Err(LeaseError::Lost(reason)) => {
            assert_eq!(manager.release(&name(text), id).await, Err(LeaseError::Lost(reason.clone())));
            reason.name()
        }
        Err(LeaseError::Unknown) => "unknown",
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(check(&before, "expired", &expired.id).await, "lease_expired");
    assert_eq!(check(&before, "back", &given_back.id).await, "unknown");
    // One session is ended while no process runs.
    processes.registry.cut_off();
    processes.registry.invalidate_all();
    let after = processes.start().await;
    assert_eq!(check(&after, "ended", &ended.id).await, "session_invalidated");
    assert_eq!(check(&after, "drained", &drained.id).await, "session_invalidated");
    assert_eq!(check(&after, "expired", &expired.id).await, "lease_expired");
    let drained = lease(&after, "third", 30).await.unwrap();
    after.shutdown(s(5)).await;
    let last = processes.start().await;
    assert_eq!(check(&last, "third", &drained.id).await, "drained");
    assert_eq!(check(&last, "expired", &expired.id).await, "lease_expired");
    assert_eq!(check(&last, "third", "0123").await, "unknown");
    sleep(s(3601)).await;
    assert_eq!(check(&last, "expired", &expired.id).await, "unknown", "forgotten");
}

#[tokio::test(start_paused = true)]
async fn another_process_gets_the_leases_and_the_locks_of_connections_stay() {
    let processes = Processes::new();
    let old = processes.start().await;
    let leased = lease(&old, "leased", 30).await.unwrap();
    let held = old.hold(request(Duration::ZERO)).await.unwrap();
    processes.registry.set_latency(Duration::from_millis(100));
    // It is under way when the record is handed over.
    let under_way = {
        let old = old.clone();
        tokio::spawn(async move { lease(&old, "late", 30).await })
    };
    let waits = {
        let old = old.clone();
        tokio::spawn(async move { old.hold(request(s(600))).await.map(drop) })
    };
    sleep(Duration::from_millis(150)).await;
    old.hand_over().await;
    assert!(old.draining().is_cancelled());
    assert_eq!(under_way.await.unwrap().unwrap_err().reason(), "restoring");
    assert_eq!(waits.await.unwrap().unwrap_err().reason(), "restoring", "the other process takes over soon");
    assert_eq!(lease(&old, "new", 30).await.unwrap_err().reason(), "restoring");
    assert_eq!(old.renew(&name("leased"), &leased.id).await, Err(LeaseError::HandedOver));
    let new = processes.start().await;
    assert_eq!(new.renew(&name("leased"), &leased.id).await.unwrap().token, leased.token);
    sleep(s(60)).await;
    assert!(new.renew(&name("leased"), &leased.id).await.is_err(), "it was not renewed");
    assert_eq!(*held.state().borrow(), HoldState::Held);
    assert_eq!(processes.registry.holders("locks/jobs").len(), 1);
    assert_eq!(processes.registry.holders("locks/late").len(), 0, "it was given back");
    assert_eq!(held.release().await, Released::Now);
    timeout(s(1), old.wait_until_free()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_goes_on_has_its_leases_and_locks_again() {
    let processes = Processes::new();
    let old = processes.start().await;
    let leased = lease(&old, "leased", 30).await.unwrap();
    let held = old.hold(request(Duration::ZERO)).await.unwrap();
    old.hand_over().await;
    old.take_back().await;
    assert_eq!(old.renew(&name("leased"), &leased.id).await.unwrap().token, leased.token);
    lease(&old, "next", 30).await.unwrap();
    sleep(s(20)).await;
    assert_eq!(*held.state().borrow(), HoldState::Held);
    // A next process ends the session of the connection.
    std::mem::forget(held);
    processes.registry.cut_off();
    let _next = processes.start().await;
    assert_eq!(processes.registry.holders("locks/jobs").len(), 0);
    assert_eq!(processes.registry.holders("locks/leased").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_gone_after_its_time_to_live_has_expired() {
    let processes = Processes::new();
    let before = processes.start().await;
    let lost = lease(&before, "jobs", 30).await.unwrap();
    // It is killed: it does not see the loss itself.
    before.record().freeze(true).await;
    processes.registry.cut_off();
    sleep(s(31)).await;
    let after = processes.start().await;
    let expired = LeaseError::Lost(LossReason::SessionExpired { error: None });
    assert_eq!(after.renew(&name("jobs"), &lost.id).await, Err(expired));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_told_as_given_back_is_unknown_to_the_next_process() {
    let processes = Processes::new();
    let before = processes.start().await;
    let given_back = lease(&before, "jobs", 30).await.unwrap();
    let later = lease(&before, "later", 30).await.unwrap();
    assert_eq!(before.release(&name("jobs"), &given_back.id).await, Ok(Released::Now));
    // The registry does not answer: the next process ends the session.
    processes.registry.cut_off();
    assert_eq!(before.release(&name("later"), &later.id).await, Ok(Released::Later));
    let after = processes.start().await;
    assert_eq!(after.renew(&name("jobs"), &given_back.id).await, Err(LeaseError::Unknown));
    assert_eq!(after.renew(&name("later"), &later.id).await, Err(LeaseError::Unknown));
    assert_eq!((processes.registry.holders("locks/later").len(), processes.registry.sessions()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_freed_when_the_record_says_that_it_is_given_back_and_not_before() {
    let processes = Processes::new();
    let before = processes.start().await;
    let leased = lease(&before, "jobs", 30).await.unwrap();
    let hangs = before.record().hang().await;
    let releases = {
        let (before, id) = (before.clone(), leased.id.clone());
        tokio::spawn(async move { before.release(&name("jobs"), &id).await })
    };
    sleep(Duration::from_millis(500)).await;
    assert_eq!(processes.registry.holders("locks/jobs").len(), 1, "the record has the lease");
    drop(hangs);
    wait_until(|| processes.registry.holders("locks/jobs").is_empty()).await;
    // It is killed before the answer comes.
    processes.registry.cut_off();
    releases.abort();
    let after = processes.start().await;
    assert_eq!(after.renew(&name("jobs"), &leased.id).await, Err(LeaseError::Unknown));
}

#[tokio::test(start_paused = true)]
async fn no_request_waits_for_a_disk_that_hangs_for_longer_than_a_moment() {
    let processes = Processes::new();
    let before = processes.start().await;
    let hangs = before.record().hang().await;
    let at = Instant::now();
    // With an owner the record has the request, too, before the registry is asked.
    let first = lease(&before, "jobs", 3600).await.unwrap();
    assert_eq!(at.elapsed(), s(2), "two writes");
    let at = Instant::now();
    let second = lease(&before, "second", 3600).await.unwrap();
    assert_eq!(before.release(&name("second"), &second.id).await, Ok(Released::Now));
    assert_eq!(at.elapsed(), s(3), "an answer waits for the write as long as it may");
    // The disk takes writes again: the last one has everything.
    drop(hangs);
    let third = lease(&before, "third", 3600).await.unwrap();
    processes.registry.cut_off();
    let after = processes.start().await;
    for (text, lease) in [("jobs", &first), ("third", &third)] {
        assert_eq!(after.renew(&name(text), &lease.id).await.unwrap().token, lease.token);
    }
    assert_eq!(after.renew(&name("second"), &second.id).await, Err(LeaseError::Unknown));
    let _hangs = after.record().hang().await;
    let at = Instant::now();
    after.hand_over().await;
    assert_eq!(at.elapsed(), s(2), "the last write, and the end of what is under way");
}
