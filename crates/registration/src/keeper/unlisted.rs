//! A registration that the catalog does not list, on a paused clock.

use super::*;
use crate::testing::*;

const LONG: Duration = Duration::from_secs(100);

/// How long the app must be missing.
const MISSING_AFTER: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn an_app_that_the_catalog_lost_is_registered_again_within_seconds() {
    let fixture = start_registrant(PASSING);
    sleep(LONG).await;
    for registrations in 2..5 {
        fixture.agent.change(|agent| agent.unlisted = true);
        let took = fixture.wait_until(|agent| !agent.unlisted).await;
        assert!((MISSING_AFTER..MISSING_AFTER + Duration::from_secs(2)).contains(&took), "{took:?}");
        sleep(LONG).await;
        assert_eq!(fixture.agent.register_calls(), registrations, "once each time");
        assert_eq!(fixture.state.current().phase, RegistrationPhase::Registered);
        assert_eq!(fixture.state.current().reported, PASSING);
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_was_never_listed_is_not_missing() {
    let fixture = start_registrant(PASSING);
    fixture.agent.change(|agent| agent.never_listed = true);
    sleep(LONG * 10).await;
    assert_eq!(fixture.agent.register_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_listed_again_soon_is_not_registered_again() {
    let fixture = start_registrant(PASSING);
    sleep(LONG).await;
    for _ in 0..3 {
        fixture.agent.change(|agent| agent.unlisted = true);
        sleep(MISSING_AFTER / 2).await;
        fixture.agent.change(|agent| agent.unlisted = false);
        sleep(LONG).await;
    }
    assert_eq!(fixture.agent.register_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_the_list_stays_wrong_registrations_become_rarer() {
    let fixture = start_registrant(PASSING);
    sleep(LONG).await;
    fixture.agent.change(|agent| agent.never_listed = true);
    sleep(LONG * 10).await;
    let registers = fixture.agent.register_calls();
    assert!((10..20).contains(&registers), "{registers} within {:?}", LONG * 10);
    assert_eq!(fixture.state.current().reported, PASSING, "the reports go on");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_returns_empty_under_another_node_name_gets_one_registration() {
    let fixture = start_registrant(PASSING);
    sleep(LONG).await;
    fixture.agent.change(|agent| {
        agent.wipe();
        agent.node = Some("web-8");
        agent.index += 1;
    });
    sleep(LONG * 10).await;
    assert_eq!(fixture.agent.register_calls(), 2, "once, because the agent had forgotten the app");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_refuses_is_queried_rarely() {
    let fixture = start_registrant(PASSING);
    sleep(LONG).await;
    let before = fixture.agent.state().list_requests;
    fixture.agent.change(|agent| agent.refuses = Some((403, "Permission denied")));
    sleep(LONG * 10).await;
    let requests = fixture.agent.state().list_requests - before;
    assert!((30..120).contains(&requests), "{requests} times within {:?}", LONG * 10);
}

#[tokio::test(start_paused = true)]
async fn frequent_changes_of_the_list_do_not_cause_a_tight_loop() {
    let fixture = start_registrant(PASSING);
    sleep(LONG).await;
    let before = fixture.agent.state().list_answers;
    for _ in 0..1000 {
        // Another instance of the service comes or goes.
        fixture.agent.change(|agent| agent.index += 1);
        sleep(LONG / 1000).await;
    }
    let answers = fixture.agent.state().list_answers - before;
    assert!(answers <= 60, "{answers} within {LONG:?}");
}
