//! Orders, and what others order at the registry, against an agent of the tests' own on a paused clock.

use outrigger_registry::ServiceChecks;
use tokio::time::{Instant, sleep};

use super::{
    super::{fake::*, note::place},
    *,
};

fn on(reason: &str) -> Order {
    Order::On(reason.into())
}

fn held(life: &Life) -> Option<String> {
    life.fake.agent().checks.maintenance.clone()
}

/// A life that has been registered for a while, in a folder of its own.
async fn settled(folder: &tempfile::TempDir) -> Life {
    let life = again(Fake::default(), folder);
    sleep(Duration::from_secs(103)).await; // between two renewals
    life
}

/// A run at this agent, after others with the same folder.
fn again(fake: Fake, folder: &tempfile::TempDir) -> Life {
    live_at(fake, PASSING, Note::new(Some(place(folder.path(), "orders", 8080))))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_order_is_carried_out_and_ended() {
    let life = settled(&folder()).await;
    life.office.order(on("disk")).await.unwrap();
    assert_eq!(held(&life).as_deref(), Some("disk"));
    assert_eq!((life.board.now().maintenance.as_deref(), life.board.now().order), (Some("disk"), None));
    life.office.order(Order::Off).await.unwrap();
    assert_eq!((held(&life), life.board.now().maintenance), (None, None));
}

#[tokio::test(start_paused = true)]
async fn before_there_is_a_registration_an_order_waits_and_comes_before_the_app_is_said_to_be_well() {
    let life = live(None);
    life.office.order(on("disk")).await.unwrap();
    assert_eq!(life.board.now().to_be(), Some("disk"));
    life.health.send_replace(PASSING);
    life.until(|agent| agent.calls.len() >= 3).await;
    let calls: Vec<_> = life.fake.agent().calls.iter().map(|(_, call)| call.clone()).collect();
    assert!(matches!(calls[..3], [Call::Register, Call::Maintenance(true), Call::Report(..)]), "{calls:?}");
    assert_eq!(life.board.now().maintenance.as_deref(), Some("disk"));
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_does_not_confirm_is_said_in_time_and_carried_out_when_it_is_back() {
    type Fault = fn(&mut Agent);
    let refuses: Fault = |agent| agent.refuses = Some((403, "Permission denied"));
    let down: Fault = |agent| agent.down = true;
    let stalls: Fault = |agent| agent.stalls = ["maintenance"; 9].into();
    for (fault, why) in [(refuses, "Permission denied"), (down, "connect"), (stalls, "no answer within 8s")] {
        let life = settled(&folder()).await;
        for (order, expected) in [(on("disk"), Some("disk")), (Order::Off, None)] {
            life.fake.change(fault);
            let from = Instant::now();
            let refused = life.office.order(order.clone()).await.unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
            assert!(from.elapsed() <= CALL, "{:?}", from.elapsed());
            assert_eq!(life.board.now().order, Some(order));

            life.fake.change(|agent| {
                (agent.refuses, agent.down) = (None, false);
                agent.stalls.clear();
            });
            let took = life.until(|agent| agent.checks.maintenance.as_deref() == expected).await;
            assert!(took <= Duration::from_secs(13), "{why}: {took:?}");
            sleep(Duration::from_secs(1)).await;
            assert_eq!((life.board.now().order, life.board.now().maintenance.as_deref()), (None, expected));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_orders_at_once_the_later_one_holds_at_the_registry() {
    let life = settled(&folder()).await;
    life.fake.change(|agent| agent.stalls = ["maintenance"].into());
    // The first stalls; the look sends what is to be meanwhile, and the later one holds.
    let later = async {
        sleep(Duration::from_secs(1)).await;
        life.office.order(Order::Off).await
    };
    let (_, second) = tokio::join!(life.office.order(on("disk")), later);
    assert_eq!(second, Ok(()));
    sleep(Duration::from_secs(30)).await;
    assert_eq!((held(&life), life.board.now().to_be()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn what_others_order_at_the_registry_is_seen_within_a_look() {
    let life = settled(&folder()).await;
    for reason in [Some("theirs"), None] {
        life.fake.change(|agent| agent.checks.maintenance = reason.map(str::to_owned));
        let from = Instant::now();
        let _ = life.board.subscribe().wait_for(|now| now.maintenance.as_deref() == reason).await;
        assert!(from.elapsed() <= Duration::from_secs(6), "{:?}", from.elapsed());
        sleep(Duration::from_secs(60)).await;
        assert_eq!(held(&life).as_deref(), reason, "and left alone");
    }
    // Ours, ended by somebody else.
    life.office.order(on("ours")).await.unwrap();
    life.fake.change(|agent| agent.checks.maintenance = None);
    assert_eq!(life.office.look().await, Ok(()), "asked, it knows at once");
    assert_eq!(life.board.now().maintenance, None);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(held(&life), None);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_does_not_answer_leaves_what_was_seen_last() {
    let life = settled(&folder()).await;
    life.office.order(on("disk")).await.unwrap();
    life.fake.change(|agent| agent.down = true);
    assert!(life.office.look().await.unwrap_err().contains("connect"));
    assert_eq!(life.board.now().maintenance.as_deref(), Some("disk"));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_forgot_the_app_is_told_of_maintenance_again_whoever_had_ordered_it() {
    for ours in [true, false] {
        let life = settled(&folder()).await;
        if ours {
            life.office.order(on("disk")).await.unwrap();
        } else {
            life.fake.change(|agent| agent.checks.maintenance = Some("disk".into()));
            sleep(Duration::from_secs(60)).await;
        }
        let before = life.fake.agent().calls.len();
        life.fake.forget();
        life.until(|agent| agent.calls.len() >= before + 3).await;
        let calls: Vec<_> = life.fake.agent().calls[before..].iter().map(|(_, call)| call.clone()).collect();
        assert!(
            matches!(calls[..3], [Call::Register, Call::Maintenance(true), Call::Report(..)]),
            "{calls:?}"
        );
        assert_eq!(held(&life).as_deref(), Some("disk"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_run_finds_what_the_last_one_was_told() {
    let folder = folder();
    let life = settled(&folder).await;
    life.office.order(on("disk")).await.unwrap();
    leave(life.keeper, &life.board).await;
    assert_eq!(life.fake.agent().checks, ServiceChecks::default());

    let life = settled(&folder).await;
    assert_eq!(held(&life).as_deref(), Some("disk"));
    life.office.order(Order::Off).await.unwrap();
    leave(life.keeper, &life.board).await;
    assert_eq!(held(&settled(&folder).await), None);
}

#[tokio::test(start_paused = true)]
async fn where_the_registry_held_the_app_all_the_while_its_word_counts_more_than_the_note() {
    for (noted, at_the_registry) in [(Some("disk"), None), (None, Some("theirs"))] {
        let folder = folder();
        Note::new(Some(place(folder.path(), "orders", 8080))).write(|| noted.map(str::to_owned)).await;
        let fake = Fake::default();
        fake.register(&wanted()).await.unwrap();
        fake.change(|agent| agent.checks.maintenance = at_the_registry.map(str::to_owned));
        let life = again(fake, &folder);
        assert_eq!(life.board.now().maintenance.as_deref(), noted);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(held(&life).as_deref(), at_the_registry);
        assert_eq!(life.board.now().maintenance.as_deref(), at_the_registry);
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_has_left_takes_no_orders() {
    let life = settled(&folder()).await;
    life.board.enter(Phase::Left);
    assert_eq!(life.office.order(on("disk")).await, Err(Refused::Leaving));
    assert_eq!(held(&life), None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_a_registration_that_is_gone_by_now_ends_nothing() {
    let board = Board::new(Phase::AwaitingApp, "orders-1");
    board.recall(Some("disk".into()));
    board.registered(0);
    let before = board.now();
    board.enter(Phase::Lost);
    assert!(!board.saw(&before, None), "it is being registered again, and not yet in maintenance");
    board.registered(0);
    assert!(!board.saw(&before, None));
    assert_eq!(board.now().maintenance.as_deref(), Some("disk"));
    assert!(board.saw(&board.now(), None));
}

#[tokio::test(start_paused = true)]
async fn an_order_that_the_registration_before_a_reload_has_taken_is_still_to_be_taken_by_the_next_one() {
    let life = settled(&folder()).await;
    life.board.order(on("disk"));
    let before = life.board.now();
    life.board.begin(Phase::AwaitingApp, "payments-1");
    assert!(!life.board.confirmed(&before));
    assert_eq!(life.board.now().order, Some(on("disk")));
    assert_eq!(life.office.carry_out().await, Ok(()), "with the registration");
    assert_eq!((held(&life), life.board.now().order), (None, Some(on("disk"))));
}
