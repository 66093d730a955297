//! A registration that callers do not find, on a paused clock.

use super::{super::fake::*, *};

const LONG: Duration = Duration::from_secs(100);

#[tokio::test(start_paused = true)]
async fn an_app_that_the_catalog_lost_is_registered_again_within_seconds() {
    let life = live(PASSING);
    sleep(LONG).await;
    for registrations in 2..5 {
        life.fake.change(|agent| agent.unlisted = true);
        let took = life.until(|agent| !agent.unlisted).await;
        assert!((MISSING..MISSING + Duration::from_secs(2)).contains(&took), "{took:?}");
        sleep(LONG).await;
        assert_eq!(life.fake.registers(), registrations, "once each time");
        assert_eq!(life.board.now().phase, Phase::Registered);
        assert_eq!(life.board.now().told, PASSING);
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_was_never_listed_is_not_missing() {
    let life = live(PASSING);
    life.fake.change(|agent| agent.blind = true);
    sleep(LONG * 10).await;
    assert_eq!(life.fake.registers(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_listed_again_by_itself_is_left_alone() {
    let life = live(PASSING);
    sleep(LONG).await;
    for _ in 0..3 {
        life.fake.change(|agent| agent.unlisted = true);
        sleep(MISSING / 2).await;
        life.fake.change(|agent| agent.unlisted = false);
        sleep(LONG).await;
    }
    assert_eq!(life.fake.registers(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_goes_on_to_lie_is_believed_less_and_less() {
    let life = live(PASSING);
    sleep(LONG).await;
    life.fake.change(|agent| agent.blind = true);
    sleep(LONG * 10).await;
    let registers = life.fake.registers();
    assert!((10..20).contains(&registers), "{registers} within {:?}", LONG * 10);
    assert_eq!(life.board.now().told, PASSING, "the reports go on");
}

#[tokio::test(start_paused = true)]
async fn an_agent_under_another_name_is_no_reason_to_register_again_and_again() {
    let life = live(PASSING);
    sleep(LONG).await;
    life.fake.change(|agent| {
        agent.wipe();
        agent.node = Some("web-8");
        agent.index += 1;
    });
    sleep(LONG * 10).await;
    assert_eq!(life.fake.registers(), 2, "once, for the agent had forgotten it");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_refuses_to_say_is_left_alone() {
    let life = live(PASSING);
    sleep(LONG).await;
    let before = life.fake.agent().asked;
    life.fake.change(|agent| agent.refuses = Some((403, "Permission denied")));
    sleep(LONG * 10).await;
    let asked = life.fake.agent().asked - before;
    assert!((30..120).contains(&asked), "{asked} times within {:?}", LONG * 10);
}

#[tokio::test(start_paused = true)]
async fn the_registry_is_not_asked_in_a_tight_loop() {
    let life = live(PASSING);
    sleep(LONG).await;
    let before = life.fake.agent().looks;
    for _ in 0..1000 {
        // Somebody else of the service comes or goes.
        life.fake.change(|agent| agent.index += 1);
        sleep(LONG / 1000).await;
    }
    let looks = life.fake.agent().looks - before;
    assert!(looks <= 60, "{looks} within {LONG:?}");
}
