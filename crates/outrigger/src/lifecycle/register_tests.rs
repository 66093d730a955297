//! The registration kept true, against an agent of the tests' own.

use outrigger_registry::AgentService;

use super::{super::fake::*, *};

#[tokio::test(start_paused = true)]
async fn an_agent_that_forgets_gets_the_registration_again_within_seconds() {
    for health in [PASSING, Some(ReportedHealth::Critical)] {
        let life = live(PASSING);
        sleep(Duration::from_secs(100)).await;
        life.health.send_replace(health);
        for round in 2..5 {
            life.fake.forget();
            let took = life.until(|agent| agent.held.is_some()).await;
            assert!(took <= Duration::from_secs(3), "{took:?}");
            assert_eq!(life.fake.registers(), round);
            sleep(Duration::from_secs(100)).await;
            assert_eq!(life.board.now().phase, Phase::Registered);
            assert_eq!(life.board.now().told, health);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_well_is_registered_as_well_unless_it_is_to_be_in_maintenance() {
    let life = live(PASSING);
    life.until(|agent| agent.initial == PASSING).await;
    life.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(30)).await;
    life.fake.forget();
    life.until(|agent| agent.initial == Some(ReportedHealth::Critical)).await;

    let life = live(PASSING);
    sleep(Duration::from_secs(30)).await;
    life.board.order(crate::Order::On("by hand".into()));
    life.fake.forget();
    life.until(|agent| agent.registers == 2).await;
    assert_eq!(life.fake.agent().initial, Some(ReportedHealth::Critical), "maintenance comes first");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_restarted_empty_gets_it_again_soon_after_it_is_back() {
    let life = live(PASSING);
    sleep(Duration::from_secs(100)).await;
    life.fake.change(|agent| {
        agent.down = true;
        agent.wipe();
    });
    // The look that is blocked ends with its connection; here it is woken by the change above.
    sleep(Duration::from_secs(600)).await;
    assert!(life.board.now().error.is_some());
    life.fake.change(|agent| agent.down = false);
    let took = life.until(|agent| agent.held.is_some()).await;
    assert!(took <= Duration::from_secs(1), "{took:?}");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(life.board.now().error, None);
}

#[tokio::test(start_paused = true)]
async fn a_refused_report_brings_the_registration_back_even_when_the_look_stalls() {
    let life = live(PASSING);
    life.until(|agent| agent.calls.len() >= 2).await;
    life.fake.change(|agent| {
        agent.stalls = ["held"].into();
        agent.wipe();
    });
    let took = life.until(|agent| agent.held.is_some()).await;
    assert!(took <= RENEW_AND_A_TICK, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rotated_token_brings_the_registration_back_within_seconds() {
    let life = live(PASSING);
    sleep(Duration::from_secs(100)).await;
    life.fake.change(|agent| {
        agent.refuses = Some((403, "ACL not found"));
        agent.wipe(); // expired meanwhile, and removed
    });
    sleep(Duration::from_secs(600)).await;
    assert!(life.board.now().error.is_some_and(|error| error.contains("ACL not found")));
    let calls = life.fake.agent().calls.len();
    assert!(calls < 2_000, "{calls} calls in ten minutes");

    life.fake.change(|agent| agent.refuses = None);
    let took = life.until(|agent| agent.held.is_some()).await;
    assert!(took <= Duration::from_secs(4), "{took:?}");
    sleep(Duration::from_secs(1)).await;
    assert_eq!((life.board.now().told, life.board.now().error), (PASSING, None));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_says_nothing_of_the_registration_is_no_reason_to_register_again() {
    for refusal in [(429, "Your request is rate limited"), (500, "No cluster leader")] {
        let life = live(PASSING);
        sleep(Duration::from_secs(15)).await;
        life.fake.agent().refuses = Some(refusal);
        sleep(Duration::from_secs(300)).await;
        assert_eq!((life.fake.registers(), life.board.now().phase), (1, Phase::Registered), "{refusal:?}");
        assert!(life.board.now().error.is_some_and(|error| error.contains(refusal.1)));
        life.fake.agent().refuses = None;
        sleep(Duration::from_secs(20)).await;
        assert_eq!((life.board.now().told, life.board.now().error), (PASSING, None), "{refusal:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_is_corrected() {
    let life = live(PASSING);
    sleep(Duration::from_secs(100)).await;
    let changes: [fn(&mut AgentService); 7] = [
        |held| held.enable_tag_override = true,
        |held| held.port = 1,
        |held| held.name = "other".into(),
        |held| held.tags.clear(),
        |held| held.weights.passing = 9,
        |held| held.address = Some("10.9.9.9".into()),
        |held| drop(held.meta.insert("a".into(), "b".into())),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        life.fake.change(|agent| {
            let held = agent.held.as_mut().unwrap();
            change(held);
            held.content_hash = format!("changed-{n}");
        });
        let took = life.until(|agent| agent.registers == n as u64 + 2).await;
        assert!(took <= Duration::from_secs(3), "change {n} took {took:?}");
        sleep(Duration::from_secs(100)).await;
    }
}

/// What a change to the checks comes to: it is mended within a look, by one registration or without.
async fn is_mended(change: fn(&mut Agent), registrations: usize) {
    let life = live(PASSING);
    sleep(Duration::from_secs(103)).await; // between two renewals
    let right = life.fake.agent().checks.clone();
    let before = life.fake.registers();
    life.fake.change(change);
    assert_ne!(life.fake.agent().checks, right);
    let took = life.until(|agent| agent.checks == right).await;
    assert!(took <= Duration::from_secs(6), "{took:?}");
    sleep(Duration::from_secs(100)).await;
    assert_eq!(life.fake.registers() - before, registrations);
    assert_eq!((life.board.now().phase, life.board.now().told), (Phase::Registered, PASSING));
    assert_eq!(life.fake.agent().checks, right);
}

#[tokio::test(start_paused = true)]
async fn checks_that_others_add_are_removed() {
    is_mended(|agent| agent.checks.others = vec!["theirs".into(), "left".into()], 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_somebody_removed_is_made_again() {
    is_mended(|agent| agent.checks.own = None, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_somebody_else_sets_is_removed_before_it_is_made_again() {
    type Change = fn(&mut Agent);
    let replaced: Change = |agent| agent.checks.own.as_mut().unwrap().has_our_name = false;
    let set: Change =
        |agent| agent.checks.own = Some(own_check(ReportedHealth::Critical, "connection refused"));
    for change in [replaced, set] {
        is_mended(change, 1).await;
    }
    let life = live(PASSING);
    sleep(Duration::from_secs(103)).await;
    life.fake.change(set);
    life.until(|agent| agent.registers == 2).await;
    let calls: Vec<_> = life.fake.agent().calls.iter().map(|(_, call)| call.clone()).collect();
    let at = calls.iter().position(|call| *call == Call::Remove("service:orders-1".into())).unwrap();
    assert_eq!(calls[at + 1], Call::Register);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_ran_out_or_was_knocked_at_is_still_ours() {
    for (health, output) in
        [(ReportedHealth::Critical, "TTL expired"), (ReportedHealth::Passing, super::super::report::KNOCK)]
    {
        let life = live(PASSING);
        sleep(Duration::from_secs(95)).await;
        life.fake.agent().checks.own = Some(own_check(health, output));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(life.fake.registers(), 1, "{output}");
        let renewed = life.fake.agent().checks.own.clone().unwrap();
        assert_eq!(renewed, own_check(ReportedHealth::Passing, super::super::report::OUTPUT));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalling_look_at_checks_delays_neither_renewals_nor_the_next_look_for_ever() {
    let life = live(PASSING);
    life.until(|agent| agent.calls.len() >= 2).await;
    life.fake.change(|agent| {
        agent.stalls = ["checks"].into();
        agent.checks.others = vec!["left".into()];
    });
    let took = life.until(|agent| agent.checks.others.is_empty()).await;
    assert!(took <= Duration::from_secs(60), "{took:?}");
    let reports = life.fake.times(reports);
    assert!(reports.windows(2).all(|pair| pair[1] - pair[0] <= RENEW_AND_A_TICK), "{reports:?}");
    assert_eq!(life.fake.registers(), 1, "it is no reason to register again");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_forgets_again_and_again_gets_it_back_as_fast_each_time() {
    let life = live(PASSING);
    life.until(|agent| agent.held.is_some()).await;
    for after in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
        sleep(Duration::from_secs(after)).await;
        life.fake.forget();
        let took = life.until(|agent| agent.held.is_some()).await;
        assert!(took <= FORGOTTEN + Duration::from_millis(100), "{took:?} after {after} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_is_deleted_at_once_each_time_does_not_become_a_storm() {
    let life = live(PASSING);
    for _ in 0..36_000 {
        life.fake.forget();
        sleep(Duration::from_millis(100)).await;
    }
    let registers = life.fake.registers();
    assert!((100..1_500).contains(&registers), "{registers} in {:?}", life.start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn with_another_token_it_is_registered_again_within_a_renewal_and_was_never_lost() {
    let life = live(PASSING);
    sleep(Duration::from_secs(100)).await;
    let mut standing = life.board.subscribe();
    let lost = tokio::spawn(async move { standing.wait_for(|now| now.phase == Phase::Lost).await.is_ok() });
    for n in 1..4 {
        life.fake.rotate();
        let took = life.until(|agent| agent.held_with == n).await;
        assert!(took <= RENEW_AND_A_TICK, "{took:?}");
        sleep(Duration::from_secs(5)).await;
        assert_eq!((life.board.now().told, life.board.now().credentials), (PASSING, n));
    }
    sleep(Duration::from_secs(100)).await;
    assert_eq!(life.fake.registers(), 4);
    assert!(!lost.is_finished());
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_left_of_an_app_that_is_down_is_told_critical_and_taken_back() {
    let left = Fake::default();
    left.register(&wanted()).await.unwrap();
    left.report("orders-1", ReportedHealth::Passing, super::super::report::OUTPUT).await.unwrap();
    let life = live_at(left, None, Default::default());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(life.fake.registers(), 1, "as long as nobody knows how the app is");
    life.health.send_replace(Some(ReportedHealth::Critical));
    let told = life
        .until(|agent| agent.checks.own.as_ref().is_some_and(|own| own.health == ReportedHealth::Critical))
        .await;
    assert!(told <= Duration::from_millis(50), "{told:?}");
    leave(life.keeper, &life.board).await;
    assert_eq!(life.fake.agent().held, None);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_left_is_taken_back_also_by_a_run_that_ends_at_once() {
    let left = Fake::default();
    left.register(&wanted()).await.unwrap();
    let life = live_at(left, None, Default::default());
    leave(life.keeper, &life.board).await;
    assert_eq!(life.fake.agent().held, None);
}

#[tokio::test(start_paused = true)]
async fn a_quarrel_over_one_id_does_not_become_a_storm() {
    let life = live(PASSING);
    for n in 0..36_000 {
        life.fake.change(|agent| {
            if let Some(held) = &mut agent.held {
                held.port = 1;
                held.content_hash = format!("theirs-{n}");
            }
        });
        sleep(Duration::from_millis(100)).await;
    }
    let registers = life.fake.registers();
    assert!((10..1_000).contains(&registers), "{registers} in {:?}", life.start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn each_of_a_few_changes_in_a_row_is_corrected_within_five_seconds() {
    let life = live(PASSING);
    life.until(|agent| agent.held.is_some()).await;
    for n in 0..10 {
        life.fake.change(|agent| {
            let held = agent.held.as_mut().unwrap();
            (held.port, held.content_hash) = (1, format!("theirs-{n}"));
        });
        let after = life.until(|agent| agent.held.as_ref().is_some_and(|held| held.port != 1)).await;
        assert!(after <= Duration::from_secs(5), "change {n} after {after:?}");
    }
}

fn tagged(tag: &str) -> Registration {
    Registration { tags: vec![tag.into()], ..wanted() }
}

fn bears(tag: &'static str) -> impl Fn(&Agent) -> bool {
    move |agent| agent.held.as_ref().is_some_and(|held| held.tags == [tag])
}

#[tokio::test(start_paused = true)]
async fn other_settings_wait_for_the_end_of_no_pause() {
    // Forgotten just after it was registered.
    let mut life = live(PASSING);
    life.until(|agent| agent.held.is_some()).await;
    life.fake.forget();
    sleep(Duration::from_secs(1)).await;
    assert_eq!((life.board.now().phase, life.fake.registers()), (Phase::Lost, 1));
    life.keeper.adopt(tagged("v3"), Default::default());
    assert!(life.until(bears("v3")).await <= Duration::from_millis(20));

    // And in a quarrel.
    let mut life = live(PASSING);
    let theirs = |agent: &mut Agent| {
        let held = agent.held.as_mut().unwrap();
        (held.port, held.content_hash) = (1, format!("theirs-{}", agent.registers));
    };
    for n in 1..20 {
        life.until(|agent| agent.registers == n).await;
        life.fake.change(theirs);
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!((life.board.now().phase, life.fake.registers()), (Phase::Lost, 19));
    life.keeper.adopt(tagged("v3"), Default::default());
    assert!(life.until(bears("v3")).await <= Duration::from_millis(20));
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_lost_while_it_was_away_is_restored_whatever_it_is_registered_again_for() {
    type Change = fn(&mut Life);
    let settings: Change = |life| life.keeper.adopt(tagged("v3"), Default::default());
    let token: Change = |life| life.fake.rotate();
    for change in [settings, token] {
        let mut life = live(PASSING);
        sleep(Duration::from_secs(15)).await;
        life.office.order(super::super::standing::Order::On("disk".into())).await.unwrap();
        life.fake.change(|agent| {
            agent.down = true;
            agent.wipe();
        });
        change(&mut life);
        sleep(Duration::from_secs(30)).await;
        life.fake.change(|agent| agent.down = false);
        life.until(|agent| agent.checks.maintenance.is_some()).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(life.fake.agent().checks.maintenance.as_deref(), Some("disk"));
        assert_eq!(life.board.now().maintenance.as_deref(), Some("disk"));
    }
}
