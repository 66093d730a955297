//! Renewals and the withdrawal, against an agent in memory on a paused clock.

use outrigger_registry::ReportedHealth;
use tokio::time::Instant;

use super::*;
use crate::{
    HealthReason, ReasonKind,
    drain::DrainControl,
    status::{MaintenanceRequest, Unreachable},
    testing::*,
    withdraw::run_all,
};

#[tokio::test(start_paused = true)]
async fn the_app_is_registered_when_it_is_healthy_and_not_before() {
    let fixture = start_registrant(None);
    sleep(Duration::from_secs(60)).await;
    fixture.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.agent.state().calls, []);
    assert_eq!(fixture.state.current().phase, RegistrationPhase::AwaitingApp);

    fixture.health.send_replace(PASSING);
    fixture.wait_until(|agent| agent.calls.len() == 2).await;
    let calls: Vec<_> = fixture.agent.state().calls.iter().map(|(_, call)| call.clone()).collect();
    assert_eq!(calls, [AgentCall::Register, AgentCall::Report(ReportedHealth::Passing, CHECK_OUTPUT.into())]);
    assert_eq!(fixture.state.current().phase, RegistrationPhase::Registered);
    assert_eq!(fixture.state.current().reported, PASSING);
}

#[tokio::test(start_paused = true)]
async fn the_ttl_is_renewed_every_ten_seconds_with_a_constant_output() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(3600)).await;
    let reports = fixture.agent.call_times(is_report);
    assert_eq!(reports.len(), 361 - 1, "one at once, then one every 10 s");
    assert!(reports.windows(2).all(|pair| pair[1] - pair[0] <= RENEW_AND_A_TICK));
    let agent = fixture.agent.state();
    let outputs: std::collections::HashSet<_> = agent
        .calls
        .iter()
        .filter_map(|(_, call)| match call {
            AgentCall::Report(_, output) => Some(output.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(outputs.len(), 1, "{outputs:?}");
}

#[tokio::test(start_paused = true)]
async fn the_output_of_the_check_has_the_reason_and_another_text_only_of_another_kind() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    let ill = |kind, text: &str| {
        let (health, text) = (ReportedHealth::Critical, text.to_owned());
        fixture.state.record_reason(Some(HealthReason { health, kind, text }));
    };
    let outputs = || {
        let calls = &fixture.agent.state().calls;
        let mut outputs: Vec<String> = calls
            .iter()
            .filter_map(|(_, call)| match call {
                AgentCall::Report(_, output) => Some(output.clone()),
                _ => None,
            })
            .collect();
        outputs.dedup();
        outputs
    };
    ill(ReasonKind::Refused, "connect: refused");
    fixture.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(1)).await;
    let refused = format!("{CHECK_OUTPUT}: connect: refused");
    assert_eq!(outputs(), [CHECK_OUTPUT.to_owned(), refused.clone()], "at once");
    let before = fixture.agent.call_times(is_report).len();
    ill(ReasonKind::Status(503), "GET / answered 503");
    sleep(Duration::from_secs(60)).await;
    let status = format!("{CHECK_OUTPUT}: GET / answered 503");
    assert_eq!(outputs(), [CHECK_OUTPUT.to_owned(), refused.clone(), status.clone()]);
    assert_eq!(fixture.agent.call_times(is_report).len() - before, 6, "no report more than the renewals");
    fixture.state.record_reason(None);
    fixture.health.send_replace(PASSING);
    sleep(Duration::from_secs(120)).await;
    assert_eq!(outputs(), [CHECK_OUTPUT.to_owned(), refused, status, CHECK_OUTPUT.to_owned()]);
    assert_eq!(fixture.agent.register_calls(), 1, "the output is the sidecar's own");
}

#[tokio::test(start_paused = true)]
async fn the_output_of_the_check_has_the_failure_of_the_registered_address_beside_the_reason() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    let failure = |error: &str| {
        let kind = "the registered address refuses".to_owned();
        Reachability::Unreachable(Unreachable { kind, error: error.to_owned() })
    };
    let told = || fixture.agent.state().checks.own.clone().unwrap();
    let with = |text: &str| format!("{CHECK_OUTPUT}: {text}");
    fixture.state.record_reach(failure("os error 111"));
    sleep(RENEW_AND_A_TICK).await;
    assert_eq!(told(), own_check(ReportedHealth::Passing, &with("the registered address refuses")));
    let reason = HealthReason {
        health: ReportedHealth::Warning,
        kind: ReasonKind::Status(429),
        text: "GET / answered 429".to_owned(),
    };
    fixture.state.record_reason(Some(reason));
    fixture.health.send_replace(Some(ReportedHealth::Warning));
    sleep(Duration::from_secs(1)).await;
    let both = with("GET / answered 429; the registered address refuses");
    assert_eq!(told(), own_check(ReportedHealth::Warning, &both));
    // By `require` the health is not that of the probe.
    fixture.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(told(), own_check(ReportedHealth::Critical, &with("the registered address refuses")));
    let mut status = fixture.state.subscribe();
    status.mark_unchanged();
    fixture.state.record_reach(failure("another error of this kind"));
    assert!(!status.has_changed().unwrap());
    fixture.state.record_reach(Reachability::Reached);
    fixture.state.record_reason(None);
    fixture.health.send_replace(PASSING);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(told(), own_check(ReportedHealth::Passing, CHECK_OUTPUT));
    assert_eq!(fixture.agent.register_calls(), 1, "the output is the sidecar's own");
}

#[tokio::test(start_paused = true)]
async fn a_reason_of_another_health_is_not_told_with_this_one() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    // The probe has ended, and its health is about to be sent.
    let (kind, text) = (ReasonKind::Refused, "connect: refused".to_owned());
    fixture.state.record_reason(Some(HealthReason { health: ReportedHealth::Critical, kind, text }));
    sleep(Duration::from_secs(15)).await;
    let told = fixture.agent.state().checks.own.clone().unwrap();
    assert_eq!(told, own_check(ReportedHealth::Passing, CHECK_OUTPUT));
}

#[tokio::test(start_paused = true)]
async fn an_app_that_cannot_be_probed_keeps_its_status_and_its_check_says_why() {
    const CAUSE: &str = "connect to 127.0.0.1:8080: Too many open files (os error 24)";
    for health in [ReportedHealth::Passing, ReportedHealth::Critical] {
        let fixture = start_registrant(PASSING);
        sleep(Duration::from_secs(15)).await;
        fixture.health.send_replace(Some(health));
        sleep(Duration::from_secs(1)).await;
        let last = || {
            fixture.agent.state().calls.iter().rev().find_map(|(_, call)| match call {
                AgentCall::Report(health, output) => Some((*health, output.clone())),
                _ => None,
            })
        };
        fixture.state.record_unprobed(Some(CAUSE));
        sleep(Duration::from_secs(1)).await;
        let (reported, output) = last().unwrap();
        assert_eq!(reported, health);
        assert!(output.contains("health unknown") && output.ends_with(CAUSE), "{output}");

        let since = Instant::now();
        sleep(Duration::from_secs(3600)).await;
        let renewals = fixture.agent.call_times(is_report);
        let renewals: Vec<_> = renewals.into_iter().filter(|at| *at > since).collect();
        assert!(renewals.windows(2).all(|pair| pair[1] - pair[0] <= RENEW_AND_A_TICK), "its TTL is renewed");
        assert!(renewals.len() >= 359, "{}", renewals.len());
        assert_eq!(last().unwrap(), (health, output), "the text is constant");
        assert_eq!(fixture.agent.register_calls(), 1, "the output is one of this sidecar");

        fixture.state.record_unprobed(None);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(last().unwrap(), (health, CHECK_OUTPUT.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_query_or_registration_delays_no_renewal() {
    let fixture = start_registrant(PASSING);
    fixture.wait_until(|agent| agent.calls.len() >= 2).await;
    // The query is never answered, nor are two registrations after the agent was wiped.
    fixture.agent.change(|agent| {
        agent.stalls = ["held", "register", "register"].into();
        agent.wipe();
    });
    sleep(Duration::from_secs(120)).await;
    let reports = fixture.agent.call_times(is_report);
    let longest = reports.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest <= RENEW_AND_A_TICK, "{longest:?}");
    assert!(reports.len() >= 12, "{}", reports.len());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_health_is_reported_at_once() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    for health in [ReportedHealth::Critical, ReportedHealth::Warning, ReportedHealth::Passing] {
        fixture.health.send_replace(Some(health));
        let took = fixture
            .wait_until(|agent| matches!(agent.calls.last(), Some((_, AgentCall::Report(last, _))) if *last == health))
            .await;
        assert!(took <= Duration::from_millis(20), "{health:?} took {took:?}");
    }
    assert_eq!(fixture.agent.register_calls(), 1, "an unhealthy app stays registered");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_health_does_not_wait_for_a_stalled_report() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    fixture.agent.state().stalls = ["report"].into();
    sleep(Duration::from_secs(6)).await; // the renewal at 20 s stalls
    assert!(fixture.agent.state().stalls.is_empty());
    fixture.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(fixture.state.current().reported, Some(ReportedHealth::Critical));
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_reports_critical_then_deregisters_and_no_call_follows() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    let before = fixture.agent.state().calls.len();
    assert!(withdraw_at_once(fixture.registrant, &fixture.state).await);
    fixture.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(300)).await;
    let calls: Vec<_> = fixture.agent.state().calls[before..].iter().map(|(_, call)| call.clone()).collect();
    assert_eq!(
        calls,
        [AgentCall::Report(ReportedHealth::Critical, DRAIN_OUTPUT.into()), AgentCall::Deregister]
    );
    assert_eq!(fixture.state.current().phase, RegistrationPhase::Left);
}

/// What the last report before the deregistration says.
fn last_output(fixture_agent: &FakeAgent) -> String {
    let calls = &fixture_agent.state().calls;
    let mut reports = calls.iter().filter_map(|(_, call)| match call {
        AgentCall::Report(ReportedHealth::Critical, output) => Some(output.clone()),
        _ => None,
    });
    reports.next_back().unwrap()
}

#[tokio::test(start_paused = true)]
async fn only_a_healthy_app_that_runs_is_shown_as_draining() {
    // An app that is ill.
    let ill = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    let (health, kind, text) = (ReportedHealth::Critical, ReasonKind::Refused, "refused".to_owned());
    ill.state.record_reason(Some(HealthReason { health, kind, text }));
    ill.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(1)).await;
    withdraw_at_once(ill.registrant, &ill.state).await;
    assert_eq!(last_output(&ill.agent), format!("{CHECK_OUTPUT}: refused"));

    // An app that has ended, or a second signal.
    let ended = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    let drain = DrainControl::default();
    drain.skip_waits.cancel();
    let propagation = fixed_propagation(Duration::ZERO);
    run_all([ended.registrant].into_iter(), &propagation, &drain).await;
    assert_eq!(last_output(&ended.agent), CHECK_OUTPUT);

    // An app in maintenance.
    let maintained = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    let request = MaintenanceRequest::On("repair".into());
    maintained.maintenance.request(request).await.unwrap();
    withdraw_at_once(maintained.registrant, &maintained.state).await;
    assert_eq!(last_output(&maintained.agent), CHECK_OUTPUT);

    // An app that the settings no longer name.
    let removed = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    removed.registrant.withdraw_now().await;
    assert_eq!(last_output(&removed.agent), DRAIN_OUTPUT);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_lost_the_app_is_told_of_it_as_healthy_first_so_that_callers_see_the_mark() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    fixture.agent.forget();
    withdraw_at_once(fixture.registrant, &fixture.state).await;
    assert_eq!(fixture.agent.state().initial, Some(ReportedHealth::Passing));
    assert_eq!(last_output(&fixture.agent), DRAIN_OUTPUT);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_before_the_app_was_healthy_changes_nothing_at_the_registry() {
    let fixture = start_registrant(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(15)).await;
    assert!(!withdraw_at_once(fixture.registrant, &fixture.state).await);
    assert_eq!(fixture.agent.state().calls, []);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_is_bounded_at_a_stalled_a_slow_and_an_unreachable_agent() {
    let stalled = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    stalled.agent.state().stalls = ["report", "deregister", "deregister", "deregister"].into();
    let from = Instant::now();
    assert!(withdraw_at_once(stalled.registrant, &stalled.state).await);
    // As without a leader: both calls are sent, and neither is answered.
    assert_eq!(from.elapsed().as_secs(), 6);
    assert_eq!(stalled.agent.call_times(|call| *call == AgentCall::Deregister).len(), 1);

    let slow = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    slow.agent.state().stalls = ["deregister", "deregister"].into();
    let from = Instant::now();
    assert!(withdraw_at_once(slow.registrant, &slow.state).await);
    assert_eq!(from.elapsed().as_secs(), 8, "an agent that takes reports gets the full time-out");

    let down = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    down.agent.state().down = true;
    let from = Instant::now();
    assert!(withdraw_at_once(down.registrant, &down.state).await);
    assert!(from.elapsed() <= Duration::from_secs(5), "{:?}", from.elapsed());
    let tries = down.agent.call_times(|call| *call == AgentCall::Deregister).len();
    assert_eq!(tries, MAX_TRIES as usize);
}

#[tokio::test(start_paused = true)]
async fn a_registration_without_an_answer_is_deregistered_too() {
    let fixture = start_registrant(PASSING);
    fixture.agent.state().stalls = ["register", "report", "deregister"].into();
    fixture.wait_until(|agent| !agent.calls.is_empty()).await;
    // Without an answer the agent may hold the registration, so it is deregistered.
    let from = Instant::now();
    assert!(withdraw_at_once(fixture.registrant, &fixture.state).await);
    assert_eq!(
        from.elapsed().as_secs(),
        14,
        "8 for the registration, 3 for the report and 3 for the deregistration"
    );
    assert_eq!(fixture.agent.call_times(|call| *call == AgentCall::Deregister).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn with_a_new_token_or_at_an_agent_that_lost_the_app_the_withdrawal_registers_once_more() {
    for happens in [FakeAgent::rotate_credentials, FakeAgent::forget] {
        let fixture = start_registrant(PASSING);
        sleep(Duration::from_secs(15)).await;
        let before = fixture.agent.state().calls.len();
        happens(&fixture.agent);
        assert!(withdraw_at_once(fixture.registrant, &fixture.state).await);
        let calls: Vec<_> =
            fixture.agent.state().calls[before..].iter().map(|(_, call)| call.clone()).collect();
        let critical = AgentCall::Report(ReportedHealth::Critical, DRAIN_OUTPUT.into());
        assert_eq!(calls, [critical.clone(), AgentCall::Register, critical, AgentCall::Deregister]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_unobserved_wait_includes_the_time_of_failed_calls() {
    type WithdrawFault = fn(&mut AgentState);
    let down: WithdrawFault = |agent| agent.down = true;
    let stalls: WithdrawFault = |agent| agent.stalls = ["report", "deregister"].into();
    // An agent may take a report before it notices that there is no leader.
    let stalls_then: WithdrawFault = |agent| agent.stalls = ["deregister"].into();
    // An agent that stalls takes two time-outs of 3 s.
    for (fault, seconds) in [(down, 5), (stalls, 6), (stalls_then, 5)] {
        let fixture = start_registrant(PASSING);
        sleep(Duration::from_secs(15)).await;
        fixture.agent.change(fault);
        let propagation = unobserved_propagation(Duration::from_secs(5));
        let from = Instant::now();
        let drain = DrainControl::default();
        run_all([fixture.registrant].into_iter(), &propagation, &drain).await;
        assert_eq!(from.elapsed().as_secs(), seconds, "{:?}", from.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn new_settings_are_registered_in_place_at_once() {
    let mut fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    let tagged = |tag: &str| Registration { tags: vec![tag.into()], ..test_registration() };
    assert!(
        fixture.registrant.is_same_instance(&tagged("v3"))
            && !fixture.registrant.is_same_instance(&Registration { port: 1, ..test_registration() })
    );
    fixture.registrant.apply_settings(tagged("v3"), Health::default());
    let holds =
        |tag: &'static str| move |agent: &AgentState| agent.held.as_ref().is_some_and(|h| h.tags == [tag]);
    assert!(fixture.wait_until(holds("v3")).await <= Duration::from_millis(20));
    assert_eq!(
        (fixture.agent.register_calls(), fixture.state.current().phase),
        (2, RegistrationPhase::Registered)
    );
    assert_eq!(fixture.agent.call_times(|call| *call == AgentCall::Deregister), []);

    // A setting that the agent check does not compare is sent, too.
    let slower = Registration { deregister_after: Duration::from_secs(90), ..tagged("v3") };
    fixture.registrant.apply_settings(slower.clone(), Health::default());
    fixture.wait_until(|agent| agent.register_count == 3).await;
    fixture.registrant.apply_settings(slower, Health::default());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.agent.register_calls(), 3, "the same settings cause no registration");
}

#[tokio::test(start_paused = true)]
async fn after_several_reloads_without_an_agent_only_the_last_settings_are_registered() {
    let mut fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    fixture.agent.change(|agent| agent.down = true);
    for tag in ["v3", "v4", "v5"] {
        fixture.registrant.apply_settings(
            Registration { tags: vec![tag.into()], ..test_registration() },
            Health::default(),
        );
        sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(fixture.agent.state().register_count, 1);
    fixture.agent.change(|agent| agent.down = false);
    fixture.wait_until(|agent| agent.held.as_ref().is_some_and(|held| held.tags == ["v5"])).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.agent.state().register_count, 2);
}
