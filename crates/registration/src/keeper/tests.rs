//! Announcing again, against an agent in memory on a paused clock.

use outrigger_registry::consul::{AgentApi as _, AgentService};

use super::{reason::MIN_REREGISTER_INTERVAL, *};
use crate::{status::MaintenanceRequest, testing::*};

#[tokio::test(start_paused = true)]
async fn an_agent_that_forgets_the_app_gets_it_again_within_seconds() {
    for health in [PASSING, Some(ReportedHealth::Critical)] {
        let fixture = start_registrant(PASSING);
        sleep(Duration::from_secs(100)).await;
        fixture.health.send_replace(health);
        for round in 2..5 {
            fixture.agent.forget();
            let took = fixture.wait_until(|agent| agent.held.is_some()).await;
            assert!(took <= Duration::from_secs(3), "{took:?}");
            assert_eq!(fixture.agent.register_calls(), round);
            sleep(Duration::from_secs(100)).await;
            assert_eq!(fixture.state.current().phase, RegistrationPhase::Registered);
            assert_eq!(fixture.state.current().reported, health);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_healthy_app_is_registered_as_passing_unless_maintenance_is_desired() {
    let fixture = start_registrant(PASSING);
    fixture.wait_until(|agent| agent.initial == PASSING).await;
    fixture.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(30)).await;
    fixture.agent.forget();
    fixture.wait_until(|agent| agent.initial == Some(ReportedHealth::Critical)).await;

    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(30)).await;
    fixture.state.request_maintenance(MaintenanceRequest::On("by hand".into()));
    fixture.agent.forget();
    fixture.wait_until(|agent| agent.register_count == 2).await;
    assert_eq!(fixture.agent.state().initial, Some(ReportedHealth::Critical), "maintenance comes first");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_restarted_empty_gets_the_app_again_within_a_second() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(100)).await;
    fixture.agent.change(|agent| {
        agent.down = true;
        agent.wipe();
    });
    // A blocked query ends with its connection; here the change above wakes it.
    sleep(Duration::from_secs(600)).await;
    assert!(fixture.state.current().error.is_some());
    fixture.agent.change(|agent| agent.down = false);
    let took = fixture.wait_until(|agent| agent.held.is_some()).await;
    assert!(took <= Duration::from_secs(1), "{took:?}");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(fixture.state.current().error, None);
}

#[tokio::test(start_paused = true)]
async fn a_refused_report_causes_a_registration_even_when_the_query_stalls() {
    let fixture = start_registrant(PASSING);
    fixture.wait_until(|agent| agent.calls.len() >= 2).await;
    fixture.agent.change(|agent| {
        agent.stalls = ["held"].into();
        agent.wipe();
    });
    let took = fixture.wait_until(|agent| agent.held.is_some()).await;
    assert!(took <= RENEW_AND_A_TICK, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_causes_a_registration_within_seconds() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(100)).await;
    fixture.agent.change(|agent| {
        agent.refuses = Some((403, "ACL not found"));
        agent.wipe(); // the check expired, and the app was removed
    });
    sleep(Duration::from_secs(600)).await;
    assert!(fixture.state.current().error.is_some_and(|error| error.contains("ACL not found")));
    let calls = fixture.agent.state().calls.len();
    assert!(calls < 2_000, "{calls} calls in ten minutes");

    fixture.agent.change(|agent| agent.refuses = None);
    let took = fixture.wait_until(|agent| agent.held.is_some()).await;
    assert!(took <= Duration::from_secs(4), "{took:?}");
    sleep(Duration::from_secs(1)).await;
    assert_eq!((fixture.state.current().reported, fixture.state.current().error), (PASSING, None));
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_or_a_missing_leader_causes_no_registration() {
    for refusal in [(429, "Your request is rate limited"), (500, "No cluster leader")] {
        let fixture = start_registrant(PASSING);
        sleep(Duration::from_secs(15)).await;
        fixture.agent.state().refuses = Some(refusal);
        sleep(Duration::from_secs(300)).await;
        assert_eq!(
            (fixture.agent.register_calls(), fixture.state.current().phase),
            (1, RegistrationPhase::Registered),
            "{refusal:?}"
        );
        assert!(fixture.state.current().error.is_some_and(|error| error.contains(refusal.1)));
        fixture.agent.state().refuses = None;
        sleep(Duration::from_secs(20)).await;
        assert_eq!(
            (fixture.state.current().reported, fixture.state.current().error),
            (PASSING, None),
            "{refusal:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_registration_is_corrected() {
    let fixture = start_registrant(PASSING);
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
        fixture.agent.change(|agent| {
            let held = agent.held.as_mut().unwrap();
            change(held);
            held.content_hash = format!("changed-{n}");
        });
        let took = fixture.wait_until(|agent| agent.register_count == n as u64 + 2).await;
        assert!(took <= Duration::from_secs(3), "change {n} took {took:?}");
        sleep(Duration::from_secs(100)).await;
    }
}

/// A change of the checks is corrected within one query, with this number of registrations.
async fn check_is_corrected(change: fn(&mut AgentState), registrations: usize) {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(103)).await; // between two renewals
    let right = fixture.agent.state().checks.clone();
    let before = fixture.agent.register_calls();
    fixture.agent.change(change);
    assert_ne!(fixture.agent.state().checks, right);
    let took = fixture.wait_until(|agent| agent.checks == right).await;
    assert!(took <= Duration::from_secs(6), "{took:?}");
    sleep(Duration::from_secs(100)).await;
    assert_eq!(fixture.agent.register_calls() - before, registrations);
    assert_eq!(
        (fixture.state.current().phase, fixture.state.current().reported),
        (RegistrationPhase::Registered, PASSING)
    );
    assert_eq!(fixture.agent.state().checks, right);
}

#[tokio::test(start_paused = true)]
async fn foreign_checks_are_removed() {
    check_is_corrected(|agent| agent.checks.others = vec!["theirs".into(), "left".into()], 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_removed_check_is_made_again() {
    check_is_corrected(|agent| agent.checks.own = None, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_another_client_sets_is_removed_before_it_is_made_again() {
    type CheckChange = fn(&mut AgentState);
    let replaced: CheckChange = |agent| agent.checks.own.as_mut().unwrap().has_our_name = false;
    let set: CheckChange =
        |agent| agent.checks.own = Some(own_check(ReportedHealth::Critical, "connection refused"));
    for change in [replaced, set] {
        check_is_corrected(change, 1).await;
    }
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(103)).await;
    fixture.agent.change(set);
    fixture.wait_until(|agent| agent.register_count == 2).await;
    let calls: Vec<_> = fixture.agent.state().calls.iter().map(|(_, call)| call.clone()).collect();
    let at = calls.iter().position(|call| *call == AgentCall::Remove("service:orders-1".into())).unwrap();
    assert_eq!(calls[at + 1], AgentCall::Register);
}

#[tokio::test(start_paused = true)]
async fn an_expired_or_challenged_check_is_still_the_own_check() {
    for (health, output) in
        [(ReportedHealth::Critical, "TTL expired"), (ReportedHealth::Passing, LIVENESS_CHALLENGE)]
    {
        let fixture = start_registrant(PASSING);
        sleep(Duration::from_secs(95)).await;
        fixture.agent.state().checks.own = Some(own_check(health, output));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(fixture.agent.register_calls(), 1, "{output}");
        let renewed = fixture.agent.state().checks.own.clone().unwrap();
        assert_eq!(renewed, own_check(ReportedHealth::Passing, CHECK_OUTPUT));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_query_of_checks_delays_no_renewal_and_is_repeated() {
    let fixture = start_registrant(PASSING);
    fixture.wait_until(|agent| agent.calls.len() >= 2).await;
    fixture.agent.change(|agent| {
        agent.stalls = ["checks"].into();
        agent.checks.others = vec!["left".into()];
    });
    let took = fixture.wait_until(|agent| agent.checks.others.is_empty()).await;
    assert!(took <= Duration::from_secs(60), "{took:?}");
    let reports = fixture.agent.call_times(is_report);
    assert!(reports.windows(2).all(|pair| pair[1] - pair[0] <= RENEW_AND_A_TICK), "{reports:?}");
    assert_eq!(fixture.agent.register_calls(), 1, "no further registration");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_forgets_the_app_often_gets_it_again_as_fast_each_time() {
    let fixture = start_registrant(PASSING);
    fixture.wait_until(|agent| agent.held.is_some()).await;
    for after in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
        sleep(Duration::from_secs(after)).await;
        fixture.agent.forget();
        let took = fixture.wait_until(|agent| agent.held.is_some()).await;
        assert!(took <= MIN_REREGISTER_INTERVAL + Duration::from_millis(100), "{took:?} after {after} s");
    }
}

#[tokio::test(start_paused = true)]
async fn frequent_deletions_cause_a_limited_number_of_registrations() {
    let fixture = start_registrant(PASSING);
    for _ in 0..36_000 {
        fixture.agent.forget();
        sleep(Duration::from_millis(100)).await;
    }
    let registers = fixture.agent.register_calls();
    assert!((100..1_500).contains(&registers), "{registers} in {:?}", fixture.started_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_new_token_causes_a_registration_within_one_renewal_and_the_phase_is_never_lost() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(100)).await;
    let mut status = fixture.state.subscribe();
    let lost =
        tokio::spawn(
            async move { status.wait_for(|now| now.phase == RegistrationPhase::Lost).await.is_ok() },
        );
    for n in 1..4 {
        fixture.agent.rotate_credentials();
        let took = fixture.wait_until(|agent| agent.held_credentials == n).await;
        assert!(took <= RENEW_AND_A_TICK, "{took:?}");
        sleep(Duration::from_secs(5)).await;
        assert_eq!(fixture.state.current().reported, PASSING);
    }
    sleep(Duration::from_secs(100)).await;
    assert_eq!(fixture.agent.register_calls(), 4);
    assert!(!lost.is_finished());
}

#[tokio::test(start_paused = true)]
async fn an_earlier_registration_of_an_unhealthy_app_is_reported_critical_and_deregistered() {
    let left = FakeAgent::default();
    left.register(&test_registration()).await.unwrap();
    left.update_check("orders-1", ReportedHealth::Passing, CHECK_OUTPUT).await.unwrap();
    let fixture = start_registrant_at(left, None, Default::default());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(fixture.agent.register_calls(), 1, "before the first probe has ended");
    fixture.health.send_replace(Some(ReportedHealth::Critical));
    let took = fixture
        .wait_until(|agent| {
            agent.checks.own.as_ref().is_some_and(|own| own.health == ReportedHealth::Critical)
        })
        .await;
    assert!(took <= Duration::from_millis(50), "{took:?}");
    withdraw_at_once(fixture.registrant, &fixture.state).await;
    assert_eq!(fixture.agent.state().held, None);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_at_once_deregisters_what_an_earlier_run_left() {
    let left = FakeAgent::default();
    left.register(&test_registration()).await.unwrap();
    let fixture = start_registrant_at(left, None, Default::default());
    withdraw_at_once(fixture.registrant, &fixture.state).await;
    assert_eq!(fixture.agent.state().held, None);
}

#[tokio::test(start_paused = true)]
async fn two_processes_with_one_id_cause_a_limited_number_of_registrations() {
    let fixture = start_registrant(PASSING);
    for n in 0..36_000 {
        fixture.agent.change(|agent| {
            if let Some(held) = &mut agent.held {
                held.port = 1;
                held.content_hash = format!("theirs-{n}");
            }
        });
        sleep(Duration::from_millis(100)).await;
    }
    let registers = fixture.agent.register_calls();
    assert!((10..1_000).contains(&registers), "{registers} in {:?}", fixture.started_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn each_of_ten_changes_in_a_row_is_corrected_within_five_seconds() {
    let fixture = start_registrant(PASSING);
    fixture.wait_until(|agent| agent.held.is_some()).await;
    for n in 0..10 {
        fixture.agent.change(|agent| {
            let held = agent.held.as_mut().unwrap();
            (held.port, held.content_hash) = (1, format!("theirs-{n}"));
        });
        let after = fixture.wait_until(|agent| agent.held.as_ref().is_some_and(|held| held.port != 1)).await;
        assert!(after <= Duration::from_secs(5), "change {n} after {after:?}");
    }
}

fn tagged(tag: &str) -> Registration {
    Registration { tags: vec![tag.into()], ..test_registration() }
}

fn has_tag(tag: &'static str) -> impl Fn(&AgentState) -> bool {
    move |agent| agent.held.as_ref().is_some_and(|held| held.tags == [tag])
}

#[tokio::test(start_paused = true)]
async fn new_settings_end_every_pause() {
    // The pause after the agent forgot a new registration.
    let mut fixture = start_registrant(PASSING);
    fixture.wait_until(|agent| agent.held.is_some()).await;
    fixture.agent.forget();
    sleep(Duration::from_secs(1)).await;
    assert_eq!((fixture.state.current().phase, fixture.agent.register_calls()), (RegistrationPhase::Lost, 1));
    fixture.registrant.apply_settings(tagged("v3"), Default::default());
    assert!(fixture.wait_until(has_tag("v3")).await <= Duration::from_millis(20));

    // The back-off after many corrections.
    let mut fixture = start_registrant(PASSING);
    let theirs = |agent: &mut AgentState| {
        let held = agent.held.as_mut().unwrap();
        (held.port, held.content_hash) = (1, format!("theirs-{}", agent.register_count));
    };
    for n in 1..20 {
        fixture.wait_until(|agent| agent.register_count == n).await;
        fixture.agent.change(theirs);
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (fixture.state.current().phase, fixture.agent.register_calls()),
        (RegistrationPhase::Lost, 19)
    );
    fixture.registrant.apply_settings(tagged("v3"), Default::default());
    assert!(fixture.wait_until(has_tag("v3")).await <= Duration::from_millis(20));
}

#[tokio::test(start_paused = true)]
async fn maintenance_is_restored_for_every_reason_to_register_at_an_agent_that_lost_it() {
    type FixtureChange = fn(&mut RegistrantFixture);
    let settings: FixtureChange =
        |fixture| fixture.registrant.apply_settings(tagged("v3"), Default::default());
    let token: FixtureChange = |fixture| fixture.agent.rotate_credentials();
    for change in [settings, token] {
        let mut fixture = start_registrant(PASSING);
        sleep(Duration::from_secs(15)).await;
        fixture.maintenance.request(MaintenanceRequest::On("disk".into())).await.unwrap();
        fixture.agent.change(|agent| {
            agent.down = true;
            agent.wipe();
        });
        change(&mut fixture);
        sleep(Duration::from_secs(30)).await;
        fixture.agent.change(|agent| agent.down = false);
        fixture.wait_until(|agent| agent.checks.maintenance.is_some()).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(fixture.agent.state().checks.maintenance.as_deref(), Some("disk"));
        assert_eq!(fixture.state.current().maintenance.as_deref(), Some("disk"));
    }
}

#[tokio::test(start_paused = true)]
async fn each_drift_and_its_correction_is_an_event() {
    let fixture = start_registrant(PASSING);
    fixture.wait_until(|agent| agent.held.is_some()).await;
    sleep(Duration::from_secs(100)).await;
    let first = ["registered: registered the app".to_owned()];
    assert_eq!(event_lines(&fixture.events), first);
    type AgentChange = fn(&FakeAgent);
    let changes: [(AgentChange, &str, &str); 4] = [
        (
            FakeAgent::forget,
            "forgotten: the registry does not hold the app any more",
            "the registry had forgotten the app, registered again",
        ),
        (
            |agent| agent.change(|agent| agent.held.as_mut().unwrap().port += 1),
            "changed: the registry holds something else",
            "another client changed the registration, corrected it",
        ),
        (
            |agent| agent.change(|agent| agent.unlisted = true),
            "unlisted: the catalog does not list the app",
            "the catalog did not list the app, registered again",
        ),
        (
            FakeAgent::rotate_credentials,
            "credentials: the token was replaced",
            "the token was replaced, registered again with it",
        ),
    ];
    for (n, (change, drift, corrected)) in changes.into_iter().enumerate() {
        change(&fixture.agent);
        sleep(Duration::from_secs(100)).await;
        let expected = [format!("registration_drift: {drift}"), format!("registered: {corrected}")];
        assert_eq!(event_lines(&fixture.events)[1 + 2 * n..], expected);
    }
    let recorded = fixture.events.page(&Default::default(), None, usize::MAX).events;
    assert!(recorded.iter().all(|one| (one.service(), one.instance()) == (Some("orders"), Some("orders-1"))));
}
