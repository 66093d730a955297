//! The registration's renewals and its end, against an agent of the tests' own.

use outrigger_registry::ReportedHealth;
use tokio::time::Instant;

use super::{
    super::{testing::*, withdraw::PropagationMonitor},
    *,
};

#[tokio::test(start_paused = true)]
async fn the_app_is_registered_when_it_is_well_and_not_before() {
    let fixture = start_registrant(None);
    sleep(Duration::from_secs(60)).await;
    fixture.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.agent.state().calls, []);
    assert_eq!(fixture.state.current().phase, RegistrationPhase::AwaitingApp);

    fixture.health.send_replace(PASSING);
    fixture.wait_until(|agent| agent.calls.len() == 2).await;
    let calls: Vec<_> = fixture.agent.state().calls.iter().map(|(_, call)| call.clone()).collect();
    assert_eq!(
        calls,
        [AgentCall::Register, AgentCall::Report(ReportedHealth::Passing, report::CHECK_OUTPUT.into())]
    );
    assert_eq!(fixture.state.current().phase, RegistrationPhase::Registered);
    assert_eq!(fixture.state.current().reported, PASSING);
}

#[tokio::test(start_paused = true)]
async fn the_ttl_is_renewed_every_ten_seconds_with_a_constant_text() {
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
async fn a_stalling_call_of_another_kind_delays_no_renewal() {
    let fixture = start_registrant(PASSING);
    fixture.wait_until(|agent| agent.calls.len() >= 2).await;
    // The look stalls for ever, and so does the registration that follows a wiped agent.
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
async fn a_change_of_health_is_told_at_once() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    for health in [ReportedHealth::Critical, ReportedHealth::Warning, ReportedHealth::Passing] {
        fixture.health.send_replace(Some(health));
        let told = fixture
            .wait_until(|agent| matches!(agent.calls.last(), Some((_, AgentCall::Report(last, _))) if *last == health))
            .await;
        assert!(told <= Duration::from_millis(20), "{health:?} took {told:?}");
    }
    assert_eq!(fixture.agent.register_calls(), 1, "a sick app stays registered");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_health_does_not_wait_for_a_report_that_stalls() {
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
async fn leaving_reports_critical_then_deregisters_and_nothing_follows() {
    let fixture = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    let before = fixture.agent.state().calls.len();
    assert!(withdraw_at_once(fixture.registrant, &fixture.state).await);
    fixture.health.send_replace(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(300)).await;
    let calls: Vec<_> = fixture.agent.state().calls[before..].iter().map(|(_, call)| call.clone()).collect();
    assert_eq!(
        calls,
        [AgentCall::Report(ReportedHealth::Critical, report::CHECK_OUTPUT.into()), AgentCall::Deregister]
    );
    assert_eq!(fixture.state.current().phase, RegistrationPhase::Left);
}

#[tokio::test(start_paused = true)]
async fn leaving_before_the_app_was_well_asks_nothing_of_the_registry() {
    let fixture = start_registrant(Some(ReportedHealth::Critical));
    sleep(Duration::from_secs(15)).await;
    assert!(!withdraw_at_once(fixture.registrant, &fixture.state).await);
    assert_eq!(fixture.agent.state().calls, []);
}

#[tokio::test(start_paused = true)]
async fn leaving_is_bounded_whatever_the_agent_does() {
    let stalled = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    stalled.agent.state().stalls = ["report", "deregister", "deregister", "deregister"].into();
    let from = Instant::now();
    assert!(withdraw_at_once(stalled.registrant, &stalled.state).await);
    // As without a leader: both are sent, and neither is answered.
    assert_eq!(from.elapsed().as_secs(), 6);
    assert_eq!(stalled.agent.call_times(|call| *call == AgentCall::Deregister).len(), 1);

    let slow = start_registrant(PASSING);
    sleep(Duration::from_secs(15)).await;
    slow.agent.state().stalls = ["deregister", "deregister"].into();
    let from = Instant::now();
    assert!(withdraw_at_once(slow.registrant, &slow.state).await);
    assert_eq!(from.elapsed().as_secs(), 8, "one that takes reports gets its time");

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
async fn a_registration_without_an_answer_is_taken_back_too() {
    let fixture = start_registrant(PASSING);
    fixture.agent.state().stalls = ["register", "report", "deregister"].into();
    fixture.wait_until(|agent| !agent.calls.is_empty()).await;
    // No answer ever comes, so it may or may not be there: it is taken back either way.
    let from = Instant::now();
    assert!(withdraw_at_once(fixture.registrant, &fixture.state).await);
    assert_eq!(from.elapsed().as_secs(), 14, "8 for the registration, 3 and 3 for what takes it back");
    assert_eq!(fixture.agent.call_times(|call| *call == AgentCall::Deregister).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn with_a_new_token_or_an_agent_that_has_just_lost_it_it_registers_once_more_before_it_leaves() {
    for happens in [FakeAgent::rotate_credentials, FakeAgent::forget] {
        let fixture = start_registrant(PASSING);
        sleep(Duration::from_secs(15)).await;
        let before = fixture.agent.state().calls.len();
        happens(&fixture.agent);
        assert!(withdraw_at_once(fixture.registrant, &fixture.state).await);
        let calls: Vec<_> =
            fixture.agent.state().calls[before..].iter().map(|(_, call)| call.clone()).collect();
        let critical = AgentCall::Report(ReportedHealth::Critical, report::CHECK_OUTPUT.into());
        assert_eq!(calls, [critical.clone(), AgentCall::Register, critical, AgentCall::Deregister]);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_registry_leaving_takes_the_time_of_the_blind_and_not_that_of_the_failures_too() {
    type WithdrawFault = fn(&mut AgentState);
    let down: WithdrawFault = |agent| agent.down = true;
    let stalls: WithdrawFault = |agent| agent.stalls = ["report", "deregister"].into();
    // An agent takes a report before it has noticed that there is no leader.
    let stalls_then: WithdrawFault = |agent| agent.stalls = ["deregister"].into();
    // One that stalls takes two time-outs of 3 s.
    for (fault, seconds) in [(down, 5), (stalls, 6), (stalls_then, 5)] {
        let fixture = start_registrant(PASSING);
        sleep(Duration::from_secs(15)).await;
        fixture.agent.change(fault);
        let mut propagation = PropagationMonitor::unobserved_for(Duration::from_secs(5));
        let from = Instant::now();
        let drain = super::super::drain::DrainControl::new();
        super::super::withdraw::run_steps(
            fixture.registrant,
            &mut propagation,
            &drain,
            &CancellationToken::new(),
        )
        .await;
        assert_eq!(from.elapsed().as_secs(), seconds, "{:?}", from.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn other_settings_are_registered_in_place_at_once_and_it_is_never_lost() {
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

    // What the agent does not compare is sent all the same.
    let slower = Registration { deregister_after: Duration::from_secs(90), ..tagged("v3") };
    fixture.registrant.apply_settings(slower.clone(), Health::default());
    fixture.wait_until(|agent| agent.register_count == 3).await;
    fixture.registrant.apply_settings(slower, Health::default());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.agent.register_calls(), 3, "the same settings are no news");
}

#[tokio::test(start_paused = true)]
async fn of_settings_that_change_while_the_agent_is_away_the_last_ones_are_registered() {
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
