//! The app is taken out for a restart, and put back.

use super::*;

/// The process is ready meanwhile.
const WITHDRAWN: [&str; 4] = ["register", "passing", "critical (ready)", "deregister (ready)"];

#[tokio::test]
async fn an_app_that_is_taken_out_has_left_before_it_may_be_stopped_and_is_registered_anew() {
    let (fixture, lifecycle) = start(PROPAGATION).await;
    wait_until_ready(&lifecycle).await;
    let handle = lifecycle.handle();
    tokio::time::pause();
    handle.take_out(CancellationToken::new()).await;
    assert_eq!(fixture.events().lines(), WITHDRAWN);
    let waited = fixture.events().at(WITHDRAWN[3]).unwrap().elapsed();
    assert!(waited >= PROPAGATION, "{waited:?}");
    // The process goes on.
    assert_eq!(handle.state(), LifecycleState::Ready);
    assert_eq!(handle.drain_phase(), DrainPhase::Serving);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.events().lines(), WITHDRAWN, "it stays out");
    tokio::time::resume();

    let since = Instant::now();
    let mut serving = std::pin::pin!(handle.wait_until_serving(since));
    assert!(timeout(Duration::from_millis(50), &mut serving).await.is_err(), "it is still out");
    handle.put_back();
    timeout(Duration::from_secs(20), serving).await.unwrap();
    assert_eq!(fixture.events().lines()[4..], ["register (ready)", "passing (ready)"]);
    lifecycle.drain().await;
    assert_eq!(fixture.events().lines()[6..], ["critical", "deregister"]);
}

#[tokio::test]
async fn the_waits_for_callers_can_be_skipped_and_the_calls_not() {
    let (fixture, lifecycle) = start(Duration::from_secs(600)).await;
    wait_until_ready(&lifecycle).await;
    tokio::time::pause();
    let (skip, from) = (CancellationToken::new(), Instant::now());
    skip.cancel();
    lifecycle.handle().take_out(skip).await;
    assert_eq!(fixture.events().lines(), WITHDRAWN);
    assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
}

#[tokio::test]
async fn a_drain_of_the_process_meanwhile_withdraws_nothing_twice() {
    let (fixture, lifecycle) = start(PROPAGATION).await;
    wait_until_ready(&lifecycle).await;
    let handle = lifecycle.handle().clone();
    tokio::time::pause();
    let drain = async {
        sleep(PROPAGATION / 2).await;
        handle.drain().requested.cancel();
        sleep(Duration::from_millis(1)).await;
        let state_at_once = handle.state();
        lifecycle.drain().await;
        state_at_once
    };
    let ((), state_at_once) = tokio::join!(handle.take_out(CancellationToken::new()), drain);
    assert_eq!(state_at_once, LifecycleState::Draining);
    assert_eq!(fixture.events().lines(), WITHDRAWN);
    let waited = fixture.events().at(WITHDRAWN[3]).unwrap().elapsed();
    assert!(waited >= PROPAGATION, "callers are waited for all the same: {waited:?}");
    handle.put_back();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.events().lines(), WITHDRAWN, "a process that leaves registers nothing");
}

#[tokio::test]
async fn maintenance_that_is_requested_while_the_app_is_out_is_in_force_when_it_is_back() {
    let (fixture, lifecycle) = start(Duration::ZERO).await;
    wait_until_ready(&lifecycle).await;
    let handle = lifecycle.handle();
    handle.take_out(CancellationToken::new()).await;
    handle.request_maintenance(None, MaintenanceRequest::On("by hand".into())).await.unwrap();
    handle.put_back();
    fixture.until_registered("orders", Some("by hand")).await;
}

#[tokio::test]
async fn to_put_the_app_back_takes_nothing_from_another_process() {
    let (fixture, lifecycle) = start(Duration::ZERO).await;
    wait_until_ready(&lifecycle).await;
    let kept = vec!["orders-1".to_owned()];
    lifecycle.hand_over(HandOver { kept }).await;
    lifecycle.handle().put_back();
    tokio::time::pause();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.events().lines(), WITHDRAWN[..2]);
    assert_eq!(lifecycle.handle().registrations()[0].status.phase, RegistrationPhase::Registered);
}
